"""How many weight bytes does one device of a stage hold?

Column- and row-parallel sharding as Megatron-LM and vLLM do it: query heads and FFN columns divide by TP, KV heads
divide until one is left and then replicate, norms and routers replicate, embedding and LM head divide by vocabulary.
Ranks of attention DP hold all but the routed experts each for itself, or in a dense model all but the FFN
(`Stage.dense_tp`).  Under context parallelism projections divide over TP x CP devices, the heads of the cache over TP.
"""

from __future__ import annotations

from dataclasses import dataclass

from apex_sim.model.attention import AttentionCell, LinearAttentionCell, MlaCell
from apex_sim.model.cells import FfnCell, MoeCell
from apex_sim.model.model import Layer, Model
from apex_sim.plan.precision import Precision
from apex_sim.plan.shape import Stage
from apex_sim.preset.expert_kernel import ExpertKernel
from apex_sim.units import BYTES_PER_NUMBER


def n_local_kv_heads(cell: AttentionCell, tp: int) -> int:
    """KV heads that one of `tp` devices holds: at least one, so that KV replicates when TP exceeds the heads."""
    return max(1, cell.n_kv_heads // tp)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Numbers of one layer on one device, by part; `plain` are norms, biases and routers, which stay bf16."""

    attention: int
    ffn: int
    experts: int
    plain: int

    def n_bytes(self, model: Model, precision: Precision) -> float:
        """Bytes of the layer on one device."""
        return self.plain * BYTES_PER_NUMBER["bf16"] + sum(
            n * BYTES_PER_NUMBER[precision.weight_dtype_of(model, part)]
            for part, n in (("attention", self.attention), ("ffn", self.ffn), ("experts", self.experts))
        )


def layer_weights(
    layer: Layer, hidden_size: int, stage: Stage, is_dense: bool, kernel: ExpertKernel | None = None
) -> LayerWeights:
    """Return the numbers of `layer` of a dense model, or of one with experts, that one device of `stage` holds.

    `kernel` is what the routed experts are padded for.
    """
    dense_tp, ffn = stage.dense_tp(is_dense), stage.ffn
    attention_numbers, plain = _attention_weights(layer, hidden_size, stage.attention.n_shards)
    plain += layer.n_norm_params(hidden_size)
    match layer.ffn:
        case FfnCell() as cell:
            n_up = 2 if cell.gated else 1
            width = cell.intermediate_size // dense_tp
            plain += (n_up * width + hidden_size) * cell.bias
            return LayerWeights(attention_numbers, (n_up + 1) * hidden_size * width, 0, plain)
        case MoeCell() as moe:
            n_up = 2 if moe.gated else 1
            width, n_local = moe.intermediate_size // ffn.tp, moe.n_experts // ffn.ep
            plain += hidden_size * (moe.n_experts + moe.shared_gate) + moe.n_experts * moe.router_bias
            plain += n_local * (n_up * width + hidden_size) * moe.bias
            shared = (n_up + 1) * hidden_size * (moe.shared_intermediate_size // dense_tp)
            expert = hidden_size * width
            if kernel:
                padded_hidden, padded_width = kernel.padded(hidden_size, width)
                expert = padded_hidden * int(padded_width)
            return LayerWeights(attention_numbers, shared, n_local * (n_up + 1) * expert, plain)


def _attention_weights(layer: Layer, hidden_size: int, tp: int) -> tuple[int, int]:
    """Return (numbers that a quantisation covers, numbers that stay bf16) of the attention cell on one device."""
    match layer.attention:
        case AttentionCell() as cell:
            n_q, n_kv = cell.n_q_heads // tp, n_local_kv_heads(cell, tp)
            plain = (
                cell.head_dim * ((1 + cell.output_gate) * n_q + 2 * n_kv) * cell.qkv_bias + hidden_size * cell.o_bias
            )
            n_normed = n_q + n_kv if cell.qk_norm_over_heads else 2
            plain += n_normed * cell.head_dim * cell.qk_norm + n_q * cell.sinks
            return hidden_size * cell.head_dim * ((2 + cell.output_gate) * n_q + 2 * n_kv), plain
        case MlaCell() as cell:
            # Down projections replicate; what belongs to heads divides.
            rank = cell.q_lora_rank or 0
            query = (rank or hidden_size) * (cell.qk_nope_head_dim + cell.qk_rope_head_dim)
            per_head = query + cell.kv_lora_rank * (cell.qk_nope_head_dim + cell.v_head_dim)
            per_head += hidden_size * cell.v_head_dim
            down = hidden_size * (rank + cell.kv_numbers_per_token)
            return cell.n_heads // tp * per_head + down, rank + cell.kv_lora_rank
        case LinearAttentionCell() as cell:
            # Everything belongs to heads but the norm of a head's values.
            plain = (cell.conv_kernel * cell.n_conv_channels + 2 * cell.n_v_heads) // tp + cell.v_head_dim
            return cell.n_matmul_params(hidden_size) // tp, plain


def local_kv_numbers(layer: Layer, tp: int) -> int:
    """Return the KV numbers that one token leaves on one device of a tensor-parallel group."""
    match layer.attention:
        case AttentionCell() as cell:
            return 2 * n_local_kv_heads(cell, tp) * cell.head_dim
        case MlaCell() | LinearAttentionCell() as cell:
            return cell.kv_numbers_per_token


def local_state_bytes(layer: Layer, tp: int) -> float:
    """Return the bytes of state that one sequence holds in a layer of linear attention on one of `tp` devices.

    In bf16 (vLLM's `mamba_cache_dtype` and `mamba_ssm_cache_dtype` "auto", for Qwen3-Next); 0 for other layers.
    """
    return layer.attention.state_numbers_per_sequence / tp * BYTES_PER_NUMBER["bf16"]


def stage_weight_bytes(
    model: Model, stages: tuple[Stage, ...], index: int, precision: Precision, kernel: ExpertKernel | None = None
) -> float:
    """Return the weight bytes on one device of stage `index`, embedding and LM head included where it holds them.

    `kernel` is what the routed experts are padded for.
    A tied embedding is stored once if one stage is both first and last, and on both otherwise.
    """
    stage = stages[index]
    layers = model.layers[stage.first_layer : stage.first_layer + stage.n_layers]
    is_dense = model.is_dense
    total = sum(
        layer_weights(layer, model.hidden_size, stage, is_dense, kernel).n_bytes(model, precision) for layer in layers
    )
    is_first, is_last = index == 0, index == len(stages) - 1
    n_vocabulary_matrices = is_first + is_last - (is_first and is_last and model.tied_embeddings)
    vocabulary = model.vocab_size / stage.attention.n_shards * model.hidden_size
    numbers = n_vocabulary_matrices * vocabulary + is_last * (1 + model.layers[-1].norm_bias) * model.hidden_size
    return total + numbers * BYTES_PER_NUMBER["bf16"]
