"""Was the fleet steady, or did its backlog grow?

The backlog is what has arrived and was not yet scheduled once; requests that an engine refused are left out.  Over the
last three quarters of the arrivals a straight line is fitted to it; the slope over the arrival rate is the share of
arrivals that the fleet does not keep up with: 1 - 1/rho in a fluid queue with load rho > 1, zero below.  A run counts
as not steady when that share passes 2 %, the growth exceeds three standard deviations of chance, and the backlog was
not worked off once during the last quarter.  While the number of requests in the system still grows by that much, a run
has not settled, and is called too short unless the offered load passes the estimated capacity.

Chance: Poisson arrivals at rate l that stay S have a number in the system of mean l E[S], whose autocovariance
integrates to l E[S^2] (M/G/infinity); a line through it over a time T rises by a variance of 12 l E[S^2] / T, and of
6/5 l T at most, that of arrivals which never leave.

Where the queue is sorted, few requests with much work may pile up behind many with little.  There each request counts
by its tokens over the mean, w, and variances by w^2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from apex_sim.record.request_records import REJECTED
from apex_sim.record.run import FleetRun
from apex_sim.workload.workload import Workload

Floats = NDArray[np.float64]

_GROWTH_FRAC: Final = 0.02
_FITTED_FRAC: Final = 0.75
_WORKED_OFF: Final = 1
_FEW_ARRIVALS: Final = 20
_N_SAMPLES: Final = 400


@dataclass(frozen=True, slots=True)
class Stability:
    """Verdict on one run.

    `steady` is None for closed and offline loads, which have no offered rate, and for runs too short to tell.
    `offered_load_frac` is the offered rate over the plan's estimated capacity, `backlog_growth_frac` the share of
    arrivals that pile up, `backlog_growth` by how many requests the backlog grew.
    """

    steady: bool | None
    reason: str
    offered_load_frac: float | None = None
    backlog_growth_frac: float | None = None
    backlog_growth: float | None = None


def judge_stability(run: FleetRun, workload: Workload, capacity_per_s: float) -> Stability:
    """Return whether the run was steady.

    Parameters
    ----------
    capacity_per_s : estimated requests per second that the plan can serve (`metrics.capacity`).
    """
    if workload.load.kind != "trace":
        return Stability(None, f"{workload.load.kind} load: no offered rate")
    requests = run.requests
    served = requests.status != REJECTED
    arrivals, n = requests.arrival_s[served], int(served.sum())
    window_s = float(arrivals[-1] - arrivals[0]) if n else 0.0
    if window_s <= 0:
        return Stability(None, "all requests arrive at once: no offered rate" if n else "every request was rejected")
    load = (n - 1) / window_s / capacity_per_s
    weights, unit = _weights(run)
    backlog, share, least = _growth(arrivals, requests.scheduled_s[served], weights[served], window_s)
    noise = _noise(run, requests.scheduled_s - requests.arrival_s, weights, window_s)
    if share > _GROWTH_FRAC and backlog > noise and least > _WORKED_OFF:
        reason = f"backlog grows by {backlog:.0f} {unit}, {share:.0%} of arrivals"
        return Stability(False, reason, load, share, backlog)
    in_system, in_system_share, _ = _growth(arrivals, requests.finish_s[served], weights[served], window_s)
    settling = in_system_share > _GROWTH_FRAC and in_system > _noise(run, requests.e2e_s, weights, window_s)
    mean_e2e_s = float(np.nanmean(requests.e2e_s)) if requests.finished.any() else math.inf
    if n < _FEW_ARRIVALS or settling or mean_e2e_s > window_s / 2:
        if load >= 1:
            reason = f"offered load is {load:.2f} of the estimated capacity"
            return Stability(False, reason, load, share, backlog)
        reason = f"too short to tell: {n} arrivals in {window_s:.3g} s, requests take {mean_e2e_s:.3g} s"
        reason += f" and their number still grows by {in_system:.0f}" if settling else ""
        return Stability(None, reason, load, share, backlog)
    return Stability(True, "backlog does not grow", load, share, backlog)


def _weights(run: FleetRun) -> tuple[Floats, str]:
    """Return what each request counts, and the name of one."""
    requests = run.requests
    if not any(shape.scheduler.sorts_queue for shape, _ in run.plan.instances):
        return np.ones(len(requests.arrival_s)), "requests"
    tokens = requests.prompt_tokens + requests.output_tokens
    return tokens / tokens.mean(), "mean requests by tokens"


def _noise(run: FleetRun, stay_s: Floats, weights: Floats, window_s: float) -> float:
    """Return three standard deviations of the growth that stays of `stay_s` show by chance, at least those of one."""
    mean = float(np.nansum(weights**2 * stay_s)) / run.makespan_s
    trend = 12 * float(np.nansum((weights * stay_s) ** 2)) / run.makespan_s / (_FITTED_FRAC * window_s)
    n_arrived = _FITTED_FRAC * float((weights**2).sum())
    return 3 * math.sqrt(max(min(max(mean, trend), 6 / 5 * n_arrived), 1.0))


def _growth(arrivals: Floats, left_s: Floats, weights: Floats, window_s: float) -> tuple[float, float, float]:
    """Return by how much the weight of those that arrived and have not left grew, that over what arrived, and the
    least such weight during the last third of the fitted time.
    """
    left_s = np.where(np.isnan(left_s), math.inf, left_s)
    order = np.argsort(left_s, kind="stable")
    arrived = np.concatenate([[0.0], np.cumsum(weights)])
    left = np.concatenate([[0.0], np.cumsum(weights[order])])
    shares = np.linspace(0.0, 1.0, _N_SAMPLES)
    times = arrivals[-1] - (1.0 - shares) * _FITTED_FRAC * window_s
    came = arrived[np.searchsorted(arrivals, times, side="right")]
    backlog = came - left[np.searchsorted(left_s[order], times, side="right")]
    grew = float(np.polyfit(shares, backlog, 1)[0])
    return grew, grew / max(float(came[-1] - came[0]), 1.0), float(backlog[-_N_SAMPLES // 3 :].min())
