"""How do the errors against measured servers look as one HTML file that needs nothing else?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from apex_sim import __version__
from apex_sim.report.error_scatter import BAND_FRAC, draw_panel, scatter_legend, scatter_of
from apex_sim.report.headline import Headline
from apex_sim.report.page import render_page
from apex_sim.report.quantity import UNDEFINED, counted, metric_text, percent
from apex_sim.report.validation_table import AXIS_TITLES, QUANTITY_TITLES, order_title, ranked_quantity
from apex_sim.truth.axes import AXES, QUANTITIES, AxisStatistics, quantity_column
from apex_sim.truth.ranking_quality import ANY_DEVICES, GroupRanking

if TYPE_CHECKING:
    from apex_sim.truth.validation import CaseResult, Validation

Values = dict[str, Any]

_TITLE: Final = "Predicted and measured"


def errors_page(validation: Validation) -> str:
    """Return the report of a validation: scatter plots, errors by axis, orders of plans, every case."""
    from markupsafe import Markup

    summary = validation.summary
    shown = [name for name, _ in _pooled(validation)]
    scatter = scatter_of(validation)
    drawing = {"legend": scatter_legend(scatter), "svgs": [Markup(draw_panel(panel)) for panel in scatter.panels]}
    return render_page(
        "validation.html.j2",
        {
            "study": {"title": _TITLE},
            "provenance": {"version": __version__},
            "question": _question(validation),
            "problem": not summary.n_replayed,
            "headline": _headline(validation),
            "tiles": _tiles(validation),
            "quantities": [QUANTITY_TITLES[name] for name in shown],
            "axes": [(AXIS_TITLES[axis], _axis_rows(axis, summary.by_axis, shown)) for axis in AXES],
            "metrics": [
                (
                    row.source,
                    row.metric,
                    str(row.n),
                    percent(row.median_abs_frac),
                    percent(row.p90_abs_frac),
                    percent(row.bias_frac, signed=True),
                    percent(row.noise_frac),
                )
                for row in (*summary.pooled, *summary.by_source)
            ],
            "drawing": drawing,
            "band": percent(BAND_FRAC),
            "qualities": [
                (
                    row.source,
                    ranked_quantity(row),
                    str(row.n_groups),
                    str(row.n_ties),
                    _tau(row.tau_b_mean),
                    percent(row.best_found_frac),
                    percent(row.regret_mean_frac),
                    percent(row.regret_max_frac),
                )
                for row in summary.ranking_quality
            ],
            "rankings": [_ranking(one) for one in summary.rankings],
            "cases": [_case(case, shown) for case in validation.cases if not case.skipped_reason],
            "skipped": [
                (case.case_id, case.source, case.skipped_reason) for case in validation.cases if case.skipped_reason
            ],
            "costs": list(validation.cost_provenance),
            "cost_shares": (),
            "assumptions": [*validation.assumed, *validation.notes],
            "sources": [("APEX-Sim", __version__), ("Measured cases", validation.source_file)],
        },
    )


def _question(validation: Validation) -> list[tuple[str, str]]:
    summary = validation.summary
    sources = dict.fromkeys(case.source for case in validation.cases)
    return [
        ("Measured cases", validation.source_file),
        (
            "Replayed",
            f"{summary.n_replayed} of {counted(summary.n_cases, 'case')}, {validation.n_simulations} simulated",
        ),
        ("Sources", ", ".join(sources)),
        ("Errors", "(predicted - measured) / measured; sources weigh equally"),
    ]


def _pooled(validation: Validation) -> list[tuple[str, list[AxisStatistics]]]:
    """Return the rows of each quantity by source, those that have any."""
    rows = [row for row in validation.summary.by_axis if row.axis == "source"]
    found = [(name, [row for row in rows if row.metric == name]) for name in QUANTITIES]
    return [(name, mine) for name, mine in found if mine]


def _tiles(validation: Validation) -> list[tuple[str, str]]:
    return [
        (f"{QUANTITY_TITLES[name]}, median error", percent(sum(r.median_abs_frac for r in rows) / len(rows)))
        for name, rows in _pooled(validation)
    ]


def _headline(validation: Validation) -> Headline:
    pooled = _pooled(validation)
    if not pooled:
        return Headline("No case was replayed.", ("The reasons stand below.",))
    texts = [
        f"{QUANTITY_TITLES[name]} {percent(sum(r.median_abs_frac for r in rows) / len(rows))}" for name, rows in pooled
    ]
    n_sources = len({row.source for row in validation.summary.by_source})
    return Headline(
        f"Median error: {', '.join(texts)}.",
        (f"Over {counted(n_sources, 'source')}{', each weighing the same' if n_sources > 1 else ''}.",),
    )


def _axis_rows(axis: str, rows: Sequence[AxisStatistics], shown: Sequence[str]) -> list[tuple[str, list[Values]]]:
    """Return for each value of the axis one cell per quantity."""
    of = {(row.value, row.metric): row for row in rows if row.axis == axis}
    values = dict.fromkeys(value for value, _ in of)
    return [(value, [_cell(of.get((value, name))) for name in shown]) for value in values]


def _cell(row: AxisStatistics | None) -> Values:
    if row is None:
        return {"text": UNDEFINED, "detail": ""}
    noise = "" if row.noise_frac is None else f", noise {percent(row.noise_frac)}"
    return {
        "text": f"{percent(row.median_abs_frac)}, {percent(row.bias_frac, signed=True)}",
        "detail": f"{counted(row.n, 'case')}, p90 {percent(row.p90_abs_frac)}{noise}",
    }


def _ranking(one: GroupRanking) -> Values:
    return {
        "group": one.group,
        "devices": "all" if one.devices == ANY_DEVICES else one.devices,
        "quantity": order_title(one.quantity),
        "measured": ", ".join(
            _outcome(one, label, value) for label, value in zip(one.plans, one.measured, strict=True)
        ),
        "predicted": ", ".join(_outcome(one, label, value) for label, value in _by_prediction(one)),
        "tau": _tau(one.tau_b),
        "best": "tied" if one.is_tie else "yes" if one.is_best_found else "no",
        "regret": percent(one.regret_frac),
    }


def _by_prediction(one: GroupRanking) -> list[tuple[str, float]]:
    pairs = list(zip(one.plans, one.predicted, strict=True))
    return sorted(pairs, key=lambda pair: pair[1], reverse=one.quantity == "throughput")


def _outcome(one: GroupRanking, label: str, value: float) -> str:
    """Return one plan with its value, in one piece."""
    return _unbroken(f"{label} {metric_text(one.column, value)}")


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _tau(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:.2f}"


def _case(case: CaseResult, shown: Sequence[str]) -> Values:
    return {
        "id": case.case_id,
        "source": case.source,
        "server": f"{case.model}, {case.device} {case.plan}",
        "engine": f"{case.engine} {case.engine_version}",
        "load": case.axes.get("load", UNDEFINED),
        "cells": [_case_cell(case, quantity) for quantity in shown],
        "note": case.note,
    }


def _case_cell(case: CaseResult, quantity: str) -> Values:
    column = quantity_column(quantity, case.error)
    error = case.error.get(column) if column else None
    if column is None or error is None:
        return {"text": UNDEFINED, "value": "", "detail": ""}
    values = [_unbroken(metric_text(column, one[column])) for one in (case.measured, case.predicted)]
    return {"text": percent(error, signed=True), "value": error, "detail": "{} measured, {} predicted".format(*values)}
