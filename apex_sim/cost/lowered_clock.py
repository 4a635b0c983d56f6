"""What do operators cost on devices that are set to a lower clock?

Each operator's kernels take T(x) = T(1) (1 + b (1/x - 1)) with b the share of compute in its work (`power.Work`): what
waits for memory or links takes as long as before.  Its parts remain those of the highest clock, because energy is
counted by work.  Measured kernels that the power limit has slowed down already are stretched as well: at a lower clock
they would meet the limit less, so that their price is on the high side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.forms.linear_attention import LinearHeads
from apex_sim.cost.parts import Floats, Parts
from apex_sim.cost.sizes import AttentionSizes, DecodeWork, ExpertSizes, LatentSizes, PrefillWork
from apex_sim.hardware.link import Group, Link
from apex_sim.preset.preset import OwnAllReduce

_TINY_S = float(np.finfo(np.float64).tiny)


def stretched(parts: Parts, clock_frac: float) -> Parts:
    """Return the cost of an operator at a clock; no measured kernel backs it, so that no size is in range.

    A price without an expected error keeps its range: it was never backed.

    Examples
    --------
    >>> from apex_sim.cost.basis import Basis
    >>> parts = Parts(2.0, 0.3, 0.1, 0.0, 1.0, 1.0, Basis("made-up", "none"))
    >>> print(f"{stretched(parts, 0.5).kernel_s:.3f}")
    3.500
    """
    work_s = np.maximum(parts.compute_s + parts.memory_s + parts.network_s, _TINY_S)
    kernel_s = parts.kernel_s * (1.0 + parts.compute_s / work_s * (1.0 / clock_frac - 1.0))
    basis = parts.basis if parts.basis.expected_error_frac is None else replace(parts.basis, in_range=False)
    return replace(parts, kernel_s=kernel_s, basis=basis)


@dataclass(frozen=True, slots=True)
class LoweredClock:
    """A back end whose kernels run at `clock_frac` of the highest clock; `highest` prices them there."""

    highest: CostModel
    clock_frac: float

    @property
    def name(self) -> str:
        """Name of the back end that it stretches."""
        return self.highest.name

    @property
    def provenance(self) -> str:
        """What the figures rest on."""
        return f"{self.highest.provenance}; stretched to a clock of {self.clock_frac:g}, which nobody measured"

    def gemm(self, m: float | Floats, n: float, k: float, weight_dtype: str, activation_dtype: str) -> Parts:
        """Price a product with weights."""
        return stretched(self.highest.gemm(m, n, k, weight_dtype, activation_dtype), self.clock_frac)

    def quantise(self, m: float | Floats, k: float, weight_dtype: str, activation_dtype: str) -> Parts:
        """Price narrowing activations."""
        return stretched(self.highest.quantise(m, k, weight_dtype, activation_dtype), self.clock_frac)

    def moe(self, n_tokens: float | Floats, experts: ExpertSizes, weight_dtype: str, activation_dtype: str) -> Parts:
        """Price one layer's experts."""
        return stretched(self.highest.moe(n_tokens, experts, weight_dtype, activation_dtype), self.clock_frac)

    def prefill_attention(self, work: PrefillWork, sizes: AttentionSizes) -> Parts:
        """Price one varlen prefill launch."""
        return stretched(self.highest.prefill_attention(work, sizes), self.clock_frac)

    def decode_attention(self, work: DecodeWork, sizes: AttentionSizes) -> Parts:
        """Price one decode launch."""
        return stretched(self.highest.decode_attention(work, sizes), self.clock_frac)

    def latent_prefill(self, work: PrefillWork, sizes: LatentSizes) -> Parts:
        """Price one prefill launch of latent attention."""
        return stretched(self.highest.latent_prefill(work, sizes), self.clock_frac)

    def latent_decode(self, work: DecodeWork, sizes: LatentSizes) -> Parts:
        """Price one decode launch of latent attention."""
        return stretched(self.highest.latent_decode(work, sizes), self.clock_frac)

    def linear_prefill(self, work: PrefillWork, heads: LinearHeads) -> Parts:
        """Price one prefill launch of linear attention."""
        return stretched(self.highest.linear_prefill(work, heads), self.clock_frac)

    def linear_decode(self, work: DecodeWork, heads: LinearHeads) -> Parts:
        """Price one decode launch of linear attention."""
        return stretched(self.highest.linear_decode(work, heads), self.clock_frac)

    def elementwise(
        self, n_rows: float | Floats, n_columns: float, bytes_per_number: float, n_launches: float = 1.0
    ) -> Parts:
        """Price kernels that pass over their rows."""
        parts = self.highest.elementwise(n_rows, n_columns, bytes_per_number, n_launches)
        return stretched(parts, self.clock_frac)

    def all_reduce(self, n_bytes: float | Floats, group: Group, own: OwnAllReduce) -> Parts:
        """Price summing over `group`."""
        return stretched(self.highest.all_reduce(n_bytes, group, own), self.clock_frac)

    def all_gather(self, n_bytes: float | Floats, group: Group) -> Parts:
        """Price collecting from `group`."""
        return stretched(self.highest.all_gather(n_bytes, group), self.clock_frac)

    def all_to_all(self, n_bytes: float | Floats, group: Group) -> Parts:
        """Price exchanging over `group`."""
        return stretched(self.highest.all_to_all(n_bytes, group), self.clock_frac)

    def send(self, n_bytes: float | Floats, link: Link) -> Parts:
        """Price sending to a neighbour."""
        return stretched(self.highest.send(n_bytes, link), self.clock_frac)
