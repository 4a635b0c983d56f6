"""Which rates does a plan keep, and which does it fail, on each draw of its load?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from apex_sim.fleet.compiled_plan import CompiledPlan
from apex_sim.plan.plan import Plan
from apex_sim.planner.another_draw import at_rate
from apex_sim.planner.study import Study
from apex_sim.planner.trial import Trial, try_decided
from apex_sim.workload.workload import Workload

#: Rates that are asked first, over the estimated capacity: a limit may also fail where the rate is low (a cost).
_FIRST: Final = tuple(2.0**power for power in range(-6, 2))
#: Where the search for a rate that fails, or keeps, gives up.
_MOST, _LEAST = 64.0, 2.0**-14
#: How often an end of the interval is moved until all draws agree on it.
_N_MOVES: Final = 40


@dataclass(frozen=True, slots=True)
class Judgement:
    """One draw at one rate: whether the plan keeps everything, else what it breaks."""

    rate_per_s: float
    draw: int
    keeps: bool
    verdict: str
    too_short: bool


@dataclass(slots=True)
class RateBracket:
    """What is known about a plan's draws at rates; asks the simulator for the rest."""

    study: Study
    plan: Plan
    compiled: CompiledPlan
    draws: Sequence[Workload]
    share_frac: float | None
    found: dict[tuple[int, float], Judgement] = field(default_factory=dict)

    def keeps(self, draw: int, rate_per_s: float) -> bool:
        """Return whether `draw` keeps everything at this rate."""
        key = draw, rate_per_s
        if key not in self.found:
            study = replace(self.study, workload=at_rate(self.draws[draw], rate_per_s))
            trial = try_decided(study, self.plan, self.compiled, draw)
            keeps, verdict = self._judge(trial)
            self.found[key] = Judgement(rate_per_s, draw, keeps, verdict, trial.too_short)
        return self.found[key].keeps

    def _judge(self, trial: Trial) -> tuple[bool, str]:
        if self.share_frac is None:
            return trial.keeps, trial.verdict
        kept_frac = trial.metrics["slo_attainment_frac"] or 0.0
        within = f"{kept_frac:.1%} of requests are within the limits"
        if trial.stability.steady is False:
            return False, f"{trial.stability.reason}; {within}"
        return kept_frac >= self.share_frac, within

    def bracket(self, draw: int, estimate_per_s: float, start: float | None) -> tuple[float | None, float | None]:
        """Return a rate that `draw` keeps and a higher one that it fails; None where there is none."""
        if start is None:
            kept = [estimate_per_s * share for share in _FIRST if self.keeps(draw, estimate_per_s * share)]
            start, step = max(kept, default=estimate_per_s * _FIRST[0]), 2.0
        else:
            step = 1.2
        if self.keeps(draw, start):
            high = self._first(lambda rate: not self.keeps(draw, rate), start, step, estimate_per_s * _MOST)
            return (high / step if high else start), high
        low = self._first(lambda rate: self.keeps(draw, rate), start, 1 / step, estimate_per_s * _LEAST)
        return low, (low * step if low else start)

    @staticmethod
    def _first(holds: Callable[[float], bool], start: float, step: float, last: float) -> float | None:
        """Return the first of start x step, start x step^2 ... up to `last` for which `holds`."""
        n_steps = math.floor(abs(math.log(last / start) / math.log(step)))
        return next((start * step**n for n in range(1, n_steps + 1) if holds(start * step**n)), None)

    def halve(self, draw: int, low: float | None, high: float | None, ratio: float) -> None:
        """Ask at the middle until the rates that `draw` keeps and fails are no further apart than `ratio`."""
        while low is not None and high is not None and high / low > ratio:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.keeps(draw, middle) else (low, middle)

    def ends(self, ratio: float) -> tuple[float | None, float | None]:
        """Return the highest rate that all draws were seen to keep, and above it the lowest that none was."""
        highest = [self._highest_kept(draw) for draw in range(len(self.draws))]
        kept = [rate for rate in highest if rate is not None]
        low = self._moved(min(kept), 1 / ratio, True) if len(kept) == len(highest) else None
        above = [self._lowest_failed_above(draw, rate) for draw, rate in enumerate(highest)]
        failed = [rate for rate in above if rate is not None]
        high = self._moved(max(failed), ratio, False) if len(failed) == len(above) else None
        return low, high

    def _moved(self, rate_per_s: float, step: float, keeps: bool) -> float | None:
        """Return the first of rate, rate x step ... at which every draw keeps, or every one fails."""
        for n in range(_N_MOVES):
            rate = rate_per_s * step**n
            if all(self.keeps(draw, rate) == keeps for draw in range(len(self.draws))):
                return rate
        return None

    def _highest_kept(self, draw: int) -> float | None:
        rates = [each.rate_per_s for each in self.found.values() if each.draw == draw and each.keeps]
        return max(rates, default=None)

    def _lowest_failed_above(self, draw: int, rate_per_s: float | None) -> float | None:
        least = rate_per_s or 0.0
        failed = [each.rate_per_s for each in self.found.values() if each.draw == draw and not each.keeps]
        return min((rate for rate in failed if rate > least), default=None)
