"""How does the price of a decode step grow while its batch stays the same?

Between two knots of every table the price is a line in the number of steps, so that the end of the n-th step is one
expression.  Kernel and reference of an instance both evaluate it here; a leap over many steps then ends on the same
bits as the steps themselves.
"""

from __future__ import annotations

import numpy as np

from apex_sim.cost import step_tables as at
from apex_sim.cost.parts import Floats
from apex_sim.cost.step_price import decode_cell, graph_tokens
from apex_sim.cost.step_tables import Ints
from apex_sim.machine_code import compiled


@compiled
def price_line(
    numbers: Floats, layout: Ints, sums: Floats, growing: Floats, room: Floats, first_j: float, first_s: float,
    growth: Floats,
) -> tuple[int, float, float]:  # fmt: skip
    """Return for how many steps the line holds (the first included), and what each adds to seconds and joules.

    Parameters
    ----------
    sums : of the first step, a pure decode batch; it took `first_s` and `first_j`.
    growing, room : for each attention window, sequences that see another key in the next step, and the most steps
        for which all of them do.
    growth : written: what each step adds to the decode attention of each group of layers, and what of that lies
        outside the data.
    """
    in_graph, _ = graph_tokens(layout, sums)
    n_steps = float(layout[at.GRAPH_CONTEXT_TOKENS]) - sums[at.LONGEST_CONTEXT] + 1.0
    kernel_s = compute_s = memory_s = 0.0
    for index in range(layout[at.N_GROUPS]):
        group = layout[at.GROUPS_AT] + index * at.GROUP_FIELDS
        attention_class = layout[group + at.CLASS]
        growth[0, index] = growth[1, index] = 0.0
        if growing[attention_class] == 0.0:
            continue
        keys = growing[attention_class] / sums[at.N_DECODE]
        cell, _ = decode_cell(numbers, layout, group, sums)
        contexts, n_contexts = layout[group + at.CONTEXTS_AT], layout[group + at.N_CONTEXTS]
        knot = (cell - layout[group + at.DECODE_AT]) // 4 % n_contexts
        low, high = numbers[contexts + knot], numbers[contexts + knot + 1]
        scale = keys / (high - low)
        growth[0, index] = (numbers[cell + 4] - numbers[cell]) * scale
        growth[1, index] = growth[0, index] * numbers[cell + 3]
        kernel_s += growth[0, index]
        compute_s += (numbers[cell + 5] - numbers[cell + 1]) * scale
        memory_s += (numbers[cell + 6] - numbers[cell + 2]) * scale
        n_steps = min(n_steps, room[attention_class] + 1.0)
        if knot < n_contexts - 2:
            mean = sums[at.BY_CLASS + attention_class * at.CLASS_FIELDS + at.DECODE_KEYS] / sums[at.N_DECODE]
            n_steps = min(n_steps, np.floor((high - mean) / keys) + 1.0)
    joules = numbers[at.ACTIVE_W] * kernel_s + numbers[at.COMPUTE_W] * compute_s + numbers[at.MEMORY_W] * memory_s
    slack_j = numbers[at.RANGE_W] * first_s - first_j
    shrink_j = joules - numbers[at.RANGE_W] * kernel_s
    if shrink_j > 0.0:
        n_steps = min(n_steps, np.floor(slack_j / shrink_j))
    if not in_graph or slack_j <= 0.0:
        n_steps = 1.0
    return int(max(n_steps, 1.0)), kernel_s, joules


@compiled
def line_s(first_s: float, growth_s: float, n_steps: int) -> float:
    """Return how long the first `n_steps` of a line take.

    Examples
    --------
    >>> line_s(1.0, 0.5, 3)
    4.5
    """
    return n_steps * first_s + growth_s * (n_steps * (n_steps - 1) // 2)
