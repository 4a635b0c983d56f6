"""Scatter plots, page, tables and CSV of a validation."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from rich.console import Console

from apex_sim.report.csv_text import errors_csv
from apex_sim.report.document import validation_document
from apex_sim.report.error_scatter import draw_scatter, scatter_legend, scatter_of
from apex_sim.report.strict_json import json_text
from apex_sim.report.svg import palette
from apex_sim.report.table import print_validation
from apex_sim.report.validation_page import errors_page
from apex_sim.truth.axes import AXES
from apex_sim.truth.validation import Validation, validate_serving
from tests.report.test_report_page import Page

HOSTILE = "<script>alert(1)</script> $x$ & <b>\x1b[31m"


@pytest.fixture(scope="module")
def validation() -> Validation:
    """Two plans under one load, and one case that names a device which does not exist."""
    found = validate_serving("published", sources=["inferencex"], limit=2)
    skipped = replace(
        found.cases[0], case_id="skipped", predicted={}, error={}, interval={}, axes={}, skipped_reason="no"
    )
    summary = replace(found.summary, n_cases=3, n_skipped_by_reason={"no": 1})
    return replace(found, cases=(*found.cases, skipped), summary=summary)


@pytest.fixture(scope="module")
def nothing() -> Validation:
    """A file of which nothing could be replayed."""
    found = validate_serving("published", limit=1)
    case = replace(found.cases[0], predicted={}, error={}, interval={}, axes={}, skipped_reason="no such device")
    empty = replace(
        found.summary, by_source=(), pooled=(), by_axis=(), n_replayed=0, n_skipped_by_reason={"no such device": 1}
    )
    return replace(found, cases=(case,), summary=empty, n_simulations=0)


def test_points_are_measured_and_predicted_values_of_each_source(validation):
    two = (replace(validation.cases[0], source="other"), *validation.cases[1:])
    scatter = scatter_of(replace(validation, cases=two))
    assert scatter.sources == ("other", "inferencex")
    assert [panel.quantity for panel in scatter.panels] == ["ttft", "tpot", "e2e", "throughput"]
    tpot = scatter.panels[1]
    assert tpot.measured == tuple((case.measured["tpot_median_s"],) for case in validation.cases[:2])
    assert tpot.predicted == tuple((case.predicted["tpot_median_s"],) for case in validation.cases[:2])
    values = [value for column in (*tpot.measured, *tpot.predicted) for value in column]
    assert (tpot.low, tpot.high) == (min(values), max(values))
    assert [entry.text for entry in scatter_legend(scatter)] == ["other", "inferencex"]
    assert scatter_legend(scatter)[1].color == palette()[1]


def test_more_sources_than_colors_share_the_last_one(validation):
    cases = tuple(replace(validation.cases[0], source=f"lab {i}") for i in range(9))
    scatter = scatter_of(replace(validation, cases=cases))
    assert scatter.sources == (*(f"lab {i}" for i in range(6)), "other sources")
    assert len(scatter.panels[0].measured[-1]) == 3
    assert len(scatter_legend(scatter)) == 7


def test_drawings_are_figures_that_repeat_exactly(validation):
    svg, png = draw_scatter(scatter_of(validation))
    assert png.startswith(b"\x89PNG")
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert draw_scatter(scatter_of(validation))[0] == svg
    assert "within 10%" in svg


def test_what_could_not_be_replayed_is_drawn_as_a_sentence(nothing):
    scatter = scatter_of(nothing)
    assert scatter.panels == ()
    assert "no case was replayed" in draw_scatter(scatter)[0]


def test_the_page_says_errors_orders_cases_and_what_was_skipped(validation):
    page = Page(errors_page(validation))
    for heading in ("Predicted against measured", "Errors by axis", "Order of plans", "Case by case", "Not replayed"):
        assert heading in page.text
    assert "2 of 3 cases, 2 simulated" in page.text
    for case in validation.cases[:2]:
        assert case.case_id in page.text
    assert sum(tag == "svg" for tag, _ in page.elements) >= 4
    hrefs = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert "https://github.com/SemiAnalysisAI/InferenceX" in hrefs
    values = [a["data-value"] for tag, a in page.elements if tag == "td" and "data-value" in a]
    assert float(values[0]) == validation.cases[0].error["ttft_median_s"]
    assert "None" not in page.text


def test_the_page_loads_nothing_and_repeats_exactly(validation):
    text = errors_page(validation)
    assert text == errors_page(validation)
    for tag, attributes in Page(text).elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "image"}
        assert "src" not in attributes
        address = attributes.get("href") or attributes.get("xlink:href") or "#"
        assert address.startswith("#") or (tag == "a" and address.startswith("https://"))


def test_what_strangers_write_is_text_and_nothing_else(validation):
    first, *others = validation.cases
    hostile = replace(
        first,
        case_id=HOSTILE,
        source=HOSTILE,
        model=HOSTILE,
        engine_version=HOSTILE,
        note=HOSTILE,
        axes=dict.fromkeys(AXES, HOSTILE),
    )
    skipped = replace(others[-1], skipped_reason=HOSTILE)
    axis = tuple(replace(row, value=HOSTILE) for row in validation.summary.by_axis)
    rankings = tuple(replace(one, group=HOSTILE, source=HOSTILE) for one in validation.summary.rankings)
    summary = replace(validation.summary, by_axis=axis, rankings=rankings, n_skipped_by_reason={HOSTILE: 1})
    attacked = replace(validation, cases=(hostile, others[0], skipped), summary=summary, source_file=HOSTILE)
    text = errors_page(attacked)
    assert "<script>alert" not in text
    assert "<b>" not in text
    assert "<script>alert(1)</script> $x$ & <b>" in Page(text).text
    stream = io.StringIO()
    print_validation(attacked, Console(file=stream, width=80))
    assert "\x1b" not in stream.getvalue()


def test_an_empty_validation_has_a_page_and_a_table(nothing):
    page = Page(errors_page(nothing))
    assert "No case was replayed." in page.text
    assert "no such device" in page.text
    assert "Errors by axis" not in page.text
    assert list(csv.DictReader(io.StringIO(errors_csv(nothing)))) == []


def test_the_terminal_shows_axes_and_orders_within_80_columns(validation):
    stream = io.StringIO()
    print_validation(validation, Console(file=stream, width=80))
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    lines = [line.split() for line in text.splitlines()]
    row = {(one.axis, one.value, one.metric): one for one in validation.summary.by_axis}["plan", "TP2", "ttft"]
    (tp2,) = [line for line in lines if line[:1] == ["TP2"]]
    assert tp2[1:4] == ["1", f"{100 * row.median_abs_frac:.1f},", f"{100 * row.bias_frac:+.1f}"]
    assert ["TTFT", "1", "0", "1.00", "100", "%", "0", "%", "0", "%"] in lines


def test_errors_as_csv_have_the_pooled_rows_first_and_every_axis(validation):
    rows = list(csv.DictReader(io.StringIO(errors_csv(validation))))
    pooled = [row for row in rows if row["axis"] == "all"]
    assert rows[: len(pooled)] == pooled
    assert len(pooled) == len(validation.summary.pooled)
    assert {row["axis"] for row in rows} == {"all", *AXES}
    first = next(row for row in rows if (row["value"], row["metric"]) == ("TP2", "tpot"))
    (expected,) = [one for one in validation.summary.by_axis if (one.value, one.metric) == ("TP2", "tpot")]
    assert float(first["median_abs_frac"]) == expected.median_abs_frac
    assert (first["n"], first["n_sources"], first["noise_frac"]) == ("1", "1", "")


def test_the_document_holds_axes_and_rankings_as_strict_json(validation):
    document = validation_document(validation)
    summary = document["summary"]
    assert {"by_source", "pooled", "n_cases", "n_replayed", "n_skipped_by_reason"} <= set(summary)
    assert {row["axis"] for row in summary["by_axis"]} == set(AXES)
    one = next(row for row in summary["rankings"] if row["quantity"] == "throughput")
    assert one["plans"] == ["TP1", "TP2"]
    assert one["pairs"]["n_concordant"] == 1
    assert summary["ranking_quality"][0]["n_groups"] == 1
    assert document["cases"][0]["axes"]["plan"] == "TP1"
    assert math.isfinite(one["regret_frac"])
    assert '"by_axis"' in json_text(document)
