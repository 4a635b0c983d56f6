"""Sensitivities: elasticities that are known, choices that flip where they must, and speeds that only help."""

from functools import cache
from typing import Any

import pytest

from apex_sim.errors import InputError
from apex_sim.planner.changed_input import elasticity
from apex_sim.planner.sensitivity import Sensitivity, sensitivities
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.study import Study, make_study, merge
from apex_sim.planner.trial import try_plan

BASE: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "cluster": "2xh100-sxm",
    "workload": "chat",
    "load": {"n_requests": 60, "rate_per_s": 4.0},
    "slo": {"ttft_p99_s": 5.0},
}


def _study(changes: dict[str, Any] | None = None) -> Study:
    return make_study(merge(BASE, changes or {}), "made-up", "made-up.toml")


def _ask(changes: dict[str, Any] | None = None) -> dict[str, Sensitivity]:
    study = _study(changes)
    return {each.input: each for each in sensitivities(study, enumerate_space(study).feasible)}


@cache
def _latency() -> dict[str, Sensitivity]:
    return _ask()


@cache
def _cost() -> dict[str, Sensitivity]:
    return _ask({"objective": "cost"})


def test_every_input_of_a_study_is_asked() -> None:
    assert set(_latency()) == {
        "arrival rate",
        "prompt lengths",
        "output lengths",
        "price of h100-sxm",
        "compute speed",
        "memory bandwidth",
        "network speed",
        "host time",
        "share of memory",
        "limit ttft_p99_s",
    }
    closed = make_study({**BASE, "load": {"n_requests": 12, "concurrency": 4}}, "made-up", "made-up.toml")
    names = [each.input for each in sensitivities(closed, enumerate_space(closed).feasible[:1])]
    assert "users" in names
    assert "arrival rate" not in names


def test_cost_follows_the_price_and_nothing_of_latency_does() -> None:
    assert _cost()["price of h100-sxm"].elasticity == pytest.approx(1.0)
    assert _latency()["price of h100-sxm"].elasticity == pytest.approx(0.0)
    assert _latency()["limit ttft_p99_s"].elasticity == pytest.approx(0.0)


def test_of_the_device_only_speed_helps_latency() -> None:
    found = _latency()
    speeds = ("compute speed", "memory bandwidth", "network speed")
    assert all((found[name].elasticity or 0.0) <= 1e-6 for name in speeds)
    assert (found["memory bandwidth"].elasticity or 0.0) < -0.3  # few users: steps read weights
    assert (found["host time"].elasticity or 0.0) > 0
    assert (found["output lengths"].elasticity or 0.0) > 0.7
    # Speeds and times together hold all that a lightly loaded server does: a tenth more of all is a tenth.
    assert sum(abs(found[name].elasticity or 0.0) for name in (*speeds, "host time")) == pytest.approx(1.0, abs=0.35)


def test_a_limit_just_kept_flips_the_choice() -> None:
    study = _study()
    plans = enumerate_space(study).feasible
    best = min(plans, key=lambda plan: try_plan(study, plan).metrics["e2e_mean_s"] or 9.0)
    reached = try_plan(study, best).metrics["ttft_p99_s"]
    assert reached is not None
    tight = _study({"slo": {"ttft_p99_s": reached * 1.01}})
    found = {each.input: each for each in sensitivities(tight, [best])}
    assert found["limit ttft_p99_s"].flips
    assert not found["limit ttft_p99_s"].down.keeps
    assert found["limit ttft_p99_s"].up.keeps
    assert next(iter(found.values())).flips


def test_choices_are_those_of_a_study_with_the_input_changed() -> None:
    found, study = _latency()["arrival rate"], _study({"load": {"rate_per_s": 4.4}})
    plans = enumerate_space(study).feasible
    by_label = {plan.label: try_plan(study, plan).metrics["e2e_mean_s"] for plan in plans}
    assert found.up.plan == min(by_label, key=lambda label: by_label[label] or 9.0)
    assert found.up.objective == pytest.approx(by_label[found.up.plan])


def test_longer_requests_than_the_context_are_told_not_hidden() -> None:
    study = _study()
    found = sensitivities(study, enumerate_space(study).feasible[:1], factor=40.0)
    lengths = next(each for each in found if each.input == "prompt lengths")
    assert lengths.up.plan == ""
    assert "context" in lengths.up.lost[0]
    assert lengths.elasticity is None
    assert lengths.flips


def test_unusable_questions_are_refused() -> None:
    study = _study()
    with pytest.raises(InputError, match="no plan"):
        sensitivities(study, [])
    with pytest.raises(InputError, match="factor"):
        sensitivities(study, enumerate_space(study).feasible, factor=1.0)


def test_elasticity_is_a_slope_of_logs() -> None:
    assert elasticity(2.0**1.5, 2.0**-1.5, 2.0) == pytest.approx(1.5)
    assert elasticity(None, 1.0, 1.1) is None
