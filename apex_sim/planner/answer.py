"""What is the answer to a study: every plan simulated and ranked, and what it rests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from apex_sim.errors import NoAnswerError, OutsideEnvelopeError
from apex_sim.metrics.definitions import METRICS
from apex_sim.planner.certificate import Certificate, certify
from apex_sim.planner.crew import Crew
from apex_sim.planner.effort import Effort
from apex_sim.planner.error_bars import Beats, beats_of, coin_tosses
from apex_sim.planner.evaluation import Evaluation
from apex_sim.planner.job import Glimpse, Job, Outcome
from apex_sim.planner.provenance import Provenance, provenance_of
from apex_sim.planner.ranking import is_answer, pareto_front, rank
from apex_sim.planner.space import Refusal, Space, enumerate_space
from apex_sim.planner.strategy import Strategy
from apex_sim.planner.study import Study

#: So many leaders get error bars, of loads with few requests and with many.
_MOST_BARS: Final = 20
_FEW_BARS: Final = 5
_MANY_REQUESTS: Final = 3000

#: Told how many plans are done, out of how many.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The plans of a study that were simulated whole, ranked best first, with those that cannot run and why.

    `beats` holds for each plan how probably it is better in truth than each of the leaders, `glimpses` what is known of
    the plans that were not simulated whole; `interrupted` says that the search was stopped before its end.
    """

    study: Study
    plans: tuple[Evaluation, ...]
    infeasible: tuple[Refusal, ...]
    pareto: tuple[Evaluation, ...]
    certificate: Certificate
    provenance: Provenance
    beats: tuple[Beats, ...] = ()
    glimpses: tuple[Glimpse, ...] = ()
    interrupted: bool = False

    @property
    def coin_tosses(self) -> tuple[str, ...]:
        """Labels of the plans that cannot be told from the best: choosing it over them is a coin toss."""
        return coin_tosses(self.plans, self.beats)

    @property
    def best(self) -> Evaluation:
        """The best plan.

        Raises
        ------
        NoAnswerError : no plan runs, or none is steady and keeps the SLOs.
        """
        problem = self.problem
        if problem:
            raise NoAnswerError(problem)
        return self.plans[0]

    @property
    def problem(self) -> str:
        """Why there is no answer; empty when there is one."""
        if not self.plans and self.glimpses:
            return f"no plan of {self.study.name} keeps every limit: {'; '.join(self.shortfalls)}"
        if not self.plans:
            rules = Counter(refusal.rule for refusal in self.infeasible).most_common(3)
            reasons = "; ".join(f"{n} plans: {rule}" for rule, n in rules)
            first = f"{self.infeasible[0].plan.label}: {self.infeasible[0].reason}" if self.infeasible else "none"
            return f"no plan can run {self.study.model.name} on {self.study.cluster.name} ({first}; in all {reasons})"
        if not is_answer(self.plans[0]):
            closest = self.plans[0]
            why = "; ".join([closest.why, *self.shortfalls])
            return f"no plan is steady and keeps every SLO; the closest, {closest.plan.label}: {why}"
        return ""

    @property
    def shortfalls(self) -> tuple[str, ...]:
        """Each limit that no plan of the space keeps, and how much is missing under the plan that comes closest."""
        found = []
        for name, limit in self.study.slo.limits:
            values = [plan.metrics[name] for plan in self.plans] + [each.bounds.get(name) for each in self.glimpses]
            known = [value for value in values if value is not None]
            if len(known) < len(values) or not known:
                continue
            is_upper = METRICS[name].better == "lower"
            best = min(known) if is_upper else max(known)
            if best > limit if is_upper else best < limit:
                what, missing = "least" if is_upper else "most", abs(best - limit)
                found.append(f"{name} is {best:.4g} at the {what}, {limit:g} is the limit: {missing:.4g} missing")
        return tuple(found)


def answer_study(
    study: Study,
    *,
    n_jobs: int | None = None,
    progress: Progress | None = None,
    check: bool = False,
    reference: bool = False,
    strict: bool = False,
    effort: Effort | None = None,
    dask: str | None = None,
    store: Path | None = None,
    item_timeout_s: float | None = None,
    log: Callable[[str], object] | None = None,
) -> SearchResult:
    """Search the study's space for its best plan, and say how far from the best possible it can be.

    Parameters
    ----------
    n_jobs : worker processes; None decides by the work at hand.  The result does not depend on it.
    progress : told after each job, with how many are done and how many are known of.
    check : assert the numbered invariants in every run.
    reference : run the readable engine instead of the compiled one.
    strict : refuse plans that lie outside of what measured servers back.
    effort : how far the search goes; spaces of some plans are simulated whole.
    dask, store, item_timeout_s, log : as of `apex_sim.planner.crew.Crew`.

    An interrupt (Ctrl-C) ends the search with the best plan so far.

    Raises
    ------
    OutsideEnvelopeError : `strict` leaves no plan.
    InputError : the space is empty, a request does not fit the model's context, or the store cannot be used.
    KeyboardInterrupt : nothing had been simulated yet.
    """
    space = enumerate_space(study)
    strategy = Strategy(study, space, effort or Effort(), check=check, reference=reference, strict=strict)
    with Crew(study, n_jobs=n_jobs, dask=dask, store=store, item_timeout_s=item_timeout_s, log=log) as crew:
        interrupted = _search(strategy, crew, progress)
        return _result(study, space, strategy, crew, interrupted=interrupted)


def _search(strategy: Strategy, crew: Crew, progress: Progress | None) -> bool:
    """Ask, do and tell until nothing is left; return whether the user stopped it."""
    n_done = 0
    outcomes: list[tuple[Job, Outcome]] = []
    try:
        while jobs := strategy.ask():
            outcomes = []
            for outcome in crew.perform(jobs):
                outcomes.append(outcome)
                n_done += 1
                if progress:
                    progress(n_done, n_done + len(jobs) - len(outcomes) + strategy.n_ahead(jobs))
            strategy.tell(outcomes)
    except KeyboardInterrupt:
        strategy.tell(outcomes)
        if not strategy.evaluations:
            raise
        return True
    return False


def _result(study: Study, space: Space, strategy: Strategy, crew: Crew, *, interrupted: bool) -> SearchResult:
    if strategy.outside and not strategy.evaluations:
        raise OutsideEnvelopeError(f"study {study.name}", strategy.outside)
    refusals = list(strategy.refusals.values())
    ranked = rank([evaluation for _, evaluation in sorted(strategy.evaluations.items())], study.objective)
    try:
        ranked = ranked if interrupted else _with_bars(crew, ranked, study)
    except KeyboardInterrupt:
        interrupted = True
    bars = ranked[0].intervals.get(study.objective.name) if ranked else None
    sampling_frac = bars.workload_frac if bars else None
    return SearchResult(
        study=study,
        plans=tuple(ranked),
        infeasible=(*space.infeasible, *refusals),
        pareto=tuple(pareto_front(ranked)),
        certificate=certify(strategy, study.objective, space.n_enumerated, sampling_frac),
        provenance=provenance_of(study),
        beats=beats_of(ranked, study.objective),
        glimpses=tuple(glimpse for i, glimpse in sorted(strategy.glimpses.items()) if i not in strategy.evaluations),
        interrupted=interrupted,
    )


def _with_bars(crew: Crew, ranked: list[Evaluation], study: Study) -> list[Evaluation]:
    """Return the plans, the first of them with error bars."""
    most = _MOST_BARS if study.workload.requests.n <= _MANY_REQUESTS else _FEW_BARS
    bare = [each for each in ranked[:most] if each.spread is None and each.engine != "reference"]
    done = dict(crew.perform([Job(each.plan, None, bars=True) for each in bare]))
    with_bars = {job.plan: outcome for job, outcome in done.items() if isinstance(outcome, Evaluation)}
    return [with_bars.get(each.plan, each) for each in ranked]
