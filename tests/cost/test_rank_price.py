"""The price of a step of several attention ranks, by hand from the tables of its parts."""

from collections.abc import Sequence

import numpy as np
import pytest

from apex_sim.cost.roofline import Roofline
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import StagePrice, StepModel, compile_step_model
from apex_sim.hardware.cluster import load_cluster
from apex_sim.model.load import load_model
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import Shape, tensor_pipeline_stages
from apex_sim.preset.load import load_preset

CLUSTER = load_cluster("4xh100-sxm")


def _model(preset: str = "vllm-1", n_ranks: int = 4, graphs: bool = True, ep: bool = True) -> StepModel:
    model, engine = load_model("gpt-oss-20b"), load_preset(preset)
    settings = resolve_settings(
        engine, CLUSTER.device, 4096, max_num_seqs=64, max_num_batched_tokens=8192, cuda_graphs=graphs
    )
    stages = tensor_pipeline_stages((model.n_layers,), 1, n_ranks, ep=ep)
    return compile_step_model(
        model, CLUSTER, Shape("h100-sxm", stages, Precision(), settings, engine), Roofline(CLUSTER.device)
    )


def _batch(model: StepModel, decodes: Sequence[int] = (), prompts: Sequence[int] = ()) -> StepBatch:
    batch = StepBatch(model.windows)
    for context in decodes:
        batch.add(context - 1, 1, samples=True, is_decode=True)
    for length in prompts:
        batch.add(0, length, samples=True, is_decode=False)
    return batch


def _price(model: StepModel, *ranks: StepBatch) -> StagePrice:
    return model.stages[0].price_ranks(ranks)


def test_equal_ranks_cost_one_ranks_batch_and_the_joint_experts() -> None:
    """One decode on each of four ranks: operators at 1 token, experts at 4, attention and head of one sequence."""
    model = _model()
    stage, batch = model.stages[0], _batch(model, [1000])
    price = _price(model, *[batch] * 4)
    assert stage.joint is not None
    parts_s = stage.tokens.totals_s[1, 0] + stage.joint.totals_s[4, 0] + stage.head.totals_s[1, 0]
    parts_s += sum(price.prefill_s) + sum(price.decode_s)
    assert sum(price.prefill_s) == 0.0
    assert price.device_s == pytest.approx(parts_s + price.launch_s)
    alone = _model(n_ranks=1).stages[0]
    lone = alone.price(batch)
    assert price.decode_s == pytest.approx(lone.decode_s)
    moe = dict(zip(alone.tokens.names, alone.tokens.kernel_s, strict=True))["moe"]
    assert set(stage.joint.names) == {"moe"}
    assert {"all_to_all", "all_gather"} <= set(stage.tokens.names)
    assert stage.joint.kernel_s[0, 4] < 4 * moe[1]  # a device reads the experts that live on it, once


def test_one_batch_stands_for_equal_ranks() -> None:
    model = _model()
    batch = _batch(model, [300] * 5, [200])
    assert model.stages[0].price(batch) == _price(model, *[batch] * 4)


def test_the_step_lasts_as_long_as_the_slowest_ranks_attention() -> None:
    """Work for a rank that waits costs no time, and energy all the same."""
    model = _model()
    slow, idle, busy = _batch(model, [3000] * 8), _batch(model), _batch(model, [100] * 8)
    one, other = _price(model, slow, idle, idle, idle), _price(model, slow, busy, busy, busy)
    assert one.device_s == other.device_s
    assert one.decode_s == other.decode_s == _price(model, busy, busy, busy, slow).decode_s
    assert one.dynamic_j < other.dynamic_j
    assert _price(model, busy, busy, busy, busy).device_s < other.device_s


@pytest.mark.parametrize(
    ("preset", "decodes", "prompts", "n_own", "n_joint"),
    [
        ("vllm-1", (3, 0, 1, 1), (0, 0, 0, 0), 4, 16),  # all in a graph of four
        ("vllm-1", (3, 0, 1, 1), (100, 0, 0, 0), 104, 416),  # mixed steps run in graphs as well
        ("vllm-1", (3, 0, 1, 1), (1000, 0, 0, 0), 1003, 1003 + 1 + 1 + 1),  # beyond them: each its own, a dummy token
        ("sglang", (3, 0, 1, 1), (0, 0, 0, 0), 4, 16),
        ("sglang", (3, 0, 1, 1), (100, 0, 0, 0), 103, 103 + 1 + 1),  # a prompt keeps all out of the graph
        ("trtllm", (33, 0, 1, 1), (0, 0, 0, 0), 33, 33 + 1 + 1 + 1),  # no graph of 33
        ("trtllm", (32, 0, 1, 1), (0, 0, 0, 0), 32, 128),
    ],
)
def test_experts_see_the_tokens_that_the_engine_pads_to(
    preset: str, decodes: Sequence[int], prompts: Sequence[int], n_own: int, n_joint: int
) -> None:
    model = _model(preset)
    price = _price(model, *(_batch(model, [50] * n, [p] if p else []) for n, p in zip(decodes, prompts, strict=True)))
    assert (price.knot, price.joint_knot) == (n_own, n_joint)


def test_sglang_pads_eager_decodes_where_that_moves_no_more() -> None:
    """Without graphs: 4 x 8 tokens against twice the sum, 2 x (8 + 8 + 1) and 2 x (8 + 1 + 1)."""
    model = _model("sglang", graphs=False)
    eight, one, none = (_batch(model, [50] * n) for n in (8, 1, 0))
    assert _price(model, eight, eight, one, none).joint_knot == 32
    assert _price(model, eight, one, one, none).joint_knot == 10
    assert _model("vllm-1", graphs=False).stages[0].price_ranks((eight, one, one, none)).joint_knot == 11


def test_without_expert_parallelism_all_tokens_are_gathered_and_scattered() -> None:
    """Every device holds a quarter of every expert: no all-to-all, twice 24 layers of gathering all ranks' tokens."""
    stage = _model(ep=False).stages[0]
    assert stage.joint is not None
    assert set(stage.joint.names) == {"moe", "all_gather"}
    assert "all_to_all" not in stage.tokens.names
    gathered = stage.joint.names.index("all_gather")
    link = CLUSTER.intra_node
    each_s = 3 * (link.latency_s + 100 * 2880 * 2 / 4 / link.bytes_per_s)
    assert stage.joint.kernel_s[gathered, 100] == pytest.approx(2 * 24 * each_s)


def test_more_tokens_than_the_table_holds_are_an_error() -> None:
    model = _model()
    with pytest.raises(ValueError, match="more tokens than its table"):
        _price(model, _batch(model, prompts=[8193]), *[_batch(model)] * 3)


def test_a_meter_splits_the_step_into_its_operators() -> None:
    from apex_sim.cost.meter import StageMeter

    model = _model()
    ranks = _batch(model, [900] * 3), _batch(model, [100], [1500]), _batch(model), _batch(model, [40])
    meter, price = StageMeter(model.stages[0]), _price(model, *ranks)
    meter.count(max(ranks, key=lambda batch: batch.n_sampled), price, 0.0)
    assert sum(meter.operators_s().values()) == pytest.approx(price.device_s)
    assert meter.operators_s()["moe"] > 0.0
    assert np.isfinite(price.dynamic_j)
