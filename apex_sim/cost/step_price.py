"""What does one step cost on one stage?

Kernel and reference of an instance both price their steps here, so that equal batches cost equal bits.
"""

from __future__ import annotations

import numpy as np

from apex_sim.cost.look_up import locate, look_up_prefill, row_knot
from apex_sim.cost.parts import Floats
from apex_sim.cost.step_tables import BatchSums, StageTables
from apex_sim.machine_code import compiled


@compiled
def graph_tokens(tables: StageTables, batch: BatchSums) -> tuple[bool, int]:
    """Return whether the step runs inside a CUDA graph, and the tokens that it is padded to."""
    sizes = tables.graph_sizes
    if (tables.graphs_decode_only and batch.n_prefill_tokens > 0) or (
        batch.longest_context_tokens > tables.graph_context_tokens
    ):
        return False, batch.n_tokens
    index = np.searchsorted(sizes, batch.n_tokens)
    if index == len(sizes) or (not tables.graphs_pad and sizes[index] != batch.n_tokens):
        return False, batch.n_tokens
    return True, min(int(sizes[index]), tables.max_tokens)


@compiled
def price_step(
    tables: StageTables, batch: BatchSums, attention_s: Floats
) -> tuple[float, float, float, float, float, int, float]:
    """Return what `batch` costs: device time, energy above idle of each device, and more (see `StagePrice`).

    In that order: `device_s`, `dynamic_j`, `launch_s`, `slowdown_s`, `outside_s`, `knot`, `fraction`.  Prefill and
    decode attention of each group are written to the rows of `attention_s`.  A plain tuple: an interrupt while Numba
    builds a named one would crash the process.

    Raises
    ------
    ValueError : more tokens than the tables were built for; the scheduler's budget forbids it.
    """
    in_graph, n_tokens = graph_tokens(tables, batch)
    if n_tokens > tables.max_tokens:
        raise ValueError("a step has more tokens than its table; the scheduler's budget forbids it")
    knot, fraction = locate(n_tokens)
    upper = knot + 1 if fraction > 0.0 else knot
    token_s, head_s, n_sampled, less = tables.token_s, tables.head_s, batch.n_sampled, 1.0 - fraction
    kernel_s = token_s[knot, 0] * less + token_s[upper, 0] * fraction + head_s[n_sampled, 0]
    compute_s = token_s[knot, 1] * less + token_s[upper, 1] * fraction + head_s[n_sampled, 1]
    memory_s = token_s[knot, 2] * less + token_s[upper, 2] * fraction + head_s[n_sampled, 2]
    network_s = token_s[knot, 3] * less + token_s[upper, 3] * fraction + head_s[n_sampled, 3]
    n_launches, n_gaps = tables.other_launches[0], tables.other_launches[1]
    if batch.n_sampled > 0:
        n_launches += tables.other_launches[2]
        n_gaps += tables.other_launches[3]
    outside_s = 0.0
    for group in range(len(tables.attention_class)):
        attention_s[0, group] = attention_s[1, group] = 0.0
        if batch.n_prefill_tokens > 0:
            spent_s, compute, memory, outside = look_up_prefill(tables, batch, group)
            attention_s[0, group] = spent_s
            kernel_s, compute_s, memory_s = kernel_s + spent_s, compute_s + compute, memory_s + memory
            outside_s += spent_s if outside else 0.0
            n_launches += tables.launches[group, 0]
            n_gaps += tables.launches[group, 1]
        if batch.n_decode > 0:
            contexts, decode_s, row = tables.decode_contexts, tables.decode_s, batch.n_decode - 1
            mean = batch.decode_keys[tables.attention_class[group]] / batch.n_decode
            at = row_knot(contexts, group, mean)
            share = (mean - contexts[group, at]) / (contexts[group, at + 1] - contexts[group, at])
            rest = 1.0 - share
            spent_s = decode_s[group, row, at, 0] * rest + decode_s[group, row, at + 1, 0] * share
            attention_s[1, group] = spent_s
            kernel_s += spent_s
            compute_s += decode_s[group, row, at, 1] * rest + decode_s[group, row, at + 1, 1] * share
            memory_s += decode_s[group, row, at, 2] * rest + decode_s[group, row, at + 1, 2] * share
            outside_s += spent_s if tables.decode_outside[group, row, at] else 0.0
            n_launches += tables.launches[group, 2]
            n_gaps += tables.launches[group, 3]
    slowdown_s = 0.0
    if batch.n_prefill_tokens > 0 and not in_graph:
        growth = tables.slowdown[1] * batch.n_tokens / (batch.n_tokens + tables.slowdown[2])
        slowdown_s = (tables.slowdown[0] + growth - 1.0) * kernel_s
    launch_s = n_gaps * tables.launch_s
    if not in_graph:
        launch_s = max(launch_s, n_launches * tables.eager_launch_s - (kernel_s + slowdown_s))
    device_s = kernel_s + slowdown_s + launch_s
    model_tokens = batch.n_tokens * tables.model_share_frac
    dynamic_j = step_energy(tables.power, device_s, compute_s, memory_s, network_s, model_tokens)
    return device_s, dynamic_j, launch_s, slowdown_s, outside_s, knot, fraction


@compiled
def step_energy(
    power: Floats, device_s: float, compute_s: float, memory_s: float, network_s: float, model_tokens: float
) -> float:
    """Return the energy above idle of one step: `PowerModel.dynamic_j`."""
    spent_j = power[0] * device_s + power[1] * compute_s + power[2] * memory_s + power[3] * network_s
    energy_j: float = min(spent_j + power[4] * model_tokens, power[5] * device_s)
    return energy_j
