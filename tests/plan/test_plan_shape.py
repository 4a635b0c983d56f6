"""Layer splits, labels and refusals of shapes and plans."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_sim.errors import InfeasiblePlanError
from apex_sim.hardware.cluster import load_cluster
from apex_sim.model.load import load_model
from apex_sim.plan.legality import require_legal_plan, require_legal_shape
from apex_sim.plan.plan import Plan
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import CellParallelism, Shape, Stage, balanced_split, tensor_pipeline_stages
from apex_sim.preset.load import load_preset
from apex_sim.preset.research import RESEARCH_POLICIES

H100 = load_cluster("8xh100-sxm")


def _shape(layers: tuple[int, ...], tp: int, weight: str = "bf16", preset: str = "vllm-1") -> Shape:
    engine = load_preset(preset)
    settings = resolve_settings(engine, H100.device, 4096, pp=len(layers))
    return Shape("h100-sxm", tensor_pipeline_stages(layers, tp), Precision(weight), settings, engine)


@given(st.integers(1, 200), st.integers(1, 64))
def test_a_balanced_split_is_even_and_spares_the_last_stage(n_layers: int, pp: int) -> None:
    layers = balanced_split(n_layers, pp)
    assert (len(layers), sum(layers)) == (pp, n_layers)
    assert max(layers) - min(layers) <= 1
    assert layers[-1] == min(layers)


@pytest.mark.parametrize(
    ("n_layers", "pp", "layers"),
    [(80, 8, (10,) * 8), (61, 4, (15, 15, 16, 15)), (126, 4, (31, 32, 32, 31)), (5, 2, (3, 2)), (7, 4, (2, 2, 2, 1))],
)
def test_remainders_go_to_the_stages_before_the_last(n_layers: int, pp: int, layers: tuple[int, ...]) -> None:
    assert balanced_split(n_layers, pp) == layers


def test_labels_name_what_differs() -> None:
    assert _shape((40, 40), 4).label == "TP4 PP2 bf16"
    assert _shape((41, 39), 4).label == "TP4 PP2(41+39) bf16"
    assert Plan(((_shape((80,), 2, "fp8"), 4),)).label == "DP4 TP2 PP1 fp8"


def test_only_the_v0_engine_splits_its_queue() -> None:
    assert _shape((40, 40), 1, preset="vllm-0.6").n_queues == 2
    assert _shape((40, 40), 1).n_queues == 1


def test_batches_in_flight_are_split_over_queues_or_share_one() -> None:
    """Four stages take four batches in all; a research policy has a queue for each, whatever the preset."""
    shape = _shape((20,) * 4, 1)
    assert (shape.n_queues, shape.n_in_flight) == (1, 4)
    one = _shape((80,), 1)
    assert replace(one, scheduler=replace(one.scheduler, async_scheduling=True)).n_in_flight == 2
    for policy in RESEARCH_POLICIES:
        of_research = replace(shape, scheduler=replace(shape.scheduler, policy=policy))
        assert (of_research.n_queues, of_research.n_in_flight) == (4, 1)


@pytest.mark.parametrize(
    ("model", "layers", "tp", "weight", "cluster", "reason"),
    [
        ("llama-3.1-70b", (40, 39), 1, "bf16", "8xh100-sxm", "do not cover the model's 80"),
        ("llama-3.1-70b", (80, 0), 1, "bf16", "8xh100-sxm", "stages of 80+0 layers"),
        ("llama-3.1-70b", (80,), 3, "bf16", "8xh100-sxm", "TP 3 does not divide 64 query heads"),
        ("qwen2.5-7b", (28,), 8, "bf16", "8xh100-sxm", "TP 8 does not divide 28 query heads"),
        ("qwen2.5-7b", (28,), 7, "bf16", "7xh100-sxm", "nor is a multiple of 4 KV heads"),
        ("qwen3-30b-a3b", (48,), 32, "bf16", "8xh100-sxm", "needs 32 devices, 8xh100-sxm has 8"),
        ("llama-3.1-405b", (126,), 16, "bf16", "3x6xh100-sxm", "TP groups of 16 would straddle nodes of 6"),
        ("llama-3.1-70b", (80,), 4, "bf16", "2x6xh100-sxm", "would straddle nodes of 6"),
        ("llama-3.1-70b", (20,) * 4, 4, "bf16", "8xh100-sxm", "needs 16 devices, 8xh100-sxm has 8"),
        ("llama-3.1-70b", (80,), 8, "fp8", "8xa100-sxm-80gb", "fp8 weights need fp8 matrix units"),
    ],
)
def test_refusals_say_why(model: str, layers: tuple[int, ...], tp: int, weight: str, cluster: str, reason: str) -> None:
    devices = load_cluster(cluster)
    shape = replace(_shape(layers, tp, weight), device=devices.device.name)
    with pytest.raises(InfeasiblePlanError, match=reason.replace("+", r"\+")):
        require_legal_shape(load_model(model), devices, shape)


def test_tensor_parallelism_may_span_whole_nodes() -> None:
    require_legal_shape(load_model("llama-3.1-70b"), load_cluster("2x8xh100-sxm"), _shape((80,), 16))


def test_ffn_width_must_divide() -> None:
    model = load_model("qwen3-30b-a3b")  # 32 query heads, experts 768 wide
    odd = replace(model.layers[0], ffn=replace(model.layers[0].ffn, intermediate_size=770))
    with pytest.raises(InfeasiblePlanError, match="TP 4 does not divide the FFN width 770"):
        require_legal_shape(replace(model, layers=(odd,) * 48), H100, _shape((48,), 4))


def test_attention_and_ffn_share_their_devices() -> None:
    stage = Stage(0, 80, CellParallelism(tp=4), CellParallelism(tp=8))
    with pytest.raises(InfeasiblePlanError, match="same devices"):
        require_legal_shape(load_model("llama-3.1-70b"), H100, replace(_shape((80,), 4), stages=(stage,)))


def test_a_plan_may_not_need_more_devices_than_there_are() -> None:
    model, shape = load_model("llama-3.1-70b"), _shape((80,), 4)
    require_legal_plan(model, H100, Plan(((shape, 2),)))
    with pytest.raises(InfeasiblePlanError, match="needs 12 devices, 8xh100-sxm has 8"):
        require_legal_plan(model, H100, Plan(((shape, 3),)))


@pytest.mark.parametrize(
    ("n_stages", "tp", "cluster", "reason"),
    [
        (1, 4, "4x8xh100-sxm", "a single stage cannot be spread"),
        (2, 4, "8xh100-sxm", "2 stages in nodes of their own, and 8xh100-sxm has 1"),
        (4, 4, "3x8xh100-sxm", "4 stages in nodes of their own, and 3x8xh100-sxm has 3"),
        (2, 8, "2x8xh100-sxm", "stages of 8 devices fill nodes of 8: packed is the same"),
    ],
)
def test_spreading_is_refused_where_it_is_impossible_or_nothing_else(
    n_stages: int, tp: int, cluster: str, reason: str
) -> None:
    model, shape = load_model("llama-3.1-70b"), _shape((80 // n_stages,) * n_stages, tp)
    require_legal_shape(model, load_cluster("4x8xh100-sxm"), shape)
    with pytest.raises(InfeasiblePlanError, match=reason):
        require_legal_shape(model, load_cluster(cluster), replace(shape, placement="spread"))


def test_a_spread_shape_is_legal_and_says_so() -> None:
    shape = replace(_shape((40, 40), 4), placement="spread", clock_frac=0.6)
    require_legal_shape(load_model("llama-3.1-70b"), load_cluster("2x8xh100-sxm"), shape)
    assert shape.label == "TP4 PP2 spread bf16 @ 60% clock"
    assert replace(shape, placement="packed", clock_frac=1.0).label == "TP4 PP2 bf16"
    documents = [Plan(((each, 1),)).as_dict()["instances"] for each in (shape, replace(shape, placement="packed"))]
    assert [document[0]["placement"] for document in documents] == ["spread", "packed"]  # type: ignore[index]
