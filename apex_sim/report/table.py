"""How do the results read in a terminal, 80 columns wide or more?"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from apex_sim.metrics.cost_basis import summary_of
from apex_sim.metrics.definitions import LATENCIES, STATISTICS
from apex_sim.planner.answer import SearchResult
from apex_sim.planner.evaluation import Evaluation
from apex_sim.planner.provenance import Provenance
from apex_sim.planner.simulation import Simulation
from apex_sim.report.certificate_text import certificate_sentences
from apex_sim.report.document import breakdown_shares
from apex_sim.report.headline import (
    FOOTNOTES,
    Headline,
    envelope_sentences,
    search_headline,
    simulation_headline,
    verdict,
)
from apex_sim.report.interval_text import interval_lines
from apex_sim.report.quantity import LABELS, metric_text, metric_title, percent, time_text
from apex_sim.report.ranking_columns import RankingColumn, columns_of_ranking
from apex_sim.report.rows import labels_by_reason
from apex_sim.report.validation_table import axis_tables, printable, ranking_table

if TYPE_CHECKING:
    from apex_sim.truth.error_summary import ErrorStatistics
    from apex_sim.truth.validation import Validation

#: Most plans and most reasons that are printed; files hold them all.
_MAX_PLANS: Final = 20
_MAX_REASONS: Final = 6

#: Metrics of the ranked table after the objective, the most telling first: narrow terminals leave out the last.
_COLUMNS: Final = (
    "ttft_mean_s",
    "ttft_p99_s",
    "tpot_mean_s",
    "output_tokens_per_s",
    "usd_per_million_output_tokens",
    "energy_per_output_token_j",
)
_STYLES: Final = {"ok": "", "too short": "yellow", "SLO miss": "yellow", "rejects": "red", "unsteady": "red"}


def print_search(result: SearchResult, console: Console) -> None:
    """Print the answer, the ranked plans, those that cannot run, and what it all rests on."""
    _print_title(result.study.title, console)
    _print_headline(search_headline(result), console)
    if result.plans:
        console.print()
        _print_ranking(result, console)
    if result.plans:
        console.print()
        _print_text("How complete this is", console, "bold")
        for sentence in certificate_sentences(result):
            _print_indented(sentence, console)
    if result.infeasible:
        console.print()
        _print_infeasible(result, console)
    console.print()
    best = result.plans[0] if result.plans else None
    _print_assumptions(result.provenance, best, console)


def print_simulation(simulation: Simulation, console: Console) -> None:
    """Print what happened under one plan."""
    evaluation = simulation.evaluation
    _print_title(simulation.study.title, console)
    _print_headline(simulation_headline(evaluation), console)
    load = evaluation.stability.offered_load_frac
    if load is not None:
        _print_indented(f"The offered load is {percent(load)} of the estimated capacity.", console)
    console.print()
    console.print(_latency_table(evaluation))
    console.print()
    _print_intervals(evaluation, console)
    console.print(_grid((label, metric_text(name, evaluation.metrics[name])) for name, label in LABELS.items()))
    console.print()
    _print_text("Device time", console, "bold")
    shares = sorted(breakdown_shares(evaluation).items(), key=lambda item: -item[1])
    console.print(_grid((name.replace("_", " "), percent(share)) for name, share in shares if share >= 0.0005))
    console.print()
    _print_assumptions(simulation.provenance, evaluation, console)


def _print_intervals(evaluation: Evaluation, console: Console) -> None:
    lines = interval_lines(evaluation)
    if lines:
        _print_text("Error bars: 80 % of truths lie between", console, "bold")
        console.print(_grid(lines))
        console.print()


def print_validation(validation: Validation, console: Console) -> None:
    """Print how far predictions were off: over all sources, by source, by axis; and how plans were ordered."""
    summary = validation.summary
    _print_text(f"{validation.source_file}: {summary.n_replayed} of {summary.n_cases} cases replayed", console, "bold")
    sources = list(dict.fromkeys(row.source for row in summary.by_source))
    tables = [(source, [row for row in summary.by_source if row.source == source]) for source in sources]
    if len(sources) > 1:
        tables.insert(0, ("all sources, equal weight", list(summary.pooled)))
    for title, rows in tables:
        console.print()
        console.print(_error_table(rows, title))
    axes = axis_tables(summary)
    if axes:
        console.print()
        _print_text("Median error and bias in %, sources with equal weight", console, "bold")
    for table in axes:
        console.print()
        console.print(table)
    if summary.ranking_quality:
        console.print()
        _print_text("Order of plans that served one load; what differs by less than the noise is tied", console, "bold")
        console.print()
        console.print(ranking_table(summary.ranking_quality))
    if summary.n_skipped_by_reason:
        console.print()
        _print_text(f"Not replayed: {summary.n_cases - summary.n_replayed} cases", console, "bold")
        for reason, count in summary.n_skipped_by_reason.items():
            _print_indented(f"{count} x {reason}", console)
    console.print()
    _print_text("What the predictions rest on", console, "bold")
    for sentence in (*validation.cost_provenance, *validation.notes):
        _print_indented(f"{sentence}.", console)
    _print_assumed_figures(validation.assumed, console)


def _error_table(rows: Sequence[ErrorStatistics], title: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(Text(printable(title)), min_width=25, overflow="fold")
    for column in ("cases", "median error", "p90 error", "bias", "noise"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        errors = (percent(row.median_abs_frac), percent(row.p90_abs_frac), percent(row.bias_frac, signed=True))
        table.add_row(metric_title(row.metric), str(row.n), *errors, percent(row.noise_frac))
    return table


def _print_ranking(result: SearchResult, console: Console) -> None:
    shown = result.plans[:_MAX_PLANS]
    states = [verdict(plan) for plan in shown]
    columns = columns_of_ranking(result, _COLUMNS)
    label_width = max(len(plan.plan.label) for plan in shown)
    while len(columns) > 1 and _width(columns, label_width, states) > console.width:
        columns.pop()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("plan", overflow="fold")
    for column in columns:
        heading = [*column.title.split(), column.unit] if column.unit else column.title.split()
        table.add_column("\n".join(heading), justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for index, (plan, state) in enumerate(zip(shown, states, strict=True)):
        cells = [str(index + 1), plan.plan.label, *(column.cells[index] for column in columns), state]
        style = "bold green" if index == 0 and not result.problem else _STYLES[state]
        table.add_row(*(Text(cell) for cell in cells), style=style)
    console.print(table)
    if len(result.plans) > len(shown):
        _print_text(f"and {len(result.plans) - len(shown)} more plans", console, "dim")
    for name, text in FOOTNOTES.items():
        if name in states:
            _print_text(f"{name}: {text}", console, _STYLES[name])


def _width(columns: list[RankingColumn], label_width: int, states: Sequence[str]) -> int:
    """Return the characters that the ranked table needs; each column but the last is followed by two spaces."""
    widths = [2, label_width, *(column.width for column in columns), max(5, *map(len, states))]
    return sum(widths) + 2 * (len(widths) - 1)


def _print_infeasible(result: SearchResult, console: Console) -> None:
    labels_of = labels_by_reason(result)
    _print_text(f"Cannot run: {len(result.infeasible)} of {result.certificate.n_enumerated} plans", console, "bold")
    for reason, labels in list(labels_of.items())[:_MAX_REASONS]:
        more = f" and {len(labels) - 4} more" if len(labels) > 4 else ""
        _print_text(f"  {', '.join(labels[:4])}{more}", console)
        _print_indented(reason, console)
    if len(labels_of) > _MAX_REASONS:
        _print_text(f"  and {len(labels_of) - _MAX_REASONS} more reasons", console, "dim")


def _print_assumptions(provenance: Provenance, evaluation: Evaluation | None, console: Console) -> None:
    _print_text("What this rests on", console, "bold")
    if evaluation:
        _print_indented(f"Costs: {evaluation.provenance}; {summary_of(evaluation.cost_shares)}.", console)
        for sentence in envelope_sentences(evaluation):
            _print_indented(f"{sentence}.", console)
        if evaluation.engine_note:
            _print_indented(f"{evaluation.engine_note}.", console)
    for note in provenance.workload_notes:
        _print_indented(f"Workload: {note}.", console)
    _print_assumed_figures(provenance.assumed, console)


def _print_assumed_figures(sentences: Sequence[str], console: Console) -> None:
    """Print the names of assumed figures; their sources are longer and stand in the other reports."""
    if sentences:
        names = ", ".join(sentence.partition(":")[0] for sentence in sentences)
        _print_indented(f"Assumed figures: {names} (sources: --json).", console)


def _print_title(title: str, console: Console) -> None:
    _print_text(title, console, "bold")
    console.print()


def _print_headline(headline: Headline, console: Console) -> None:
    _print_text(headline.answer, console, "bold")
    for reason in headline.reasons:
        _print_indented(reason, console)


def _latency_table(evaluation: Evaluation) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("latency")
    for statistic in STATISTICS:
        table.add_column(statistic, justify="right", no_wrap=True)
    for latency in LATENCIES:
        values = (evaluation.metrics[f"{latency}_{statistic}_s"] for statistic in STATISTICS)
        table.add_row(latency.upper(), *(time_text(value) for value in values))
    return table


def _grid(lines: Iterable[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 3))
    grid.add_column()
    grid.add_column(justify="right")
    for line in lines:
        grid.add_row(*(Text(cell) for cell in line))
    return grid


def _print_indented(text: str, console: Console) -> None:
    lines = textwrap.wrap(printable(text), max(20, console.width - 4))
    console.print(Text("\n".join(f"    {line}" for line in lines)))


def _print_text(text: str, console: Console, style: str = "") -> None:
    console.print(Text(printable(text), style=style, overflow="fold"))
