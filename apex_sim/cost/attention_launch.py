"""Which attention kernels does a layer launch, and of which sizes are they on one device?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from apex_sim.cost.context_parallel import ContextShards, shared_decode, shared_prefill
from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.forms.linear_attention import LinearHeads
from apex_sim.cost.parts import Parts
from apex_sim.cost.sizes import AttentionSizes, DecodeWork, LatentSizes, PrefillWork
from apex_sim.errors import UnsupportedError
from apex_sim.hardware.link import Group
from apex_sim.model.attention import AttentionCell, LinearAttentionCell, MlaCell
from apex_sim.plan.weights import n_local_kv_heads

LaunchSizes = AttentionSizes | LatentSizes | LinearHeads | ContextShards


@dataclass(frozen=True, slots=True)
class AttentionGroup:
    """Layers of a stage that attend alike, as one device sees them."""

    sizes: LaunchSizes
    window: int | None
    n_layers: int


def launch_sizes(
    cell: AttentionCell | MlaCell | LinearAttentionCell, tp: int, kv_dtype: str
) -> AttentionSizes | LatentSizes | LinearHeads:
    """Return the sizes of `cell` on one of `tp` devices."""
    match cell:
        case AttentionCell():
            n_kv = n_local_kv_heads(cell, tp)
            return AttentionSizes(cell.n_q_heads // tp, n_kv, cell.head_dim, kv_dtype, cell.window_tokens)
        case MlaCell():
            return LatentSizes(
                cell.n_heads // tp,
                cell.kv_lora_rank,
                cell.qk_rope_head_dim,
                cell.qk_nope_head_dim,
                cell.v_head_dim,
                kv_dtype,
            )
        case LinearAttentionCell():
            heads = cell.n_k_heads // tp, cell.n_v_heads // tp
            return LinearHeads(*heads, cell.k_head_dim, cell.v_head_dim, cell.conv_kernel)


def shared_sizes(
    cell: AttentionCell | MlaCell | LinearAttentionCell, tp: int, group: Group, kv_dtype: str
) -> LaunchSizes:
    """Return the sizes of `cell` on one device, where each of `tp` parts of the KV heads lies on a `group`.

    Raises
    ------
    UnsupportedError : linear attention, whose state no group shares.
    """
    own, gathered = (launch_sizes(cell, n, kv_dtype) for n in (tp * group.n_devices, tp))
    if isinstance(own, LinearHeads) or isinstance(gathered, LinearHeads):
        raise UnsupportedError("context parallelism of linear attention", remedy="use TP instead of CP")
    return ContextShards(own, gathered, group)


def prefill_launch(cost: CostModel, work: PrefillWork, sizes: LaunchSizes) -> Parts:
    """Price one prefill launch; for linear attention, in a step with decodes too, that of its prompts alone.

    vLLM then runs the decodes through the prefill kernels too, as sequences of one token.  They are priced as a decode
    launch of their own: cheaper than one by one through the prefill kernels, but without overlap with the prompts.
    """
    match sizes:
        case AttentionSizes():
            return cost.prefill_attention(work, sizes)
        case LatentSizes():
            return cost.latent_prefill(work, sizes)
        case LinearHeads():
            return cost.linear_prefill(work, sizes)
        case ContextShards():
            return shared_prefill(cost, work, sizes)


def decode_launch(cost: CostModel, work: DecodeWork, sizes: LaunchSizes) -> Parts:
    """Price one decode launch."""
    match sizes:
        case AttentionSizes():
            return cost.decode_attention(work, sizes)
        case LatentSizes():
            return cost.latent_decode(work, sizes)
        case LinearHeads():
            return cost.linear_decode(work, sizes)
        case ContextShards():
            return shared_decode(cost, work, sizes)


def with_query_rows(sizes: LaunchSizes, n_rows: int) -> LaunchSizes:
    """Return the sizes of a decode launch whose sequences have `n_rows` queries each, to verify draft tokens.

    The rows share their keys as the query heads of a group do, and kernels tile both together: FlashMLA plans for
    s_q x h_q / h_kv rows (https://github.com/deepseek-ai/FlashMLA README), FlashAttention packs the heads of a group
    with the queries (pack_gqa).  FLOP and queries grow with the rows, key bytes do not.  No kernel with
    several rows is among the measured ones.

    Raises
    ------
    UnsupportedError : linear attention, whose state cannot go back by a rejected token; a context that devices share.
    """
    if n_rows == 1:
        return sizes
    match sizes:
        case AttentionSizes():
            return replace(sizes, n_q_heads=sizes.n_q_heads * n_rows)
        case LatentSizes():
            return replace(sizes, n_heads=sizes.n_heads * n_rows)
        case LinearHeads():
            raise UnsupportedError("several queries of linear attention", remedy="leave speculation out")
        case ContextShards():
            raise UnsupportedError("several queries of a shared context", remedy="leave speculation or CP out")
