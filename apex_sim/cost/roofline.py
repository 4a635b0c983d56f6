"""How long does an operator take, by datasheet alone?

Roofline (Williams, Waterman and Patterson, CACM 52(4), 2009): the slower of FLOP over reachable FLOP/s and bytes over
reachable bytes/s.  The reachable shares of the datasheet's peaks are assumed.  Collectives follow the alpha-beta model
of a ring (Thakur, Rabenseifner and Gropp, IJHPCA 19(1), 2005).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from apex_sim.cost.basis import Basis
from apex_sim.cost.cross_node import over_nodes
from apex_sim.cost.forms.collectives import Operation, send_time, traffic_frac
from apex_sim.cost.forms.linear_attention import LinearHeads, decode_work, prefill_work
from apex_sim.cost.forms.routing import Routing, expert_load
from apex_sim.cost.parts import Floats, Parts
from apex_sim.cost.sizes import AttentionSizes, DecodeWork, ExpertSizes, LatentSizes, PrefillWork
from apex_sim.hardware.device import Device
from apex_sim.hardware.link import Group, Link
from apex_sim.plan.precision import PEAK_OF_ACTIVATION
from apex_sim.preset.preset import OwnAllReduce
from apex_sim.units import BYTES_PER_NUMBER

_BF16 = BYTES_PER_NUMBER["bf16"]


#: How tokens choose experts unless a caller says otherwise: real routers are skewed.  Kernels were measured under
#: bounded power laws of exponent 1.01 and 1.2; aiconfigurator-core 0.12.0 takes 1.2 for gpt-oss, Mixtral and Qwen3
#: (`sdk/models/moe.py`).  Served decode steps agree with it: gpt-oss-120b at 16 tokens takes as long as if 43 of its
#: 128 experts were hit (45 under 1.2, 50 under 1.01, 51 by chance), and DeepSeek-R1's steps fit better as well.
DEFAULT_ROUTING: Final[Routing] = 1.2


@dataclass(frozen=True, slots=True)
class Roofline:
    """Cost back end for any device file.

    Parameters
    ----------
    device : whose datasheet figures are used.
    routing : how tokens choose experts (`apex_sim.cost.forms.routing`).
    compute_frac, memory_frac : reachable shares of peak FLOP/s and bandwidth (assumed).
    """

    device: Device
    routing: Routing = DEFAULT_ROUTING
    compute_frac: float = 0.7
    memory_frac: float = 0.8

    @property
    def name(self) -> str:
        """Name of the back end, for reports."""
        return "roofline"

    @property
    def provenance(self) -> str:
        """What the figures rest on."""
        return (
            f"datasheet roofline of {self.device.name} at {self.compute_frac:.0%} of peak compute and "
            f"{self.memory_frac:.0%} of peak bandwidth (assumed); not calibrated against kernels"
        )

    def _basis(self) -> Basis:
        return Basis("roofline", f"datasheet of {self.device.name}", None, True)

    def _parts(self, flop: float | Floats, dtype: str, n_bytes: float | Floats, n_launches: float = 1.0) -> Parts:
        compute_s = flop / self.device.flops(PEAK_OF_ACTIVATION[dtype])
        memory_s = n_bytes / self.device.memory_bytes_per_s
        kernel_s = np.maximum(compute_s / self.compute_frac, memory_s / self.memory_frac)
        return Parts(kernel_s, compute_s, memory_s, 0.0 * kernel_s, n_launches, n_launches, self._basis())

    def gemm(self, m: float | Floats, n: float, k: float, weight_dtype: str, activation_dtype: str) -> Parts:
        """Price C[m, n] = A[m, k] B[k, n]: 2mnk FLOP; A, B and C cross the memory bus once.

        Examples
        --------
        At one row the weights decide: 8192 x 8192 in bf16 at 80 % of an H100's 3.35 TB/s take 50 us.

        >>> from apex_sim.hardware.device import load_device
        >>> parts = Roofline(load_device("h100-sxm")).gemm(1.0, 8192, 8192, "bf16", "bf16")
        >>> print(f"{parts.kernel_s * 1e6:.0f} us")
        50 us
        """
        moved = m * (k * BYTES_PER_NUMBER[activation_dtype] + n * _BF16) + n * k * BYTES_PER_NUMBER[weight_dtype]
        return self._parts(2.0 * m * n * k, activation_dtype, moved)

    def quantise(self, m: float | Floats, k: float, weight_dtype: str, activation_dtype: str) -> Parts:
        """Price reading A in bf16 and writing it in the narrow format."""
        return self.elementwise(m, k, _BF16 + BYTES_PER_NUMBER[activation_dtype])

    def moe(self, n_tokens: float | Floats, experts: ExpertSizes, weight_dtype: str, activation_dtype: str) -> Parts:
        """Price the grouped GEMMs: the fullest rank's routed FLOP, and the weights of the experts that are hit there.

        Launches: alignment, two grouped GEMMs, activation, weighted sum.
        """
        load = expert_load(n_tokens, experts.n_experts, experts.n_active_experts, experts.ep, self.routing)
        columns = experts.n_matrices * experts.width
        weights = load.n_hit * columns * experts.hidden_size * BYTES_PER_NUMBER[weight_dtype]
        moved = load.n_rows * (2 * experts.hidden_size + columns) * _BF16
        flop = 2.0 * load.n_rows * columns * experts.hidden_size
        return self._parts(flop, activation_dtype, weights + moved, 5.0)

    def prefill_attention(self, work: PrefillWork, sizes: AttentionSizes) -> Parts:
        """Price 4 d FLOP for each pair and head; queries, keys, values and outputs move once, new keys twice."""
        kv_bytes = BYTES_PER_NUMBER[sizes.kv_dtype]
        moved = 2 * work.n_query_tokens * sizes.n_q_heads * sizes.head_dim * _BF16
        moved += 2 * work.n_key_tokens * sizes.n_kv_heads * sizes.head_dim * kv_bytes
        moved += 2 * work.n_query_tokens * sizes.n_kv_heads * sizes.head_dim * (_BF16 + kv_bytes)
        return self._parts(4.0 * sizes.n_q_heads * sizes.head_dim * work.pairs, "bf16", moved)

    def decode_attention(self, work: DecodeWork, sizes: AttentionSizes) -> Parts:
        """Price single queries: the whole context's keys and values are read once for each sequence."""
        context = work.context_tokens
        return self.prefill_attention(PrefillWork(context, work.n_sequences, context, work.n_sequences), sizes)

    def latent_prefill(self, work: PrefillWork, sizes: LatentSizes) -> Parts:
        """Price attention with keys of nope + rope and values of value_dim numbers for every head."""
        key_dim = sizes.nope_dim + sizes.rope_dim
        per_token = sizes.n_heads * (key_dim + sizes.value_dim) * _BF16
        moved = (work.n_query_tokens + work.n_key_tokens) * per_token
        return self._parts(2.0 * sizes.n_heads * (key_dim + sizes.value_dim) * work.pairs, "bf16", moved)

    def latent_decode(self, work: DecodeWork, sizes: LatentSizes) -> Parts:
        """Price attention of all heads on one shared latent of latent + rope numbers a token."""
        key_dim = sizes.latent_dim + sizes.rope_dim
        moved = work.context_tokens * key_dim * BYTES_PER_NUMBER[sizes.kv_dtype]
        moved += work.n_sequences * sizes.n_heads * (key_dim + sizes.latent_dim) * _BF16
        flop = 2.0 * sizes.n_heads * (key_dim + sizes.latent_dim) * work.context_tokens
        return self._parts(flop, "bf16", moved)

    def linear_prefill(self, work: PrefillWork, heads: LinearHeads) -> Parts:
        """Price the chunkwise rule's FLOP; activations and states move once.

        Launches: convolution and rule, and those of `linear_copies`.
        """
        flop, state_bytes, moved = prefill_work(heads, work.n_query_tokens, work.n_sequences)
        around = self.linear_copies(work, heads)
        kernels = self._parts(flop, "bf16", state_bytes + moved, 2.0 + around.n_launches)
        return replace(kernels, kernel_s=kernels.kernel_s + around.kernel_s)

    def linear_copies(self, work: PrefillWork, heads: LinearHeads) -> Parts:
        """Price what vLLM moves around the prefill kernels, which nobody measured: time, and three launches.

        The convolution's outputs are split and normalised, states are gathered before the rule and scattered after it
        (vllm/model_executor/models/qwen3_next.py, _forward_core): each is read and written once.
        """
        split = work.n_query_tokens * heads.conv_channels
        states = 2.0 * work.n_sequences * heads.state_numbers
        return self._parts(0.0 * split, "bf16", 2.0 * _BF16 * (split + states), 3.0)

    def linear_decode(self, work: DecodeWork, heads: LinearHeads) -> Parts:
        """Price reading and writing one state for each sequence; launches are convolution and rule."""
        flop, state_bytes, moved = decode_work(heads, work.n_sequences)
        return self._parts(flop, "bf16", state_bytes + moved, 2.0)

    def elementwise(
        self, n_rows: float | Floats, n_columns: float, bytes_per_number: float, n_launches: float = 1.0
    ) -> Parts:
        """Price memory-bound kernels."""
        moved = n_rows * n_columns * bytes_per_number * n_launches
        return self._parts(0.0 * moved, "bf16", moved, n_launches)

    def _network(self, network_s: float | Floats, n_launches: float = 1.0) -> Parts:
        zero = 0.0 * network_s
        return Parts(network_s, zero, zero, network_s, n_launches, n_launches, self._basis())

    def all_reduce(self, n_bytes: float | Floats, group: Group, own: OwnAllReduce) -> Parts:
        """Price a ring all-reduce: in a node 2 (p-1) hops, each of n_bytes / p."""
        return self.collective("all_reduce", n_bytes, group)

    def all_gather(self, n_bytes: float | Floats, group: Group) -> Parts:
        """Price a ring all-gather: in a node (p-1) hops, each of n_bytes / p."""
        return self.collective("all_gather", n_bytes, group)

    def all_to_all(self, n_bytes: float | Floats, group: Group) -> Parts:
        """Price a pairwise exchange: in a node the share for the others leaves over the link, one latency."""
        return self.collective("all_to_all", n_bytes, group)

    def collective(self, operation: Operation, n_bytes: float | Floats, group: Group) -> Parts:
        """Price a collective: what each device sends in its node over the link there, then what nodes exchange."""
        link, p = group.intra_node, group.n_devices_per_node
        hops = {"all_to_all": 1, "all_reduce": 2 * (p - 1)}.get(operation, p - 1) * (p > 1)
        inside_s = hops * link.latency_s + traffic_frac(operation, p) * n_bytes / link.bytes_per_s
        return over_nodes(operation, self._network(inside_s, float(p > 1)), n_bytes, group)

    def send(self, n_bytes: float | Floats, link: Link) -> Parts:
        """Price a point-to-point copy: latency plus bytes over bandwidth."""
        return self._network(send_time(n_bytes, link))
