"""How do the results read as CSV?"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from apex_sim.planner.answer import SearchResult
from apex_sim.planner.simulation import Simulation
from apex_sim.report.rows import ERROR_COLUMNS, SEARCH_COLUMNS, case_rows, error_rows, search_rows
from apex_sim.report.time_series import series_of

if TYPE_CHECKING:
    from apex_sim.truth.validation import Validation


def search_csv(result: SearchResult) -> str:
    """Return one line for each ranked plan, best first, with all its metrics."""
    return _text(SEARCH_COLUMNS, (list(row.values()) for row in search_rows(result)))


def simulation_csv(simulation: Simulation) -> str:
    """Return one line for each request, in the workload's order; empty where a time does not exist."""
    columns = simulation.run.requests.columns()
    return _text(list(columns), zip(*columns.values(), strict=True))


def series_csv(simulation: Simulation) -> str:
    """Return one line for each interval of the run: queue, batch, KV cache and power."""
    columns = series_of(simulation.run).columns()
    return _text(list(columns), zip(*columns.values(), strict=True))


def validation_csv(validation: Validation) -> str:
    """Return one line for each measured case."""
    rows = case_rows(validation)
    header = list(dict.fromkeys(key for row in rows for key in row))
    return _text(header, ([row.get(key) for key in header] for row in rows))


def errors_csv(validation: Validation) -> str:
    """Return one line for each metric and value of an axis, those of all cases together first."""
    rows = error_rows(validation)
    return _text(ERROR_COLUMNS, ([row[key] for key in ERROR_COLUMNS] for row in rows))


def _text(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in line] for line in lines)
    return stream.getvalue()


def _cell(value: Any) -> Any:
    """Return `value` as the csv module should write it: nothing for what is undefined, flags in lower case."""
    if hasattr(value, "item"):
        value = value.item()
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return str(value).lower() if isinstance(value, bool) else value
