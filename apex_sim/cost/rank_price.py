"""What does one step of several attention ranks cost?

Each rank attends to its own sequences; the experts take the tokens of all ranks.  Nobody goes on before the slowest:
the step takes the longest attention of a rank, the operators on a rank's own tokens at the largest rank's count, the
head at the most sequences that a rank samples, and the experts at the joint count, padded as the engine pads.  Inside a
CUDA graph every rank runs the size of the largest; one that may not run in a graph keeps the others out of it.

Energy is that of the work itself: attention's mean over the ranks, operators at the mean of the padded counts; the
wait for the slowest costs what an active device draws without work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apex_sim.cost import step_tables as at
from apex_sim.cost.look_up import locate
from apex_sim.cost.parts import Floats
from apex_sim.cost.step_price import add_attention, energy_above_idle, graph_tokens, time_on_device
from apex_sim.cost.step_tables import Ints, StageTables
from apex_sim.machine_code import compiled


@dataclass(frozen=True, slots=True)
class RankPrice:
    """Price of one step of several ranks: each device's time and energy above idle, and where it was looked up.

    `attention_s` has prefill and decode (rows) of each group of layers on the slowest rank.
    """

    device_s: float
    dynamic_j: float
    launch_s: float
    slowdown_s: float
    outside_s: float
    n_own: int
    n_joint: int
    attention_s: Floats


def price_ranks(tables: StageTables, ranks: Sequence[Floats], n_groups: int) -> RankPrice:
    """Return what a step costs whose ranks have batches with these sums.

    Raises
    ------
    ValueError : more tokens than the tables were built for; the scheduler's budget forbids it.
    """
    numbers, layout = tables.numbers, tables.layout
    most = np.max(ranks, axis=0)
    in_graph, n_own = graph_size(layout, most)
    if n_own > layout[at.MAX_TOKENS]:
        raise ValueError("a step has more tokens than its table; the scheduler's budget forbids it")
    n_joint = n_own * len(ranks) if in_graph else joint_tokens(layout, [int(sums[at.N_TOKENS]) for sums in ranks], most)
    longest_s, compute_s, memory_s = -1.0, 0.0, 0.0
    slowest = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    spent_s = np.zeros((2, n_groups))
    for sums in ranks:
        attention_s = np.zeros((2, n_groups))
        price = price_attention(numbers, layout, sums, attention_s)
        if price[0] > longest_s:
            longest_s, slowest, spent_s = price[0], price, attention_s
        compute_s, memory_s = compute_s + price[1], memory_s + price[2]
    compute_s, memory_s = compute_s / len(ranks), memory_s / len(ranks)
    n_mean = -(-n_joint // len(ranks))
    n_sampled = int(most[at.N_SAMPLED])
    own, mean = _row(tables, at.TOKENS_AT, n_own), _row(tables, at.TOKENS_AT, n_mean)
    joint, head = _row(tables, at.JOINT_AT, n_joint), _row(tables, at.HEAD_AT, n_sampled)
    kernel_s = own[0] + joint[0] + head[0] + longest_s
    n_launches = numbers[at.TOKEN_LAUNCHES] + numbers[at.JOINT_LAUNCHES] + slowest[3]
    n_gaps = numbers[at.TOKEN_GAPS] + numbers[at.JOINT_GAPS] + slowest[4]
    if n_sampled > 0:
        n_launches, n_gaps = n_launches + numbers[at.HEAD_LAUNCHES], n_gaps + numbers[at.HEAD_GAPS]
    compute_s, memory_s = (
        compute_s + mean[1] + joint[1] + head[1],
        memory_s + mean[2] + joint[2] + head[2],
    )
    n_tokens = float(sum(sums[at.N_TOKENS] for sums in ranks))
    device_s, launch_s, slowdown_s, dynamic_j = close_price(
        numbers, most, in_graph, kernel_s, n_launches, n_gaps,
        compute_s, memory_s, mean[3] + joint[3] + head[3], n_tokens,
    )  # fmt: skip
    return RankPrice(device_s, dynamic_j, launch_s, slowdown_s, slowest[5], n_own, n_joint, spent_s)


def joint_tokens(layout: Ints, n_tokens: Sequence[int], most: Floats) -> int:
    """Return how many tokens the experts see in an eager step whose ranks have `n_tokens`."""
    n_joint = sum(n or int(layout[at.DUMMY_TOKENS]) for n in n_tokens)
    padded = max(n_tokens) * len(n_tokens)
    if layout[at.EAGER_PADS] == 1 and most[at.N_PREFILL_TOKENS] == 0.0 and 2 * n_joint >= padded:
        return padded
    return n_joint


def _row(tables: StageTables, table: int, n: int) -> tuple[float, float, float, float]:
    """Return kernel, compute, memory and network time of a table at `n` tokens or sequences."""
    numbers, first = tables.numbers, int(tables.layout[table])
    knot, fraction = (n, 0.0) if table == at.HEAD_AT else locate(n)
    low = first + 4 * knot
    high = low + 4 if fraction > 0.0 else low
    one, two, three, four = (
        float(numbers[low + part] * (1.0 - fraction) + numbers[high + part] * fraction) for part in range(4)
    )
    return one, two, three, four


@compiled
def price_attention(
    numbers: Floats, layout: Ints, sums: Floats, attention_s: Floats
) -> tuple[float, float, float, float, float, float]:
    """Return kernel, compute and memory time of a batch's attention, its launches, gaps and what is outside the data.

    Prefill and decode attention of each group are written to the rows of `attention_s`.
    """
    return add_attention(numbers, layout, sums, attention_s, 0.0, 0.0, 0.0, 0.0, 0.0)


@compiled
def graph_size(layout: Ints, sums: Floats) -> tuple[bool, int]:
    """Return what `graph_tokens` does, to Python."""
    return graph_tokens(layout, sums)


@compiled
def close_price(
    numbers: Floats, most: Floats, in_graph: bool, kernel_s: float, n_launches: float, n_gaps: float,
    compute_s: float, memory_s: float, network_s: float, n_tokens: float,
) -> tuple[float, float, float, float]:  # fmt: skip
    """Return device time, launches, slowdown of prompts and energy of a step; a rank has `most`, all `n_tokens`."""
    device_s, launch_s, slowdown_s = time_on_device(numbers, most, in_graph, kernel_s, n_launches, n_gaps)
    dynamic_j = energy_above_idle(numbers, device_s, compute_s, memory_s, network_s, n_tokens)
    return device_s, launch_s, slowdown_s, dynamic_j
