"""What must a cost back end answer?  One small protocol; any object with these methods will do.

Sizes are those of one device, after sharding.  An argument annotated `float | Floats` may be an array; then every
part of the answer has its shape.  Number formats are those of `apex_sim.units.BYTES_PER_NUMBER`.
"""

from __future__ import annotations

from typing import Protocol

from apex_sim.cost.forms.linear_attention import LinearHeads
from apex_sim.cost.parts import Floats, Parts
from apex_sim.cost.sizes import AttentionSizes, DecodeWork, ExpertSizes, LatentSizes, PrefillWork
from apex_sim.hardware.link import Group, Link
from apex_sim.preset.preset import OwnAllReduce


class CostModel(Protocol):
    """Prices operators on one device type."""

    @property
    def name(self) -> str:
        """Name of the back end, for reports ("roofline")."""

    @property
    def provenance(self) -> str:
        """What the figures rest on and how far they can be trusted, in one sentence."""

    def gemm(self, m: float | Floats, n: float, k: float, weight_dtype: str, activation_dtype: str) -> Parts:
        """Price C[m, n] = A[m, k] B[k, n] with B the weights, A already in `activation_dtype`."""

    def quantise(self, m: float | Floats, k: float, weight_dtype: str, activation_dtype: str) -> Parts:
        """Price turning A[m, k] from bf16 into `activation_dtype` ahead of a product with `weight_dtype` weights."""

    def moe(self, n_tokens: float | Floats, experts: ExpertSizes, weight_dtype: str, activation_dtype: str) -> Parts:
        """Price one layer's experts, routing included, for `n_tokens` of the whole expert-parallel group."""

    def prefill_attention(self, work: PrefillWork, sizes: AttentionSizes) -> Parts:
        """Price one varlen prefill launch."""

    def decode_attention(self, work: DecodeWork, sizes: AttentionSizes) -> Parts:
        """Price one decode launch."""

    def latent_prefill(self, work: PrefillWork, sizes: LatentSizes) -> Parts:
        """Price one prefill launch of latent attention on decompressed keys and values."""

    def latent_decode(self, work: DecodeWork, sizes: LatentSizes) -> Parts:
        """Price one decode launch of latent attention on the compressed cache."""

    def linear_prefill(self, work: PrefillWork, heads: LinearHeads) -> Parts:
        """Price one prefill launch of linear attention, with the reading and writing of its sequences' states."""

    def linear_decode(self, work: DecodeWork, heads: LinearHeads) -> Parts:
        """Price one decode launch of linear attention; the context does not matter."""

    def elementwise(
        self, n_rows: float | Floats, n_columns: float, bytes_per_number: float, n_launches: float = 1.0
    ) -> Parts:
        """Price `n_launches` kernels that each read and write `bytes_per_number` in all for each number of its rows."""

    def all_reduce(self, n_bytes: float | Floats, group: Group, own: OwnAllReduce) -> Parts:
        """Price summing `n_bytes` over `group`, result everywhere; `own` names the engine's own kernels."""

    def all_gather(self, n_bytes: float | Floats, group: Group) -> Parts:
        """Price collecting `n_bytes` in total from `group`, result everywhere."""

    def all_to_all(self, n_bytes: float | Floats, group: Group) -> Parts:
        """Price exchanging `n_bytes` that one device sends in total, spread evenly over `group`, itself included."""

    def send(self, n_bytes: float | Floats, link: Link) -> Parts:
        """Price sending `n_bytes` to a neighbour."""
