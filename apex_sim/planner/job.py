"""What is one piece of a search's work, and what comes of it?

A job looks at one plan: by its bounds alone, on the first requests of the workload, or on all of them.  What comes of
it depends on nothing but the study and the job.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from apex_sim.cost.step_model import StepModel
from apex_sim.errors import InfeasiblePlanError
from apex_sim.fleet.compiled_plan import CompiledPlan, compile_plan
from apex_sim.fleet.fleet import simulate_plan
from apex_sim.metrics.definitions import METRICS
from apex_sim.metrics.summary import plan_usd_per_h, summarise
from apex_sim.plan.memory import Memory
from apex_sim.plan.plan import Plan
from apex_sim.plan.shape import Shape
from apex_sim.planner.bounds.plan_bound import Seen, plan_bounds
from apex_sim.planner.bounds.seen import head_of, seen_in
from apex_sim.planner.bounds.solo import SoloTimes, shared_prefix_tokens, solo_times
from apex_sim.planner.evaluation import Evaluation, capacity_per_s, costs_of, evaluate
from apex_sim.planner.space import Refusal
from apex_sim.planner.study import Study

#: Tables of shapes that a process keeps, 20 to 80 MB each, and bounds of requests by shape.
_MOST_TABLE_BYTES: Final = 1 << 30
_MOST_SOLO_BYTES: Final = 1 << 28

CompiledShape = tuple[Memory, StepModel]


@dataclass(frozen=True, slots=True)
class Job:
    """Look at `plan` on the first `n_requests` (0: bounds only; None: all), with error bars or without."""

    plan: Plan
    n_requests: int | None
    bars: bool = False
    check: bool = False
    reference: bool = False


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What a plan can reach at best, and how it did on the first requests.

    Parameters
    ----------
    n_requests : how many were simulated; 0 if none.
    bounds : by metric, what no simulation of the whole workload can beat.
    estimates : metrics of the run of the first requests; empty without one.
    breaks : limits of the study that the plan breaks for certain, one sentence each.
    load_frac : offered rate over the estimated capacity; None where there is no rate, or nothing was simulated.
    """

    plan: Plan
    n_requests: int
    bounds: Mapping[str, float]
    estimates: Mapping[str, float | None]
    breaks: tuple[str, ...]
    load_frac: float | None
    cpu_s: float


Outcome = Evaluation | Glimpse | Refusal


class Bench:
    """Does the jobs of one study, and keeps the tables of the shapes that it compiled last."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._compiled: OrderedDict[Shape, CompiledShape] = OrderedDict()
        self._solo: dict[Shape, SoloTimes] = {}
        self._shared_tokens = shared_prefix_tokens(study.workload.requests)

    def __getstate__(self) -> Study:
        """Send the question to another process, not what was made of it."""
        return self._study

    def __setstate__(self, study: Study) -> None:
        """Start anew in another process."""
        self.__init__(study)  # type: ignore[misc]

    def __call__(self, job: Job) -> Outcome:
        """Return what comes of a job."""
        try:
            if job.n_requests is not None:
                return self._glimpse(job.plan, job.n_requests)
            compiled = self._compile(job.plan)
            return evaluate(
                self._study, job.plan, check=job.check, reference=job.reference, bars=job.bars, compiled=compiled
            )
        except InfeasiblePlanError as error:
            return Refusal(job.plan, error.reason)

    def _glimpse(self, plan: Plan, n_requests: int) -> Glimpse:
        started = time.process_time()
        study, compiled, workload = self._study, self._compile(plan), self._study.workload
        estimates: Mapping[str, float | None] = {}
        seen: Seen | None = None
        if n_requests:
            head, cost = head_of(workload, n_requests), costs_of(study)
            run = simulate_plan(study.model, study.cluster, plan, head, cost, compiled=compiled)
            estimates, seen = summarise(run, study.cluster, study.slo), seen_in(run.requests, workload)
        shapes = [(self._solo_of(shape, compiled), count) for shape, count in plan.instances]
        bounds = plan_bounds(shapes, workload, plan_usd_per_h(plan, study.cluster), seen)
        rate_per_s = workload.requests.rate_per_s if n_requests and workload.load.kind == "trace" else None
        load_frac = rate_per_s / capacity_per_s(study, plan, compiled) if rate_per_s else None
        cpu_s = time.process_time() - started
        return Glimpse(plan, n_requests, bounds, estimates, tuple(broken(study, bounds)), load_frac, cpu_s)

    def _compile(self, plan: Plan) -> CompiledPlan:
        for shape, _ in plan.instances:
            if shape not in self._compiled:
                alone = Plan(((shape, 1),))
                self._compiled |= compile_plan(self._study.model, self._study.cluster, alone, costs_of(self._study))
            self._compiled.move_to_end(shape)
        compiled = {shape: self._compiled[shape] for shape, _ in plan.instances}
        n_bytes = sum(step_model.n_bytes for _, step_model in self._compiled.values())
        while n_bytes > _MOST_TABLE_BYTES and len(self._compiled) > len(compiled):
            _, (_, step_model) = self._compiled.popitem(last=False)
            n_bytes -= step_model.n_bytes
        return compiled

    def _solo_of(self, shape: Shape, compiled: CompiledPlan) -> SoloTimes:
        if shape not in self._solo:
            self._solo[shape] = solo_times(compiled[shape][1], self._study.workload.requests, self._shared_tokens)
            while len(self._solo) > 1 and len(self._solo) * self._solo[shape].n_bytes > _MOST_SOLO_BYTES:
                del self._solo[next(iter(self._solo))]
        return self._solo[shape]


def broken(study: Study, bounds: Mapping[str, float]) -> list[str]:
    """Return one sentence for each limit of the study that not even the bounds keep."""
    found = []
    for name, limit in study.slo.limits:
        best = bounds.get(name)
        if best is None:
            continue
        is_upper = METRICS[name].better == "lower"
        if best > limit if is_upper else best < limit:
            found.append(f"{name} is {'at least' if is_upper else 'at most'} {best:.4g}, {limit:g} is the limit")
    return found
