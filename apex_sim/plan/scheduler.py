"""Which scheduler settings does an instance run with, once the engine's defaults are filled in?"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from apex_sim.errors import InputError
from apex_sim.hardware.device import Device
from apex_sim.plan.shape import SchedulerSettings
from apex_sim.plan.speculation import Speculation
from apex_sim.preset.preset import Defaults, Preset, Reservation
from apex_sim.preset.research import RESEARCH_POLICIES, WHOLE_PROMPTS
from apex_sim.units import GIB

#: Who goes first among those that wait, and stays when memory is short.
RANKED_ORDERS: Final = ("fcfs", "priority", "shortest-predicted-first")
#: Orders that keep account of what was served, which the reference engine has; the column that says for whom.
ACCOUNTING_ORDERS: Final = {"multi-level-feedback": "", "least-attained-service": "session", "fair-share": "tenant"}
QUEUE_ORDERS: Final = (*RANKED_ORDERS, *ACCOUNTING_ORDERS)

#: What becomes of a running sequence that loses its blocks: it is computed again, or they wait in the host's memory.
PREEMPTIONS: Final = ("recompute", "swap")


def resolve_settings(
    preset: Preset,
    device: Device,
    max_model_len: int,
    *,
    tp: int = 1,
    pp: int = 1,
    attention_dp: int = 1,
    policy: str | None = None,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
    block_size_tokens: int | None = None,
    gpu_memory_utilization_frac: float | None = None,
    cuda_graphs: bool = True,
    async_scheduling: bool | None = None,
    custom_all_reduce: bool = True,
    queue_order: str = "fcfs",
    prediction_log_sd: float | None = None,
    max_num_waiting: int | None = None,
    preemption: str = "recompute",
    swap_bytes: float | None = None,
    speculation: Speculation | None = None,
    expert_imbalance: float = 0.0,
    where: str = "scheduler",
) -> SchedulerSettings:
    """Return the settings with None replaced by the preset's defaults.

    Asynchronous scheduling is only on without pipeline stages, as in all engines that have it (see the preset's
    sources).  A research policy may be named under every preset.  Speculation switches asynchronous scheduling off.
    The settings are those of each attention rank; an engine whose ranks share what is stated divides it.

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
    if wants_async and (research or not preset.async_scheduling):
        what = f"policy {chosen!r}" if research else f"preset {preset.name}"
        raise InputError(f"{what} has no asynchronous scheduling", where=where, remedy="leave it out")
    if speculation:
        _check_speculation(speculation, chosen, attention_dp, bool(async_scheduling), where)
        wants_async = False
    defaults = preset.defaults_on(device.name, device.memory_bytes, tp * attention_dp)
    ranks = preset.ranks if attention_dp > 1 else None
    n_sharing = attention_dp if ranks and ranks.shares_budget else 1
    default_budget = research.budget_tokens if research else defaults.budget_tokens[chosen]
    if not default_budget:
        n_beside = (max_num_seqs or defaults.max_num_seqs) if research else 0
        default_budget = max(max_model_len, 2048) + n_beside
    budget = (default_budget if max_num_batched_tokens is None else max_num_batched_tokens) // n_sharing
    max_num_seqs = max_num_seqs and max_num_seqs // n_sharing
    settings = SchedulerSettings(
        policy=chosen,
        max_num_seqs=min(defaults.max_num_seqs, budget) if max_num_seqs is None else max_num_seqs,
        max_num_batched_tokens=budget,
        max_model_len=max_model_len,
        block_size_tokens=preset.block_size_tokens if block_size_tokens is None else block_size_tokens,
        gpu_memory_utilization_frac=(
            _memory_share_frac(preset, device, budget, defaults, tp * attention_dp * pp)
            if gpu_memory_utilization_frac is None
            else gpu_memory_utilization_frac
        ),
        cuda_graphs=cuda_graphs,
        async_scheduling=wants_async and pp == 1,
        custom_all_reduce=custom_all_reduce,
        reservation=_reservation(preset, budget, ranks.reservation_frac if ranks else 1.0),
        max_graph_sequences=defaults.max_graph_sequences,
        queue_order=queue_order,
        prediction_log_sd=prediction_log_sd or 0.0,
        max_num_waiting=max_num_waiting,
        preemption=preemption,
        swap_bytes=_swap_bytes(preemption, swap_bytes, where),
        speculation=speculation,
        expert_imbalance=expert_imbalance,
    )
    _check(settings, where)
    _check_order(settings, prediction_log_sd is not None, where)
    return settings


def _swap_bytes(preemption: str, swap_bytes: float | None, where: str) -> float:
    """Return the host memory for swapped KV blocks of each device: as stated, or vLLM 0.6.0's `swap_space`."""
    if preemption == "swap":
        return 4 * GIB if swap_bytes is None else swap_bytes
    if swap_bytes is not None:
        raise InputError(
            f"swap_bytes with preemption {preemption!r}, which moves nothing",
            where=where,
            remedy='leave it out, or set preemption = "swap"',
        )
    return 0.0


def _check_speculation(speculation: Speculation, policy: str, attention_dp: int, wants_async: bool, where: str) -> None:
    """Refuse what is not simulated beside speculation.

    vLLM 0.10 and 0.11 refuse asynchronous scheduling with it (https://github.com/vllm-project/vllm/pull/19970 ), 0.12
    lets users ask for it (pull/24799), later versions default to it (pull/31998).
    """
    if policy != "unified":
        raise InputError(
            f"speculation (draft {speculation.draft!r}) with policy {policy!r} is not simulated yet",
            where=where,
            remedy="use policy unified of preset vllm-1, or leave speculation out",
        )
    if attention_dp > 1:
        raise InputError(
            f"speculation (draft {speculation.draft!r}) with attention DP {attention_dp} is not simulated yet",
            where=where,
            remedy="leave one of them out",
        )
    if wants_async:
        raise InputError(
            f"async_scheduling = true beside speculation (draft {speculation.draft!r}) is not simulated yet",
            where=where,
            remedy="leave async_scheduling out: speculation switches it off",
        )


def _reservation(preset: Preset, budget_tokens: int, frac: float) -> Reservation | None:
    """Return the rule with `frac` of its shares; a chunk above the limit of a batch of prompts raises that limit."""
    rule = preset.reservation
    return rule and replace(
        rule,
        first_ratio=rule.first_ratio * frac,
        least_ratio=rule.least_ratio * frac,
        max_prefill_tokens=max(rule.max_prefill_tokens, budget_tokens),
    )


def _memory_share_frac(preset: Preset, device: Device, budget_tokens: int, defaults: Defaults, n_devices: int) -> float:
    """Return the share of a device's memory that the engine takes by itself."""
    reserve = preset.buffers.reserve
    if reserve is None:
        return preset.gpu_memory_utilization_frac
    n_sequences = defaults.max_graph_sequences or preset.graphs.sizes[-1]
    return reserve.share_frac(device.memory_bytes, budget_tokens, n_sequences, n_devices)


def _check(settings: SchedulerSettings, where: str) -> None:
    for key in ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "block_size_tokens"):
        value = getattr(settings, key)
        if value < 1:
            raise InputError(f"{key} is {value}", where=where, remedy="give a whole number above 0")
    frac = settings.gpu_memory_utilization_frac
    if not 0.0 < frac <= 1.0:
        raise InputError(f"gpu_memory_utilization_frac is {frac}", where=where, remedy="give a share in (0, 1]")
    runs_whole = settings.policy in ("prefill-first", "max-utilization") or settings.policy in WHOLE_PROMPTS
    if runs_whole and settings.max_num_batched_tokens < settings.max_model_len:
        raise InputError(
            f"max_num_batched_tokens {settings.max_num_batched_tokens} is below max_model_len "
            f"{settings.max_model_len}, and {settings.policy} runs a prompt in one step",
            where=where,
            remedy="raise the budget, lower max_model_len, or use a policy that cuts prompts",
        )
    if settings.reservation and settings.max_num_batched_tokens < settings.block_size_tokens:
        raise InputError(
            f"max_num_batched_tokens {settings.max_num_batched_tokens} is below block_size_tokens "
            f"{settings.block_size_tokens}",
            where=where,
            remedy="raise the budget or lower the block size",
        )
    if settings.preemption not in PREEMPTIONS:
        raise InputError(
            f"no preemption {settings.preemption!r}", where=where, remedy=f"choose one of {', '.join(PREEMPTIONS)}"
        )
    if settings.swaps and settings.policy != "prefill-first":
        raise InputError(
            f"preemption by swapping with policy {settings.policy!r}",
            where=where,
            remedy="use policy prefill-first of preset vllm-0.6, the only one that swaps here",
        )
    # Chunks enter only beside decodes that fit, so that no more run than the budget holds; the rest is buffers.
    if settings.max_num_batched_tokens < settings.max_num_seqs and settings.policy != "no-evict-chunked":
        raise InputError(
            f"max_num_batched_tokens {settings.max_num_batched_tokens} is below max_num_seqs {settings.max_num_seqs}",
            where=where,
            remedy="raise the budget or lower max_num_seqs",
        )


def _check_order(settings: SchedulerSettings, predicts: bool, where: str) -> None:
    order = settings.queue_order
    if order not in QUEUE_ORDERS:
        raise InputError(f"no queue order {order!r}", where=where, remedy=f"choose one of {', '.join(QUEUE_ORDERS)}")
    if settings.sorts_queue and settings.policy != "unified" and settings.policy not in RESEARCH_POLICIES:
        raise InputError(
            f"queue order {order!r} with policy {settings.policy!r}, whose engine serves first come, first served",
            where=where,
            remedy=f"use policy unified or one of {', '.join(RESEARCH_POLICIES)}",
        )
    if predicts and order != "shortest-predicted-first":
        raise InputError(
            f"prediction_log_sd with queue order {order!r}, which predicts nothing",
            where=where,
            remedy='leave it out, or set queue_order = "shortest-predicted-first"',
        )
    if settings.prediction_log_sd < 0 or settings.max_num_waiting == 0:
        raise InputError(
            f"prediction_log_sd is {settings.prediction_log_sd}, max_num_waiting {settings.max_num_waiting}",
            where=where,
            remedy="give 0 or more, and a whole number above 0",
        )
