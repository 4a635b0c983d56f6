"""What happens under one given plan?"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from apex_sim.errors import InfeasiblePlanError, InputError, OutsideEnvelopeError
from apex_sim.instance.reference import OrderMaker, Policy
from apex_sim.planner.evaluation import Evaluation, run_plan, summarise_run
from apex_sim.planner.provenance import Provenance, provenance_of
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.study import Study
from apex_sim.record.run import FleetRun


@dataclass(frozen=True, slots=True)
class Simulation:
    """One plan simulated, with all its records."""

    study: Study
    evaluation: Evaluation
    run: FleetRun
    provenance: Provenance


def simulate_study(
    study: Study,
    *,
    check: bool = False,
    reference: bool = False,
    policy: Policy | None = None,
    order: OrderMaker | None = None,
    strict: bool = False,
) -> Simulation:
    """Simulate the one plan of the study's space; a `policy` and an `order` of the caller's go before the plan's.

    Raises
    ------
    OutsideEnvelopeError : `strict` is set and the plan lies outside of what measured servers back.
    InfeasiblePlanError : that plan cannot run.
    InputError : the space holds more than one plan.
    """
    space = enumerate_space(study)
    if space.n_enumerated > 1:
        labels = [plan.label for plan in space.feasible] + [refusal.plan.label for refusal in space.infeasible]
        raise InputError(
            f"{space.n_enumerated} plans ({', '.join(labels[:4])} ...), and a simulation takes one",
            where=f"study {study.name}, table [space]",
            remedy="state one tp, pp, dp, weight_dtype and kv_dtype, or use search",
        )
    if space.infeasible:
        raise InfeasiblePlanError(f"{space.infeasible[0].plan.label}: {space.infeasible[0].reason}")
    started = time.process_time()
    run, compiled = run_plan(study, space.feasible[0], check=check, reference=reference, policy=policy, order=order)
    evaluation = summarise_run(study, run, compiled, time.process_time() - started)
    if strict and evaluation.standing and not evaluation.standing.inside:
        raise OutsideEnvelopeError(f"study {study.name}, {evaluation.plan.label}", evaluation.standing.outside)
    provenance, own = provenance_of(study), _callers_own(policy, order)
    if own:
        evaluation = replace(evaluation, engine_reason=" and no ".join(own))
        notes = (f"{each} of the caller's own: Python code" for each in own)
        provenance = replace(provenance, assumed=(*provenance.assumed, *notes))
    return Simulation(study, evaluation, run, provenance)


def _callers_own(policy: Policy | None, order: OrderMaker | None) -> list[str]:
    """Return what of the scheduler the caller handed in, by name."""
    given = {"policy": policy, "queue order": order}
    return [f"{what} {getattr(code, '__name__', code)}" for what, code in given.items() if code is not None]
