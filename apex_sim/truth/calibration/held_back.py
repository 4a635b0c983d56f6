"""Does a calibration predict what it has not seen?  Before and after, on runs or requests that were held back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from apex_sim.truth.benchmarks.benchmark_run import summarise_times
from apex_sim.truth.calibration.fit import Evidence, fit_multipliers
from apex_sim.truth.calibration.likelihood import fitted_metrics, load_sd
from apex_sim.truth.calibration.run_simulator import AS_SHIPPED
from apex_sim.truth.case import MEASURED

#: A half of fewer requests says nothing about a median.
_LEAST_REQUESTS_IN_HALF: Final = 20
#: Loads are left out one by one up to so many, and in so many groups beyond.
_MOST_GROUPS: Final = 8


@dataclass(frozen=True, slots=True)
class CheckedMetric:
    """One metric of a run that a fit did not see: measured, and its signed relative error before and after."""

    run: str
    metric: str
    measured: float
    before_frac: float
    after_frac: float


@dataclass(frozen=True, slots=True)
class Check:
    """How a calibration was checked, and the errors."""

    how: str
    metrics: tuple[CheckedMetric, ...]

    def worse(self) -> tuple[str, ...]:
        """Return the metrics whose median absolute error grew by more than a percentage point."""
        grown = []
        for name in dict.fromkeys(row.metric for row in self.metrics):
            rows = [row for row in self.metrics if row.metric == name]
            before, after = (
                median(abs(value) for value in column)
                for column in zip(*((row.before_frac, row.after_frac) for row in rows), strict=True)
            )
            if after > before + 0.01:
                grown.append(name)
        return tuple(grown)


def check_fit(
    evidence: Sequence[Evidence], multipliers: tuple[float, ...], progress: Callable[[], object] | None = None
) -> Check:
    """Return errors on what could be held back.

    Several loads: each is predicted by a fit to the others.  One load in detail: its later half is predicted by a fit
    to its earlier half.  One load as a summary: nothing can be held back, and the metrics that were not fitted are
    compared, under the fit itself.
    """
    loads = list(dict.fromkeys(each.simulator.run.load for each in evidence))
    if len(loads) > 1:
        return _by_load(evidence, loads, progress)
    detailed = [each for each in evidence if _halves(each)]
    if detailed:
        return _by_half(detailed, progress)
    rows = [row for each in evidence for row in _compare(each, multipliers, unfitted=True)]
    return Check(
        "one load, known by its summary: nothing could be held back; these metrics took no part in the fit",
        tuple(rows),
    )


def _by_load(
    evidence: Sequence[Evidence], loads: Sequence[tuple[object, ...]], progress: Callable[[], object] | None
) -> Check:
    rows: list[CheckedMetric] = []
    groups = [loads[first::_MOST_GROUPS] for first in range(min(_MOST_GROUPS, len(loads)))]
    for group in groups:
        fit = fit_multipliers([each for each in evidence if each.simulator.run.load not in group], progress)
        held = [each for each in evidence if each.simulator.run.load in group]
        rows += [row for each in held for row in _compare(each, fit.multipliers)]
    part = f"each of {len(loads)}" if len(groups) == len(loads) else f"each of {len(groups)} groups of {len(loads)}"
    return Check(f"leave one load out: {part} is predicted by a fit to the others", tuple(rows))


def _by_half(evidence: Sequence[Evidence], progress: Callable[[], object] | None) -> Check:
    halves = [half for each in evidence for half in [_halves(each)] if half]
    fit = fit_multipliers([first for first, _ in halves], progress)
    rows = [row for _, second in halves for row in _compare(second, fit.multipliers)]
    return Check("later half of the requests held back: predicted by a fit to the earlier half", tuple(rows))


def _halves(each: Evidence) -> tuple[Evidence, Evidence] | None:
    """Return the evidence of the requests that were sent first, and of the others; None where too few are known."""
    times = each.simulator.run.times
    if times is None or len(times.ttft_s) < 2 * _LEAST_REQUESTS_IN_HALF:
        return None
    middle = len(times.ttft_s) // 2
    kind = each.simulator.run.replay.workload.load.kind
    parts = []
    for rows in (slice(0, middle), slice(middle, None)):
        measured = summarise_times(times, rows)
        parts.append(
            replace(
                each,
                measured=measured,
                sd_of={name: load_sd(name) for name in fitted_metrics(measured, kind)},
                rows=rows,
            )
        )
    return parts[0], parts[1]


def _compare(each: Evidence, multipliers: tuple[float, ...], *, unfitted: bool = False) -> list[CheckedMetric]:
    before = each.simulator.predict(AS_SHIPPED, each.rows)
    after = each.simulator.predict(multipliers, each.rows)
    names = [name for name in MEASURED if name in each.measured and name in before and not _is_power(name)]
    if unfitted:
        names = [name for name in names if name not in each.sd_of]
    return [
        CheckedMetric(
            each.simulator.run.name,
            name,
            each.measured[name],
            before[name] / each.measured[name] - 1,
            after[name] / each.measured[name] - 1,
        )
        for name in names
    ]


def _is_power(name: str) -> bool:
    return name.startswith(("power", "energy"))
