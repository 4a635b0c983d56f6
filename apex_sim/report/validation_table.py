"""How do errors by axis and the quality of rankings read in a terminal of 80 columns?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from apex_sim.report.quantity import UNDEFINED, percent
from apex_sim.truth.axes import AXES, QUANTITIES, AxisStatistics
from apex_sim.truth.error_summary import ALL_SOURCES, ErrorSummary
from apex_sim.truth.ranking_quality import ANY_DEVICES, RankingQuality

#: What stands over a column of a quantity.
QUANTITY_TITLES: Final = {"ttft": "TTFT", "tpot": "TPOT/ITL", "e2e": "E2E", "throughput": "output tok/s"}
AXIS_TITLES: Final = {
    "source": "source",
    "engine": "engine and version",
    "device": "device",
    "family": "model family",
    "plan": "plan",
    "load": "load",
}


def axis_tables(summary: ErrorSummary) -> list[Table]:
    """Return one table for each axis but the source that has more than one value, "median, bias" in each cell."""
    tables = []
    for axis in AXES[1:]:
        rows = [row for row in summary.by_axis if row.axis == axis]
        values = list(dict.fromkeys(row.value for row in rows))
        if len(values) > 1:
            tables.append(_axis_table(AXIS_TITLES[axis], values, rows))
    return tables


def _axis_table(title: str, values: Sequence[str], rows: Sequence[AxisStatistics]) -> Table:
    table = _plain(title, ("cases", *(QUANTITY_TITLES[name] for name in QUANTITIES)))
    of = {(row.value, row.metric): row for row in rows}
    for value in values:
        found = [of.get((value, name)) for name in QUANTITIES]
        n = max((row.n for row in found if row), default=0)
        table.add_row(Text(printable(value)), str(n), *(median_and_bias(row) for row in found))
    return table


def median_and_bias(row: AxisStatistics | None) -> str:
    """Return the median absolute error and the bias of a cell, in per cent."""
    if row is None:
        return UNDEFINED
    return f"{100 * row.median_abs_frac:.1f}, {100 * row.bias_frac:+.1f}"


def ranking_table(qualities: Sequence[RankingQuality]) -> Table:
    """Return how good the orders of plans are, by quantity: all sources together where there are several."""
    table = _plain("ordered by", ("groups", "ties", "tau-b", "best found", "regret", "worst"))
    for devices in dict.fromkeys(row.devices for row in qualities):
        mine = [row for row in qualities if row.devices == devices]
        for quantity in dict.fromkeys(row.quantity for row in mine):
            rows = [row for row in mine if row.quantity == quantity]
            row = next((one for one in rows if one.source == ALL_SOURCES), rows[0])
            table.add_row(
                ranked_quantity(row),
                str(row.n_groups),
                str(row.n_ties),
                UNDEFINED if row.tau_b_mean is None else f"{row.tau_b_mean:.2f}",
                percent(row.best_found_frac),
                percent(row.regret_mean_frac),
                percent(row.regret_max_frac),
            )
    return table


def ranked_quantity(row: RankingQuality) -> str:
    """Return by what plans were ordered, and which of them."""
    title = order_title(row.quantity)
    return title if row.devices == ANY_DEVICES else f"{title}, equal size"


def order_title(quantity: str) -> str:
    """Return what plans are ordered by: throughput counts for each device."""
    return f"{QUANTITY_TITLES[quantity]} per device" if quantity == "throughput" else QUANTITY_TITLES[quantity]


def printable(text: str) -> str:
    """Return `text` without the control characters by which a stranger's file could steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _plain(title: str, columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(title, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
