"""Which plan is looked at next, and how closely?

Bounds first: they are cheap, and no simulation beats them.  Then the first requests of the workload for the plans with
the best bounds, the whole workload for the plans that did best on them, and at last whatever the proof still needs: the
plan with the lowest bound is looked at more closely, until no plan can be better than the best found by more than the
gap that was asked for, or until the allowed share of the plans has been simulated whole.

`ask` returns jobs whose order of completion does not matter, `tell` takes what came of all of them.  What is asked
depends on outcomes only, never on time or on who does the jobs, so that every run of a search takes the same way.

Where all requests are there from the start, a run of the first ones proves nothing of the whole, and misleads about the
plans to simulate unless it is corrected by what others of the family did (`family`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from apex_sim.planner.bound_order import BoundOrder, low_or_between
from apex_sim.planner.bounds.seen import has_prefixes
from apex_sim.planner.effort import GAP_FRAC, LONGEST_PREFIX_FRAC, Effort, n_first_requests
from apex_sim.planner.evaluation import Evaluation
from apex_sim.planner.family import Lessons, family_of, n_differences, one_of_each_first
from apex_sim.planner.job import Glimpse, Job, Outcome
from apex_sim.planner.ranking import is_answer, loss_of
from apex_sim.planner.space import Refusal, Space
from apex_sim.planner.study import Study
from apex_sim.truth.envelope import Standing

#: Spaces up to this size are simulated whole.
SMALL: Final = 24
#: The least number of plans that may be simulated whole.
_LEAST_WHOLE: Final = 8
#: Plans that are looked at on the first requests before the first one is simulated whole, and in each round after.
_FIRST_ROUND: Final = 24
_ROUND: Final = 16
#: Plans simulated whole in a round.
_WHOLE_ROUND: Final = 4
#: Plans are simulated whole before the proof if their first requests did no worse than this beside the best's.
_PROMISING_FRAC: Final = 0.1

#: Plans that are simulated whole in any case.
_ALTERNATIVES: Final = 5
#: How much better on the first requests is worth a simulation at once, and of how many plans.
_BETTER_FRAC: Final = 0.02
_BETTER_ROUND: Final = 2


class Strategy:
    """The state of one search; `outside` are the reasons for which plans outside the validated range were refused."""

    def __init__(
        self,
        study: Study,
        space: Space,
        effort: Effort,
        *,
        check: bool = False,
        reference: bool = False,
        strict: bool = False,
    ) -> None:
        self._study, self._objective, self._effort = study, study.objective, effort
        self.plans = space.feasible
        self._choices = [dict(space.choices.get(plan, ())) for plan in self.plans]
        self._number = {plan: index for index, plan in enumerate(self.plans)}
        self._families = [family_of(plan) for plan in self.plans]
        self._check, self._reference, self._strict = check, reference, strict
        self.evaluations: dict[int, Evaluation] = {}
        self.glimpses: dict[int, Glimpse] = {}
        self.refusals: dict[int, Refusal] = {}
        self.outside: dict[str, None] = {}
        self.best: int | None = None
        self._order, self._lessons = BoundOrder(len(self.plans)), Lessons()
        self._n_glimpse = n_first_requests(study.workload)
        self._has_glimpses = self._n_glimpse < study.workload.requests.n
        self._has_prefixes = has_prefixes(study.workload)
        self._most_whole = max(_LEAST_WHOLE, math.floor(effort.whole_frac * len(self.plans)))

    @property
    def is_exhaustive(self) -> bool:
        """Whether every plan is simulated whole."""
        return self._effort.exhaustive or len(self.plans) <= SMALL

    def ask(self) -> list[Job]:
        """Return the next jobs; none when the search is over."""
        if self.is_exhaustive:
            return self._whole([i for i in range(len(self.plans)) if not self._is_done(i)])
        unbound = [i for i in range(len(self.plans)) if i not in self.glimpses and not self._is_done(i)]
        if unbound:
            return [Job(self.plans[i], 0) for i in unbound]
        return self._improve() or self._look() or self._doubt() or self._lead() or self._prove() or self._alternatives()

    def tell(self, outcomes: Sequence[tuple[Job, Outcome]]) -> None:
        """Take what came of the jobs."""
        changed = set[int]()
        for job, outcome in outcomes:
            index = self._number[job.plan]
            match outcome:
                case Refusal():
                    self.refusals[index] = outcome
                case Evaluation(standing=Standing(outside=reasons)) if self._strict and reasons:
                    text = f"outside the validated range: {'; '.join(reasons)}"
                    self.refusals[index] = Refusal(job.plan, text)
                    self.outside |= dict.fromkeys(reasons)
                case Evaluation():
                    self.evaluations[index] = outcome
                    if (glimpse := self.glimpses.get(index)) and glimpse.n_requests and not self._has_prefixes:
                        self._lessons.learn(self._families[index], self._first_loss(glimpse), self._whole_loss(index))
                case Glimpse():
                    self.glimpses[index] = outcome
            changed.add(index)
        self._order.change({i: None if self._is_done(i) else self.bound_loss(i) for i in changed})
        answers = [i for i, evaluation in self.evaluations.items() if is_answer(evaluation)]
        self.best = min(answers, key=lambda i: (self._whole_loss(i), i), default=None)

    def n_ahead(self, jobs: Sequence[Job]) -> int:
        """Return about how many jobs follow those that were asked for."""
        if self.is_exhaustive:
            return 0
        n_whole = max(0, self._most_whole - len(self.evaluations))
        n_glimpses = min(len(self.open_plans()), _ROUND * n_whole) if self._has_glimpses else 0
        return n_whole + (n_glimpses if any(job.n_requests == 0 for job in jobs) else 0)

    def bound_loss(self, index: int) -> float:
        """Return the least loss that a plan may still have: its own if it was simulated, infinite if it is no answer.

        A plan that breaks a limit for certain is no answer either.
        """
        if index in self.evaluations:
            return self._whole_loss(index) if is_answer(self.evaluations[index]) else math.inf
        glimpse = self.glimpses.get(index)
        if index in self.refusals or (glimpse and glimpse.breaks):
            return math.inf
        value = glimpse.bounds.get(self._objective.name) if glimpse else None
        return loss_of(value, self._objective) if value is not None else -math.inf

    @property
    def best_loss(self) -> float:
        """Loss of the best plan found, infinite without an answer."""
        return math.inf if self.best is None else self._whole_loss(self.best)

    def open_plans(self, gap_frac: float = 0.0) -> list[int]:
        """Return the plans not simulated whole that may beat the best by more than `gap_frac`, the likeliest first."""
        target = self.best_loss - gap_frac * abs(self.best_loss) if self.best is not None else math.inf
        return self._order.below(target)

    def _look(self) -> list[Job]:
        """Return plans to be compared on the first requests: those with the best bounds, while they may win."""
        if not self._has_glimpses:
            return []
        fresh = [i for i in self.open_plans() if not self.glimpses[i].n_requests]
        if self.best is None:
            n_seen = sum(glimpse.n_requests > 0 for glimpse in self.glimpses.values())
            n_more = _FIRST_ROUND + _ROUND * len(self.evaluations) - n_seen
            fresh = low_or_between(fresh, min(_ROUND, max(0, n_more)))
        return [Job(self.plans[i], self._n_glimpse) for i in low_or_between(fresh, _ROUND)]

    def _improve(self) -> list[Job]:
        """Return plans that did better on the first requests than the best: one that is better rules out more."""
        if self.best is None or self.best not in self.glimpses or len(self.evaluations) >= self._most_whole // 2:
            return []
        best = self._promise(self.best)[1]
        better = [
            promise
            for i in self.open_plans(self._gap_frac)
            if self.glimpses[i].n_requests and self.glimpses[self.best].n_requests
            for promise in [self._promise(i)]
            if not promise[0] and promise[1] < best - _BETTER_FRAC * abs(best)
        ]
        return self._whole([promise[-1] for promise in sorted(better)[:_BETTER_ROUND]])

    def _doubt(self) -> list[Job]:
        """Return the least loaded plan of those that seem overloaded, yet did better on the first requests.

        A capacity is an estimate, and a run may be over before a backlog shows.  The first that fails ends this.
        """
        failed = [i for i, each in self.evaluations.items() if self._seems_overloaded(i) and not is_answer(each)]
        is_half = self._most_whole // 2 <= len(self.evaluations) < self._most_whole
        if failed or not is_half or self.best not in self.glimpses:
            return []
        best = self._promise(self.best)[1]
        seem = [i for i in self.open_plans(self._gap_frac) if self._seems_overloaded(i)]
        better = [self._promise(i)[3:] for i in seem if self._promise(i)[1] < best - _BETTER_FRAC * abs(best)]
        return self._whole([index for _, index in sorted(better)[:1]])

    def _lead(self) -> list[Job]:
        """Return whom to simulate whole: the plans that did best on the first requests, while any did about as well.

        Where there are too few requests for first ones, bounds say less, and after half of the plans only the best's
        neighbours are worth it.
        """
        ready = [i for i in self.open_plans(self._gap_frac) if self._is_compared(i)]
        if self.best is not None:
            ready = [i for i in ready if self._promise(i)[0] <= self._promise(self.best)[0]]
            if len(self.evaluations) >= max(self._most_whole // 2, _WHOLE_ROUND):
                ready = [i for i in ready if self._is_promising(i)]
                if not self._has_glimpses:
                    ready = [i for i in ready if n_differences(self._choices[i], self._choices[self.best]) == 1]
        chosen = self._twins_last(ready)[: self._n_round]
        if self.best is None and len(chosen) > 1:  # whatever it costs, an answer rules out others
            chosen[-1] = min(ready, key=lambda i: (self._promise(i)[0], self.glimpses[i].load_frac or 0.0, i))
        return self._whole(list(dict.fromkeys(chosen)))

    def _prove(self) -> list[Job]:
        """Return what the proof needs: the plans with the lowest bounds, on so many requests as may rule them out."""
        jobs = []
        n_plans = self._n_round if self._effort.gap_frac is None else _WHOLE_ROUND
        for i in self.open_plans(self._gap_frac)[:n_plans]:
            n_requests = self._ruling_out(i)
            jobs.append(Job(self.plans[i], n_requests, check=self._check, reference=self._reference))
        return jobs

    def _alternatives(self) -> list[Job]:
        """Return plans that may be no better than the best but that users will want to see beside it."""
        n = min(_ALTERNATIVES, self._most_whole) - len(self.evaluations)
        seen = [i for i, glimpse in self.glimpses.items() if not self._is_done(i) and not glimpse.breaks]
        return self._whole(sorted(seen, key=self._promise)[: max(0, n)])

    def _ruling_out(self, index: int) -> int | None:
        """Return on how many requests a plan shows that it is worse than the best; None if only on nearly all.

        The bound grows from what the plan can do alone to what it does, in proportion to what was simulated.
        """
        glimpse, n = self.glimpses[index], self._study.workload.requests.n
        estimate = glimpse.estimates.get(self._objective.name)
        if not self._has_prefixes or estimate is None or self.best is None:
            return None
        if self._study.slo.limits and self._promise(index)[0]:  # more of its requests will show that it breaks a limit
            n_requests = 2 * glimpse.n_requests
            return n_requests if n_requests <= LONGEST_PREFIX_FRAC * n else None
        least, likely = self.bound_loss(index), loss_of(estimate, self._objective)
        target = self.best_loss - self._gap_frac * abs(self.best_loss)
        if not least < target < likely:
            return None
        share = glimpse.n_requests / n + 1.2 * (target - least) / (likely - least)
        n_requests = math.ceil(n * share)
        return None if share > LONGEST_PREFIX_FRAC or n_requests <= glimpse.n_requests else n_requests

    @property
    def _gap_frac(self) -> float:
        return GAP_FRAC if self._effort.gap_frac is None else self._effort.gap_frac

    @property
    def _n_round(self) -> int:
        """Plans simulated whole in the next round: no more than the allowed share has left.

        Few before there is an answer: the plans that it rules out by their bounds need not be looked at.
        """
        most = _WHOLE_ROUND if self.best is not None else min(_WHOLE_ROUND, max(1, self._most_whole // 8))
        return max(0, min(most, self._most_whole - len(self.evaluations)))

    def _is_done(self, index: int) -> bool:
        return index in self.evaluations or index in self.refusals

    def _is_compared(self, index: int) -> bool:
        return not self._has_glimpses or self.glimpses[index].n_requests > 0

    def _whole_loss(self, index: int) -> float:
        return loss_of(self.evaluations[index].metrics[self._objective.name], self._objective)

    def _promise(self, index: int) -> tuple[bool, float, float, float, int]:
        """Return what plans are ordered by before they are simulated whole; equals by their bounds, then by load."""
        glimpse = self.glimpses[index]
        fails = bool(glimpse.estimates and self._study.slo.violations(glimpse.estimates))
        expected = self._lessons.expected(self._families[index], self._first_loss(glimpse))
        load_frac, is_over = glimpse.load_frac or 0.0, self._seems_overloaded(index)
        return fails or is_over, expected, self.bound_loss(index), load_frac, index

    def _seems_overloaded(self, index: int) -> bool:
        return index in self.glimpses and (self.glimpses[index].load_frac or 0.0) >= 1.0

    def _first_loss(self, glimpse: Glimpse) -> float:
        estimates = glimpse.estimates or glimpse.bounds
        return loss_of(estimates.get(self._objective.name), self._objective)

    def _twins_last(self, indices: Sequence[int]) -> list[int]:
        """Return plans by their promise, those last that did exactly as another on the first requests.

        Where first requests mislead, those last whose family was simulated, until half of the allowed plans were.
        """
        ordered = sorted(indices, key=self._promise)
        if not self._has_glimpses:
            return ordered
        if not self._has_prefixes and len(self.evaluations) < self._most_whole // 2:
            return one_of_each_first(ordered, lambda i: self._families[i], self.evaluations)
        return one_of_each_first(ordered, lambda i: self._promise(i)[:2], self.evaluations)

    def _is_promising(self, index: int) -> bool:
        """Whether a plan did about as well as the best on the first requests."""
        if self.best is None or self.best not in self.glimpses:
            return True
        mine, best = self._promise(index), self._promise(self.best)
        return mine[0] <= best[0] and mine[1] <= best[1] + _PROMISING_FRAC * abs(best[1])

    def _whole(self, indices: Sequence[int]) -> list[Job]:
        bars = len(self.plans) <= SMALL
        return [Job(self.plans[i], None, bars=bars, check=self._check, reference=self._reference) for i in indices]
