"""What does `--json` say?  The results as plain numbers, texts, lists and tables: strict JSON, one document each."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from apex_sim.plan.engines import ENGINES, engines_of
from apex_sim.plan.plan import Plan
from apex_sim.planner.answer import SearchResult
from apex_sim.planner.evaluation import Evaluation
from apex_sim.planner.job import Glimpse
from apex_sim.planner.simulation import Simulation
from apex_sim.planner.study import Study

if TYPE_CHECKING:
    from apex_sim.truth.validation import Validation

#: Raised when a key of a document changes its meaning or goes away.
SCHEMA_VERSION: Final = 1

#: Plans not simulated whole that a document names.
MAX_GLIMPSES: Final = 1000

Document = dict[str, Any]


def search_document(result: SearchResult) -> Document:
    """Return the whole answer to a study; parts that are not built yet are None."""
    tosses = result.coin_tosses
    document = {
        "schema_version": SCHEMA_VERSION,
        "study": study_document(result.study),
        "problem": result.problem or None,
        "plans": [
            {
                "rank": rank,
                "plan": evaluation.plan.as_dict(),
                "engines": engines_of_plan(result.study, evaluation.plan),
                **evaluation_document(evaluation),
                "beats": beats,
                "coin_toss_with_best": evaluation.plan.label in tosses,
            }
            for rank, (evaluation, beats) in enumerate(zip(result.plans, result.beats, strict=True), start=1)
        ],
        "infeasible": [{"plan": r.plan.as_dict(), "reason": r.reason} for r in result.infeasible],
        "pareto": [evaluation.plan.label for evaluation in result.pareto],
        "certificate": asdict(result.certificate),
        "not_simulated": [_glimpse_document(result, glimpse) for glimpse in result.glimpses[:MAX_GLIMPSES]],
        "interrupted": result.interrupted,
        "provenance": asdict(result.provenance),
    }
    return json_safe(document)  # type: ignore[no-any-return]


def engines_of_plan(study: Study, plan: Plan) -> list[str]:
    """Return the engines that can run every shape of a plan today."""
    by_shape = [engines_of(study.model, shape) for shape, _ in plan.instances]
    return [engine for engine in ENGINES if all(engine in engines for engines in by_shape)]


def _glimpse_document(result: SearchResult, glimpse: Glimpse) -> Document:
    """Return what is known of a plan that was not simulated whole."""
    name = result.study.objective.name
    return {
        "label": glimpse.plan.label,
        "bound": glimpse.bounds.get(name),
        "n_requests": glimpse.n_requests,
        "estimate": glimpse.estimates.get(name),
        "breaks": list(glimpse.breaks),
    }


def simulation_document(simulation: Simulation) -> Document:
    """Return what happened under one plan."""
    evaluation = simulation.evaluation
    document = {
        "schema_version": SCHEMA_VERSION,
        "study": study_document(simulation.study),
        "plan": evaluation.plan.as_dict(),
        **evaluation_document(evaluation),
        "provenance": asdict(simulation.provenance),
    }
    return json_safe(document)  # type: ignore[no-any-return]


def validation_document(validation: Validation) -> Document:
    """Return predicted, measured and error of every case, and their summary."""
    document = {"schema_version": SCHEMA_VERSION, **asdict(replace(validation, spreads={}))}
    del document["spreads"], document["cpu_s"]  # the latter is the only figure that differs between two runs
    return json_safe(document)  # type: ignore[no-any-return]


def study_document(study: Study) -> Document:
    """Return the question."""
    workload = study.workload
    return {
        "name": study.name,
        "title": study.title,
        "model": study.model.name,
        "cluster": study.cluster.name,
        "device": "+".join(pool.device.name for pool in study.cluster.pools),
        "n_devices": study.cluster.n_devices_in_all,
        "workload": workload.name,
        "workload_source": workload.source,
        "n_requests": workload.requests.n,
        "prompt_tokens_mean": float(workload.requests.prompt_tokens.mean()),
        "output_tokens_mean": float(workload.requests.output_tokens.mean()),
        "load": {**asdict(workload.load), "rate_per_s": workload.rate_per_s},
        "preset": study.preset.name,
        "objective": study.objective.name,
        "better": study.objective.better,
        "slo": dict(study.slo.limits),
        "cost_model": study.cost_model,
    }


def evaluation_document(evaluation: Evaluation) -> Document:
    """Return the result of one plan; `breakdown` holds exposed device-seconds and their shares by operator."""
    stability = asdict(evaluation.stability)
    return {
        "metrics": dict(evaluation.metrics),
        "steady": stability.pop("steady"),
        "stability": stability,
        "why": evaluation.why,
        "slo_violations": list(evaluation.slo_violations),
        "breakdown": {"device_s": evaluation.breakdown_s, "share_frac": breakdown_shares(evaluation)},
        "memory": evaluation.memory,
        "intervals": {name: asdict(bar) for name, bar in evaluation.intervals.items()} or None,
        "standing": asdict(evaluation.standing) if evaluation.standing else None,
        "n_steps": evaluation.n_steps,
        "engine": evaluation.engine,
        "engine_reason": evaluation.engine_reason,
        "cost_model": evaluation.cost_name,
        "cost_model_provenance": evaluation.provenance,
        "cost_shares": [asdict(share) for share in evaluation.cost_shares],
    }


def breakdown_shares(evaluation: Evaluation) -> dict[str, float]:
    """Return the share of device time of each operator, idle included; they add up to 1."""
    total_s = sum(evaluation.breakdown_s.values())
    return {name: seconds / total_s if total_s else 0.0 for name, seconds in evaluation.breakdown_s.items()}


def json_safe(value: Any) -> Any:
    """Return `value` with tuples as lists, paths as text, NumPy numbers as Python's, and None for NaN and infinity.

    Examples
    --------
    >>> json_safe({"a": (1.0, float("nan"))})
    {'a': [1.0, None]}
    """
    if isinstance(value, dict):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
