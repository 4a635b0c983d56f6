"""Do predictions put the plans that served one load into the measured order?

Kendall's tau-b over pairs of plans (Kendall, Biometrika 33(3), 1945, p. 239-251), where a difference within the
measurement's noise is a tie, measured and predicted alike.  Such ties are not transitive, so pairs are counted one by
one.  Latencies are better lower, throughput per device is better higher.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np

from apex_sim.truth.axes import QUANTITIES, quantity_column
from apex_sim.truth.error_summary import ALL_SOURCES
from apex_sim.truth.noise import tie_frac
from apex_sim.truth.served_plan import PlanGroup, ServedPlan

_HIGHER_IS_BETTER: Final = ("throughput",)
#: Says in `GroupRanking.devices` that plans of any size were compared.
ANY_DEVICES: Final = "any number"


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Pairs of plans by what measurement and prediction say of them; together they are all pairs."""

    n_concordant: int
    n_discordant: int
    n_tied_measured: int
    n_tied_predicted: int
    n_tied_both: int

    @property
    def tau_b(self) -> float | None:
        """Return Kendall's tau-b; None where all pairs are tied on one side, so that no order is to be found.

        Examples
        --------
        >>> round(PairCounts(2, 0, 1, 0, 0).tau_b, 3)
        0.816
        """
        ordered = self.n_concordant + self.n_discordant
        either = (ordered + self.n_tied_predicted) * (ordered + self.n_tied_measured)
        return (self.n_concordant - self.n_discordant) / math.sqrt(either) if either else None


@dataclass(frozen=True, slots=True)
class GroupRanking:
    """The order of one group's plans by one quantity.

    Parameters
    ----------
    group, source : whose plans; `devices` says whether all of them, or those with so many devices.
    quantity, column : what is compared, and the column that all plans have; throughput is per device.
    plans : in measured order, best first; `measured` and `predicted` are their values.
    noise_frac : relative differences up to this are ties.
    tau_b : None where no two plans differ by more than the noise, measured or predicted.
    is_tie : whether the measured best is tied with every other plan, so that there is no wrong choice.
    is_best_found : whether the predicted best is the measured best, or tied with it.
    regret_frac : by how much the predicted best is measured worse than the measured best, as a share of the latter.
    """

    group: str
    source: str
    devices: str
    quantity: str
    column: str
    plans: tuple[str, ...]
    measured: tuple[float, ...]
    predicted: tuple[float, ...]
    noise_frac: float
    pairs: PairCounts
    tau_b: float | None
    is_tie: bool
    predicted_best: str
    is_best_found: bool
    regret_frac: float


@dataclass(frozen=True, slots=True)
class RankingQuality:
    """Rankings of one quantity in one source, or the mean of the sources, each weighing the same.

    `tau_b_mean` is over the `n_ordered` groups that have an order, `best_found_frac` and the regrets over all
    `n_groups`.
    """

    source: str
    devices: str
    quantity: str
    n_groups: int
    n_ordered: int
    n_ties: int
    tau_b_mean: float | None
    best_found_frac: float
    regret_mean_frac: float
    regret_max_frac: float


def count_pairs(measured: Sequence[float], predicted: Sequence[float], noise_frac: float) -> PairCounts:
    """Return how often two orders agree; differences of at most `noise_frac` of the mean of two values are ties.

    Examples
    --------
    >>> count_pairs([1.0, 1.01, 2.0], [1.0, 3.0, 2.0], 0.03)
    PairCounts(n_concordant=1, n_discordant=1, n_tied_measured=1, n_tied_predicted=0, n_tied_both=0)
    """
    signs = [
        (_sign(measured[i], measured[j], noise_frac), _sign(predicted[i], predicted[j], noise_frac))
        for i, j in combinations(range(len(measured)), 2)
    ]
    return PairCounts(
        n_concordant=sum(m * p > 0 for m, p in signs),
        n_discordant=sum(m * p < 0 for m, p in signs),
        n_tied_measured=sum(m == 0 != p for m, p in signs),
        n_tied_predicted=sum(p == 0 != m for m, p in signs),
        n_tied_both=sum(m == 0 == p for m, p in signs),
    )


def _sign(a: float, b: float, noise_frac: float) -> int:
    return 0 if abs(a - b) <= noise_frac * (a + b) / 2 else 1 if a > b else -1


def rank_groups(groups: Sequence[PlanGroup]) -> tuple[GroupRanking, ...]:
    """Return the rankings of each group by each quantity: over all its plans, and over those of equal size."""
    found = []
    for group in groups:
        sizes = sorted({plan.n_devices for plan in group.plans})
        scopes = [(ANY_DEVICES, list(group.plans))]
        scopes += [(str(size), [plan for plan in group.plans if plan.n_devices == size]) for size in sizes]
        for devices, plans in scopes:
            if len(plans) > 1:
                rankings = [_ranking(group, devices, plans, quantity) for quantity in QUANTITIES]
                found += [ranking for ranking in rankings if ranking]
    return tuple(found)


def _ranking(group: PlanGroup, devices: str, plans: Sequence[ServedPlan], quantity: str) -> GroupRanking | None:
    """Return the ranking by `quantity`; None where the plans have no column of it in common."""
    having = {
        name: 1.0
        for name in QUANTITIES[quantity]
        if all(name in plan.measured and name in plan.predicted for plan in plans)
    }
    column = quantity_column(quantity, having)
    if column is None:
        return None
    is_higher = quantity in _HIGHER_IS_BETTER
    sized = {id(plan): plan.n_devices if is_higher else 1 for plan in plans}
    ordered = sorted(plans, key=lambda plan: plan.measured[column] / sized[id(plan)], reverse=is_higher)
    measured = [plan.measured[column] / sized[id(plan)] for plan in ordered]
    predicted = [plan.predicted[column] / sized[id(plan)] for plan in ordered]
    noise_frac = tie_frac(column, [floor for plan in plans for floor in plan.noise])
    chosen = int(np.argmax(predicted) if is_higher else np.argmin(predicted))
    pairs = count_pairs(measured, predicted, noise_frac)
    return GroupRanking(
        group=group.label,
        source=group.source,
        devices=devices,
        quantity=quantity,
        column=column,
        plans=tuple(plan.label for plan in ordered),
        measured=tuple(measured),
        predicted=tuple(predicted),
        noise_frac=noise_frac,
        pairs=pairs,
        tau_b=pairs.tau_b,
        is_tie=all(_sign(measured[0], value, noise_frac) == 0 for value in measured),
        predicted_best=ordered[chosen].label,
        is_best_found=_sign(measured[chosen], measured[0], noise_frac) == 0,
        regret_frac=abs(measured[chosen] - measured[0]) / measured[0],
    )


def summarise_rankings(rankings: Sequence[GroupRanking]) -> tuple[RankingQuality, ...]:
    """Return how good the rankings are by quantity: in each source, and over all sources where there are several.

    Groups of any number of devices and groups of one number are summed up apart.
    """
    found = []
    for same_size in (False, True):
        mine = [one for one in rankings if (one.devices != ANY_DEVICES) == same_size]
        for quantity in QUANTITIES:
            ours = [one for one in mine if one.quantity == quantity]
            rows = [_quality([one for one in ours if one.source == s]) for s in dict.fromkeys(o.source for o in ours)]
            found += rows
            if len(rows) > 1:
                found.append(_pooled(rows))
    return tuple(found)


def _quality(rankings: Sequence[GroupRanking]) -> RankingQuality:
    taus = [one.tau_b for one in rankings if one.tau_b is not None]
    first = rankings[0]
    return RankingQuality(
        source=first.source,
        devices=ANY_DEVICES if first.devices == ANY_DEVICES else "equal",
        quantity=first.quantity,
        n_groups=len(rankings),
        n_ordered=len(taus),
        n_ties=sum(one.is_tie for one in rankings),
        tau_b_mean=float(np.mean(taus)) if taus else None,
        best_found_frac=float(np.mean([one.is_best_found for one in rankings])),
        regret_mean_frac=float(np.mean([one.regret_frac for one in rankings])),
        regret_max_frac=max(one.regret_frac for one in rankings),
    )


def _pooled(rows: Sequence[RankingQuality]) -> RankingQuality:
    taus = [row.tau_b_mean for row in rows if row.tau_b_mean is not None]
    return RankingQuality(
        source=ALL_SOURCES,
        devices=rows[0].devices,
        quantity=rows[0].quantity,
        n_groups=sum(row.n_groups for row in rows),
        n_ordered=sum(row.n_ordered for row in rows),
        n_ties=sum(row.n_ties for row in rows),
        tau_b_mean=float(np.mean(taus)) if taus else None,
        best_found_frac=float(np.mean([row.best_found_frac for row in rows])),
        regret_mean_frac=float(np.mean([row.regret_mean_frac for row in rows])),
        regret_max_frac=max(row.regret_max_frac for row in rows),
    )
