"""How large are the errors, for each metric and source?

An error is signed and relative: (predicted - measured) / measured.  Sources weigh equally: a pooled figure is the mean
of the sources' figures, so that a source with many rows does not drown one with few.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from apex_sim.truth.case import MEASURED

if TYPE_CHECKING:
    from apex_sim.truth.axes import AxisStatistics
    from apex_sim.truth.ranking_quality import GroupRanking, RankingQuality

#: Stands for all sources together, where a row of statistics names its source.
ALL_SOURCES: Final = "all sources"


@dataclass(frozen=True, slots=True)
class ErrorStatistics:
    """Errors of one metric in one source, as fractions; `n` counts cases.

    `bias_frac` is the median signed error.  `noise_frac` is the median noise floor of the cases that have one for this
    metric (noise.py), None without.
    """

    source: str
    metric: str
    n: int
    median_abs_frac: float
    p90_abs_frac: float
    bias_frac: float
    noise_frac: float | None


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """Statistics by source, by axis and pooled, and how many cases were not replayed for which reason.

    `rankings` says of each group of plans that served one load whether predictions put them into the measured order,
    `ranking_quality` sums that up.
    """

    by_source: tuple[ErrorStatistics, ...]
    pooled: tuple[ErrorStatistics, ...]
    n_cases: int
    n_replayed: int
    n_skipped_by_reason: Mapping[str, int]
    by_axis: tuple[AxisStatistics, ...] = ()
    rankings: tuple[GroupRanking, ...] = ()
    ranking_quality: tuple[RankingQuality, ...] = ()


def relative_error(predicted: float | None, measured: float) -> float | None:
    """Return (predicted - measured) / measured; None where the run does not define the metric.

    Examples
    --------
    >>> relative_error(0.5, 1.0)
    -0.5
    """
    return None if predicted is None else (predicted - measured) / measured


def source_statistics(source: str, metric: str, errors: Sequence[float], noise: Sequence[float]) -> ErrorStatistics:
    """Return the statistics of the errors of one metric in one source.

    Parameters
    ----------
    errors : signed relative errors, at least one.
    noise : noise floors of these cases, those that have one.
    """
    absolute = np.abs(errors)
    return ErrorStatistics(
        source=source,
        metric=metric,
        n=len(errors),
        median_abs_frac=float(np.median(absolute)),
        p90_abs_frac=float(np.quantile(absolute, 0.9)),
        bias_frac=float(np.median(errors)),
        noise_frac=float(np.median(noise)) if len(noise) else None,
    )


def pooled_statistics(metric: str, sources: Sequence[ErrorStatistics]) -> ErrorStatistics:
    """Return the means of the sources' statistics: each source weighs the same."""
    noise = [s.noise_frac for s in sources if s.noise_frac is not None]
    return ErrorStatistics(
        source=ALL_SOURCES,
        metric=metric,
        n=sum(s.n for s in sources),
        median_abs_frac=float(np.mean([s.median_abs_frac for s in sources])),
        p90_abs_frac=float(np.mean([s.p90_abs_frac for s in sources])),
        bias_frac=float(np.mean([s.bias_frac for s in sources])),
        noise_frac=float(np.mean(noise)) if noise else None,
    )


def summarise_metric(
    metric: str,
    sources: Sequence[str],
    errors: Sequence[Mapping[str, float | None]],
    noise: Sequence[Mapping[str, float]],
) -> tuple[ErrorStatistics, ...]:
    """Return the statistics of one metric in each source that has it.

    Parameters
    ----------
    sources, errors, noise : of each case: its source, and its errors and noise floors by metric.
    """
    signed: dict[str, list[float]] = {}
    floors: dict[str, list[float]] = {}
    for source, of_case, floor in zip(sources, errors, noise, strict=True):
        error = of_case.get(metric)
        if error is not None:
            signed.setdefault(source, []).append(error)
            floors.setdefault(source, []).extend([floor[metric]] if metric in floor else [])
    return tuple(source_statistics(source, metric, mine, floors[source]) for source, mine in signed.items())


def summarise_errors(
    sources: Sequence[str],
    errors: Sequence[Mapping[str, float | None]],
    noise: Sequence[Mapping[str, float]],
    skipped: Sequence[str],
) -> ErrorSummary:
    """Return all statistics of a file's cases; those by axis and of rankings are added by who has plans and loads.

    Parameters
    ----------
    sources, errors, noise, skipped : of each case: its source, its errors by metric, its noise floors by metric, and
        why it was skipped ("" if it was replayed).
    """
    by_source: list[ErrorStatistics] = []
    pooled = []
    for metric in MEASURED:
        rows = summarise_metric(metric, sources, errors, noise)
        by_source += rows
        if rows:
            pooled.append(pooled_statistics(metric, rows))
    reasons = Counter(reason for reason in skipped if reason)
    return ErrorSummary(
        by_source=tuple(by_source),
        pooled=tuple(pooled),
        n_cases=len(sources),
        n_replayed=sum(not reason for reason in skipped),
        n_skipped_by_reason=dict(reasons.most_common()),
    )
