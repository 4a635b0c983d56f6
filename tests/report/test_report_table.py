"""Tables fit the terminal, mark what is not well, and cannot be used to steer the terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from apex_sim.report.ranking_columns import columns_of_ranking
from apex_sim.report.table import print_search, print_simulation, print_validation
from apex_sim.truth.error_summary import summarise_errors
from apex_sim.truth.validation import Validation

HOSTILE = "\x1b[31m[red]title[/red]\x07"


def printed(show, value, width=80, **options) -> str:
    stream = io.StringIO()
    show(value, Console(file=stream, width=width, **options))
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 132])
@pytest.mark.parametrize("kind", ["result", "nothing_fits", "undefined", "hostile"])
def test_no_line_is_wider_than_the_terminal(kind, width, request):
    lines = printed(print_search, request.getfixturevalue(kind), width).splitlines()
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [60, 80])
def test_simulation_fits_the_terminal(simulation, width):
    text = printed(print_simulation, simulation, width)
    assert max(map(len, text.splitlines())) <= width
    assert "output throughput" in text
    assert "E2E" in text


def test_each_plan_stands_on_one_line_at_80_columns(result):
    lines = printed(print_search, result).splitlines()
    for rank, plan in enumerate(result.plans, start=1):
        (line,) = [line for line in lines if line.split()[:5] == [str(rank), *plan.plan.label.split()]]
        e2e_s, ttft_ms = float(line.split()[5]), float(line.split()[6])
        assert e2e_s == pytest.approx(plan.metrics["e2e_mean_s"], rel=6e-3)
        assert ttft_ms == pytest.approx(1e3 * plan.metrics["ttft_mean_s"], rel=6e-3)
    assert "$/Mtok  J/tok  state" in next(line for line in lines if "plan" in line and "#" in line)


def test_narrow_terminals_leave_out_the_last_columns(result):
    text = printed(print_search, result, 50)
    assert "J/tok" not in text
    assert "E2E" in text


def test_says_which_plan_is_best_and_what_cannot_run(result):
    text = printed(print_search, result)
    assert "Serve llama-3.1-70b on 8xh100-sxm with DP1 TP8 PP1 fp8." in text
    assert "Cannot run: 1 of 3 plans" in text
    assert "DP8 TP1 PP1 fp8" in text
    assert "What this rests on" in text


def test_marks_unsteady_plans_and_missed_limits(undefined):
    text = printed(print_search, undefined)
    assert "No plan answers the question" in text
    assert "unsteady: the backlog grows" in text
    assert "SLO miss: breaks a limit" in text


def test_plain_text_when_not_a_terminal(result):
    assert "\x1b" not in printed(print_search, result)
    assert "\x1b" in printed(print_search, result, force_terminal=True, color_system="standard")


def test_titles_cannot_steer_the_terminal_or_the_markup(result):
    text = printed(print_search, replace(result, study=replace(result.study, title=HOSTILE)))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]title[/red]" in text


def test_validation_shows_errors_by_source_and_what_was_skipped():
    errors = [{"ttft_mean_s": -0.5}, {"ttft_mean_s": 0.1}, {}]
    summary = summarise_errors(
        ["lab a", "lab b", "lab b"], errors, [{}, {"ttft_mean_s": 0.03}, {}], ["", "", "no such model"]
    )
    text = printed(print_validation, Validation("cases.csv", (), summary, 2, ("roofline",), (), (), 0.0))
    assert "2 of 3 cases replayed" in text
    assert max(map(len, text.splitlines())) <= 80
    rows = [line.split() for line in text.splitlines() if line.startswith("TTFT mean")]
    # Both sources weigh the same: the medians 50 % and 10 % pool to 30 %, the biases -50 % and +10 % to -20 %.
    assert rows[0] == ["TTFT", "mean", "2", "30", "%", "30", "%", "-20", "%", "3", "%"]
    assert rows[1][3:5] == ["50", "%"]
    assert "1 x no such model" in text


def test_all_columns_of_a_latency_share_a_unit(result):
    slow = replace(result.plans[0], metrics={**result.plans[0].metrics, "ttft_mean_s": 0.4, "ttft_p99_s": 4.2})
    columns = columns_of_ranking(replace(result, plans=(slow,)), ["ttft_mean_s", "ttft_p99_s", "goodput_per_s"])
    assert [(column.title, column.unit, column.cells[0]) for column in columns[1:3]] == [
        ("TTFT mean", "ms", "400"),
        ("TTFT p99", "ms", "4,200"),
    ]
    assert columns[3].unit == ""
