"""A choice that is a coin toss is called one, in words, tables and pages."""

from __future__ import annotations

from dataclasses import replace

from apex_sim.report.headline import envelope_sentences, search_headline
from apex_sim.report.interval_text import interval_lines, interval_rows
from apex_sim.report.page import search_page
from apex_sim.truth.envelope import Standing


def with_chance(result, chance):
    best, rival = (plan.plan.label for plan in result.plans[:2])
    rest = tuple({} for _ in result.plans[2:])
    return replace(result, beats=({rival: chance}, {best: 1.0 - chance}, *rest))


def test_a_close_choice_is_called_a_coin_toss(result):
    close, clear = with_chance(result, 0.6), with_chance(result, 0.95)
    rival = result.plans[1].plan.label
    assert any(f"coin toss: within its error bars it cannot be told from {rival} (60 %)" in r for r in reasons(close))
    assert f"It beats {rival} with 95 % probability." in reasons(clear)
    assert not any("coin toss" in reason for reason in reasons(clear))
    assert interval_rows(close)[1]["chance"] == "60 %, a coin toss"
    assert interval_rows(clear)[1]["chance"] == "95 %"
    assert "60 %, a coin toss" in search_page(close)


def test_a_tie_is_called_one(result):
    """Never "0 % lower": an equal figure is equal, and one that rounds to nothing says so."""
    name, (best, rival) = result.study.objective.name, result.plans[:2]
    runner_up = f"the runner-up's ({rival.plan.label}"

    def lead(factor):
        metrics = {**rival.metrics, name: best.metrics[name] * factor}
        return reasons(replace(result, plans=(best, replace(rival, metrics=metrics), *result.plans[2:])))[1]

    assert lead(1.0).endswith(f", equal to {runner_up}).")
    assert f", less than 0.1 % lower than {runner_up}: " in lead(1.0001)
    assert f", 0.6 % lower than {runner_up}: " in lead(1.006)
    assert f", 50 % lower than {runner_up}: " in lead(2.0)


def reasons(result):
    return search_headline(result).reasons


def test_error_bars_name_their_parts(result):
    lines = dict(interval_lines(result.plans[0]))
    assert all(" to " in text and "kernels " in text and "engine " in text for text in lines.values())
    assert interval_lines(replace(result.plans[0], intervals={})) == []
    assert interval_rows(replace(result, plans=tuple(replace(p, intervals={}) for p in result.plans))) == []


def test_what_a_result_stands_on_is_said(result):
    plan = result.plans[0]
    inside = Standing(True, (), {"calibrated": 1.0}, ("mine: m, 7 cases",))
    assert envelope_sentences(replace(plan, standing=inside)) == [
        "Inside the validated range (measured servers: mine: m, 7 cases)"
    ]
    outside = Standing(False, ("TP2 was not measured, only TP4",), {}, ())
    assert envelope_sentences(replace(plan, standing=outside)) == [
        "Outside the validated range: TP2 was not measured, only TP4"
    ]
