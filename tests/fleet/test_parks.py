"""Plans over pools of several device types: each shape is priced, placed and paid for on its own pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from apex_sim.cost.device_costs import cost_on, origin_of
from apex_sim.cost.roofline import Roofline
from apex_sim.errors import InfeasiblePlanError, InputError, UnknownNameError
from apex_sim.fleet.compiled_plan import CompiledPlan, compile_plan
from apex_sim.fleet.fleet import simulate_plan
from apex_sim.hardware.cluster import load_cluster
from apex_sim.hardware.device import load_device
from apex_sim.plan.legality import require_legal_plan
from apex_sim.plan.plan import Plan
from apex_sim.plan.routing import Routing
from apex_sim.plan.shape import Shape
from apex_sim.planner.evaluation import cost_model_of, costs_of, run_plan, summarise_run
from apex_sim.planner.provenance import provenance_of
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.study import Study, make_study
from apex_sim.record.run import FleetRun
from apex_sim.report.document import evaluation_document, study_document

PARK = "1xh100-sxm+2xl40s"
DEVICES = ("h100-sxm", "l40s")
COLUMNS = ("arrival_s", "queued_s", "scheduled_s", "first_token_s", "finish_s", "emitted_tokens", "instance")


@cache
def study_on(cluster: str) -> Study:
    data: dict[str, Any] = {
        "model": "llama-3.1-8b",
        "cluster": cluster,
        "workload": "chat",
        "load": {"n_requests": 30, "rate_per_s": 3.0},
        "space": {"tp": [1], "pp": [1], "dp": [1], "weight_dtypes": ["bf16"]},
        "cost_model": "roofline",
    }
    return make_study(data, "made-up", "made-up.toml")


@cache
def shape_on(device: str) -> Shape:
    return enumerate_space(study_on(f"1x{device}")).feasible[0].instances[0][0]


def park_plan(*shares: float, counts: tuple[int, int] = (1, 2)) -> Plan:
    instances = tuple(zip((shape_on(device) for device in DEVICES), counts, strict=True))
    return Plan(instances, "weighted-round-robin", Routing((), (shares,)))


@cache
def run_of(*shares: float) -> tuple[FleetRun, CompiledPlan]:
    return run_plan(study_on(PARK), park_plan(*shares), check=True)


@pytest.mark.parametrize("device", DEVICES)
def test_a_pool_that_gets_every_request_serves_as_if_it_were_alone(device: str) -> None:
    is_first = device == DEVICES[0]
    alone = Plan(((shape_on(device), 1 if is_first else 2),))
    expected, _ = run_plan(study_on(f"{1 if is_first else 2}x{device}"), alone)
    run, _ = run_of(*((1.0, 0.0) if is_first else (0.0, 1.0)))
    for name in COLUMNS:
        shift = 0 if is_first or name != "instance" else 1
        np.testing.assert_array_equal(
            getattr(run.requests, name), getattr(expected.requests, name) + shift, err_msg=name
        )
    assert run.makespan_s == expected.makespan_s
    busy = [i for i in run.instances if i.shape.device == device]
    assert [i.energy_j for i in busy] == [i.energy_j for i in expected.instances]


def test_price_and_energy_add_up_over_the_instances_own_devices() -> None:
    study = study_on(PARK)
    run, compiled = run_of(0.6, 0.4)
    evaluation = summarise_run(study, run, compiled, 0.0)
    h100, l40s = (load_device(name) for name in DEVICES)
    usd_per_h = h100.price_usd_per_h + 2 * l40s.price_usd_per_h
    assert evaluation.metrics["usd_per_h"] == pytest.approx(usd_per_h, rel=1e-12)
    assert evaluation.metrics["usd"] == pytest.approx(usd_per_h * run.makespan_s / 3600, rel=1e-12)
    idle_w = [instance.stages[0].idle_j / run.makespan_s for instance in run.instances]
    assert idle_w == pytest.approx([h100.idle_w, l40s.idle_w, l40s.idle_w])
    assert evaluation.metrics["energy_j"] == pytest.approx(sum(instance.energy_j for instance in run.instances))


def test_both_engines_agree_on_a_park() -> None:
    fast, _ = run_of(0.6, 0.4)
    slow, _ = run_plan(study_on(PARK), park_plan(0.6, 0.4), reference=True)
    assert (fast.engine, slow.engine) == ("compiled", "reference")
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(fast.requests, name), getattr(slow.requests, name), err_msg=name)


def test_a_result_on_a_park_says_what_it_stands_on() -> None:
    study = study_on(PARK)
    run, compiled = run_of(0.6, 0.4)
    evaluation = summarise_run(study, run, compiled, 0.0)
    assert evaluation.standing is not None
    assert "no measured server of vllm-1 on h100-sxm+l40s" in evaluation.standing.outside
    assert evaluation.intervals
    assert evaluation.cost_name == "roofline"
    assert "h100-sxm: " in evaluation.provenance
    assert "; l40s: " in evaluation.provenance
    assert {i["device"] for i in evaluation.plan.as_dict()["instances"]} == set(DEVICES)  # type: ignore[attr-defined]
    assert evaluation_document(evaluation)["metrics"]
    assert (study_document(study)["device"], study_document(study)["n_devices"]) == ("h100-sxm+l40s", 3)
    assert any(note.startswith("l40s ") for note in provenance_of(study).assumed)


def test_each_pool_must_hold_its_own_instances() -> None:
    study = study_on(PARK)
    with pytest.raises(InfeasiblePlanError, match="needs 2 devices, 1xh100-sxm has 1"):
        require_legal_plan(study.model, study.cluster, park_plan(1.0, 0.0, counts=(2, 1)))
    with pytest.raises(InfeasiblePlanError, match="needs 3 devices, 2xl40s has 2"):
        require_legal_plan(study.model, study.cluster, park_plan(1.0, 0.0, counts=(1, 3)))


def test_an_unknown_pool_is_refused() -> None:
    study = study_on("1xh100-sxm")
    costs = {name: Roofline(load_device(name)) for name in DEVICES}
    for refused in (
        lambda: require_legal_plan(study.model, study.cluster, park_plan(1.0, 0.0)),
        lambda: compile_plan(study.model, study.cluster, park_plan(1.0, 0.0), costs),
        lambda: simulate_plan(study.model, study.cluster, park_plan(1.0, 0.0), study.workload, costs),
    ):
        with pytest.raises(UnknownNameError, match="cluster '1xh100-sxm': unknown pool 'l40s'"):
            refused()


def test_one_back_end_prices_one_device_type() -> None:
    study, plan = study_on(PARK), park_plan(0.5, 0.5)
    with pytest.raises(InputError, match="one cost back end for a plan on h100-sxm, l40s"):
        compile_plan(study.model, study.cluster, plan, cost_model_of(study))
    costs = costs_of(study)
    assert isinstance(costs, Mapping)
    assert cost_on(costs, "l40s", plan) == Roofline(load_device("l40s"))
    assert origin_of(costs, plan).name == "roofline"
    with pytest.raises(UnknownNameError, match="unknown device 'l40s'"):
        cost_on({"h100-sxm": costs["h100-sxm"]}, "l40s", plan)
    with pytest.raises(InputError, match="one cost back end of your own for 2 device types"):
        costs_of(replace(study, cost=costs["l40s"]))


def test_a_park_of_one_pool_is_that_pool() -> None:
    cluster = load_cluster("2xl40s")
    assert cluster.pools == (cluster,)
    assert cluster.pool("l40s") is cluster
