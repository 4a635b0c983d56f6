"""How often do intervals hold the truth, and how wide are they for it?

Each source of measured servers is predicted without itself: its servers give neither errors nor the stretch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apex_sim.truth.error_bar import terms_of
from apex_sim.truth.error_summary import ALL_SOURCES
from apex_sim.truth.metric_class import METRIC_CLASSES, class_of
from apex_sim.truth.validated import Z_80, Validated
from apex_sim.truth.validated_fit import CaseError


@dataclass(frozen=True, slots=True)
class Coverage:
    """Coverage of one class of metrics in one source; half-widths and errors are of logs, as fractions.

    `width_ratio` is the median half-width over the median absolute error, `depth` in how many circles (engine, device,
    family) other sources hold measured servers.
    """

    source: str
    name: str
    n: int
    depth: float
    covered_frac: float
    half_width_frac: float
    error_frac: float

    @property
    def width_ratio(self) -> float:
        """Median half-width over median absolute error."""
        return self.half_width_frac / self.error_frac if self.error_frac else float("inf")


def coverage_of(errors: Sequence[CaseError], validated: Validated) -> tuple[Coverage, ...]:
    """Return coverage by class and source, then by class over all sources, then over all; sources weigh equally."""
    bars = defaultdict[tuple[str, str], list[tuple[float, float, int]]](list)
    for error in errors:
        known = validated.without(error.case.source)
        terms = terms_of(error.spread, error.name, known.scales(error.spread.footing))
        if terms:
            depth = known.depth(error.spread.footing)
            bars[(class_of(error.name) or "", error.case.source)].append(
                (Z_80 * terms.log_sd, abs(error.log_error), depth)
            )
    rows, pooled = [], []
    for name in METRIC_CLASSES:
        mine = [_coverage(source, name, values) for (kind, source), values in sorted(bars.items()) if kind == name]
        rows += mine
        if mine:
            pooled.append(_mean(name, mine))
    return (*rows, *pooled, *([_mean("all", rows)] if rows else []))


def _coverage(source: str, name: str, bars: Sequence[tuple[float, float, int]]) -> Coverage:
    half, error, depth = (np.array(column) for column in zip(*bars, strict=True))
    return Coverage(
        source,
        name,
        len(bars),
        float(depth.mean()),
        float((error <= half).mean()),
        float(np.median(half)),
        float(np.median(error)),
    )


def _mean(name: str, rows: Sequence[Coverage]) -> Coverage:
    def mean(field: str) -> float:
        return float(np.mean([getattr(row, field) for row in rows]))

    return Coverage(
        ALL_SOURCES,
        name,
        sum(row.n for row in rows),
        *(mean(field) for field in ("depth", "covered_frac", "half_width_frac", "error_frac")),
    )
