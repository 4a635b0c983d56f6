"""Which scheduler settings does an instance run with, once the engine's defaults are filled in?"""

from __future__ import annotations

from apex_sim.errors import InputError
from apex_sim.hardware.device import Device
from apex_sim.plan.shape import SchedulerSettings
from apex_sim.preset.preset import Preset
from apex_sim.preset.research import RESEARCH_POLICIES


def resolve_settings(
    preset: Preset,
    device: Device,
    max_model_len: int,
    *,
    pp: int = 1,
    policy: str | None = None,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
    block_size_tokens: int | None = None,
    gpu_memory_utilization_frac: float | None = None,
    cuda_graphs: bool = True,
    async_scheduling: bool | None = None,
    custom_all_reduce: bool = True,
    where: str = "scheduler",
) -> SchedulerSettings:
    """Return the settings with None replaced by the preset's defaults.

    Asynchronous scheduling is only on without pipeline stages, as in vLLM (see the preset's sources).  A research policy
    may be named under every preset whose own batching rules are built.

    Raises
    ------
    InputError : a setting out of its range, or a contradiction between two of them.
    """
    chosen = policy or preset.default_policy(max_model_len)
    known, research = (*preset.policies, *RESEARCH_POLICIES), RESEARCH_POLICIES.get(chosen)
    if chosen not in known:
        raise InputError(
            f"preset {preset.name} has no policy {chosen!r}", where=where, remedy=f"choose one of {', '.join(known)}"
        )
    wants_async = preset.async_scheduling and not research if async_scheduling is None else async_scheduling
    if wants_async and chosen != "unified":
        raise InputError(
            f"asynchronous scheduling with policy {chosen!r}", where=where, remedy="only policy 'unified' has it"
        )
    defaults = preset.defaults_on(device.name, device.memory_bytes)
    default_budget = research.budget_tokens if research else defaults.budget_tokens[chosen]
    if not default_budget:
        n_beside = (max_num_seqs or defaults.max_num_seqs) if research else 0
        default_budget = max(max_model_len, 2048) + n_beside
    budget = default_budget if max_num_batched_tokens is None else max_num_batched_tokens
    settings = SchedulerSettings(
        policy=chosen,
        max_num_seqs=min(defaults.max_num_seqs, budget) if max_num_seqs is None else max_num_seqs,
        max_num_batched_tokens=budget,
        max_model_len=max_model_len,
        block_size_tokens=preset.block_size_tokens if block_size_tokens is None else block_size_tokens,
        gpu_memory_utilization_frac=(
            preset.gpu_memory_utilization_frac if gpu_memory_utilization_frac is None else gpu_memory_utilization_frac
        ),
        cuda_graphs=cuda_graphs,
        async_scheduling=wants_async and pp == 1,
        custom_all_reduce=custom_all_reduce,
    )
    _check(settings, where)
    return settings


def _check(settings: SchedulerSettings, where: str) -> None:
    for key in ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "block_size_tokens"):
        value = getattr(settings, key)
        if value < 1:
            raise InputError(f"{key} is {value}", where=where, remedy="give a whole number above 0")
    frac = settings.gpu_memory_utilization_frac
    if not 0.0 < frac <= 1.0:
        raise InputError(f"gpu_memory_utilization_frac is {frac}", where=where, remedy="give a share in (0, 1]")
    if settings.policy == "prefill-first" and settings.max_num_batched_tokens < settings.max_model_len:
        raise InputError(
            f"max_num_batched_tokens {settings.max_num_batched_tokens} is below max_model_len "
            f"{settings.max_model_len}, and prefill-first runs a prompt in one step",
            where=where,
            remedy="raise the budget, lower max_model_len, or use policy 'chunked'",
        )
    if settings.max_num_batched_tokens < settings.max_num_seqs:
        raise InputError(
            f"max_num_batched_tokens {settings.max_num_batched_tokens} is below max_num_seqs {settings.max_num_seqs}",
            where=where,
            remedy="raise the budget or lower max_num_seqs",
        )
