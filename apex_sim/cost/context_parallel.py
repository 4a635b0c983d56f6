"""How long does attention take when each sequence's keys and values are spread over several devices?

As vLLM's decode context parallelism (--decode-context-parallel-size) does it.  Token by token the cache goes to the
devices of a group in turn; projections, and with them the heads, divide over the same devices.  Decode: the queries of
all heads of the group are gathered, each device attends with all of them to its share of the keys, the log-sum-exp of
the parts is gathered, and the parts are rescaled, added up and scattered so that each device has its own heads again
(vllm/v1/attention/ops/common.py, cp_lse_ag_out_rs; the sum and scatter moves as much as a gather).  Prefill with
grouped heads does the same for the past, and attends to the chunk itself with its own heads
(vllm/v1/attention/backends/flash_attn.py, _forward_with_dcp); with latent attention it gathers the past's latents
instead (vllm/v1/attention/backends/mla/common.py, _context_parallel_compute_prefill_context).

Prefill is priced from above: every device attends with its own heads to all keys, which are as many FLOP, but reads the
past's keys as often as there are devices in the group; and grouped heads exchange queries also where there is no past.
The collectives count as attention: their time is in it, what links draw for them is not in the energy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.parts import Floats, Parts
from apex_sim.cost.sizes import AttentionSizes, DecodeWork, LatentSizes, PrefillWork
from apex_sim.hardware.link import Group
from apex_sim.units import BYTES_PER_NUMBER

_ACT = BYTES_PER_NUMBER["bf16"]
_FP32 = BYTES_PER_NUMBER["fp32"]


@dataclass(frozen=True, slots=True)
class ContextShards:
    """Attention over a context that `group` shares: one device's `own` heads, and those of the group together."""

    own: AttentionSizes | LatentSizes
    gathered: AttentionSizes | LatentSizes
    group: Group


def shared_prefill(cost: CostModel, work: PrefillWork, shards: ContextShards) -> Parts:
    """Price one prefill launch, and what the group exchanges for the past."""
    match shards.own:
        case AttentionSizes() as sizes:
            own = cost.prefill_attention(work, sizes)
            return _together(own, *_exchange(cost, work.n_query_tokens, shards))
        case LatentSizes() as sizes:
            own = cost.latent_prefill(work, sizes)
            past = np.maximum(np.asarray(work.n_key_tokens - work.n_query_tokens), 0.0)
            latent_bytes = (sizes.latent_dim + sizes.rope_dim) * BYTES_PER_NUMBER[sizes.kv_dtype]
            gathered = cost.all_gather(past * latent_bytes, shards.group)
            return _together(own, _where(past > 0.0, gathered))


def shared_decode(cost: CostModel, work: DecodeWork, shards: ContextShards) -> Parts:
    """Price one decode launch on the fullest device, whose share of a sequence is rounded up, and the exchange."""
    n, n_shares = work.n_sequences, shards.group.n_devices
    local = DecodeWork(n, work.context_tokens / n_shares + n * (n_shares - 1.0) / (2.0 * n_shares))
    match shards.gathered:
        case AttentionSizes() as sizes:
            part = cost.decode_attention(local, sizes)
        case LatentSizes() as sizes:
            part = cost.latent_decode(local, sizes)
    return _together(part, *_exchange(cost, n, shards))


def _exchange(cost: CostModel, n_queries: float | Floats, shards: ContextShards) -> tuple[Parts, ...]:
    """Return the gathers of queries and log-sum-exp, the rescaling, and the sum and scatter of `n_queries` outputs."""
    match shards.gathered:
        case AttentionSizes() as sizes:
            n_heads, query_dim, output_dim = sizes.n_q_heads, sizes.head_dim, sizes.head_dim
        case LatentSizes() as sizes:
            n_heads, query_dim, output_dim = sizes.n_heads, sizes.latent_dim + sizes.rope_dim, sizes.latent_dim
    group, each = shards.group, n_queries * n_heads
    return (
        cost.all_gather(each * query_dim * _ACT, group),
        cost.all_gather(each * _FP32 * group.n_devices, group),
        cost.elementwise(n_queries, n_heads * output_dim, 2 * _ACT),
        cost.all_gather(each * output_dim * _ACT, group),
    )


def _where(needed: NDArray[np.bool_], parts: Parts) -> Parts:
    """Return the cost of an operator that runs only where it is `needed`; launches are counted as if it always did."""
    kernel, network = (np.where(needed, part, 0.0) for part in (parts.kernel_s, parts.network_s))
    return replace(parts, kernel_s=kernel, network_s=network)


def _together(attention: Parts, *others: Parts) -> Parts:
    """Return the cost of an attention launch and of what runs around it, on the basis of the launch."""
    in_range = np.asarray(attention.basis.in_range)
    for other in others:
        in_range = in_range & np.asarray(other.basis.in_range)
    every = (attention, *others)
    return Parts(
        kernel_s=sum(part.kernel_s for part in every),
        compute_s=sum(part.compute_s for part in every),
        memory_s=sum(part.memory_s for part in every),
        network_s=sum(part.network_s for part in every),
        n_launches=sum(part.n_launches for part in every),
        gap_launches=sum(part.gap_launches for part in every),
        basis=replace(attention.basis, in_range=in_range),
    )
