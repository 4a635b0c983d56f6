"""What does one step cost on one stage?

Kernel and reference of an instance both price their steps here, so that equal batches cost equal bits.
"""

from __future__ import annotations

from apex_sim.cost import step_tables as at
from apex_sim.cost.look_up import knot_of, locate, look_up_prefill, share_of
from apex_sim.cost.parts import Floats
from apex_sim.cost.step_tables import Ints
from apex_sim.machine_code import compiled, inner


@inner
def graph_tokens(layout: Ints, sums: Floats) -> tuple[bool, int]:
    """Return whether the step runs inside a CUDA graph, and the tokens that it is padded to."""
    n_tokens, n_graphs, first = int(sums[at.N_TOKENS]), layout[at.N_GRAPHS], layout[at.GRAPHS_AT]
    if layout[at.GRAPHS_DECODE_ONLY] == 1 and sums[at.N_PREFILL_TOKENS] > 0.0:
        return False, n_tokens
    if n_graphs == 0 or sums[at.LONGEST_CONTEXT] > layout[at.GRAPH_CONTEXT_TOKENS]:
        return False, n_tokens
    if n_tokens > layout[first + n_graphs - 1]:
        return False, n_tokens
    low, high = -1, n_graphs - 1
    while high - low > 1:
        middle = (low + high) // 2
        if layout[first + middle] < n_tokens:
            low = middle
        else:
            high = middle
    size = layout[first + high]
    if layout[at.GRAPHS_PAD] == 0 and size != n_tokens:
        return False, n_tokens
    return True, min(size, layout[at.MAX_TOKENS])


@compiled
def price_step(
    numbers: Floats, layout: Ints, sums: Floats, attention_s: Floats
) -> tuple[float, float, float, float, float, int, float]:
    """Return what a batch costs: device time, energy above idle of each device, and more (see `StagePrice`).

    In that order: `device_s`, `dynamic_j`, `launch_s`, `slowdown_s`, `outside_s`, `knot`, `fraction`.  Prefill and
    decode attention of each group are written to the rows of `attention_s`.

    Raises
    ------
    ValueError : more tokens than the tables were built for; the scheduler's budget forbids it.
    """
    in_graph, n_tokens = graph_tokens(layout, sums)
    if n_tokens > layout[at.MAX_TOKENS]:
        raise ValueError("a step has more tokens than its table; the scheduler's budget forbids it")
    knot, fraction = locate(n_tokens)
    low = layout[at.TOKENS_AT] + 4 * knot
    high = low + 4 if fraction > 0.0 else low
    head = layout[at.HEAD_AT] + 4 * int(sums[at.N_SAMPLED])
    rest = 1.0 - fraction
    kernel_s = numbers[low] * rest + numbers[high] * fraction + numbers[head]
    compute_s = numbers[low + 1] * rest + numbers[high + 1] * fraction + numbers[head + 1]
    memory_s = numbers[low + 2] * rest + numbers[high + 2] * fraction + numbers[head + 2]
    network_s = numbers[low + 3] * rest + numbers[high + 3] * fraction + numbers[head + 3]
    n_launches, n_gaps = numbers[at.TOKEN_LAUNCHES], numbers[at.TOKEN_GAPS]
    if sums[at.N_SAMPLED] > 0.0:
        n_launches += numbers[at.HEAD_LAUNCHES]
        n_gaps += numbers[at.HEAD_GAPS]
    kernel_s, compute_s, memory_s, n_launches, n_gaps, outside_s = add_attention(
        numbers, layout, sums, attention_s, kernel_s, compute_s, memory_s, n_launches, n_gaps
    )
    device_s, launch_s, slowdown_s = time_on_device(numbers, sums, in_graph, kernel_s, n_launches, n_gaps)
    dynamic_j = energy_above_idle(numbers, device_s, compute_s, memory_s, network_s, sums[at.N_TOKENS])
    return device_s, dynamic_j, launch_s, slowdown_s, outside_s, knot, fraction


@inner
def add_attention(
    numbers: Floats, layout: Ints, sums: Floats, attention_s: Floats,
    kernel_s: float, compute_s: float, memory_s: float, n_launches: float, n_gaps: float,
) -> tuple[float, float, float, float, float, float]:  # fmt: skip
    """Return the last five with a batch's attention added, and what of that lies outside the data.

    Prefill and decode attention of each group are written to the rows of `attention_s`.
    """
    outside_s = 0.0
    n_decode = sums[at.N_DECODE]
    for index in range(layout[at.N_GROUPS]):
        group = layout[at.GROUPS_AT] + index * at.GROUP_FIELDS
        launches = layout[group + at.LAUNCHES_AT]
        attention_s[0, index] = attention_s[1, index] = 0.0
        if sums[at.N_PREFILL_TOKENS] > 0.0:
            spent_s, compute, memory, outside = look_up_prefill(numbers, layout, group, sums)
            attention_s[0, index] = spent_s
            kernel_s, compute_s, memory_s = kernel_s + spent_s, compute_s + compute, memory_s + memory
            outside_s += spent_s * outside
            n_launches += numbers[launches]
            n_gaps += numbers[launches + 1]
        if n_decode > 0.0:
            cell, share = decode_cell(numbers, layout, group, sums)
            spent_s = numbers[cell] * (1.0 - share) + numbers[cell + 4] * share
            attention_s[1, index] = spent_s
            kernel_s += spent_s
            compute_s += numbers[cell + 1] * (1.0 - share) + numbers[cell + 5] * share
            memory_s += numbers[cell + 2] * (1.0 - share) + numbers[cell + 6] * share
            outside_s += spent_s * numbers[cell + 3]
            n_launches += numbers[launches + 2]
            n_gaps += numbers[launches + 3]
    return kernel_s, compute_s, memory_s, n_launches, n_gaps, outside_s


@inner
def time_on_device(
    numbers: Floats, sums: Floats, in_graph: bool, kernel_s: float, n_launches: float, n_gaps: float
) -> tuple[float, float, float]:
    """Return how long a step takes, and what of that are launches and the slowdown of prompts."""
    slowdown_s = 0.0
    if sums[at.N_PREFILL_TOKENS] > 0.0:
        tokens = sums[at.N_TOKENS]
        growth = numbers[at.SLOW_GROWTH] * tokens / (tokens + numbers[at.SLOW_HALF_TOKENS])
        slowdown_s = (numbers[at.SLOW_BASE] + growth - 1.0) * kernel_s
    launch_s = n_gaps * numbers[at.LAUNCH_S]
    if not in_graph:
        launch_s = max(launch_s, n_launches * numbers[at.EAGER_LAUNCH_S] - (kernel_s + slowdown_s))
    launch_s += numbers[at.BETWEEN_STEPS_S]
    device_s = kernel_s + slowdown_s + launch_s
    return device_s, launch_s, slowdown_s


@inner
def energy_above_idle(
    numbers: Floats, device_s: float, compute_s: float, memory_s: float, network_s: float, n_tokens: float
) -> float:
    """Return the energy above idle of each device."""
    spent_j = (
        numbers[at.ACTIVE_W] * device_s
        + numbers[at.COMPUTE_W] * compute_s
        + numbers[at.MEMORY_W] * memory_s
        + numbers[at.NETWORK_W] * network_s
        + numbers[at.TOKEN_J] * (n_tokens * numbers[at.MODEL_SHARE_FRAC])
    )
    return float(min(spent_j, numbers[at.RANGE_W] * device_s))


@inner
def decode_cell(numbers: Floats, layout: Ints, group: int, sums: Floats) -> tuple[int, float]:
    """Return the position of a decode launch's cell and how far towards the next the mean context lies."""
    n_decode = int(sums[at.N_DECODE])
    mean = sums[at.BY_CLASS + layout[group + at.CLASS] * at.CLASS_FIELDS + at.DECODE_KEYS] / n_decode
    contexts, n_contexts = layout[group + at.CONTEXTS_AT], layout[group + at.N_CONTEXTS]
    knot = knot_of(numbers, contexts, n_contexts, mean)
    share = share_of(numbers, contexts + knot, mean)
    return layout[group + at.DECODE_AT] + ((n_decode - 1) * n_contexts + knot) * 4, share
