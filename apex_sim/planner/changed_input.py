"""What would each leader do if one input were another?  One input, one factor, one plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from apex_sim.cost.speed_change import Speeds, change_speeds
from apex_sim.errors import InfeasiblePlanError
from apex_sim.fleet.compiled_plan import CompiledPlan, with_preset
from apex_sim.metrics.slo import Slo
from apex_sim.plan.memory import instance_memory
from apex_sim.plan.plan import Plan
from apex_sim.planner.another_draw import at_rate, offered_rate_per_s
from apex_sim.planner.space import default_max_model_len
from apex_sim.planner.study import Study
from apex_sim.planner.trial import Trial, compile_of, judge_run, try_plan
from apex_sim.preset.preset import Preset
from apex_sim.workload.requests import Requests


@dataclass(frozen=True, slots=True)
class Leader:
    """One plan as it is: what it was compiled to, and what it did."""

    study: Study
    plan: Plan
    compiled: CompiledPlan
    trial: Trial


#: Returns what a leader does when an input is multiplied by a factor.
#: Raises InfeasiblePlanError where it then cannot run.
ChangedInput = Callable[[Leader, float], Trial]


def lead(study: Study, plan: Plan) -> Leader:
    """Return `plan` compiled and simulated as it is.

    Raises
    ------
    InfeasiblePlanError : it cannot run.
    """
    compiled = compile_of(study, plan)
    return Leader(study, plan, compiled, try_plan(study, plan, compiled))


def inputs_of(study: Study) -> Mapping[str, ChangedInput]:
    """Return every input that can be changed, by what tables call it; the study's own limits and load among them.

    Compute, bandwidth and network are speeds (`apex_sim.cost.speed_change`), the host's times are times.
    """
    found: dict[str, ChangedInput] = {}
    if study.workload.load.kind == "trace" and study.workload.requests.rate_per_s:
        found["arrival rate"] = _rate
    if study.workload.load.concurrency is not None:
        found["users"] = _users
    found |= {
        "prompt lengths": partial(_lengths, prompt=True),
        "output lengths": partial(_lengths, prompt=False),
        f"price of {study.cluster.device.name}": _price,
        "compute speed": partial(_speed, name="compute"),
        "memory bandwidth": partial(_speed, name="memory"),
        "network speed": partial(_speed, name="network"),
        "host time": _host,
        "share of memory": _memory,
    }
    return found | {f"limit {name}": partial(_limit, name=name) for name, _ in study.slo.limits}


def _again(leader: Leader, study: Study) -> Trial:
    return try_plan(study, leader.plan, leader.compiled)


def _rate(leader: Leader, factor: float) -> Trial:
    workload = leader.study.workload
    rate_per_s = offered_rate_per_s(workload, f"study {leader.study.name}")
    return _again(leader, replace(leader.study, workload=at_rate(workload, rate_per_s * factor)))


def _users(leader: Leader, factor: float) -> Trial:
    workload = leader.study.workload
    users = min(max(1, round((workload.load.concurrency or 1) * factor)), workload.requests.n)
    load = replace(workload.load, concurrency=users)
    changed = replace(workload, load=load, requests=workload.requests.closed_loop(users))
    return _again(leader, replace(leader.study, workload=changed))


def _lengths(leader: Leader, factor: float, prompt: bool) -> Trial:
    """Return the run with longer or shorter prompts or outputs; an instance's longest request grows where it must."""
    study = leader.study
    requests = _longer(study.workload.requests, factor, prompt=prompt)
    context = study.model.max_context_tokens
    if int((requests.prompt_tokens + requests.output_tokens).max()) > context:
        raise InfeasiblePlanError(f"requests longer than the model's context of {context} tokens")
    changed = replace(study, workload=replace(study.workload, requests=requests))
    longest = default_max_model_len(changed)
    if all(shape.scheduler.max_model_len >= longest for shape in leader.compiled):
        return _again(leader, changed)
    plan = replace(
        leader.plan,
        instances=tuple(
            (replace(shape, scheduler=replace(shape.scheduler, max_model_len=longest)), count)
            for shape, count in leader.plan.instances
        ),
    )
    return try_plan(changed, plan)


def _longer(requests: Requests, factor: float, *, prompt: bool) -> Requests:
    column = requests.prompt_tokens if prompt else requests.output_tokens
    tokens = np.maximum(1, np.rint(column * factor)).astype(np.int64)
    if prompt:
        return replace(requests, prompt_tokens=tokens)
    limit = requests.max_output_tokens
    stretched = np.where(limit > 0, np.maximum(np.rint(limit * factor), tokens), 0).astype(np.int64)
    return replace(requests, output_tokens=tokens, max_output_tokens=stretched)


def _price(leader: Leader, factor: float) -> Trial:
    cluster = leader.study.cluster
    device = replace(cluster.device, price_usd_per_h=cluster.device.price_usd_per_h * factor)
    return judge_run(replace(leader.study, cluster=replace(cluster, device=device)), leader.trial.run, leader.compiled)


def _limit(leader: Leader, factor: float, name: str) -> Trial:
    limits = tuple((each, limit * factor if each == name else limit) for each, limit in leader.study.slo.limits)
    return judge_run(replace(leader.study, slo=Slo(limits)), leader.trial.run, leader.compiled)


def _speed(leader: Leader, factor: float, name: str) -> Trial:
    speeds = Speeds(**{name: factor})
    compiled = {shape: (memory, change_speeds(steps, speeds)) for shape, (memory, steps) in leader.compiled.items()}
    return try_plan(leader.study, leader.plan, compiled)


def _host(leader: Leader, factor: float) -> Trial:
    def slower(preset: Preset) -> Preset:
        host = preset.host
        changed = replace(
            host,
            step_s=host.step_s * factor,
            sequence_s=host.sequence_s * factor,
            frontend_s=host.frontend_s * factor,
            prompt_token_s=host.prompt_token_s * factor,
            between_steps_s=host.between_steps_s * factor,
            rank_s=None if host.rank_s is None else host.rank_s * factor,
        )
        return replace(preset, host=changed)

    plan, compiled = with_preset(leader.plan, leader.compiled, slower)
    return try_plan(leader.study, plan, compiled)


def _memory(leader: Leader, factor: float) -> Trial:
    """Return the run with another share of device memory for weights and KV blocks, all of it at most."""
    study, compiled, shapes = leader.study, CompiledPlan(), {}
    for shape, (_, steps) in leader.compiled.items():
        share = min(1.0, shape.scheduler.gpu_memory_utilization_frac * factor)
        changed = replace(shape, scheduler=replace(shape.scheduler, gpu_memory_utilization_frac=share))
        shapes[shape] = changed
        compiled[changed] = instance_memory(study.model, study.cluster.device, changed), replace(steps, shape=changed)
    instances = tuple((shapes[shape], count) for shape, count in leader.plan.instances)
    return try_plan(study, replace(leader.plan, instances=instances), compiled)


def elasticity(up: float | None, down: float | None, factor: float) -> float | None:
    """Return d ln value / d ln input from the values at `factor` and at 1 / `factor`; None where one is missing.

    Examples
    --------
    >>> round(elasticity(1.21, 1 / 1.21, 1.1), 6)
    2.0
    """
    if not up or not down:
        return None
    return math.log(up / down) / (2 * math.log(factor))
