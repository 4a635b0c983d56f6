"""Sharding neither loses nor invents weights, and the bytes of a device are those worked out by hand."""

from dataclasses import replace

import pytest

from apex_sim.model.cells import AttentionCell, MoeCell
from apex_sim.model.load import load_model, model_names
from apex_sim.model.model import Layer, Model
from apex_sim.plan.precision import Precision
from apex_sim.plan.shape import CellParallelism, Stage, balanced_split, tensor_pipeline_stages
from apex_sim.plan.weights import stage_weight_bytes


def _device_numbers(model: Model, tp: int, pp: int = 1) -> list[float]:
    """Return the numbers on one device of each stage, all of them two bytes wide."""
    stages = tensor_pipeline_stages(balanced_split(model.n_layers, pp), tp)
    return [stage_weight_bytes(model, stages, index, Precision("bf16")) / 2 for index in range(pp)]


def _replicated(layer: Layer, hidden: int, tp: int) -> int:
    """Return the numbers of a layer that every one of `tp` devices holds beyond its share."""
    cell, ffn = layer.attention, layer.ffn
    assert isinstance(cell, AttentionCell)
    whole = layer.n_norm_params(hidden) + cell.o_bias * hidden
    whole += cell.qk_norm * (not cell.qk_norm_over_heads) * 2 * cell.head_dim
    if isinstance(ffn, MoeCell):
        whole += ffn.n_experts * (hidden + ffn.router_bias + ffn.bias * hidden)
    else:
        whole += ffn.bias * hidden
    extra_kv_heads = max(0, tp - cell.n_kv_heads)
    each = 2 * cell.head_dim * (hidden + cell.qkv_bias) + cell.head_dim * cell.qk_norm_over_heads
    return (tp - 1) * whole + extra_kv_heads * each


@pytest.mark.parametrize(
    ("name", "tp"),
    [
        ("llama-3.1-8b", 1),
        ("llama-3.1-8b", 8),
        ("llama-3.1-70b", 16),
        ("llama-3.1-405b", 8),
        ("qwen2.5-7b", 4),
        ("qwen3-32b", 8),
        ("mixtral-8x7b", 8),
        ("qwen3-30b-a3b", 8),
        ("gpt-oss-120b", 2),
        ("gpt-oss-20b", 8),
        ("gemma-2-27b", 4),
        ("minimax-m2", 16),
    ],
)
def test_devices_together_hold_the_model_and_what_they_replicate(name: str, tp: int) -> None:
    model = load_model(name)
    replicated = sum(n * _replicated(layer, model.hidden_size, tp) for layer, n in model.layer_groups())
    replicated += (tp - 1) * model.hidden_size  # final norm
    assert tp * _device_numbers(model, tp)[0] == model.n_params + replicated


@pytest.mark.parametrize("name", ["llama-3.1-70b", "mixtral-8x22b", "gpt-oss-120b", "qwen3-235b-a22b"])
@pytest.mark.parametrize("pp", [1, 2, 4, 8])
def test_stages_together_hold_the_model(name: str, pp: int) -> None:
    model = load_model(name)
    assert sum(_device_numbers(model, 1, pp)) == model.n_params


def test_a_tied_embedding_is_stored_once_unless_two_stages_need_it() -> None:
    model = replace(load_model("llama-3.1-8b"), tied_embeddings=True)
    assert sum(_device_numbers(model, 1, 1)) == model.n_params
    assert sum(_device_numbers(model, 1, 2)) == model.n_params + model.vocab_size * model.hidden_size


@pytest.mark.parametrize("name", model_names())
def test_one_device_holds_the_checkpoint(name: str) -> None:
    model = load_model(name)
    stages = tensor_pipeline_stages((model.n_layers,), 1)
    held_bytes = stage_weight_bytes(model, stages, 0, Precision(model.weight_dtype))
    assert held_bytes == pytest.approx(model.weight_bytes(), rel=1e-12)


def test_llama_70b_on_eight_devices_by_hand() -> None:
    """Per layer and device: 8 query heads, 1 KV head of 128; 3,584 FFN columns; a vocabulary slice of 16,032."""
    matrices = 80 * (8192 * 128 * (2 * 8 + 2 * 1) + 3 * 8192 * 3584)
    rest = 80 * 2 * 8192 + 8192 + 2 * 16_032 * 8192
    assert (matrices, rest) == (8_556_380_160, 263_987_200)
    model = load_model("llama-3.1-70b")
    stages = tensor_pipeline_stages((80,), 8)
    assert stage_weight_bytes(model, stages, 0, Precision("bf16")) == 2 * (matrices + rest)
    assert stage_weight_bytes(model, stages, 0, Precision("fp8")) == matrices + 2 * rest


def test_fp8_leaves_router_embedding_and_head_alone() -> None:
    """Mixtral: attention and experts shrink by half, 32 routers of 4,096 x 8 and two tables of 32,000 do not."""
    model = load_model("mixtral-8x7b")
    stages = tensor_pipeline_stages((32,), 1)
    plain = 32 * (4096 * 8 + 2 * 4096) + 4096 + 2 * 32_000 * 4096
    fp8_bytes = stage_weight_bytes(model, stages, 0, Precision("fp8"))
    assert fp8_bytes == model.n_params + plain


def test_expert_parallel_ranks_hold_their_experts_and_whole_dense_layers() -> None:
    """DeepSeek-R1 over 64 ranks: 4 of 256 experts of 3 x 7,168 x 2,048 each, the rest on every rank."""
    model = load_model("deepseek-r1")
    experts = 58 * 256 * 3 * 7168 * 2048
    attention, ffn = CellParallelism(attention_dp=64), CellParallelism(ep=64)
    stages = (Stage(0, model.n_layers, attention, ffn),)
    held = stage_weight_bytes(model, stages, 0, Precision("bf16")) / 2
    assert held == model.n_params - experts + experts / 64
