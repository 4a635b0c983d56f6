"""How does a plan do under a change that is only tried?  One simulation, judged, without error bars."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from apex_sim.errors import UnknownNameError
from apex_sim.fleet.compiled_plan import CompiledPlan, compile_plan
from apex_sim.metrics.definitions import Metrics
from apex_sim.metrics.stability import Stability, judge_stability
from apex_sim.metrics.summary import summarise
from apex_sim.plan.plan import Plan
from apex_sim.planner.another_draw import longer_draw
from apex_sim.planner.evaluation import capacity_per_s, costs_of, run_plan
from apex_sim.planner.ranking import is_answer
from apex_sim.planner.study import Study
from apex_sim.record.run import FleetRun

#: How many times as long a load may become while its run is too short to judge.
_MOST_LONGER: Final = 16


@dataclass(frozen=True, slots=True)
class Trial:
    """One plan on one load: what happened, and how that is judged."""

    plan: Plan
    run: FleetRun
    metrics: Metrics
    stability: Stability
    slo_violations: tuple[str, ...]

    @property
    def keeps(self) -> bool:
        """Whether the plan keeps up with the load, keeps all SLOs and serves every request."""
        return is_answer(self)

    @property
    def verdict(self) -> str:
        """What is wrong with it in one sentence, or "keeps every limit"."""
        problems = list(self.slo_violations)
        if self.stability.steady is False:
            problems.insert(0, self.stability.reason)
        if self.metrics["n_rejected"]:
            problems.append(f"{self.metrics['n_rejected']:.0f} requests are refused")
        if self.too_short and not problems:
            return "keeps every limit, in a run too short to tell whether it keeps up"
        return "; ".join(problems) or "keeps every limit"

    @property
    def too_short(self) -> bool:
        """Whether the run of an open load ends before it is clear that its backlog does not grow."""
        return self.stability.steady is None and self.stability.offered_load_frac is not None


def compile_of(study: Study, plan: Plan) -> CompiledPlan:
    """Return memory and step model of each shape of `plan` under the study's cost back ends.

    Raises
    ------
    InfeasiblePlanError : a shape does not fit.
    """
    return compile_plan(study.model, study.cluster, plan, costs_of(study))


def try_plan(study: Study, plan: Plan, compiled: CompiledPlan | None = None) -> Trial:
    """Simulate `plan` on the study's workload.

    Parameters
    ----------
    compiled : what the plan was compiled to, where the caller has it already; it may differ from the study's own.

    Raises
    ------
    InfeasiblePlanError : the plan is illegal or does not fit.
    UnsupportedError : the study's calibration profile was fitted to far fewer or more requests at a time.
    """
    return judge_run(study, *run_plan(study, plan, compiled=compiled))


def try_decided(study: Study, plan: Plan, compiled: CompiledPlan | None = None, draw: int = 0) -> Trial:
    """Simulate `plan`, on a longer load where the study's is drawn and too short to tell whether the backlog grows.

    Parameters
    ----------
    draw : number of the load among other draws, so that no two go on alike.

    Raises
    ------
    InfeasiblePlanError, UnsupportedError : as `try_plan`.
    """
    compiled, factor = compiled or compile_of(study, plan), 1
    trial = try_plan(study, plan, compiled)
    while trial.too_short and study.workload.seed is not None and factor < _MOST_LONGER:
        factor *= 2
        longer = replace(study, workload=longer_draw(study.workload, factor, draw))
        trial = try_plan(longer, plan, compiled)
    return trial


def judge_run(study: Study, run: FleetRun, compiled: CompiledPlan) -> Trial:
    """Return `run` with its metrics and verdicts under the study's limits and prices."""
    metrics = summarise(run, study.cluster, study.slo)
    stability = judge_stability(run, study.workload, capacity_per_s(study, run.plan, compiled))
    return Trial(run.plan, run, metrics, stability, tuple(study.slo.violations(metrics)))


def plan_by_label(plans: Sequence[Plan], label: str, where: str) -> Plan:
    """Return the plan that tables call `label`, in any case.

    Raises
    ------
    UnknownNameError : no such plan; with the nearest labels.
    """
    by_label = {plan.label.lower(): plan for plan in plans}
    if label.lower() in by_label:
        return by_label[label.lower()]
    labels = [plan.label for plan in plans]
    near = difflib.get_close_matches(label.upper(), [each.upper() for each in labels], n=3, cutoff=0.3)
    known = [each for each in labels if each.upper() in near] or labels
    raise UnknownNameError("plan", label, known, where=where)
