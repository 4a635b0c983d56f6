"""Which plans could answer the question, and which are refused for what reason?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

import numpy as np

from apex_sim.errors import InfeasiblePlanError, InputError
from apex_sim.instance.policies import CACHING_POLICIES
from apex_sim.plan.kv_layout import layout_of
from apex_sim.plan.legality import require_legal_plan
from apex_sim.plan.memory import instance_memory
from apex_sim.plan.plan import Plan
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import SchedulerSettings, Shape, balanced_split, tensor_pipeline_stages
from apex_sim.planner.study import Study
from apex_sim.truth.calibration.profile_support import require_near_load, require_same_server

_MODEL_LEN_STEP: Final = 1024


@dataclass(frozen=True, slots=True)
class Refusal:
    """A plan that cannot run, and why."""

    plan: Plan
    reason: str


@dataclass(frozen=True, slots=True)
class Space:
    """All plans of a study: those that can run and those that cannot."""

    feasible: tuple[Plan, ...]
    infeasible: tuple[Refusal, ...]

    @property
    def n_enumerated(self) -> int:
        """Plans looked at."""
        return len(self.feasible) + len(self.infeasible)


def default_max_model_len(study: Study) -> int:
    """Return the workload's longest request rounded up to a multiple of 1,024 tokens, at most the model's context.

    Raises
    ------
    InputError : a request is longer than the model's context.
    """
    requests = study.workload.requests
    lengths = requests.prompt_tokens + requests.output_tokens
    longest = int(np.argmax(lengths))
    longest_tokens = int(lengths[longest])
    context = study.model.max_context_tokens
    if longest_tokens > context:
        raise InputError(
            f"request {longest} has {requests.prompt_tokens[longest]} prompt and {requests.output_tokens[longest]} "
            f"output tokens, {study.model.name} has a context of {context}",
            where=f"workload {study.workload.name}",
            remedy="drop the request or choose a model with a longer context",
        )
    return min(context, math.ceil(longest_tokens / _MODEL_LEN_STEP) * _MODEL_LEN_STEP)


def make_shape(study: Study, tp: int, layers: tuple[int, ...], precision: Precision, attention_dp: int = 1) -> Shape:
    """Return the shape of `tp` x `attention_dp` devices for each stage of `layers`, with the study's settings."""
    scheduler, context = study.scheduler, study.model.max_context_tokens
    if scheduler.max_model_len is not None and scheduler.max_model_len > context:
        raise InputError(
            f"max_model_len {scheduler.max_model_len} is above the context of {study.model.name}, {context}",
            where=f"study {study.name}, key 'scheduler.max_model_len'",
            remedy=f"give at most {context}, or leave it out",
        )
    settings = resolve_settings(
        study.preset,
        study.cluster.device,
        default_max_model_len(study) if scheduler.max_model_len is None else scheduler.max_model_len,
        tp=tp,
        pp=len(layers),
        attention_dp=attention_dp,
        policy=scheduler.policy,
        max_num_seqs=scheduler.max_num_seqs,
        max_num_batched_tokens=scheduler.max_num_batched_tokens,
        block_size_tokens=scheduler.block_size_tokens,
        gpu_memory_utilization_frac=scheduler.gpu_memory_utilization_frac,
        cuda_graphs=scheduler.cuda_graphs,
        async_scheduling=scheduler.async_scheduling,
        queue_order=scheduler.queue_order,
        prediction_log_sd=scheduler.prediction_log_sd,
        max_num_waiting=scheduler.max_num_waiting,
        preemption=scheduler.preemption,
        swap_bytes=scheduler.swap_bytes,
        speculation=scheduler.speculation(f"study {study.name}, table [scheduler]"),
        expert_imbalance=scheduler.expert_imbalance,
        where=f"study {study.name}, table [scheduler]",
    )
    settings = replace(settings, prefix_cache=_caches_prefixes(study, settings, tp))
    ep = attention_dp > 1 if study.space.ep is None else study.space.ep
    stages = tensor_pipeline_stages(layers, tp, attention_dp, ep=ep)
    return Shape(study.cluster.device.name, stages, precision, settings, study.preset)


def _caches_prefixes(study: Study, settings: SchedulerSettings, tp: int) -> bool:
    """Return whether an instance caches prefixes: as the study says, else as the engine does where that is built.

    Raises
    ------
    InputError : the study asks for it under a policy that has none.
    """
    has_policy, unit_tokens = settings.policy in CACHING_POLICIES, study.workload.requests.hash_block_tokens
    if study.scheduler.prefix_cache is not None:
        if study.scheduler.prefix_cache and not has_policy:
            raise InputError(
                f"prefix_cache with policy {settings.policy!r}, which has none yet",
                where=f"study {study.name}, table [scheduler]",
                remedy="use preset vllm-1 or leave it out",
            )
        return study.scheduler.prefix_cache
    layout = layout_of(study.model, settings.block_size_tokens, study.preset.frees_windows, tp)
    whole = unit_tokens is not None and unit_tokens % settings.block_size_tokens == 0
    return study.preset.caches_prefixes and has_policy and whole and layout.n_lists == 1


def enumerate_space(study: Study) -> Space:
    """Return every plan DP x attention DP x TP x PP of the study's space.

    All devices are used unless the space allows idle ones.  Degrees that do not multiply to the devices are no plans.

    Raises
    ------
    InputError : no combination of the stated degrees uses the devices.
    UnsupportedError : a plan is not the server that the study's calibration profile is of, or its load is too far from
        what was seen.
    """
    feasible, infeasible = [], []
    for plan in _plans(study):
        if study.profile:
            require_same_server(study.profile, [shape for shape, _ in plan.instances], study.model.name)
            require_near_load(study.profile, study.workload, plan.n_instances)
        try:
            require_legal_plan(study.model, study.cluster, plan)
            for shape, _ in plan.instances:
                instance_memory(study.model, study.cluster.device, shape)
        except InfeasiblePlanError as error:
            infeasible.append(Refusal(plan, error.reason))
        else:
            feasible.append(plan)
    if not feasible and not infeasible:
        raise InputError(
            f"no DP x TP x PP of the stated degrees gives {study.cluster.n_devices} devices",
            where=f"study {study.name}, table [space]",
            remedy="allow more degrees in tp, pp, dp or attention_dp, or set allow_idle = true (--allow-idle)",
        )
    return Space(tuple(feasible), tuple(infeasible))


def _plans(study: Study) -> Iterator[Plan]:
    space, n_devices = study.space, study.cluster.n_devices
    precisions = dict.fromkeys(Precision(weight, kv) for weight in space.weight_dtypes for kv in space.kv_dtypes)
    for precision in precisions:
        for pp in [len(space.layers)] if space.layers else _degrees(space.pp, n_devices):
            if pp > study.model.n_layers:
                continue
            layers = tuple(space.layers) or balanced_split(study.model.n_layers, pp)
            for tp, attention_dp in product(_degrees(space.tp, n_devices), sorted(set(space.attention_dp))):
                shape = make_shape(study, tp, layers, precision, attention_dp)
                for dp in _degrees(space.dp, n_devices):
                    used = dp * attention_dp * tp * pp
                    if used == n_devices or (space.allow_idle and used < n_devices):
                        yield Plan(((shape, dp),), space.router)


def _degrees(stated: list[int], n_devices: int) -> list[int]:
    """Return the stated degrees, or every divisor of the device count and power of two up to it."""
    if stated:
        return sorted(set(stated))
    return [d for d in range(1, n_devices + 1) if n_devices % d == 0 or d & (d - 1) == 0]
