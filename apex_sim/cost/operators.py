"""Which operators does a stage run for a step's tokens, and of which sizes are they on one device?

Three groups, by what they depend on: token-wise operators on the tokens of the step, the head on the sequences that
sample, attention on the contexts.  Under attention DP a fourth: experts, or the FFN of a dense model, on the tokens of
all ranks.  Kernels as in
vLLM's Llama, Mixtral, gpt-oss and DeepSeek: fused QKV, fused gate and up, residual add fused with the norm, one
all-reduce after attention and one after the FFN.  The write of new keys and values belongs to attention.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from apex_sim.cost.attention_launch import AttentionGroup, LaunchSizes, launch_sizes, shared_sizes
from apex_sim.cost.forms.collectives import exchanged_bytes
from apex_sim.cost.forms.routing import fullest_spread
from apex_sim.cost.parts import Floats, Parts, repeat
from apex_sim.cost.sizes import ExpertSizes
from apex_sim.cost.stage_context import StageContext
from apex_sim.model.attention import AttentionCell, LinearAttentionCell, MlaCell
from apex_sim.model.cells import FfnCell, MoeCell
from apex_sim.model.model import Layer
from apex_sim.plan.precision import DISPATCH_BYTES, Precision
from apex_sim.plan.weights import n_local_kv_heads
from apex_sim.units import BYTES_PER_NUMBER

_ACT = BYTES_PER_NUMBER["bf16"]
_FP32 = BYTES_PER_NUMBER["fp32"]
#: Passes over the fp32 logits to sample: temperature, softmax (two), random pick.
_SAMPLER_PASSES = 4

Named = tuple[str, Parts]


def attention_groups(context: StageContext) -> tuple[AttentionGroup, ...]:
    """Return the groups of equal attention cells in the stage."""
    layers = [layer.attention for layer in context.layers]
    return tuple(
        AttentionGroup(_sizes(context, cell), cell.window_tokens, layers.count(cell)) for cell in dict.fromkeys(layers)
    )


def _sizes(context: StageContext, cell: AttentionCell | MlaCell | LinearAttentionCell) -> LaunchSizes:
    attention, kv_dtype = context.stage.attention, context.shape.precision.kv
    if attention.cp == 1:
        return launch_sizes(cell, attention.tp, kv_dtype)
    return shared_sizes(cell, attention.tp, context.cluster.group(attention.cp), kv_dtype)


def tokenwise_operators(context: StageContext, n_tokens: Floats) -> Iterator[Named]:
    """Yield (name, cost) of the operators whose cost depends on the step's tokens only; the layers are summed up."""
    model, cost, tp = context.model, context.cost, context.stage.attention.n_shards
    hidden_bytes = n_tokens * model.hidden_size * _ACT
    if context.is_first:
        yield "embedding", cost.elementwise(n_tokens, model.hidden_size, 2 * _ACT)
        yield "all_reduce", context.all_reduce(hidden_bytes)
    if context.joins_inputs:  # DeepSeek-V3, arXiv:2412.19437, equation 21; every device multiplies all of it
        yield "norm", cost.elementwise(n_tokens, model.hidden_size, 2 * _ACT, 2)
        yield "input_gemm", cost.gemm(n_tokens, model.hidden_size, 2 * model.hidden_size, "bf16", "bf16")
    layers = context.layers
    for layer in dict.fromkeys(layers):
        n_layers = layers.count(layer)
        for name, parts in _layer_operators(context, layer, n_tokens):
            yield name, repeat(parts, n_layers)
    if not context.is_last:
        # Hidden state and residual both travel; each TP rank sends its slice and the receiver gathers them.
        yield "send", cost.send(2 * hidden_bytes / tp, context.next_link)
        yield "all_gather", cost.all_gather(2 * hidden_bytes, context.tp_group)


def _layer_operators(context: StageContext, layer: Layer, n_tokens: Floats) -> Iterator[Named]:
    hidden = context.model.hidden_size
    yield "norm", context.cost.elementwise(n_tokens, hidden, 4 * _ACT, layer.n_norms)
    match layer.attention:
        case AttentionCell() as cell:
            yield from _projections(context, cell, n_tokens)
        case MlaCell() as cell:
            yield from _latent_projections(context, cell, n_tokens)
        case LinearAttentionCell() as cell:
            yield from _linear_projections(context, cell, n_tokens)
    if context.stage.ffn.attention_dp > 1 and isinstance(layer.ffn, FfnCell):
        yield from _copied_ffn(context, layer.ffn, n_tokens)
        return
    yield "all_reduce", context.all_reduce(n_tokens * hidden * _ACT)
    match layer.ffn:
        case FfnCell() if context.joins_ffn:  # its outputs come back as parts of a rank's tokens
            yield "all_gather", context.cost.all_gather(n_tokens * hidden * _ACT, context.tp_group)
        case FfnCell() as ffn:
            yield from _ffn_operators(context, ffn.intermediate_size, ffn.gated, n_tokens)
            yield "all_reduce", context.all_reduce(n_tokens * hidden * _ACT)
        case MoeCell() as moe:
            yield from _moe_operators(context, moe, n_tokens)


def _copied_ffn(context: StageContext, ffn: FfnCell, n_tokens: Floats) -> Iterator[Named]:
    """Yield a dense FFN of which groups of devices hold a copy each, with the collectives around it.

    A group takes its share of the tokens, rounded up.  Attention's sums are scattered over all devices and gathered in
    each group; the FFN's are scattered in each group and gathered by all.  No engine does so; norms are priced on all
    tokens as elsewhere.
    """
    cost, cells, bytes_per_token = context.cost, context.stage.ffn, context.model.hidden_size * _ACT
    group, n_own = context.cluster.group(cells.tp), np.ceil(n_tokens / cells.attention_dp)
    yield "all_gather", repeat(cost.all_gather(n_tokens * bytes_per_token, context.all_devices), 2)
    yield "all_gather", repeat(cost.all_gather(n_own * bytes_per_token, group), 2)
    yield from _ffn_operators(context, ffn.intermediate_size, ffn.gated, n_own)


def _projections(context: StageContext, cell: AttentionCell, n_tokens: Floats) -> Iterator[Named]:
    hidden, tp = context.model.hidden_size, context.stage.attention.n_shards
    q_columns = cell.n_q_heads // tp * cell.head_dim
    kv_columns = n_local_kv_heads(cell, tp) * cell.head_dim
    gate_columns = q_columns if cell.output_gate else 0
    yield from _linear(context, "qkv_gemm", "attention", n_tokens, q_columns + gate_columns + 2 * kv_columns, hidden)
    yield "rope", context.cost.elementwise(n_tokens, q_columns + kv_columns, 2 * _ACT)
    if cell.qk_norm:
        yield "norm", context.cost.elementwise(n_tokens, (q_columns + kv_columns) / 2, 2 * _ACT, 2)
    if gate_columns:
        yield "activation", context.cost.elementwise(n_tokens, q_columns, 3 * _ACT)
    yield from _linear(context, "out_gemm", "attention", n_tokens, hidden, q_columns)


def _latent_projections(context: StageContext, cell: MlaCell, n_tokens: Floats) -> Iterator[Named]:
    """Yield the matrices around latent attention; down projections replicate, the rest divides over the heads.

    The up projection of keys and values runs once for each token, either on new latents (prefill) or folded into query
    and output (decode): as many FLOP and the same weights.
    """
    hidden, n_heads = context.model.hidden_size, cell.n_heads // context.stage.attention.n_shards
    query_columns = n_heads * (cell.qk_nope_head_dim + cell.qk_rope_head_dim)
    if cell.q_lora_rank is None:
        yield from _linear(context, "qkv_gemm", "attention", n_tokens, query_columns, hidden)
        down = cell.kv_numbers_per_token
    else:
        down = cell.q_lora_rank + cell.kv_numbers_per_token
        yield from _linear(context, "query_up_gemm", "attention", n_tokens, query_columns, cell.q_lora_rank)
    yield from _linear(context, "down_projection_gemm", "attention", n_tokens, down, hidden)
    yield "norm", context.cost.elementwise(n_tokens, down / 2, 2 * _ACT, 2)
    yield "rope", context.cost.elementwise(n_tokens, (n_heads + 1) * cell.qk_rope_head_dim, 2 * _ACT)
    up = n_heads * (cell.qk_nope_head_dim + cell.v_head_dim)
    yield from _linear(context, "latent_up_gemm", "attention", n_tokens, up, cell.kv_lora_rank)
    yield from _linear(context, "out_gemm", "attention", n_tokens, hidden, n_heads * cell.v_head_dim)


def _linear_projections(context: StageContext, cell: LinearAttentionCell, n_tokens: Floats) -> Iterator[Named]:
    """Yield the matrices around linear attention, the ordering of their outputs, and the gated norm of the values.

    As Qwen3NextGatedDeltaNet in vLLM: one product for queries, keys, values and output gate, a narrow one in bf16 for
    the rates of update and decay.
    """
    hidden, tp = context.model.hidden_size, context.stage.attention.n_shards
    values, channels = cell.n_v_heads * cell.v_head_dim / tp, cell.n_conv_channels / tp
    yield from _linear(context, "qkv_gemm", "attention", n_tokens, channels + values, hidden)
    yield "qkv_gemm", context.cost.gemm(n_tokens, 2 * cell.n_v_heads / tp, hidden, "bf16", "bf16")
    yield "activation", context.cost.elementwise(n_tokens, channels, 2 * _ACT)
    yield "norm", context.cost.elementwise(n_tokens, values, 3 * _ACT)
    yield from _linear(context, "out_gemm", "attention", n_tokens, hidden, values)


def _moe_operators(context: StageContext, moe: MoeCell, n_tokens: Floats) -> Iterator[Named]:
    """Yield router, experts and shared experts; under attention DP without the experts, which see all ranks' tokens.

    Under expert parallelism every rank sends its tokens to the ranks of their experts (dispatch) and gets them back
    (combine); it sends as many as the largest rank has, because all wait for that one.  vLLM dispatches in fp8 through
    DeepEP where the experts are quantised in blocks of 128 (use_fp8_dispatch,
    model_executor/layers/fused_moe/all2all_utils.py); everything else travels in bf16, as DeepEP's combine does.  A
    copy goes to each active expert, as DeepEP's low-latency kernels send them; its normal kernels send fewer, so that
    large steps are priced from above.  The devices of one rank share its tokens (vLLM's sequence-parallel experts) and
    gather them afterwards.
    """
    cost, hidden, attention = context.cost, context.model.hidden_size, context.stage.attention
    yield "router", cost.gemm(n_tokens, moe.n_experts, hidden, "bf16", "bf16")
    yield "router", cost.elementwise(n_tokens, moe.n_experts, 2 * _FP32)
    if attention.attention_dp == 1:
        yield "moe", expert_cost(context, moe, n_tokens)
    if moe.shared_intermediate_size and not _fused(context, moe):
        yield from _ffn_operators(context, moe.shared_intermediate_size, True, n_tokens)
    if not context.exchanges_tokens:
        yield "all_reduce", context.all_reduce(n_tokens * hidden * _ACT)
        return
    weight = context.shape.precision.weight_dtype_of(context.model, "experts")
    for bytes_per_number in (DISPATCH_BYTES.get(weight, _ACT), _ACT):
        sent = exchanged_bytes(n_tokens / attention.n_shards, hidden, moe.n_active_experts, bytes_per_number)
        yield "all_to_all", cost.all_to_all(sent, context.all_devices)
    yield "all_gather", cost.all_gather(n_tokens * hidden * _ACT, context.tp_group)


def expert_cost(context: StageContext, moe: MoeCell, n_tokens: Floats) -> Parts:
    """Price the routed experts of one layer for `n_tokens` of all ranks together."""
    ffn, precision = context.stage.ffn, context.shape.precision
    weight = precision.weight_dtype_of(context.model, "experts")
    preset, hidden, width = context.shape.preset, context.model.hidden_size, moe.intermediate_size / ffn.tp
    name = ""
    kernel = preset.expert_kernel(weight, context.cluster.device.architecture)
    if kernel:
        name, (hidden, width) = kernel.name, kernel.padded(hidden, width)
    fused, n_matrices = _fused(context, moe), 3 if moe.gated else 2
    experts = ExpertSizes(moe.n_experts + fused, moe.n_active_experts + fused, hidden, width, n_matrices, ffn.ep, name)
    return context.cost.moe(n_tokens, experts, weight, _activation(precision, weight))


def _fused(context: StageContext, moe: MoeCell) -> bool:
    """Whether the engine runs the shared expert as one more routed expert, which every token picks.

    As SGLang does where it is as wide as the others and no expert parallelism divides them (0.5.6
    sglang/srt/models/deepseek_v2.py, determine_num_fused_shared_experts).
    """
    alike = moe.shared_intermediate_size == moe.intermediate_size and not moe.shared_gate
    return context.shape.preset.fuses_shared_expert and alike and context.stage.ffn.ep == 1


def joint_operators(context: StageContext, n_tokens: Floats) -> Iterator[Named]:
    """Yield (name, cost) of what the attention ranks do together, for `n_tokens` of all of them; layers summed up.

    Where every device holds a part of an expert or of the FFN, the ranks gather all tokens before, and add up and
    scatter what each device made of them afterwards, which moves as many bytes (vLLM's dispatch and combine in
    distributed/device_communicators/all2all.py, AgRsAll2AllManager; SGLang's srt/layers/communicator.py, which gathers
    for dense FFNs too).
    """
    ffns = [layer.ffn for layer in context.layers]
    for ffn in dict.fromkeys(ffns):
        if isinstance(ffn, FfnCell) and not context.joins_ffn:
            continue
        for name, parts in _joint_layer(context, ffn, n_tokens):
            yield name, repeat(parts, ffns.count(ffn))


def _joint_layer(context: StageContext, ffn: FfnCell | MoeCell, n_tokens: Floats) -> Iterator[Named]:
    match ffn:
        case MoeCell():
            yield "moe", expert_cost(context, ffn, n_tokens)
        case FfnCell():
            yield from _ffn_operators(context, ffn.intermediate_size, ffn.gated, n_tokens)
    if not context.exchanges_tokens:
        gather = context.cost.all_gather(n_tokens * context.model.hidden_size * _ACT, context.all_devices)
        yield "all_gather", repeat(gather, 2)


def expert_spread_s(context: StageContext, n_tokens: Floats) -> Floats:
    """Return one deviation, from step to step, of the experts' time for `n_tokens` of all ranks together.

    A layer takes what its fullest rank takes; with one deviation more rows there it takes as long as with so many more
    tokens.  Layers are routed independently, so that their variances add up.  At most a third of the experts' time.
    """
    variance, total_s = np.zeros_like(n_tokens), np.zeros_like(n_tokens)
    for ffn in dict.fromkeys(layer.ffn for layer in context.layers):
        if not isinstance(ffn, MoeCell):
            continue
        n_layers = sum(layer.ffn == ffn for layer in context.layers)
        variation = fullest_spread(n_tokens, ffn.n_experts, ffn.n_active_experts, context.stage.ffn.ep)
        usual_s = expert_cost(context, ffn, n_tokens).kernel_s
        more_s = expert_cost(context, ffn, n_tokens * (1.0 + variation)).kernel_s - usual_s
        variance, total_s = variance + n_layers * more_s**2, total_s + n_layers * usual_s
    return np.minimum(context.shape.scheduler.expert_imbalance * np.sqrt(variance), total_s / 3.0)


def _ffn_operators(context: StageContext, width: int, gated: bool, n_tokens: Floats) -> Iterator[Named]:
    hidden = context.model.hidden_size
    columns = width / context.stage.dense_tp(context.model.is_dense)
    n_up = 2 if gated else 1
    yield from _linear(context, "up_gemm", "ffn", n_tokens, n_up * columns, hidden)
    yield "activation", context.cost.elementwise(n_tokens, columns, (n_up + 1) * _ACT)
    yield from _linear(context, "down_gemm", "ffn", n_tokens, hidden, columns)


def _linear(context: StageContext, name: str, part: str, m: Floats, n: float, k: float) -> Iterator[Named]:
    """Yield a matrix product of `part`, after quantising its input where the format multiplies narrow activations."""
    precision = context.shape.precision
    weight = precision.weight_dtype_of(context.model, part)
    activation = _activation(precision, weight)
    if activation != "bf16" and not context.shape.preset.fuses_quantisation:
        yield "quantise", context.cost.quantise(m, k, weight, activation)
    yield name, context.cost.gemm(m, n, k, weight, activation)


def _activation(precision: Precision, weight_dtype: str) -> str:
    return precision.activation if weight_dtype == precision.weight else "bf16"


def head_operators(context: StageContext, n_sampled: Floats) -> Iterator[Named]:
    """Yield (name, cost) of final norm, LM head and sampling for `n_sampled` sequences, on the last stage."""
    if not context.is_last:
        return
    model, cost, tp = context.model, context.cost, context.stage.attention.n_shards
    yield "norm", cost.elementwise(n_sampled, model.hidden_size, 4 * _ACT)
    yield "lm_head", cost.gemm(n_sampled, model.vocab_size / tp, model.hidden_size, "bf16", "bf16")
    yield "all_gather", cost.all_gather(n_sampled * model.vocab_size * _ACT, context.tp_group)
    yield "sampling", cost.elementwise(n_sampled, model.vocab_size, _FP32, _SAMPLER_PASSES)
