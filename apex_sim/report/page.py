"""How do the results look as one HTML file that needs nothing else?

The templates, the style sheet and the plot style lie in the folder `reports`.  Every text is escaped, and the page
forbids itself to load anything.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, Any, Final

from apex_sim import catalogue
from apex_sim.metrics.cost_basis import summary_of
from apex_sim.metrics.definitions import LATENCIES, STATISTICS
from apex_sim.planner.answer import SearchResult
from apex_sim.planner.evaluation import Evaluation
from apex_sim.planner.provenance import Provenance
from apex_sim.planner.simulation import Simulation
from apex_sim.planner.study import Study
from apex_sim.report.certificate_text import certificate_sentences
from apex_sim.report.document import breakdown_shares, study_document
from apex_sim.report.headline import FOOTNOTES, envelope_sentences, search_headline, simulation_headline, verdict
from apex_sim.report.interval_text import interval_lines, interval_rows
from apex_sim.report.latency_curves import curves_legend, draw_curves, latency_info
from apex_sim.report.quantity import LABELS, counted, limit_text, metric_label, metric_text, percent, time_text
from apex_sim.report.ranking_columns import columns_of_ranking
from apex_sim.report.rows import labels_by_reason
from apex_sim.report.stacked_bars import bars_legend, breakdown_info, draw_bars, memory_info
from apex_sim.report.time_series import draw_series, series_of

if TYPE_CHECKING:
    from markupsafe import Markup

Values = dict[str, Any]

_COLUMNS: Final = (
    "ttft_mean_s",
    "ttft_p99_s",
    "tpot_mean_s",
    "tpot_p99_s",
    "e2e_mean_s",
    "e2e_p99_s",
    "output_tokens_per_s",
    "usd_per_million_output_tokens",
    "energy_per_output_token_j",
)
_TILES: Final = (
    "ttft_p99_s",
    "tpot_mean_s",
    "output_tokens_per_s",
    "usd_per_million_output_tokens",
    "energy_per_output_token_j",
)
#: A web address, without the punctuation that ends its sentence.
_ADDRESS: Final = re.compile(r"(https?://[^\s<>\"']*[^\s<>\"'.,;:!?()])")
_CSS_OF_STATE: Final = {
    "ok": "",
    "too short": "doubtful",
    "SLO miss": "missed",
    "rejects": "unsteady",
    "unsteady": "unsteady",
}


def search_page(result: SearchResult) -> str:
    """Return the report of a search: the answer, all plans, where time and memory go, and what it rests on."""
    first = result.plans[0] if result.plans else None
    return render_page(
        "search.html.j2",
        {
            **_frame(result.study, result.provenance, first),
            "problem": result.problem,
            "headline": search_headline(result),
            "tiles": [] if result.problem or first is None else _tiles(result.study, first),
            "completeness": _completeness(result),
            "columns": columns_of_ranking(result, _COLUMNS),
            "rows": _rows(result),
            "footnotes": _footnotes(result),
            "bars": interval_rows(result),
            "objective": metric_label(result.study.objective.name),
            "has_pareto": bool(result.pareto),
            "infeasible": labels_by_reason(result),
            "drawings": _drawings(result.plans, result.study) if result.plans else {},
        },
    )


def simulation_page(simulation: Simulation) -> str:
    """Return the report of one plan."""
    evaluation, study = simulation.evaluation, simulation.study
    shares = sorted(breakdown_shares(evaluation).items(), key=lambda item: -item[1])
    return render_page(
        "simulation.html.j2",
        {
            **_frame(study, simulation.provenance, evaluation),
            "problem": verdict(evaluation) not in ("ok", "too short"),
            "headline": simulation_headline(evaluation),
            "tiles": _tiles(study, evaluation),
            "statistics": STATISTICS,
            "latencies": [
                (name.upper(), [time_text(evaluation.metrics[f"{name}_{statistic}_s"]) for statistic in STATISTICS])
                for name in LATENCIES
            ],
            "totals": [(label, metric_text(name, evaluation.metrics[name])) for name, label in LABELS.items()],
            "bars": interval_lines(evaluation),
            "operators": [(name.replace("_", " "), percent(share)) for name, share in shares],
            "drawings": {**_drawings((evaluation,), study), "series": _series(simulation)},
        },
    )


def render_page(template: str, values: Values) -> str:
    """Return a template of `reports` filled with `values`, every text escaped.

    Parameters
    ----------
    values : what the template names; all that `page.html.j2` names must be there.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = catalogue.folder("reports")
    script = "\n" + (folder / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined)
    environment.filters["links"] = _with_links
    return environment.get_template(template).render(values, script=Markup(script), script_hash=f"sha256-{digest}")


def _with_links(text: str) -> Markup:
    """Return `text` escaped, its web addresses as links."""
    from markupsafe import Markup, escape

    parts = _ADDRESS.split(text)  # every second part is an address
    link = Markup('<a href="{0}" rel="noopener noreferrer">{0}</a>')
    return Markup("").join(link.format(part) if index % 2 else escape(part) for index, part in enumerate(parts))


def _frame(study: Study, provenance: Provenance, evaluation: Evaluation | None) -> Values:
    """Return what every page says of question and provenance."""
    cost = [f"Costs: {evaluation.provenance}; {summary_of(evaluation.cost_shares)}"] if evaluation else []
    cost += envelope_sentences(evaluation) if evaluation else []
    notes = [evaluation.engine_note] if evaluation and evaluation.engine_note else []
    notes += [f"Workload: {note}" for note in provenance.workload_notes]
    return {
        "study": study_document(study),
        "provenance": provenance,
        "question": _question(study),
        "costs": cost,
        "cost_shares": evaluation.cost_shares if evaluation else (),
        "assumptions": [*notes, *provenance.assumed],
        "sources": [
            ("APEX-Sim", provenance.version),
            ("Python", provenance.python),
            ("Seed", "none drawn" if provenance.seed is None else str(provenance.seed)),
            ("Engine preset", provenance.preset),
            ("Cost model", provenance.cost_model),
            ("Model config", provenance.model_source),
            ("Workload SHA-256", provenance.workload_sha256),
            ("max_output_tokens from", provenance.max_output_source),
            ("Workload", study.workload.source),
        ],
    }


def _question(study: Study) -> list[tuple[str, str]]:
    workload = study.workload
    tokens = workload.requests
    limits = [limit_text(name, limit) for name, limit in study.slo.limits]
    return [
        ("Model", study.model.name),
        ("Hardware", study.cluster.name),
        ("Workload", f"{workload.name}: {counted(tokens.n, 'request')}, {_load(study)}"),
        ("Tokens", f"{tokens.prompt_tokens.mean():,.0f} in, {tokens.output_tokens.mean():,.0f} out on average"),
        (
            "Objective",
            f"{'highest' if study.objective.better == 'higher' else 'lowest'} {metric_label(study.objective.name)}",
        ),
        ("SLO", ", ".join(limits) or "none"),
    ]


def _load(study: Study) -> str:
    load = study.workload.load
    if load.concurrency is not None:
        return counted(load.concurrency, "concurrent user")
    rate = study.workload.rate_per_s
    return "all at once" if rate is None else f"{rate:.3g} per s"


def _tiles(study: Study, evaluation: Evaluation) -> list[tuple[str, str]]:
    names = dict.fromkeys((study.objective.name, *_TILES))
    return [(metric_label(name), metric_text(name, evaluation.metrics[name])) for name in names]


def _completeness(result: SearchResult) -> str:
    return " ".join(certificate_sentences(result))


def _rows(result: SearchResult) -> list[Values]:
    columns = columns_of_ranking(result, _COLUMNS)
    front = {evaluation.plan for evaluation in result.pareto}
    return [
        {
            "rank": index + 1,
            "label": plan.plan.label,
            "cells": [
                {"text": column.cells[index], "value": "" if column.values[index] is None else column.values[index]}
                for column in columns
            ],
            "state": verdict(plan),
            "css": "best" if index == 0 and not result.problem else _CSS_OF_STATE[verdict(plan)],
            "pareto": plan.plan in front,
            "why": plan.why,
        }
        for index, plan in enumerate(result.plans)
    ]


def _footnotes(result: SearchResult) -> list[tuple[str, str]]:
    states = {verdict(plan) for plan in result.plans}
    return [(state, text) for state, text in FOOTNOTES.items() if state in states]


def _series(simulation: Simulation) -> Values:
    from markupsafe import Markup

    return {"legend": [], "svgs": [Markup(svg) for svg in draw_series(series_of(simulation.run))]}


def _drawings(evaluations: tuple[Evaluation, ...], study: Study) -> Values:
    from markupsafe import Markup

    drawings: Values = {}
    for bars in (breakdown_info(evaluations), memory_info(evaluations)):
        drawings[bars.name] = {"legend": bars_legend(bars), "svgs": [Markup(draw_bars(bars))]}
    curves = latency_info(evaluations, study.slo)
    legend = curves_legend(curves[0]) if curves and len(evaluations) > 1 else []
    drawings["latency"] = {"legend": legend, "svgs": [Markup(draw_curves(curve)) for curve in curves]}
    return drawings
