"""A lower clock: closed forms for one operator, limits for steps, and the same result from both engines."""

from __future__ import annotations

import inspect
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_sim.cost.basis import Basis
from apex_sim.cost.calibrated import best_cost_model
from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.draft_cost import DraftBatch
from apex_sim.cost.lowered_clock import LoweredClock, stretched
from apex_sim.cost.parts import Parts
from apex_sim.cost.power import PowerModel, Work, power_model, voltage_frac
from apex_sim.cost.preset_change import change_preset
from apex_sim.cost.roofline import Roofline
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import StepModel, compile_step_model
from apex_sim.errors import InfeasiblePlanError
from apex_sim.fleet.fleet import simulate_plan
from apex_sim.hardware.cluster import load_cluster
from apex_sim.hardware.device import MIN_CLOCK_FRAC
from apex_sim.model.load import load_model
from apex_sim.plan.legality import require_legal_shape
from apex_sim.plan.plan import Plan
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import Shape, tensor_pipeline_stages
from apex_sim.plan.speculation import Speculation
from apex_sim.preset.load import load_preset
from apex_sim.preset.preset import PhaseFactors
from apex_sim.truth.envelope import standing_of
from apex_sim.truth.footing import footing_of
from apex_sim.truth.validated import load_validated
from apex_sim.workload.load_form import LoadForm
from apex_sim.workload.requests import make_requests
from apex_sim.workload.workload import Workload

CLUSTER = load_cluster("4xh100-sxm")
COST = Roofline(CLUSTER.device)
CLOCKS = (1.0, 0.9, 0.75, 0.6, 0.4, 0.2)


def shape_at(
    clock_frac: float = 1.0, model: str = "llama-3.1-8b", tp: int = 1, attention_dp: int = 1, **settings: Any
) -> Shape:
    preset, ranks = load_preset("vllm-1"), attention_dp > 1
    scheduler = resolve_settings(preset, CLUSTER.device, 4096, max_num_seqs=32, max_num_batched_tokens=4096, **settings)
    stages = tensor_pipeline_stages((load_model(model).n_layers,), tp, attention_dp, ep=ranks)
    return Shape("h100-sxm", stages, Precision(), scheduler, preset, clock_frac=clock_frac)


@cache
def model_at(clock_frac: float = 1.0, model: str = "llama-3.1-8b", *, fitted: bool = False, **shape: Any) -> StepModel:
    cost = best_cost_model(CLUSTER.device) if fitted else COST
    return compile_step_model(load_model(model), CLUSTER, shape_at(clock_frac, model, **shape), cost)


def batch_of(model: StepModel, decodes: int = 0, prompt: int = 0) -> StepBatch:
    batch = StepBatch(model.windows)
    for _ in range(decodes):
        batch.add(500, 1, samples=True, is_decode=True)
    if prompt:
        batch.add(0, prompt, samples=True, is_decode=False)
    return batch


# --- one operator

TIMES_S = st.floats(0.0, 1.0)


@given(TIMES_S, TIMES_S, TIMES_S, TIMES_S, st.floats(MIN_CLOCK_FRAC, 1.0))
def test_an_operator_is_stretched_by_its_share_of_compute(
    kernel_s: float, compute_s: float, memory_s: float, network_s: float, clock_frac: float
) -> None:
    parts = Parts(kernel_s, compute_s, memory_s, network_s, 1.0, 1.0, Basis("made-up", "none"))
    expected_s = Work(compute_s, memory_s, kernel_s, network_s).stretched_s(clock_frac)
    slower = stretched(parts, clock_frac)
    assert float(slower.kernel_s) == pytest.approx(expected_s, rel=1e-12)
    assert replace(slower, kernel_s=parts.kernel_s) == parts


def test_a_large_product_at_half_the_clock_by_hand() -> None:
    """2 m n k FLOP at 989.4 TFLOP/s; A, B and C at 2 bytes a number over 3.35 TB/s."""
    size = 8192.0
    highest, lower = COST.gemm(size, size, size, "bf16", "bf16"), LoweredClock(COST, 0.5)
    compute_s, memory_s = 2 * size**3 / CLUSTER.device.peak_flops["bf16"], 3 * size**2 * 2 / 3.35e12
    factor = 1.0 + compute_s / (compute_s + memory_s)
    assert factor > 1.9
    half = lower.gemm(size, size, size, "bf16", "bf16")
    assert half.kernel_s == pytest.approx(highest.kernel_s * factor, rel=1e-9)
    assert (half.compute_s, half.memory_s) == (highest.compute_s, highest.memory_s)


def test_a_table_holds_the_stretched_operator_and_its_full_work() -> None:
    names = model_at().stages[0].head.names
    row, knot = names.index("lm_head"), 7
    model = load_model("llama-3.1-8b")
    price = COST.gemm(float(knot), model.vocab_size, model.hidden_size, "bf16", "bf16")
    one, half = (model_at(clock).stages[0].head for clock in (1.0, 0.5))
    assert one.kernel_s[row, knot] == price.kernel_s
    assert half.kernel_s[row, knot] == stretched(price, 0.5).kernel_s > price.kernel_s
    np.testing.assert_array_equal(half.totals_s[:, 1:], one.totals_s[:, 1:])


def test_memory_and_links_keep_their_own_clocks() -> None:
    lower = LoweredClock(COST, 0.5)
    group = CLUSTER.group(4)
    assert lower.elementwise(1e4, 4096, 4.0).kernel_s == COST.elementwise(1e4, 4096, 4.0).kernel_s
    assert lower.all_gather(1e8, group).kernel_s == COST.all_gather(1e8, group).kernel_s
    assert lower.send(1e8, CLUSTER.intra_node).kernel_s == COST.send(1e8, CLUSTER.intra_node).kernel_s


class Recorder:
    """A back end that notes how it was asked, and answers with one price."""

    name, provenance = "recorder", "none"
    parts = Parts(1.0, 1.0, 1.0, 0.0, 1.0, 1.0, Basis("made-up", "fit", 0.05))

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        def price(*arguments: Any) -> Parts:
            self.asked.append((name, *arguments))
            return self.parts

        return price


METHODS = [name for name, _ in inspect.getmembers(CostModel, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize("name", METHODS)
def test_every_operator_is_passed_on_and_stretched(name: str) -> None:
    recorder: Any = Recorder()
    arguments = [object() for _ in list(inspect.signature(getattr(CostModel, name)).parameters)[1:]]
    parts = getattr(LoweredClock(recorder, 0.5), name)(*arguments)
    assert recorder.asked == [(name, *arguments)]
    assert parts.kernel_s == 1.5
    assert (parts.basis.expected_error_frac, parts.basis.in_range) == (0.05, False)


def test_the_contract_of_a_back_end_has_the_operators_that_are_counted_here() -> None:
    assert len(METHODS) == 14


# --- steps


def test_the_highest_clock_changes_nothing() -> None:
    model = model_at()
    assert model.stages[0].context.cost is COST
    assert model.stages[0].power == power_model(CLUSTER.device)


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(("decodes", "prompt"), [(8, 0), (32, 0), (0, 4000), (20, 1000)])
def test_a_step_is_never_faster_at_a_lower_clock(decodes: int, prompt: int, fitted: bool) -> None:
    models = [model_at(clock, fitted=fitted) for clock in CLOCKS]
    times_s = [model.stages[0].price(batch_of(model, decodes, prompt)).device_s for model in models]
    assert times_s == sorted(times_s)
    assert times_s[-1] > times_s[0]
    assert times_s[-1] < times_s[0] / CLOCKS[-1]
    batch = batch_of(models[0], decodes, prompt)
    assert models[0].host_s(batch) == models[-1].host_s(batch)


def test_prompts_wait_for_the_clock_and_decodes_for_the_memory() -> None:
    one, half = model_at(), model_at(0.5)
    slower = [
        half.stages[0].price(batch_of(half, decodes, prompt)).device_s
        / one.stages[0].price(batch_of(one, decodes, prompt)).device_s
        for decodes, prompt in ((8, 0), (0, 4000))
    ]
    assert slower[0] < 1.1
    assert slower[1] > 1.7


@pytest.mark.parametrize("clock_frac", [0.9, 0.6, 0.3])
def test_energy_of_compute_falls_with_the_square_of_the_voltage(clock_frac: float) -> None:
    """A device that spends on FLOP alone: the same FLOP at V^2 each, whatever time they take."""
    only_compute = PowerModel(idle_w=100.0, max_w=1e5, compute_w=600.0)
    one, low = model_at().stages[0], model_at(clock_frac).stages[0]
    highest_j = one.with_power(only_compute).price(batch_of(model_at(), 0, 4000)).dynamic_j
    lower_j = low.with_power(only_compute.at_clock(clock_frac)).price(batch_of(model_at(), 0, 4000)).dynamic_j
    assert lower_j == pytest.approx(highest_j * voltage_frac(clock_frac) ** 2, rel=1e-9)


def test_energy_of_a_step_is_that_of_the_power_model_at_its_clock() -> None:
    stage, batch = model_at(0.6).stages[0], batch_of(model_at(0.6), 16, 0)
    assert stage.power == power_model(CLUSTER.device).at_clock(0.6)
    full = power_model(CLUSTER.device)
    highest, lower = model_at().stages[0].price(batch), stage.price(batch)
    squared = voltage_frac(0.6) ** 2
    of_work_j = highest.dynamic_j - full.active_w * highest.device_s
    memory_j = stage.with_power(PowerModel(1.0, 1e6, memory_w=full.memory_w)).price(batch).dynamic_j
    expected_j = full.active_w * 0.6 * squared * lower.device_s + memory_j + (of_work_j - memory_j) * squared
    assert lower.dynamic_j == pytest.approx(expected_j, rel=1e-9)
    assert lower.dynamic_j < highest.dynamic_j
    assert stage.power.idle_w == full.idle_w


def test_the_power_limit_caps_energy_at_any_clock_and_adds_no_time() -> None:
    thirsty = PowerModel(idle_w=100.0, max_w=150.0, compute_w=5e3)
    stage, batch = model_at(0.6).stages[0], batch_of(model_at(0.6), 0, 4000)
    price = stage.with_power(thirsty.at_clock(0.6)).price(batch)
    assert price.device_s == stage.price(batch).device_s
    assert price.dynamic_j == 50.0 * price.device_s


def test_ranks_experts_and_their_spread_are_stretched_too() -> None:
    shape = {"model": "gpt-oss-20b", "attention_dp": 4, "expert_imbalance": 1.0}
    one, half = (model_at(clock, **shape).stages[0] for clock in (1.0, 0.5))
    assert one.joint is not None
    assert half.joint is not None
    assert one.spread_s is not None
    assert half.spread_s is not None
    assert (half.joint.kernel_s[0, 1:] > one.joint.kernel_s[0, 1:]).all()
    assert (half.spread_s >= one.spread_s).all()
    assert half.spread_s[-1] > one.spread_s[-1]


def test_a_draft_is_stretched_once_also_under_another_preset() -> None:
    def draft_price(model: StepModel) -> tuple[float, float]:
        assert model.draft is not None
        batch = DraftBatch(model.windows)
        batch.add(0, 1000, True, False)
        return model.draft.price(batch)

    settings = {"speculation": Speculation("llama-3.2-1b", 3, (0.7,) * 3), "async_scheduling": False}
    shapes = [shape_at(clock, **settings) for clock in (1.0, 0.5)]
    one, half = (compile_step_model(load_model("llama-3.1-8b"), CLUSTER, shape, COST) for shape in shapes)
    assert draft_price(one)[0] < draft_price(half)[0] < 2.0 * draft_price(one)[0]
    again = change_preset(half, half.shape.preset)
    assert draft_price(again) == draft_price(half)
    np.testing.assert_array_equal(again.stages[0].tables.numbers, half.stages[0].tables.numbers)


def test_another_preset_keeps_the_clock() -> None:
    preset = load_preset("vllm-1")
    other = replace(preset, factors=PhaseFactors(1.25, 1.5))
    shape = replace(shape_at(0.5), preset=other)
    anew = compile_step_model(load_model("llama-3.1-8b"), CLUSTER, shape, COST)
    np.testing.assert_array_equal(
        change_preset(model_at(0.5), other).stages[0].tables.numbers, anew.stages[0].tables.numbers
    )


def test_a_clock_of_prices_that_were_lowered_before_is_the_shapes_own() -> None:
    lowered = compile_step_model(load_model("llama-3.1-8b"), CLUSTER, shape_at(0.75), LoweredClock(COST, 0.3))
    np.testing.assert_array_equal(lowered.stages[0].tables.numbers, model_at(0.75).stages[0].tables.numbers)


# --- plans


def test_both_engines_serve_alike_at_a_lower_clock() -> None:
    n, rng = 40, np.random.default_rng(1)
    requests = make_requests(np.cumsum(rng.exponential(0.05, n)), rng.integers(50, 1500, n), rng.integers(5, 60, n))
    workload = Workload("made-up", requests, LoadForm("trace", None), None, None, (), True, "none")
    plan = Plan(((shape_at(0.6), 1), (shape_at(), 1)))
    fast, slow = (
        simulate_plan(load_model("llama-3.1-8b"), CLUSTER, plan, workload, COST, check=True, reference=reference)
        for reference in (False, True)
    )
    assert (fast.engine, slow.engine) == ("compiled", "reference")
    for name in ("instance", "scheduled_s", "first_token_s", "finish_s"):
        np.testing.assert_array_equal(getattr(fast.requests, name), getattr(slow.requests, name), err_msg=name)
    assert fast.energy_j == pytest.approx(slow.energy_j, rel=1e-9)
    busy_s = [instance.stages[0].busy_s for instance in fast.instances]
    assert busy_s[0] > busy_s[1]
    footing = footing_of(load_model("llama-3.1-8b"), workload, fast)
    assert footing.clock_frac == 0.6


def test_a_lower_clock_is_outside_of_what_servers_back() -> None:
    validated = load_validated()
    footing = validated.groups[0].footing
    reason = "a clock of 60% was not measured, only the highest"
    assert reason in standing_of(replace(footing, clock_frac=0.6), (), validated).outside
    assert reason not in standing_of(footing, (), validated).outside


@pytest.mark.parametrize("clock_frac", [0.0, -1.0, 0.19, 1.01, float("nan")])
def test_a_clock_that_is_not_modelled_is_refused(clock_frac: float) -> None:
    with pytest.raises(InfeasiblePlanError, match=r"is not modelled: use 0\.2 to 1"):
        require_legal_shape(load_model("llama-3.1-8b"), CLUSTER, shape_at(clock_frac))
    require_legal_shape(load_model("llama-3.1-8b"), CLUSTER, shape_at(MIN_CLOCK_FRAC))


def test_a_lower_clock_shows_in_labels_and_documents() -> None:
    assert shape_at(0.6).label == "TP1 PP1 bf16 @ 60% clock"
    assert shape_at(0.625).label == "TP1 PP1 bf16 @ 62.5% clock"
    assert shape_at().label == "TP1 PP1 bf16"
    documents: Any = Plan(((shape_at(0.6), 1), (shape_at(), 1))).as_dict()["instances"]
    assert [document["clock_frac"] for document in documents] == [0.6, 1.0]
