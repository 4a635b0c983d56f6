"""Which instances could a study's plans be made of?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any, Final

import numpy as np

from apex_sim.errors import InputError
from apex_sim.hardware.cluster import Cluster
from apex_sim.instance.policies import CACHING_POLICIES
from apex_sim.plan.kv_layout import layout_of
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import CellParallelism, Placement, SchedulerSettings, Shape, Stage, balanced_split, cell_stages
from apex_sim.planner.fastest_split import FastestSplits
from apex_sim.planner.study import Study
from apex_sim.planner.study_file import SchedulerEntry

_MODEL_LEN_STEP: Final = 1024
#: Layers that the "ends" splits take from the first and the last stage at most.
_MOST_LIGHTER: Final = 2

#: (dimension, value) of everything that was chosen.
Choice = tuple[tuple[str, Any], ...]


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


def shapes_of(
    study: Study, pool: Cluster, contradictions: Counter[str] | None = None
) -> Iterator[tuple[Shape, Choice]]:
    """Yield every shape of the study's space on the devices of `pool`, with what was chosen in each dimension.

    Of knobs that the space lists, combinations that no engine takes are left out and counted in `contradictions`.

    Raises
    ------
    InputError : a scheduler setting that its policy or engine does not take, without a choice.
    """
    space, max_model_len = study.space, _max_model_len(study)
    precisions = dict.fromkeys(Precision(weight, kv) for weight in space.weight_dtypes for kv in space.kv_dtypes)
    knobs, fastest = list(_knobs(study)), FastestSplits(study) if study.space.splits == "fastest" else None
    for precision, layers in product(precisions, _splits(study, pool)):
        for cells, placement in product(_cells(study, pool, len(layers)), dict.fromkeys(space.placement)):
            for clock_frac, (entry, knob) in product(dict.fromkeys(space.clock_frac), knobs):
                attention, ffn = cells
                stages = cell_stages(layers, attention, ffn)
                try:
                    shape = _shape(study, pool, stages, precision, entry, max_model_len, clock_frac, placement)
                except InputError as error:
                    if not knob or contradictions is None:
                        raise
                    contradictions[error.problem] += 1
                    continue
                yield shape, _choice(shape, knob)
                split = fastest.of(pool, shape) if fastest and len(layers) > 1 and not space.layers else layers
                if split and split != layers:
                    other = replace(shape, stages=cell_stages(split, attention, ffn))
                    yield other, _choice(other, knob)


def _choice(shape: Shape, knob: Choice) -> Choice:
    """Return what was chosen in each dimension."""
    attention, ffn = shape.stages[0].attention, shape.stages[0].ffn
    layers = "balanced" if shape.is_balanced else "+".join(str(stage.n_layers) for stage in shape.stages)
    return (
        ("device", shape.device), ("weights", shape.precision.weight), ("kv", shape.precision.kv),
        ("tp", attention.tp), ("attention_dp", attention.attention_dp), ("cp", attention.cp),
        ("ep", ffn.ep), ("ffn_tp", ffn.tp), ("pp", shape.pp), ("layers", layers),
        ("placement", shape.placement), ("clock_frac", shape.clock_frac), *knob,
    )  # fmt: skip


def _splits(study: Study, pool: Cluster) -> Iterator[tuple[int, ...]]:
    """Yield the layers of each stage: those stated, else balanced ones for each number of stages, or lighter ends."""
    space, n_layers = study.space, study.model.n_layers
    if space.layers:
        yield tuple(space.layers)
        return
    for pp in degrees(space.pp, pool.n_devices):
        if pp > n_layers:
            continue
        yield balanced_split(n_layers, pp)
        if space.splits == "ends" and pp > 1:
            yield from _lighter_ends(n_layers, pp)


def _lighter_ends(n_layers: int, pp: int) -> Iterator[tuple[int, ...]]:
    """Yield splits whose first and last stage, which hold embedding and LM head too, have up to two layers fewer."""
    base = balanced_split(n_layers, pp)
    for first, last in product(range(_MOST_LIGHTER + 1), repeat=2):
        left = n_layers - (base[0] - first) - (base[-1] - last)
        inner = balanced_split(left, pp - 2) if pp > 2 else ()
        split = (
            (base[0] - first, *inner, base[-1] - last) if pp > 2 else (base[0] - first + last, base[1] + first - last)
        )
        if split != base and min(split) >= 1:
            yield split


def _cells(study: Study, pool: Cluster, pp: int) -> list[tuple[CellParallelism, CellParallelism]]:
    """Return how attention and FFN may be mapped to the devices of a stage."""
    space, n_devices = study.space, pool.n_devices
    found = []
    ranks = degrees([], n_devices) if space.cells and space.attention_dp == [1] else space.attention_dp
    shares = degrees([], n_devices) if space.cells and space.cp == [1] else space.cp
    for tp, attention_dp, cp in product(degrees(space.tp, n_devices), sorted(set(ranks)), sorted(set(shares))):
        n = tp * attention_dp * cp
        if n * pp <= n_devices:
            attention = CellParallelism(tp=tp, attention_dp=attention_dp, cp=cp)
            found += [(attention, ffn) for ffn in _ffn_cells(study, attention, n)]
    return list(dict.fromkeys(found))


def _ffn_cells(study: Study, attention: CellParallelism, n_devices: int) -> list[CellParallelism]:
    """Return how FFN and experts may be mapped: by the engine's habit, or with separate cells in every way."""
    space = study.space
    if space.ep is not None or not space.cells:
        ep = attention.attention_dp > 1 and not study.model.is_dense if space.ep is None else space.ep
        return [CellParallelism(ep=n_devices) if ep and n_devices > 1 else CellParallelism(tp=n_devices)]
    if study.model.is_dense:
        return [CellParallelism(tp=n_devices)]
    return [CellParallelism(tp=n_devices // ep, ep=ep) for ep in range(1, n_devices + 1) if n_devices % ep == 0]


def _knobs(study: Study) -> Iterator[tuple[SchedulerEntry, Choice]]:
    """Yield the study's scheduler under each combination of the knobs that its space lists."""
    space, scheduler = study.space, study.scheduler
    lists: dict[str, list[Any]] = {
        "policy": space.policies,
        "max_num_seqs": space.max_num_seqs,
        "max_num_batched_tokens": space.max_num_batched_tokens,
        "prefix_cache": space.prefix_cache,
        "n_draft_tokens": space.n_draft_tokens,
    }
    listed = {name: list(dict.fromkeys(values)) for name, values in lists.items() if values}
    for values in product(*listed.values()):
        changes = dict(zip(listed, values, strict=True))
        choice: Choice = tuple(changes.items())
        if changes.get("n_draft_tokens") == 0:
            changes |= {"n_draft_tokens": None, "draft": None, "acceptance_frac": None}
        yield scheduler.model_copy(update=changes), choice


def _max_model_len(study: Study) -> int:
    stated, context = study.scheduler.max_model_len, study.model.max_context_tokens
    if stated is not None and stated > context:
        raise InputError(
            f"max_model_len {stated} is above the context of {study.model.name}, {context}",
            where=f"study {study.name}, key 'scheduler.max_model_len'",
            remedy=f"give at most {context}, or leave it out",
        )
    return default_max_model_len(study) if stated is None else stated


def _shape(
    study: Study, pool: Cluster, stages: tuple[Stage, ...], precision: Precision, scheduler: SchedulerEntry,
    max_model_len: int, clock_frac: float, placement: Placement,
) -> Shape:  # fmt: skip
    """Return the shape of these stages, with the study's settings and the engine's defaults where it has none."""
    attention = stages[0].attention
    tp = attention.tp * attention.cp
    settings = resolve_settings(
        study.preset,
        pool.device,
        max_model_len,
        tp=tp,
        pp=len(stages),
        attention_dp=attention.attention_dp,
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
    settings = replace(settings, prefix_cache=_caches_prefixes(study, scheduler, settings, attention))
    return Shape(
        pool.device.name, stages, precision, settings, study.preset, clock_frac=clock_frac, placement=placement
    )


def _caches_prefixes(
    study: Study, scheduler: SchedulerEntry, settings: SchedulerSettings, cells: CellParallelism
) -> bool:
    """Return whether an instance caches prefixes: as the study says, else as the engine does where that is built.

    Raises
    ------
    InputError : the study asks for it under a policy that has none.
    """
    has_policy, unit_tokens = settings.policy in CACHING_POLICIES, study.workload.requests.hash_block_tokens
    if scheduler.prefix_cache is not None:
        if scheduler.prefix_cache and not has_policy:
            raise InputError(
                f"prefix_cache with policy {settings.policy!r}, which has none yet",
                where=f"study {study.name}, table [scheduler]",
                remedy="use preset vllm-1 or leave it out",
            )
        return scheduler.prefix_cache
    block_size_tokens = settings.block_size_tokens * cells.cp
    layout = layout_of(study.model, block_size_tokens, study.preset.frees_windows, cells.tp)
    whole = unit_tokens is not None and unit_tokens % block_size_tokens == 0
    return study.preset.caches_prefixes and has_policy and whole and layout.n_lists == 1


def degrees(stated: list[int], n_devices: int) -> list[int]:
    """Return the stated degrees, or every divisor of the device count and power of two up to it.

    Examples
    --------
    >>> degrees([], 6)
    [1, 2, 3, 4, 6]
    """
    if stated:
        return sorted(set(stated))
    divisors = {d for d in range(1, math.isqrt(n_devices) + 1) if n_devices % d == 0}
    powers = {1 << k for k in range(n_devices.bit_length())}
    return sorted(d for d in divisors | {n_devices // d for d in divisors} | powers if d <= n_devices)
