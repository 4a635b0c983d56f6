"""The JSON documents are strict JSON, have the promised keys and repeat exactly."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from apex_sim.report.document import json_safe, search_document, simulation_document


def strict(document: object) -> str:
    return json.dumps(document, allow_nan=False)


def test_search_has_the_promised_keys(result):
    document = json.loads(strict(search_document(result)))
    assert document["schema_version"] == 1
    assert set(document) == {
        *("schema_version", "study", "problem", "plans", "infeasible", "pareto", "certificate", "provenance"),
        *("not_simulated", "interrupted"),
    }
    first = document["plans"][0]
    assert first["rank"] == 1
    assert first["plan"] == json.loads(strict(result.plans[0].plan.as_dict()))
    bar = first["intervals"][document["certificate"]["objective"]]
    assert bar["low"] < first["metrics"][document["certificate"]["objective"]] < bar["high"]
    assert set(bar) == {
        *("low", "high", "level", "cost_model_frac", "workload_frac", "preset_frac", "total_frac"),
    }
    assert first["standing"]["inside"] is (not first["standing"]["outside"])
    assert all(0 <= chance <= 1 for plan in document["plans"] for chance in plan["beats"].values())
    assert first["why"] == result.plans[0].why
    assert first["metrics"]["e2e_mean_s"] == result.plans[0].metrics["e2e_mean_s"]
    assert set(first["stability"]) == {"reason", "offered_load_frac", "backlog_growth_frac", "backlog_growth"}
    assert set(document["certificate"]) == {
        *("objective", "best", "bound", "gap_frac", "n_enumerated", "n_pruned", "n_simulated"),
        *("proven", "n_infeasible", "n_open", "n_glimpsed", "sampling_frac"),
    }
    assert document["infeasible"][0]["plan"]["label"] == "DP8 TP1 PP1 fp8"
    assert "memory" in document["infeasible"][0]["reason"]
    assert document["study"]["slo"] == {"tpot_p99_s": 0.1, "ttft_p99_s": 2.0}
    assert document["study"]["n_requests"] == 25
    assert document["provenance"]["workload_sha256"] == result.study.workload.requests.content_hash()


def test_breakdown_adds_up_to_device_seconds(result):
    for plan in search_document(result)["plans"]:
        device_s = plan["plan"]["n_devices"] * plan["metrics"]["makespan_s"]
        assert sum(plan["breakdown"]["device_s"].values()) == pytest.approx(device_s)
        assert sum(plan["breakdown"]["share_frac"].values()) == pytest.approx(1.0)


def test_simulation_has_the_promised_keys(simulation):
    document = json.loads(strict(simulation_document(simulation)))
    assert {"schema_version", "plan", "metrics", "steady", "breakdown", "intervals", "provenance"} <= set(document)
    assert document["plan"]["label"] == "DP1 TP8 PP1 fp8"


def test_no_plan_and_no_metric_are_still_strict_json(nothing_fits, undefined):
    empty = json.loads(strict(search_document(nothing_fits)))
    assert empty["plans"] == []
    assert "no plan can run" in empty["problem"]
    blank = json.loads(strict(search_document(undefined)))
    assert blank["plans"][0]["steady"] is False
    assert set(blank["plans"][0]["metrics"].values()) == {None}


def test_json_safe_turns_what_json_lacks_into_what_it_has():
    value = {"a": (math.inf, np.float64("nan"), np.int64(3), np.bool_(True)), "b": Path("x") / "y"}
    assert json_safe(value) == {"a": [None, None, 3, True], "b": str(Path("x") / "y")}
