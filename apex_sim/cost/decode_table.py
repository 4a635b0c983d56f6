"""How long does decode attention take, by look-up?

A launch is described by its sequences and by how many keys each reads on average.  Kernels fill the device in waves, so
that each number of sequences is a knot; between knots of the mean context the price is a line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from apex_sim.cost.attention_launch import AttentionGroup, decode_launch, with_query_rows
from apex_sim.cost.basis import Basis
from apex_sim.cost.bound import BOUNDS, compute_bound
from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.operator_table import kernel_only
from apex_sim.cost.parts import Floats
from apex_sim.cost.sizes import DecodeWork

#: Ratio of neighbouring mean contexts.
_CONTEXT_RATIO = 1.10


@dataclass(frozen=True, slots=True)
class DecodeTable:
    """Prices of all layers of a group together; row i is of i + 1 sequences.

    Parameters
    ----------
    contexts : mean keys that a sequence reads, ascending.
    prices_s : (sequences, contexts, 3): kernel, compute and memory time.
    outside : (sequences, contexts): whether the size lies outside the data.
    """

    contexts: Floats
    prices_s: Floats
    outside: NDArray[np.bool_]
    n_launches: float
    gap_launches: float
    basis: Basis

    def of_layers(self, n_layers: int) -> DecodeTable:
        """Return the table of so many layers, from that of one."""
        n_launches, gap_launches = self.n_launches * n_layers, self.gap_launches * n_layers
        return replace(self, prices_s=self.prices_s * n_layers, n_launches=n_launches, gap_launches=gap_launches)

    def scaled(self, factor: float) -> DecodeTable:
        """Return the table with kernels that take `factor` times as long, at the same work and bytes."""
        return replace(self, prices_s=self.prices_s * kernel_only(factor, 3))

    def bound(self, n_sequences: float, context_tokens: float) -> str:
        """Return what bounds a launch of so many sequences with this mean context, at the nearest cell."""
        row = int(np.clip(round(n_sequences), 1, len(self.prices_s))) - 1
        column = int(np.abs(self.contexts - context_tokens).argmin())
        return BOUNDS[0] if compute_bound(self.prices_s[row, column]) else BOUNDS[1]


def tabulate_decode(
    cost: CostModel, group: AttentionGroup, max_sequences: int, max_context: int, n_rows: int = 1
) -> DecodeTable:
    """Evaluate the group's decode launches over up to `max_sequences` sequences with `n_rows` queries each.

    Launches with several rows lie outside the data.
    """
    contexts = _context_knots(max_context, group.window)
    n, mean = np.meshgrid(np.arange(1.0, max_sequences + 1), contexts, indexing="ij")
    parts = decode_launch(cost, DecodeWork(n, n * mean), with_query_rows(group.sizes, n_rows))
    times = [np.broadcast_to(part, n.shape) for part in (parts.kernel_s, parts.compute_s, parts.memory_s)]
    return DecodeTable(
        contexts,
        np.stack(times, axis=-1) * group.n_layers,
        ~np.broadcast_to(parts.basis.in_range, n.shape) | (n_rows > 1),
        parts.n_launches * group.n_layers,
        parts.gap_launches * group.n_layers,
        parts.basis,
    )


def _context_knots(max_context: int, window: int | None) -> Floats:
    most = float(max(2, max_context if window is None else min(window, max_context)))
    n = np.ceil(np.log(most) / np.log(_CONTEXT_RATIO))
    return np.append(_CONTEXT_RATIO ** np.arange(n), most)
