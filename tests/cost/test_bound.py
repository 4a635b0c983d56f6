"""What bounds kernels: splits that add up, known extremes, and speeds that change just what they bound."""

from functools import cache

import numpy as np
import pytest

from apex_sim.cost.bound import BOUNDS
from apex_sim.cost.speed_change import Speeds, change_speeds
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import StepModel
from apex_sim.fleet.compiled_plan import compile_plan
from apex_sim.planner.evaluation import cost_model_of, run_plan
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.study import Study, make_study


@cache
def _study(cost_model: str = "calibrated") -> Study:
    data = {
        "model": "llama-3.1-8b",
        "cluster": "2xh100-sxm",
        "workload": "chat",
        "cost_model": cost_model,
        "load": {"n_requests": 20},
        "space": {"tp": [2], "pp": [1], "dp": [1]},
    }
    return make_study(data, "made-up", "made-up.toml")


@cache
def _steps(cost_model: str = "calibrated") -> StepModel:
    study = _study(cost_model)
    (plan,) = enumerate_space(study).feasible
    ((_, steps),) = compile_plan(study.model, study.cluster, plan, cost_model_of(study)).values()
    return steps


def _decodes(n: int, context: int) -> StepBatch:
    batch = StepBatch(_steps().windows)
    for _ in range(n):
        batch.add(context, 1, True, True)
    return batch


def test_bounds_add_up_to_kernel_times() -> None:
    (stage,) = _steps().stages
    for table in (stage.tokens, stage.head):
        assert table.bounds_s.sum(axis=0) == pytest.approx(table.kernel_s)
        assert table.bounds_s[2].sum(axis=0) == pytest.approx(table.totals_s[:, 3])
        assert table.scaled(2.0).bounds_s.sum(axis=0) == pytest.approx(2 * table.kernel_s)


def test_one_token_reads_weights_and_thousands_compute() -> None:
    (stage,) = _steps().stages
    row = stage.tokens.names.index("up_gemm")
    few, many = stage.tokens.bounds_s[:, row, 1], stage.tokens.bounds_s[:, row, -1]
    assert BOUNDS[few.argmax()] == "memory"
    assert BOUNDS[many.argmax()] == "compute"
    (prefill, decode) = stage.attention[0]
    assert decode.bound(16, 2000) == "memory"
    assert prefill.bound(1, 2000) == "compute"


def test_the_meter_splits_what_operators_took() -> None:
    study = _study()
    run, _ = run_plan(study, enumerate_space(study).feasible[0])
    (stage,) = run.instances[0].stages
    for share in stage.shares:
        if share.operator.endswith("attention"):
            assert share.bounds_s is None
        else:
            assert share.bounds_s is not None
            assert sum(share.bounds_s) == pytest.approx(share.spent_s)


def test_equal_speeds_change_nothing() -> None:
    batch, steps = _decodes(8, 500), _steps()
    same = change_speeds(steps, Speeds()).stages[0].price(batch)
    assert same.device_s == pytest.approx(steps.stages[0].price(batch).device_s, rel=1e-12)


@pytest.mark.parametrize("name", BOUNDS)
def test_a_speed_changes_what_it_bounds_and_nothing_else(name: str) -> None:
    """Twice the speed saves half of what that bounds: what a tenfold speed saves tells what it bounds in all."""
    steps, batch = _steps(), _decodes(4, 1000)
    base_s, twice_s, tenfold_s = (
        change_speeds(steps, Speeds(**{name: speed})).stages[0].price(batch).device_s for speed in (1.0, 2.0, 10.0)
    )
    bound_s = (base_s - tenfold_s) / 0.9
    assert base_s - twice_s == pytest.approx(bound_s / 2)
    assert bound_s / base_s > (0.5 if name == "memory" else 0.0) if name != "compute" else bound_s / base_s < 0.2


def test_all_speeds_together_change_kernels_as_one_factor_does() -> None:
    steps, batch = _steps("roofline"), _decodes(4, 1000)
    (before,), (after,) = steps.stages, change_speeds(steps, Speeds(2.0, 2.0, 2.0)).stages
    assert after.tokens.kernel_s == pytest.approx(before.tokens.kernel_s / 2)
    assert after.tokens.totals_s == pytest.approx(before.tokens.totals_s / 2)
    assert np.all(after.attention[0][1].prices_s == before.attention[0][1].prices_s / 2)
    assert after.price(batch).device_s < before.price(batch).device_s
