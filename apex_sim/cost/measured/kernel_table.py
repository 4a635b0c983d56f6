"""What is a table of measured kernel times, whoever measured it?

Sizes carry one set of names, whatever the file called them; times are seconds; the raw columns that name a shape
family are kept, because the held-out rule is about them.

| operator | sizes |
|---|---|
| gemm | m n k |
| prefill_attention | n_sequences n_query_tokens n_key_tokens pairs n_q_heads n_kv_heads head_dim window |
| decode_attention | n_sequences context_tokens mean_context_tokens beyond_window_frac, and the heads as above |
| mla_prefill_attention | n_sequences n_query_tokens n_key_tokens pairs n_heads |
| mla_decode_attention | n_sequences context_tokens mean_context_tokens n_heads |
| moe | n_tokens hidden_size width n_experts n_active_experts ep n_matrices routing_exponent (0: balanced) |
| all_reduce, all_gather, reduce_scatter, all_to_all, send | n_bytes n_devices |

Tokens and pairs are sums over the sequences; `context_tokens` counts the keys that are read, so that a sliding window
is applied, and `mean_context_tokens` is the context of one sequence without the window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from apex_sim.cost.forms.prefill_attention import uniform_batch
from apex_sim.cost.forms.shares import Floats

Sizes = Mapping[str, Floats]

#: Bytes of one cached number behind each precision of attention.
KV_BYTES: Final = {"bf16-kv": 2.0, "fp8-kv": 1.0}
#: Where a library has several kernels for a number format, the less frequent ones carry a word of their name.
_KERNELS: Final = ("triton", "marlin", "cutlass", "modular", "trtllm")


def split_precision(precision: str) -> tuple[str, str]:
    """Return the number format of a precision, and the kernel that it names ("" for the main one).

    Examples
    --------
    >>> split_precision("fp8-block-triton"), split_precision("fp8-block")
    (('fp8-block', 'triton'), ('fp8-block', ''))
    """
    number_format, _, kernel = precision.rpartition("-")
    return (number_format, kernel) if kernel in _KERNELS else (precision, "")


@dataclass(frozen=True, slots=True, eq=False)
class KernelTable:
    """Times of one operator at one precision on one device, from one kernel of one library.

    Parameters
    ----------
    operator, precision, device : our names ("gemm", "fp8-block", "h100-sxm"); attention's precision is its cache's.
    source : file below the tables' folder, number format and kernel, for reports.
    path : the file.
    rows : number of each row in the file: the line of a CSV; counted from 1 in a parquet file.
    sizes : one array for each name that the operator has.
    seconds : measured time.
    family : columns that name the shape family, as the file has them.
    """

    operator: str
    precision: str
    device: str
    source: str
    path: Path
    rows: NDArray[np.int64]
    sizes: Sizes
    seconds: Floats
    family: Mapping[str, Floats]

    def __len__(self) -> int:
        return len(self.seconds)

    def take(self, which: NDArray[np.bool_]) -> KernelTable:
        """Return the table with the chosen rows only."""
        return replace(
            self,
            rows=self.rows[which],
            sizes={name: values[which] for name, values in self.sizes.items()},
            seconds=self.seconds[which],
            family={name: values[which] for name, values in self.family.items()},
        )

    def n_families(self) -> int:
        """Return how many shape families the rows cover."""
        if not len(self) or not self.family:
            return 0
        return len(np.unique(np.stack(list(self.family.values()), axis=1), axis=0))


def prefill_sizes(n_sequences: Floats, n_new: Floats, n_past: Floats, window: Floats) -> dict[str, Floats]:
    """Return the sums over a batch of equal sequences, `n_new` tokens after `n_past` cached ones.

    Examples
    --------
    >>> one = np.ones(1)
    >>> float(prefill_sizes(2 * one, 3 * one, 0 * one, 0 * one)["pairs"][0])
    12.0
    """
    batch = uniform_batch(n_sequences, n_new, n_past, window)
    return {
        "n_sequences": n_sequences,
        "n_query_tokens": np.asarray(batch.n_query_tokens),
        "n_key_tokens": np.asarray(batch.n_key_tokens),
        "pairs": np.asarray(batch.pairs),
    }


def decode_sizes(n_sequences: Floats, context: Floats, window: Floats) -> dict[str, Floats]:
    """Return the sums over a batch of equal sequences that each have `context` keys, the new one included.

    Examples
    --------
    >>> sizes = decode_sizes(np.array([4.0]), np.array([100.0]), np.array([64.0]))
    >>> float(sizes["context_tokens"][0]), float(sizes["beyond_window_frac"][0])
    (256.0, 1.0)
    """
    beyond = (window > 0) & (context > window)
    return {
        "n_sequences": n_sequences,
        "context_tokens": n_sequences * np.where(beyond, window, context),
        "mean_context_tokens": context,
        "beyond_window_frac": beyond.astype(float),
    }
