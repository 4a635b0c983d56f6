"""The public Python functions: what they accept, give back and write."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import apex_sim
from apex_sim.errors import InputError, NoAnswerError
from apex_sim.planner.study import load_study
from apex_sim.report.questions import SearchReport, SimulationReport

SMALL = {"load": {"n_requests": 10}, "space": {"pp": [1], "weight_dtypes": ["fp8"], "tp": [8]}}


def test_search_by_name_and_by_study_agree():
    by_name = apex_sim.search("quickstart", **SMALL)
    by_study = apex_sim.search(load_study("quickstart", SMALL))
    assert by_name.document == by_study.document
    assert by_name.best.plan.label == "DP1 TP8 PP1 fp8"


def test_overrides_of_a_loaded_study_are_refused():
    with pytest.raises(InputError, match="already loaded"):
        apex_sim.search(load_study("quickstart", SMALL), objective="cost")


def test_save_writes_page_document_and_rows(result, tmp_path):
    report = SearchReport(result)
    paths = report.save(tmp_path / "new")
    assert [path.name for path in paths] == ["report.html", "result.json", "plans.csv"]
    assert json.loads(paths[1].read_text()) == json.loads(json.dumps(report.document))
    assert paths[0].read_text() == report.page()
    assert len(paths[2].read_text().splitlines()) == 1 + len(result.plans)


def test_simulate_gives_one_row_a_request(tmp_path):
    report = apex_sim.simulate("quickstart", check=True, **SMALL)
    assert len(report.frame) == 10
    assert [path.name for path in report.save(tmp_path)] == ["report.html", "result.json", "requests.csv", "series.csv"]
    assert "DP1 TP8 PP1 fp8" in report._repr_html_()


def test_notebook_view_is_escaped(hostile, undefined, nothing_fits):
    view = SearchReport(hostile)._repr_html_()
    assert "<script" not in view
    assert "&lt;script&gt;alert(1)" in view
    assert "unsteady" not in SearchReport(nothing_fits)._repr_html_()
    assert "<table" in SearchReport(undefined)._repr_html_()


def test_no_answer_is_an_error_only_when_asked_for(nothing_fits):
    report = SearchReport(nothing_fits)
    assert report.frame.empty
    with pytest.raises(NoAnswerError, match="no plan can run"):
        _ = report.best


def test_reports_are_values(result, simulation):
    assert SearchReport(result) == SearchReport(result)
    with pytest.raises(AttributeError):
        SimulationReport(simulation).result = None  # type: ignore[misc]


def test_documents_and_tables_import_neither_pandas_nor_matplotlib():
    modules = "document", "table", "csv_text", "frame", "page", "questions"
    code = f"import sys; {'; '.join(f'import apex_sim.report.{name}' for name in modules)}"
    slow = "{'pandas', 'matplotlib', 'jinja2', 'scipy.stats', 'scipy.optimize'}"
    code += f"; sys.exit(' '.join({slow} & set(sys.modules)) or 0)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
