"""Queue, batch, KV cache and power over a run, from the steps that its records kept."""

from __future__ import annotations

import numpy as np
import pytest

import apex_sim
from apex_sim.report.questions import SimulationReport
from apex_sim.report.time_series import N_INTERVALS, draw_series, series_of

PLAN = {"tp": [2], "pp": [2], "dp": [2], "weight_dtypes": ["fp8"]}


@pytest.fixture(scope="module")
def report() -> SimulationReport:
    return apex_sim.simulate("quickstart", load={"n_requests": 60}, space=PLAN)


def test_power_adds_up_to_the_energy_of_the_run(report: SimulationReport) -> None:
    run = report.result.run
    series = series_of(run)
    kept_j = sum(instance.steps.column("dynamic_j")[-1] for instance in run.instances)
    idle_j = sum(stage.idle_j for instance in run.instances for stage in instance.stages)
    assert series.power_w.sum() * run.makespan_s / N_INTERVALS == pytest.approx(kept_j + idle_j)
    assert kept_j == pytest.approx(run.energy_j - idle_j, rel=0.02)  # a last step may not be kept
    assert (series.power_w >= idle_j / run.makespan_s - 1e-6).all()


def test_queue_and_blocks_are_those_of_the_steps(report: SimulationReport) -> None:
    run = report.result.run
    series = series_of(run)
    assert 0 < series.n_running.max() <= 60
    assert 0 < series.kv_used_frac.max() <= 1
    last = [instance.steps.column("n_running")[-1] for instance in run.instances]
    assert series.n_running[-1] == sum(last)
    assert np.array_equal(series.time_s, np.sort(series.time_s))


def test_the_series_of_both_engines_agree() -> None:
    study = {"load": {"n_requests": 60}, "space": {"tp": [8], "pp": [1], "dp": [1], "weight_dtypes": ["fp8"]}}
    compiled = series_of(apex_sim.simulate("quickstart", **study).result.run)
    from apex_sim.planner.simulation import simulate_study
    from apex_sim.planner.study import load_study

    reference = series_of(simulate_study(load_study("quickstart", study), reference=True).run)
    for name in ("n_running", "kv_used_frac"):  # a leap stands for many steps
        assert np.abs(getattr(compiled, name) - getattr(reference, name)).mean() < 0.05 * getattr(reference, name).max()
    assert compiled.power_w.mean() == pytest.approx(reference.power_w.mean(), rel=0.01)


def test_there_are_three_pictures(report: SimulationReport) -> None:
    drawn = draw_series(series_of(report.result.run))
    assert [svg.startswith("<svg") for svg in drawn] == [True] * 3
