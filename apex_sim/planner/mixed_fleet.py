"""Which mix of device types serves the traffic at the least price, and how much dearer is each type alone?

Each shape of each pool is simulated on each bucket of prompt lengths: the rates that it keeps are the columns of an
integer program, which proposes fleets.  A proposal is simulated whole, on the study's own requests behind a router that
keeps the program's shares.  The program knows neither how buckets share an instance nor what chance does in small
fleets, so it is asked with capacities from far too large downwards until a proposal keeps every limit.  Proposals that
did not, with one instance more of some shape, then with two, are simulated next, the cheapest first, as long as they
cost less; last, instances are handed back while the rest keeps every limit.  Fleets of one type are found likewise.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from apex_sim.errors import InputError, NoAnswerError
from apex_sim.fleet.router import SHARING_BY_LENGTH
from apex_sim.plan.plan import Plan
from apex_sim.planner.another_draw import offered_rate_per_s
from apex_sim.planner.bucket_capacity import Column, columns_of
from apex_sim.planner.programs.bucket_mix import Buckets, best_mix, buckets_of
from apex_sim.planner.programs.even_load import even_routing
from apex_sim.planner.programs.fleet_limits import Limits
from apex_sim.planner.programs.fleet_shortage import InfeasibleFleetError
from apex_sim.planner.programs.solvers import Solver, solver
from apex_sim.planner.study import Study
from apex_sim.planner.trial import Trial, try_decided

#: Capacities of the first proposal, over those simulated; of each further one over the one before; and how many.
_FIRST, _STEP, _N_STEPS = 2.0, 0.95, 60
#: Fleets that are tried between the proposals.
_MOST_REPAIRS: Final = 60
#: Solver of the proposals: seconds, and gap.
_TIME_LIMIT_S: Final = 10.0
_GAP_FRAC: Final = 1e-3

Counts = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet that was simulated whole.

    Attributes
    ----------
    trial : how it did on the study's workload.
    usd_per_h : of all devices.
    load_frac : load of the fullest instance, over the rates that it keeps on each bucket alone.
    n_tried : fleets simulated until this one was found.
    """

    trial: Trial
    usd_per_h: float
    load_frac: float
    n_tried: int = 1

    @property
    def plan(self) -> Plan:
        """Shapes, counts and shares."""
        return self.trial.plan

    @property
    def devices(self) -> dict[str, int]:
        """How many devices of each type it holds."""
        names = dict.fromkeys(shape.device for shape, _ in self.plan.instances)
        return {name: self.plan.n_devices_of(name) for name in names}


@dataclass(frozen=True, slots=True)
class CheapestMix:
    """The cheapest mix found, with the cheapest fleet found of each type alone (None: no such fleet keeps the limits).

    `bound_usd_per_h` is what the program proves where each shape carries, of each bucket, the rate at which it was seen
    to fail: no fleet is cheaper *if* no instance carries more than that mixture of rates.  An instance that serves
    several buckets may, where a limit is on the mean of all requests: then the fleet lies below the bound, and the gap
    is negative.
    """

    best: Fleet
    singles: Mapping[str, Fleet | None]
    bound_usd_per_h: float
    buckets: Buckets
    columns: tuple[Column, ...]

    @property
    def gap_frac(self) -> float:
        """Distance of the best mix to the bound, relative to its price."""
        return 1.0 - self.bound_usd_per_h / self.best.usd_per_h

    @property
    def best_single(self) -> Fleet | None:
        """The cheapest fleet of one type, None where no type will do alone."""
        found = [fleet for fleet in self.singles.values() if fleet]
        return min(found, key=lambda fleet: fleet.usd_per_h, default=None)

    def saving_frac(self, device: str) -> float | None:
        """Return how much cheaper the mix is than a fleet of `device` alone; None where that keeps no limits."""
        single = self.singles[device]
        return 1.0 - self.best.usd_per_h / single.usd_per_h if single else None


def cheapest_mix(
    study: Study,
    *,
    n_buckets: int = 6,
    split: Literal["quantiles", "powers of two"] = "powers of two",
    n_bucket_requests: int = 600,
    ratio: float = 1.05,
    by: Solver | None = None,
) -> CheapestMix:
    """Return the cheapest mix of the shapes of the study's pools that keeps up and keeps the study's SLOs.

    Parameters
    ----------
    n_buckets, split : buckets of prompt lengths, as of `buckets_of`.
    n_bucket_requests : on which a bucket's rates are simulated; few do not fill an instance, and flatter it.
    ratio : how far apart the rates that an instance keeps and fails on a bucket may be.

    Raises
    ------
    NoAnswerError : no fleet within the pools does; says what is missing where the program knows it.
    UnsupportedError : a closed or offline load, which has no rate.
    InputError : a stated `dp`; else as `enumerate_space`.
    """
    if study.space.dp:
        raise InputError(
            f"dp = {study.space.dp}, and a mix's counts are what is looked for",
            where=f"study {study.name}, key 'space.dp'",
            remedy="leave it out (--dp), and bound the fleet by the devices of the cluster",
        )
    by = by or solver(_TIME_LIMIT_S, _GAP_FRAC)
    rate_per_s = offered_rate_per_s(study.workload, f"study {study.name}")
    buckets = buckets_of(study.workload.requests, n_buckets, split, rate_per_s)
    columns = tuple(columns_of(study, buckets, n_bucket_requests, ratio))
    limits = Limits(devices={pool.device.name: pool.n_devices for pool in study.cluster.pools})
    bound = best_mix([column.ceiling for column in columns], buckets, limits, by=by).composition.bound
    singles: dict[str, Fleet | None] = {}
    for pool in study.cluster.pools:
        own = [column for column in columns if column.shape.device == pool.device.name]
        try:
            singles[pool.device.name] = _Proposals(study, own, buckets, limits, by).cheapest()
        except NoAnswerError:
            singles[pool.device.name] = None
    mixed = _Proposals(study, columns, buckets, limits, by).cheapest()
    found = [mixed, *(fleet for fleet in singles.values() if fleet)]
    return CheapestMix(min(found, key=lambda fleet: fleet.usd_per_h), singles, bound, buckets, columns)


class _Proposals:
    """Fleets of some columns, simulated once each."""

    def __init__(self, study: Study, columns: Sequence[Column], buckets: Buckets, limits: Limits, by: Solver) -> None:
        self._study, self._columns, self._buckets, self._limits, self._by = study, columns, buckets, limits, by
        self._tried: dict[Counts, Fleet | None] = {}

    def cheapest(self) -> Fleet:
        """Return the first fleet that keeps every limit, without the instances that it can spare.

        Raises
        ------
        NoAnswerError : there is none.
        """
        for step in range(_N_STEPS):
            options = [column.scaled(_FIRST * _STEP**step) for column in self._columns]
            counts = best_mix(options, self._buckets, self._limits, by=self._by).composition.counts
            fleet = self._try(counts)
            if fleet:
                return self._lean(*self._repaired(counts, fleet))
        raise NoAnswerError(f"None of {len(self._tried)} fleets keeps every limit of study {self._study.name}.")

    def _try(self, counts: Counts) -> Fleet | None:
        """Return the simulated fleet, None where it breaks a limit or serves some bucket not at all."""
        if counts not in self._tried:
            self._tried[counts] = self._simulate(counts)
        return self._tried[counts]

    def _simulate(self, counts: Counts) -> Fleet | None:
        held = [(column, n) for column, n in zip(self._columns, counts, strict=True) if n]
        options = [column.option for column, _ in held]
        try:
            routing, load_frac = even_routing(options, [n for _, n in held], self._buckets, self._by)
        except InfeasibleFleetError:
            return None
        plan = Plan(tuple((column.shape, n) for column, n in held), SHARING_BY_LENGTH, routing)
        trial = try_decided(self._study, plan)
        if not trial.keeps:
            return None
        return Fleet(trial, sum(option.usd_per_h * n for option, (_, n) in zip(options, held, strict=True)), load_frac)

    def _repaired(self, counts: Counts, fleet: Fleet) -> tuple[Counts, Fleet]:
        """Return the cheapest fleet that keeps every limit among failed ones with instances added, else `fleet`."""
        failed = [tried for tried, found in self._tried.items() if not found]
        queue = [more for tried in failed for more in self._one_more(tried)]
        heapq.heapify(queue)
        n_left = _MOST_REPAIRS
        while queue and n_left:
            usd_per_h, tried = heapq.heappop(queue)
            if usd_per_h >= fleet.usd_per_h:
                break
            if tried in self._tried:
                continue
            n_left -= 1
            found = self._try(tried)
            if found:
                return tried, found
            for more in self._one_more(tried):
                heapq.heappush(queue, more)
        return counts, fleet

    def _one_more(self, counts: Counts) -> list[tuple[float, Counts]]:
        """Return price and counts of the fleets with one instance more that the pools hold."""
        found = []
        for s, column in enumerate(self._columns):
            more = (*counts[:s], counts[s] + 1, *counts[s + 1 :])
            if self._n_devices(more, column.option.device) <= (self._limits.devices or {})[column.option.device]:
                pairs = zip(self._columns, more, strict=True)
                found.append((sum(each.option.usd_per_h * n for each, n in pairs), more))
        return found

    def _n_devices(self, counts: Counts, device: str) -> int:
        pairs = zip(self._columns, counts, strict=True)
        return sum(each.option.n_devices * n for each, n in pairs if each.option.device == device)

    def _lean(self, counts: Counts, fleet: Fleet) -> Fleet:
        """Hand back instances, the dearest first, while the rest keeps every limit."""
        by_price = sorted(range(len(counts)), key=lambda s: -self._columns[s].option.usd_per_h)
        spared = True
        while spared:
            spared = False
            for s in by_price:
                fewer = (*counts[:s], counts[s] - 1, *counts[s + 1 :])
                rest = self._try(fewer) if counts[s] and sum(fewer) else None
                if rest:
                    counts, fleet, spared = fewer, rest, True
                    break
        return replace(fleet, n_tried=len(self._tried))
