"""How long does an operator take, by tables of measured kernels?

Inside the hull of the measurements the price is interpolated between them; outside, another back end answers, and the
basis of the price says so: its back end's name, and `in_range` False for those sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from apex_sim.cost.basis import Basis
from apex_sim.cost.calibrated_collectives import has_usual_links
from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.cross_node import over_nodes
from apex_sim.cost.forms.collectives import Operation
from apex_sim.cost.forms.gemm import gemm_time, quantise_time
from apex_sim.cost.forms.linear_attention import LinearHeads
from apex_sim.cost.measured.fitted_table import read_fitted_table
from apex_sim.cost.measured.interpolator import Interpolator, interpolate
from apex_sim.cost.measured.kernel_table import Sizes
from apex_sim.cost.measured.plausibility import impossible_rows
from apex_sim.cost.parts import Floats, Parts
from apex_sim.cost.sizes import AttentionSizes, DecodeWork, ExpertSizes, LatentSizes, PrefillWork
from apex_sim.errors import UnknownNameError
from apex_sim.hardware.device import Device
from apex_sim.hardware.link import Group, Link
from apex_sim.preset.preset import OwnAllReduce

#: Largest message of vLLM's own all-reduce that tables of it stand for; above, engines leave it to NCCL.
_OWN_ALL_REDUCE_BYTES: Final = 8 * 2**20
_NETWORK: Final = ("all_reduce", "all_gather", "all_to_all", "send")
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class MeasuredCosts:
    """Cost back end that interpolates kernel tables.

    Parameters
    ----------
    device : whose tables are read.
    folder : tables in the layout of aiconfigurator-core.
    fallback : prices what the tables do not enclose.
    engine : "vllm", "sglang/0.5.14": whose kernels; None for the preferred ones.
    routing_exponent : of the power law by which tokens chose experts in the rows that count; 0 for balanced experts.
    """

    device: Device
    folder: Path
    fallback: CostModel
    engine: str | None = None
    routing_exponent: float = 1.2
    _tables: dict[_Key, Interpolator | None] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Name of the back end, for reports."""
        return "measured"

    @property
    def provenance(self) -> str:
        """What the figures rest on."""
        engine = f", {self.engine}" if self.engine else ""
        return (
            f"kernel tables of {self.device.name} in {self.folder.name}{engine}, interpolated; outside them: "
            f"{self.fallback.provenance}"
        )

    def _table(self, operator: str, precision: str) -> Interpolator | None:
        key = operator, precision
        if key not in self._tables:
            self._tables[key] = self._read(operator, precision)
        return self._tables[key]

    def _read(self, operator: str, precision: str) -> Interpolator | None:
        try:
            table = read_fitted_table(self.folder, self.device, operator, precision, self.engine)
        except UnknownNameError:  # an operator or number format that no table has
            return None
        if table is None:
            return None
        wrong = {row.row for row in impossible_rows(table, self.device)}
        return interpolate(table.take(~np.isin(table.rows, list(wrong))), self.device, n_left_out=len(wrong))

    def _price(
        self, table: Interpolator | None, sizes: Sizes, outside: Parts, enclosed: bool | NDArray[np.bool_] = True,
        share: float | Floats = 1.0,
    ) -> Parts:  # fmt: skip
        """Return the interpolated price where `sizes` are inside the hull and `enclosed`, else that of `outside`.

        `share` of the kernel's time is what the price is about.
        """
        if table is None:
            return outside
        time, inside = table.time(sizes)
        inside = inside & np.asarray(enclosed, dtype=bool)
        if not inside.any():
            return replace(outside, basis=replace(outside.basis, in_range=inside[()]))
        network = table.operator in _NETWORK
        kernel_s = np.where(inside, time.kernel_s * share, outside.kernel_s)
        zero = 0.0 * kernel_s
        source = table.source if inside.all() else f"{table.source}; outside its hull {outside.basis.source}"
        return Parts(
            kernel_s=kernel_s[()],
            compute_s=(zero if network else np.where(inside, time.compute_s, outside.compute_s))[()],
            memory_s=(zero if network else np.where(inside, time.memory_s, outside.memory_s))[()],
            network_s=(kernel_s if network else zero)[()],
            n_launches=outside.n_launches,
            gap_launches=0.0,
            basis=Basis("measured", source, table.expected_error_frac, inside[()]),
        )

    def gemm(self, m: float | Floats, n: float, k: float, weight_dtype: str, activation_dtype: str) -> Parts:
        """Price C[m, n] = A[m, k] B[k, n]; the table's share for quantising A, by the form, is taken out."""
        table, sizes = self._table("gemm", weight_dtype), _arrays(m=m, n=n, k=k)
        outside = self.fallback.gemm(m, n, k, weight_dtype, activation_dtype)
        share: float | Floats = 1.0
        if table is not None and table.fit is not None:
            product = gemm_time(table.fit.coefficients, self.device, m, n, k).kernel_s
            share = product / (product + quantise_time(table.fit.coefficients, self.device, m, k).kernel_s)
        return self._price(table, sizes, outside, share=share)

    def quantise(self, m: float | Floats, k: float, weight_dtype: str, activation_dtype: str) -> Parts:
        """Price turning A[m, k] into `activation_dtype`: by the fallback, tables have it only within products."""
        return self.fallback.quantise(m, k, weight_dtype, activation_dtype)

    def moe(self, n_tokens: float | Floats, experts: ExpertSizes, weight_dtype: str, activation_dtype: str) -> Parts:
        """Price one layer's experts where this very layer was measured, between its token counts."""
        outside = self.fallback.moe(n_tokens, experts, weight_dtype, activation_dtype)
        tokens = np.asarray(n_tokens, dtype=float)
        sizes = _arrays(
            hidden_size=experts.hidden_size,
            width=experts.width,
            n_experts=experts.n_experts,
            n_active_experts=experts.n_active_experts,
            ep=experts.ep,
            n_matrices=experts.n_matrices,
            routing_exponent=self.routing_exponent,
        )
        return self._price(self._table("moe", weight_dtype), {"n_tokens": tokens, **sizes}, outside)

    def prefill_attention(self, work: PrefillWork, sizes: AttentionSizes) -> Parts:
        """Price one varlen launch without a past; unequal prompts count as equal ones with the form's own pairs."""
        table = self._table("prefill_attention", f"{sizes.kv_dtype}-kv")
        outside = self.fallback.prefill_attention(work, sizes)
        return self._price(table, {**_prefill(work), **_heads(sizes)}, outside, _no_past(work))

    def decode_attention(self, work: DecodeWork, sizes: AttentionSizes) -> Parts:
        """Price one decode launch on a cold cache."""
        table = self._table("decode_attention", f"{sizes.kv_dtype}-kv")
        outside = self.fallback.decode_attention(work, sizes)
        return self._price(table, {**_decode(work, sizes.window), **_heads(sizes)}, outside)

    def latent_prefill(self, work: PrefillWork, sizes: LatentSizes) -> Parts:
        """Price one prefill launch of latent attention without a past."""
        outside = self.fallback.latent_prefill(work, sizes)
        table = self._table("mla_prefill_attention", f"{sizes.kv_dtype}-kv") if sizes.is_measured else None
        return self._price(table, {**_prefill(work), **_arrays(n_heads=sizes.n_heads)}, outside, _no_past(work))

    def latent_decode(self, work: DecodeWork, sizes: LatentSizes) -> Parts:
        """Price one decode launch of latent attention on a cold cache."""
        outside = self.fallback.latent_decode(work, sizes)
        table = self._table("mla_decode_attention", f"{sizes.kv_dtype}-kv") if sizes.is_measured else None
        return self._price(table, {**_decode(work, None), **_arrays(n_heads=sizes.n_heads)}, outside)

    def linear_prefill(self, work: PrefillWork, heads: LinearHeads) -> Parts:
        """Price one prefill launch of linear attention: by the fallback, its tables are not read."""
        return self.fallback.linear_prefill(work, heads)

    def linear_decode(self, work: DecodeWork, heads: LinearHeads) -> Parts:
        """Price one decode launch of linear attention: by the fallback, its tables are not read."""
        return self.fallback.linear_decode(work, heads)

    def elementwise(
        self, n_rows: float | Floats, n_columns: float, bytes_per_number: float, n_launches: float = 1.0
    ) -> Parts:
        """Price memory-bound kernels: by the fallback, there are no tables of them."""
        return self.fallback.elementwise(n_rows, n_columns, bytes_per_number, n_launches)

    def all_reduce(self, n_bytes: float | Floats, group: Group, own: OwnAllReduce) -> Parts:
        """Price summing `n_bytes`: in one node by the engine's own kernel up to 8 MiB, else by NCCL's."""
        node = group.one_node
        nccl = self._collective("all_reduce", "nccl", n_bytes, node, self.fallback.all_reduce(n_bytes, node, "none"))
        if own == "none" or group.n_nodes > 1:
            return over_nodes("all_reduce", nccl, n_bytes, group)
        small = np.asarray(n_bytes <= _OWN_ALL_REDUCE_BYTES)
        outside = nccl if own == "custom" and not np.all(small) else self.fallback.all_reduce(n_bytes, group, own)
        return self._collective("all_reduce", "vllm", n_bytes, group, outside, small)

    def all_gather(self, n_bytes: float | Floats, group: Group) -> Parts:
        """Price collecting `n_bytes` in total from `group`."""
        node = group.one_node
        inside = self._collective("all_gather", "nccl", n_bytes, node, self.fallback.all_gather(n_bytes, node))
        return over_nodes("all_gather", inside, n_bytes, group)

    def all_to_all(self, n_bytes: float | Floats, group: Group) -> Parts:
        """Price exchanging `n_bytes` that one device sends in total to those of `group`."""
        node = group.one_node
        inside = self._collective("all_to_all", "nccl", n_bytes, node, self.fallback.all_to_all(n_bytes, node))
        return over_nodes("all_to_all", inside, n_bytes, group)

    def send(self, n_bytes: float | Floats, link: Link) -> Parts:
        """Price sending `n_bytes` to a neighbour: by the fallback, there are no tables of it."""
        return self.fallback.send(n_bytes, link)

    def _collective(
        self, operation: Operation, library: str, n_bytes: float | Floats, node: Group, outside: Parts,
        enclosed: bool | NDArray[np.bool_] = True,
    ) -> Parts:  # fmt: skip
        """Return the price inside one node; tables say nothing about links between nodes."""
        if not has_usual_links(self.device, node):
            return outside
        table = self._table(operation, library)
        return self._price(table, _arrays(n_bytes=n_bytes, n_devices=node.n_devices), outside, enclosed)


def _arrays(**sizes: float | Floats) -> dict[str, Floats]:
    return {name: np.asarray(size, dtype=float) for name, size in sizes.items()}


def _heads(sizes: AttentionSizes) -> dict[str, Floats]:
    heads = _arrays(n_q_heads=sizes.n_q_heads, n_kv_heads=sizes.n_kv_heads, head_dim=sizes.head_dim)
    return heads | _arrays(window=sizes.window or 0.0)


def _prefill(work: PrefillWork) -> dict[str, Floats]:
    return _arrays(
        n_sequences=work.n_sequences,
        n_query_tokens=work.n_query_tokens,
        n_key_tokens=work.n_key_tokens,
        pairs=work.pairs,
    )


def _decode(work: DecodeWork, window: int | None) -> dict[str, Floats]:
    """Return the sizes of a launch; contexts that fill a window are taken to be longer than it."""
    mean = np.asarray(work.context_tokens / work.n_sequences, dtype=float)
    beyond = np.clip((mean / window - 0.75) / 0.25, 0.0, 1.0) if window else 0.0 * mean
    return _arrays(
        n_sequences=work.n_sequences,
        context_tokens=work.context_tokens,
        mean_context_tokens=mean * (1.0 + beyond),
        beyond_window_frac=beyond,
    )


def _no_past(work: PrefillWork) -> NDArray[np.bool_]:
    """Return where the launch has no cached tokens, to within a token for each sequence."""
    return np.asarray(work.n_key_tokens <= work.n_query_tokens + work.n_sequences, dtype=bool)
