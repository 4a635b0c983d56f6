"""What is the best that a plan can do on each metric?

Each request is served by one of the plan's instances: its latencies are at least those of the shape that serves it
fastest alone.  What was seen of a run before anything else could have happened (`Seen`) is exact and goes before that.
The makespan is at least the last request's own time, and at least the work over what all instances can do at once: with
instances n_s of shape s and weights l_s with sum n_s l_s = 1, M >= sum over requests of min_s l_s w_s, because
sum_s n_s l_s M is at least the weighted sum of what was served where.

Where more work comes than can be done in time, latencies grow for a share of the requests whoever they are.

Means, quantiles and ratios of bounds bound the means, quantiles and ratios, because each grows with every request's
latency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from apex_sim.cost.parts import Floats
from apex_sim.metrics.definitions import QUANTILES
from apex_sim.planner.bounds.solo import SoloTimes
from apex_sim.units import SECONDS_PER_HOUR
from apex_sim.workload.column import IntArray
from apex_sim.workload.workload import Workload

#: Times at which arrived work is held against what can be done.
_N_MARKS: Final = 24
#: Shapes times kinds of work whose crowds are kept.
_MOST_KEPT: Final = 96

#: Best possible value by metric name.
Bounds = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Seen:
    """Lower bounds for each request from a simulation of the first requests; 0 where nothing was seen."""

    ttft_s: Floats
    decode_s: Floats


def plan_bounds(
    shapes: Sequence[tuple[SoloTimes, int]], workload: Workload, usd_per_h: float, seen: Seen | None = None
) -> dict[str, float]:
    """Return what no simulation of a plan of these shapes and counts can beat, by metric.

    Parameters
    ----------
    usd_per_h : price of all devices that the plan holds.
    """
    ttft_s = np.min([solo.ttft_s for solo, _ in shapes], axis=0)
    decode_s = np.min([solo.decode_s for solo, _ in shapes], axis=0)
    e2e_s = np.min([solo.ttft_s + solo.decode_s for solo, _ in shapes], axis=0)
    if seen:
        ttft_s, decode_s = np.maximum(ttft_s, seen.ttft_s), np.maximum(decode_s, seen.decode_s)
        e2e_s = np.maximum(e2e_s, ttft_s + decode_s)
    makespan_s = _makespan_s(shapes, workload, e2e_s)
    usd = usd_per_h * makespan_s / SECONDS_PER_HOUR
    weights = [1.0] * len(shapes)
    idle_w = sum(solo.idle_w * count for solo, count in shapes)
    energy_j = idle_w * makespan_s + float(_least(shapes, weights, "dynamic_j").sum())
    n_output = int(workload.requests.output_tokens.sum())
    n_total = n_output + int(workload.requests.prompt_tokens.sum())
    found = {
        **_latencies("ttft", ttft_s),
        **_latencies("e2e", e2e_s),
        "makespan_s": makespan_s,
        "output_tokens_per_s": n_output / makespan_s,
        "total_tokens_per_s": n_total / makespan_s,
        "requests_per_s": workload.requests.n / makespan_s,
        "goodput_per_s": workload.requests.n / makespan_s,
        "usd": usd,
        "usd_per_h": usd_per_h,
        "usd_per_million_output_tokens": usd * 1e6 / n_output,
        "energy_j": energy_j,
        "energy_per_output_token_j": energy_j / n_output,
    }
    for name, work in (("ttft", "prefill_work_s"), ("e2e", "work_s")):
        for statistic, value_s in _crowded(shapes, workload, work).items():
            found[f"{name}_{statistic}_s"] = max(found[f"{name}_{statistic}_s"], value_s)
    several = workload.requests.output_tokens > 1
    if several.any():
        gaps = workload.requests.output_tokens[several] - 1
        found |= _latencies("tpot", decode_s[several] / gaps)
        found["itl_mean_s"] = float(decode_s[several].sum() / gaps.sum())
    return found


def _latencies(name: str, values_s: Floats) -> dict[str, float]:
    quantiles = np.quantile(values_s, list(QUANTILES.values())).tolist()
    named = {f"{name}_{statistic}_s": value for statistic, value in zip(QUANTILES, quantiles, strict=True)}
    return {f"{name}_mean_s": float(values_s.mean()), **named}


def _crowded(shapes: Sequence[tuple[SoloTimes, int]], workload: Workload, work: str) -> dict[str, float]:
    """Return the least quantiles of a latency that leave time for the work before its end, by statistic.

    If a quantile is L, all but k of the requests that came by time s are through by s + L: the work of those that came,
    without that of the k largest, fits into s + L of all instances.
    """
    if workload.load.kind != "trace":
        return {}
    arrivals = workload.requests.arrival_s
    if len(shapes) == 1:  # plans of one shape differ in their count only
        ((solo, count),) = shapes
        left_s = {statistic: each_s / count for statistic, each_s in _left_alone_s(solo, work).items()}
    else:
        left_s = _left_s(_least(shapes, _weights(shapes, work), work))
    came_s = arrivals[_marks(len(arrivals)) - 1]
    return {statistic: float((each_s - came_s).max()) for statistic, each_s in left_s.items()}


@lru_cache(maxsize=_MOST_KEPT)
def _left_alone_s(solo: SoloTimes, work: str) -> dict[str, Floats]:
    return _left_s(getattr(solo, work))


def _left_s(weighted: Floats) -> dict[str, Floats]:
    """Return the work of those that came by each mark without that of the largest that may be late, by statistic."""
    n, came = len(weighted), np.cumsum(weighted)
    marks, found = _marks(n), dict[str, Floats]()
    for statistic, quantile in QUANTILES.items():
        n_late = n - 1 - int(np.floor(quantile * (n - 1)))
        late_s = [float(weighted[:m].sum() if m <= n_late else _largest(weighted[:m], n_late)) for m in marks.tolist()]
        found[statistic] = came[marks - 1] - late_s
    return found


def _marks(n: int) -> IntArray:
    """Return after how many arrivals the work is looked at."""
    return np.unique(np.linspace(1, n, min(n, _N_MARKS)).astype(np.int64))


def _largest(values: Floats, n: int) -> float:
    return float(np.partition(values, len(values) - n)[len(values) - n :].sum()) if n else 0.0


def _weights(shapes: Sequence[tuple[SoloTimes, int]], work: str) -> list[float]:
    """Return weights l_s of the shapes with sum n_s l_s = 1, the larger the faster the shape is on all requests."""
    rates = [1.0 / max(float(getattr(solo, work).sum()), 1e-300) for solo, _ in shapes]
    total = sum(rate * count for rate, (_, count) in zip(rates, shapes, strict=True))
    return [rate / total for rate in rates]


def _makespan_s(shapes: Sequence[tuple[SoloTimes, int]], workload: Workload, e2e_s: Floats) -> float:
    load = workload.load
    arrivals = workload.requests.arrival_s if load.kind == "trace" else np.zeros(len(e2e_s))
    last_s = float((arrivals + e2e_s).max())
    work_s = float(_least(shapes, _weights(shapes, "work_s"), "work_s").sum())
    users_s = float(e2e_s.sum()) / load.concurrency if load.concurrency else 0.0
    return max(last_s, work_s, users_s)


def _least(shapes: Sequence[tuple[SoloTimes, int]], weights: Sequence[float], name: str) -> Floats:
    """Return the least weighted value of each request over the shapes."""
    values = [weight * getattr(solo, name) for weight, (solo, _) in zip(weights, shapes, strict=True)]
    least: Floats = np.min(values, axis=0)
    return least
