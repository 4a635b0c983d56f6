"""Plans of models with linear attention: what a device holds, and what cannot be planned."""

from __future__ import annotations

from dataclasses import replace

import pytest

from apex_sim.errors import InfeasiblePlanError
from apex_sim.hardware.cluster import load_cluster
from apex_sim.model.attention import LinearAttentionCell
from apex_sim.model.load import load_model
from apex_sim.plan.kv_layout import KvLayout, layout_of
from apex_sim.plan.legality import require_legal_shape
from apex_sim.plan.memory import instance_memory
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import Shape, tensor_pipeline_stages
from apex_sim.plan.weights import local_state_bytes, stage_weight_bytes
from apex_sim.planner.simulation import simulate_study
from apex_sim.planner.study import make_study
from apex_sim.preset.load import load_preset

MODEL = load_model("qwen3-next-80b-a3b")
H200 = load_cluster("8xh200-sxm")


def _shape(tp: int, layers: tuple[int, ...] = (48,), preset: str = "vllm-1", kv: str = "bf16") -> Shape:
    engine = load_preset(preset)
    settings = resolve_settings(engine, H200.device, 8192, pp=len(layers))
    return Shape(H200.device.name, tensor_pipeline_stages(layers, tp), Precision("bf16", kv), settings, engine)


@pytest.mark.parametrize(("tp", "kv_bytes", "block"), [(1, 2.0, 544), (2, 2.0, 544), (4, 2.0, 272), (4, 1.0, 544)])
def test_blocks_of_qwen3_next_are_as_long_as_vllm_makes_them(tp: int, kv_bytes: float, block: int) -> None:
    """544 tokens (vLLM, pull request 32492).

    By hand at TP 2: a state of 16 heads x 128 x 128 and 3 x 4,096 inputs is 548,864 bytes; a token has one KV head of
    256, 1,024 bytes, so that 536 tokens would do, and the next multiple of 16 is 544.  The 36 linear layers fill three
    lists beside that of the 12 others.
    """
    assert layout_of(MODEL, 16, True, tp, kv_bytes) == KvLayout(block, 1, ((3, 1),), 1.0)


def test_a_sequence_holds_its_states_from_the_first_token_on() -> None:
    layout = layout_of(MODEL, 16, True, 4)
    assert [layout.blocks_for(n) for n in (1, 272, 273, 2720)] == [4, 4, 5, 13]


def test_the_pool_is_counted_in_blocks_that_hold_a_state() -> None:
    """12 layers of 272 tokens of 1,024 bytes a block; the state of one layer fits into its share of a block."""
    memory = instance_memory(MODEL, H200.device, _shape(4))
    (stage,) = memory.stages
    assert stage.kv_bytes_per_token == 12 * 1024
    assert memory.n_blocks == int(stage.kv_bytes // (12 * 1024 * 272))
    linear = next(layer for layer in MODEL.layers if isinstance(layer.attention, LinearAttentionCell))
    assert 0.95 * 272 * 1024 < local_state_bytes(linear, 4) <= 272 * 1024


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_devices_together_hold_the_model(tp: int) -> None:
    """What each device has whole: norms, routers, gates; KV heads beyond two."""
    (stage,) = tensor_pipeline_stages((48,), tp)
    held = tp * stage_weight_bytes(MODEL, (stage,), 0, Precision("bf16")) / 2
    whole = 48 * (2 * 2048 + 2048 * 512 + 2048) + 2048 + 36 * 128 + 12 * 2 * 256
    kv_heads = 12 * 2 * 2048 * 256 * max(tp - 2, 0)
    assert held == MODEL.n_params + (tp - 1) * whole + kv_heads


@pytest.mark.parametrize("layers", [(48,), (24, 24), (12,) * 4])
def test_stages_with_equal_shares_of_full_attention_are_legal(layers: tuple[int, ...]) -> None:
    require_legal_shape(MODEL, H200, _shape(2, layers))


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (_shape(1, (6,) * 8), "PP 8 shares out full and linear attention unevenly"),
        (_shape(1, preset="vllm-0.6"), "vllm-0.6 has one kind of KV block"),
    ],
)
def test_what_is_not_simulated_is_refused(shape: Shape, reason: str) -> None:
    with pytest.raises(InfeasiblePlanError, match=reason):
        require_legal_shape(MODEL, H200, shape)


def test_heads_must_divide_and_full_attention_is_needed() -> None:
    cell = LinearAttentionCell(12, 24, 128, 128, 4)
    odd = tuple(
        replace(layer, attention=cell) if isinstance(layer.attention, LinearAttentionCell) else layer
        for layer in MODEL.layers
    )
    with pytest.raises(InfeasiblePlanError, match="TP 8 does not divide 12 key and 24 value heads"):
        require_legal_shape(replace(MODEL, layers=odd), H200, _shape(8))
    linear = replace(MODEL, layers=(MODEL.layers[0],) * 48)
    with pytest.raises(InfeasiblePlanError, match="beside full attention only"):
        require_legal_shape(linear, H200, _shape(1))


@pytest.mark.parametrize("pp", [1, 2])
def test_qwen3_next_is_simulated_and_its_states_hold_blocks(pp: int) -> None:
    """Every invariant holds; all 64 requests run at once, each with four blocks at least, three of them states."""
    data = {
        "model": "qwen3-next-80b-a3b",
        "cluster": f"{4 * pp}xh100-sxm",
        "workload": "chat",
        "load": {"n_requests": 64, "offline": True},
        "space": {"tp": [4], "pp": [pp], "dp": [1]},
    }
    simulation = simulate_study(make_study(data, "hybrid", "hybrid"), check=True)
    assert simulation.evaluation.metrics["n_finished"] == 64
    used = simulation.evaluation.metrics["kv_used_max_frac"]
    assert used is not None
    assert used * simulation.run.instances[0].memory.n_blocks / pp >= 64 // pp * 4
    stage = simulation.run.instances[0].stages[0]
    linear = [share for share in stage.shares if "linear_attention" in share.basis.source]
    assert {share.operator for share in linear} == {"prefill_attention", "decode_attention"}
    assert all(share.spent_s > 0 for share in linear)
