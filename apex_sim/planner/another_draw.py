"""Which other requests of the same kind could a load have had?

A result on one draw of arrivals says little about a limit on a tail.  Another draw of a Poisson load has the same
requests in another order behind new exponential gaps, that of a fixed-rate load only another order: lengths are thereby
drawn without replacement from those at hand.  A trace was not drawn; what stands in for other draws are its parts, each
at the pace that it has in the trace.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from apex_sim.errors import UnsupportedError
from apex_sim.workload.arrivals import fixed_rate, poisson
from apex_sim.workload.column import FloatArray
from apex_sim.workload.requests import Requests
from apex_sim.workload.workload import Workload

#: Parts of a trace are no shorter: below, tails and growing backlogs cannot be told from chance.
_LEAST_PART: Final = 100
#: Gaps that differ by less, relative to the last arrival, are those of a fixed rate.
_EQUAL_GAPS: Final = 1e-9
#: Purposes of random numbers.
_REDRAWN, _LONGER = 1, 2


def offered_rate_per_s(workload: Workload, where: str) -> float:
    """Return the rate at which the requests of an open load arrive.

    Raises
    ------
    UnsupportedError : a closed or offline load, which has none, or all requests arrive at once.
    """
    rate_per_s = workload.requests.rate_per_s
    if workload.load.kind != "trace" or not rate_per_s:
        closed = f"a load of kind {workload.load.kind!r} has no arrival rate"
        raise UnsupportedError(
            closed if workload.load.kind != "trace" else "all requests arrive at once, so that there is no rate",
            where=where,
            remedy="use a Poisson, fixed-rate or trace load (--rate states one), or search with other numbers of users",
        )
    return workload.rate_per_s or rate_per_s


def at_rate(workload: Workload, rate_per_s: float) -> Workload:
    """Return the same requests at another rate: all arrival times are divided by one factor."""
    factor = rate_per_s / offered_rate_per_s(workload, f"workload {workload.name}")
    return replace(workload, requests=workload.requests.scaled_rate(factor), rate_per_s=rate_per_s)


def other_draws(workload: Workload, n: int) -> tuple[Workload, ...]:
    """Return `workload` itself and up to `n` - 1 others of its kind at the same rate, the same in each call.

    Raises
    ------
    UnsupportedError : as `offered_rate_per_s`.
    """
    rate_per_s = offered_rate_per_s(workload, f"workload {workload.name}")
    if workload.seed is None:
        return (workload, *_parts(workload, n - 1))
    seeds = np.random.SeedSequence([workload.seed, _REDRAWN]).spawn(n - 1)
    return (workload, *(_redrawn(workload, rate_per_s, np.random.default_rng(seed)) for seed in seeds))


def longer_draw(workload: Workload, factor: int, draw: int) -> Workload:
    """Return a drawn load that goes on for `factor` times as many requests; what is there stays as it is.

    Parameters
    ----------
    draw : number of the draw, so that no two go on alike.

    Raises
    ------
    UnsupportedError : a trace, which ends where it ends; else as `offered_rate_per_s`.
    """
    requests, rate_per_s = workload.requests, offered_rate_per_s(workload, f"workload {workload.name}")
    if workload.seed is None:
        raise UnsupportedError(
            "a trace has no more requests than it has",
            where=f"workload {workload.name}",
            remedy="give a longer trace (--n-requests) or a load with lengths from distributions",
        )
    rng = np.random.default_rng([workload.seed, _LONGER, draw])
    rows = np.concatenate([np.arange(requests.n), *(rng.permutation(requests.n) for _ in range(factor - 1))])
    n_more = (factor - 1) * requests.n
    more_s = fixed_rate(rate_per_s, n_more) + 1 / rate_per_s if _is_even(requests) else poisson(rate_per_s, n_more, rng)
    return _arriving(workload, rows, np.concatenate([requests.arrival_s, requests.arrival_s[-1] + more_s]))


def _redrawn(workload: Workload, rate_per_s: float, rng: np.random.Generator) -> Workload:
    n = workload.requests.n
    arrival_s = fixed_rate(rate_per_s, n) if _is_even(workload.requests) else poisson(rate_per_s, n, rng)
    return _arriving(workload, rng.permutation(n), arrival_s)


def _is_even(requests: Requests) -> bool:
    gaps = np.diff(requests.arrival_s)
    return bool(np.ptp(gaps) <= _EQUAL_GAPS * float(requests.arrival_s[-1]))


def _arriving(workload: Workload, rows: NDArray[np.int64], arrival_s: FloatArray) -> Workload:
    """Return the requests of `rows` in that order, at these times."""
    requests = replace(workload.requests.take(rows), arrival_s=arrival_s)
    return replace(workload, requests=requests.arriving(arrival_s))


def _parts(workload: Workload, n: int) -> list[Workload]:
    """Return up to `n` consecutive parts of a trace, each from its own first arrival."""
    requests = workload.requests
    n = min(n, requests.n // _LEAST_PART)
    if n < 2:
        return []
    edges = np.linspace(0, requests.n, n + 1).astype(int).tolist()
    return [
        replace(workload, requests=_from_zero(requests.take(slice(first, end))), rate_per_s=workload.rate_per_s)
        for first, end in pairwise(edges)
    ]


def _from_zero(requests: Requests) -> Requests:
    return requests.arriving(requests.arrival_s - requests.arrival_s[0])
