"""Which scheduler settings does an instance run with, once the engine's defaults are filled in?"""

from __future__ import annotations

from dataclasses import replace

from apex_sim.errors import InputError
from apex_sim.hardware.device import Device
from apex_sim.plan.shape import SchedulerSettings
from apex_sim.preset.preset import Defaults, Preset, Reservation


def resolve_settings(
    preset: Preset,
    device: Device,
    max_model_len: int,
    *,
    tp: int = 1,
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

    Asynchronous scheduling is only on without pipeline stages, as in all engines that have it (see the preset's
    sources).

    Raises
    ------
    InputError : a setting out of its range, or a contradiction between two of them.
    """
    chosen = policy or preset.default_policy(max_model_len)
    if chosen not in preset.policies:
        raise InputError(
            f"preset {preset.name} has no policy {chosen!r}",
            where=where,
            remedy=f"choose one of {', '.join(preset.policies)}",
        )
    wants_async = preset.async_scheduling if async_scheduling is None else async_scheduling
    if wants_async and not preset.async_scheduling:
        raise InputError(f"preset {preset.name} has no asynchronous scheduling", where=where, remedy="leave it out")
    defaults = preset.defaults_on(device.name, device.memory_bytes, tp)
    default_budget = defaults.budget_tokens[chosen] or max(max_model_len, 2048)
    budget = default_budget if max_num_batched_tokens is None else max_num_batched_tokens
    settings = SchedulerSettings(
        policy=chosen,
        max_num_seqs=min(defaults.max_num_seqs, budget) if max_num_seqs is None else max_num_seqs,
        max_num_batched_tokens=budget,
        max_model_len=max_model_len,
        block_size_tokens=preset.block_size_tokens if block_size_tokens is None else block_size_tokens,
        gpu_memory_utilization_frac=(
            _memory_share_frac(preset, device, budget, defaults, tp * pp)
            if gpu_memory_utilization_frac is None
            else gpu_memory_utilization_frac
        ),
        cuda_graphs=cuda_graphs,
        async_scheduling=wants_async and pp == 1,
        custom_all_reduce=custom_all_reduce,
        reservation=_reservation(preset, budget),
        max_graph_sequences=defaults.max_graph_sequences,
    )
    _check(settings, where)
    return settings


def _reservation(preset: Preset, budget_tokens: int) -> Reservation | None:
    """Return the rule of reservation; a chunk above the limit of a batch of prompts raises that limit."""
    rule = preset.reservation
    return rule and replace(rule, max_prefill_tokens=max(rule.max_prefill_tokens, budget_tokens))


def _memory_share_frac(preset: Preset, device: Device, budget_tokens: int, defaults: Defaults, n_devices: int) -> float:
    """Return the share of a device's memory that the engine takes by itself."""
    reserve, n_sequences = preset.buffers.reserve, defaults.max_graph_sequences or preset.graphs.sizes[-1]
    if reserve is None:
        return preset.gpu_memory_utilization_frac
    return reserve.share_frac(device.memory_bytes, budget_tokens, n_sequences, n_devices)


def _check(settings: SchedulerSettings, where: str) -> None:
    for key in ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "block_size_tokens"):
        value = getattr(settings, key)
        if value < 1:
            raise InputError(f"{key} is {value}", where=where, remedy="give a whole number above 0")
    frac = settings.gpu_memory_utilization_frac
    if not 0.0 < frac <= 1.0:
        raise InputError(f"gpu_memory_utilization_frac is {frac}", where=where, remedy="give a share in (0, 1]")
    if (
        settings.policy in ("prefill-first", "max-utilization")
        and settings.max_num_batched_tokens < settings.max_model_len
    ):
        raise InputError(
            f"max_num_batched_tokens {settings.max_num_batched_tokens} is below max_model_len "
            f"{settings.max_model_len}, and {settings.policy} runs a prompt in one step",
            where=where,
            remedy="raise the budget, lower max_model_len, or use another policy",
        )
    if settings.reservation and settings.max_num_batched_tokens < settings.block_size_tokens:
        raise InputError(
            f"max_num_batched_tokens {settings.max_num_batched_tokens} is below block_size_tokens "
            f"{settings.block_size_tokens}",
            where=where,
            remedy="raise the budget or lower the block size",
        )
    if settings.max_num_batched_tokens < settings.max_num_seqs:
        raise InputError(
            f"max_num_batched_tokens {settings.max_num_batched_tokens} is below max_num_seqs {settings.max_num_seqs}",
            where=where,
            remedy="raise the budget or lower max_num_seqs",
        )
