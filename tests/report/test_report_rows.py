"""CSV files and data frames hold every plan with every metric, and read back as what they were."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from apex_sim.metrics.definitions import METRICS
from apex_sim.plan.plan import Plan
from apex_sim.report.csv_text import search_csv, simulation_csv, validation_csv
from apex_sim.report.frame import cases_frame, infeasible_frame, requests_frame, search_frame
from apex_sim.truth.error_summary import summarise_errors
from apex_sim.truth.validation import CaseResult, Validation


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_search_csv_has_one_line_a_plan(result):
    rows = lines(search_csv(result))
    assert [row["plan"] for row in rows] == [plan.plan.label for plan in result.plans]
    assert (rows[1]["tp"], rows[1]["pp"], rows[1]["dp"], rows[1]["kv_dtype"]) == ("4", "1", "2", "bf16")
    for name in METRICS:
        assert float(rows[0][name]) == result.plans[0].metrics[name]


def test_undefined_values_are_empty_cells(undefined):
    rows = lines(search_csv(undefined))
    assert rows[0]["ttft_mean_s"] == ""
    assert rows[0]["steady"] == "false"


def test_search_frame_agrees_with_the_result(result):
    frame = search_frame(result)
    assert list(frame["rank"]) == [1, 2]
    assert frame["e2e_mean_s"].tolist() == [plan.metrics["e2e_mean_s"] for plan in result.plans]
    assert infeasible_frame(result)["plan"].tolist() == ["DP8 TP1 PP1 fp8"]


def test_no_plan_still_has_its_columns(result, nothing_fits):
    assert list(search_frame(nothing_fits)) == list(search_frame(result))
    assert search_csv(nothing_fits).strip() == search_csv(result).splitlines()[0]


def test_different_shapes_are_joined(result):
    tp8, tp4 = (plan.plan.instances[0][0] for plan in result.plans)
    mixed = replace(result.plans[0], plan=Plan(((tp8, 1), (tp4, 2))))
    row = lines(search_csv(replace(result, plans=(mixed,))))[0]
    assert (row["tp"], row["dp"], row["weight_dtype"]) == ("8+4", "1+2", "fp8")


def test_requests_of_a_simulation(simulation):
    rows = lines(simulation_csv(simulation))
    assert len(rows) == 25
    requests = simulation.run.requests
    assert float(rows[3]["ttft_s"]) == requests.ttft_s[3]
    assert rows[3]["status"] == "finished"
    assert np.allclose(requests_frame(simulation)["e2e_s"], requests.e2e_s)


def test_cases_of_a_validation():
    case = CaseResult(
        case_id='a, "b"',
        source="lab",
        engine="vllm",
        engine_version="0.6.0",
        model="m",
        device="d",
        plan="DP1 TP1 PP1 bf16",
        measured={"ttft_mean_s": 2.0},
        predicted={"ttft_mean_s": 1.0},
        error={"ttft_mean_s": -0.5},
        interval={"ttft_mean_s": None},
        noise_frac=None,
        skipped_reason="",
        notes=("one", "two"),
    )
    summary = summarise_errors(["lab"], [case.error], [{}], [""])
    validation = Validation("cases.csv", (case,), summary, 1, (), (), (), 0.0)
    (row,) = lines(validation_csv(validation))
    assert row["case_id"] == 'a, "b"'
    assert float(row["error_ttft_mean_s"]) == -0.5
    assert row["notes"] == "one; two"
    assert cases_frame(validation)["predicted_ttft_mean_s"].tolist() == pytest.approx([1.0])
