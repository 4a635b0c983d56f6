"""What is the answer to a study: every plan simulated and ranked, and what it rests on."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from apex_sim import __version__
from apex_sim.errors import InfeasiblePlanError, NoAnswerError, OutsideEnvelopeError
from apex_sim.plan.plan import Plan
from apex_sim.planner.error_bars import Beats, beats_of, coin_tosses
from apex_sim.planner.evaluation import Evaluation, cost_name_of, evaluate
from apex_sim.planner.ranking import is_answer, pareto_front, rank
from apex_sim.planner.space import Refusal, enumerate_space
from apex_sim.planner.study import Study
from apex_sim.preset.research import RESEARCH_POLICIES
from apex_sim.truth.calibration.profile_support import profile_notes, require_near_load

#: Worker processes import the package anew; shorter work is done before they are up.
_WORKER_START_S: Final = 3.0

#: Told how many plans are done, out of how many.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Certificate:
    """How complete the search was; `best` is None without an answer, bound and gap until the search can prove them."""

    objective: str
    best: float | None
    n_enumerated: int
    n_pruned: int
    n_simulated: int
    bound: float | None = None
    gap_frac: float | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the result can be repeated from."""

    version: str
    python: str
    model: str
    model_source: str
    cluster: str
    workload: str
    workload_sha256: str
    workload_notes: tuple[str, ...]
    max_output_source: str
    seed: int | None
    preset: str
    cost_model: str
    assumed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """All plans of a study, ranked best first, with those that cannot run and why.

    `beats` holds for each plan how probably it is better in truth than each of the leaders.
    """

    study: Study
    plans: tuple[Evaluation, ...]
    infeasible: tuple[Refusal, ...]
    pareto: tuple[Evaluation, ...]
    certificate: Certificate
    provenance: Provenance
    beats: tuple[Beats, ...] = ()

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
        if not self.plans:
            reasons = "; ".join(f"{refusal.plan.label}: {refusal.reason}" for refusal in self.infeasible[:3])
            return f"no plan can run {self.study.model.name} on {self.study.cluster.name} ({reasons})"
        if not is_answer(self.plans[0]):
            first = self.plans[0]
            return f"no plan is steady and keeps every SLO; the closest, {first.plan.label}: {first.why}"
        return ""


def answer_study(
    study: Study,
    *,
    n_jobs: int | None = None,
    progress: Progress | None = None,
    check: bool = False,
    reference: bool = False,
    strict: bool = False,
) -> SearchResult:
    """Simulate every plan of the study's space and rank them.

    Parameters
    ----------
    n_jobs : worker processes; None decides by the work at hand.  The result does not depend on it.
    progress : told after each plan.
    check : assert the numbered invariants in every run.
    reference : run the readable engine instead of the compiled one.
    strict : refuse plans that lie outside of what measured servers back.

    Raises
    ------
    OutsideEnvelopeError : `strict` leaves no plan.
    InputError : the space is empty, or a request does not fit the model's context.
    """
    space = enumerate_space(study)
    evaluations, refusals = list[Evaluation](), list[Refusal]()
    for outcome in _evaluate_all(study, space.feasible, n_jobs, check, reference):
        if isinstance(outcome, Refusal):
            refusals.append(outcome)
        else:
            evaluations.append(outcome)
        if progress:
            progress(len(evaluations) + len(refusals), len(space.feasible))
    if strict:
        evaluations, outside = _inside(study, evaluations)
        refusals += outside
    ranked = rank(evaluations, study.objective)
    best = ranked[0].metrics[study.objective.name] if ranked and is_answer(ranked[0]) else None
    return SearchResult(
        study=study,
        plans=tuple(ranked),
        infeasible=(*space.infeasible, *refusals),
        pareto=tuple(pareto_front(ranked)),
        certificate=Certificate(study.objective.name, best, space.n_enumerated, 0, len(ranked)),
        provenance=provenance_of(study),
        beats=beats_of(ranked, study.objective),
    )


def _inside(study: Study, evaluations: list[Evaluation]) -> tuple[list[Evaluation], list[Refusal]]:
    """Return the plans inside the validated range, and the others as refused."""
    reasons = {each.plan: each.standing.outside for each in evaluations if each.standing}
    kept = [each for each in evaluations if not reasons[each.plan]]
    if evaluations and not kept:
        every = dict.fromkeys(reason for outside in reasons.values() for reason in outside)
        raise OutsideEnvelopeError(f"study {study.name}", every)
    refused = [plan for plan, outside in reasons.items() if outside]
    return kept, [Refusal(plan, f"outside the validated range: {'; '.join(reasons[plan])}") for plan in refused]


def _evaluate_all(
    study: Study, plans: tuple[Plan, ...], n_jobs: int | None, check: bool, reference: bool
) -> Iterator[Evaluation | Refusal]:
    """Yield the evaluations in the order of `plans`, in this process or in several."""
    if not plans:
        return
    first = _try(study, plans[0], check, reference)
    yield first
    rest = plans[1:]
    n_cores = os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()
    jobs = n_jobs or (n_cores or 1)
    cpu_s = 0.0 if isinstance(first, Refusal) else first.cpu_s
    pays = cpu_s * len(rest) * (1 - 1 / jobs) > _WORKER_START_S
    if jobs == 1 or len(rest) < 2 or not (n_jobs or pays):
        for plan in rest:
            yield _try(study, plan, check, reference)
        return
    from joblib import Parallel, delayed

    results: Iterable[Any] = Parallel(n_jobs=jobs, return_as="generator")(
        delayed(_try)(study, plan, check, reference) for plan in rest
    )
    yield from results


def _try(study: Study, plan: Plan, check: bool, reference: bool) -> Evaluation | Refusal:
    """Return the evaluation of `plan`, or why its engine stopped."""
    try:
        return evaluate(study, plan, check=check, reference=reference)
    except InfeasiblePlanError as error:
        return Refusal(plan, error.reason)


def provenance_of(study: Study) -> Provenance:
    """Return what a result of `study` can be repeated from, and which of its inputs are assumed."""
    preset, requests = study.preset, study.workload.requests
    assumed = [
        f"{preset.name} {name}: {part.source}"
        for name, part in (
            ("graphs", preset.graphs),
            ("host time", preset.host),
            ("slowdown of prompts", preset.slowdown),
            ("buffers", preset.buffers),
        )
        if part.kind == "assumed"
    ]
    if preset.ranks and study.space.attention_dp != [1]:
        assumed.append(f"{preset.name} attention ranks: {preset.ranks.source}")
    assumed += [*_of_research(study), *_of_speculation(study), *_of_profile(study)]
    for device in (pool.device for pool in study.cluster.pools):
        assumed += [f"{device.name} {key}: {f.source}" for key, f in device.figures.items() if f.kind == "assumed"]
    return Provenance(
        version=__version__,
        python=platform.python_version(),
        model=study.model.name,
        model_source=study.model.source,
        cluster=study.cluster.name,
        workload=study.workload.name,
        workload_sha256=requests.content_hash(),
        workload_notes=study.workload.notes,
        max_output_source=requests.max_output_source,
        seed=study.workload.seed,
        preset=preset.name,
        cost_model=cost_name_of(study),
        assumed=tuple(assumed),
    )


def _of_profile(study: Study) -> tuple[str, ...]:
    """Return what of a calibration a result stands on."""
    if study.profile is None:
        return ()
    server = study.profile.server
    n_instances = study.cluster.pool(server.device).n_devices // (server.tp * server.pp * server.attention_dp)
    near = require_near_load(study.profile, study.workload, max(n_instances, 1))
    return *profile_notes(study.profile), *near


def _of_research(study: Study) -> list[str]:
    """Return what of the study's scheduler the preset's engine does not have, or no engine."""
    scheduler, found = study.scheduler, []
    research = RESEARCH_POLICIES.get(scheduler.policy or "")
    if research:
        found.append(
            f"research policy {scheduler.policy} on the figures of {study.preset.name}, whose engine lacks it: "
            f"{research.source}"
        )
    if scheduler.preemption == "swap":
        found.append("swapping: each layer's keys and values of a block are copied in 2 us or more")
    if scheduler.queue_order == "shortest-predicted-first":
        spread = scheduler.prediction_log_sd or 0.0
        predictor = f"log-normal error of spread {spread:g}" if spread else "an exact predictor, which no server has"
        found.append(f"predicted output lengths: {predictor}")
    return found


def _of_speculation(study: Study) -> list[str]:
    """Return what a result with speculation rests on that nobody measured, and what speculation switched off."""
    speculation = study.scheduler.speculation(f"study {study.name}, table [scheduler]")
    if speculation is None:
        return []
    notes = [
        f"speculation: {speculation.label}, the study's own figure, independent for each token",
        f"draft {speculation.draft}: attention over several queries of a sequence is priced as more query heads, "
        "which no kernel table holds",
    ]
    if study.preset.async_scheduling:
        notes.append(
            "asynchronous scheduling is off beside speculation: vLLM 0.11 refuses it, 0.12 and 0.13 have it on request "
            "(https://github.com/vllm-project/vllm/pull/24799 ), which is not simulated yet"
        )
    return notes
