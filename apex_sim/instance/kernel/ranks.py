"""What does a step of several attention ranks cost?  The rules are those of `apex_sim.cost.rank_price`."""

from __future__ import annotations

from apex_sim.cost import step_tables as of
from apex_sim.cost.look_up import locate
from apex_sim.cost.parts import Floats
from apex_sim.cost.rank_price import close_price, price_attention
from apex_sim.cost.step_price import graph_tokens
from apex_sim.cost.step_tables import Ints
from apex_sim.machine_code import compiled, inner


@compiled
def price_together(
    numbers: Floats, layout: Ints, rank_sums: Floats, most: Floats, total: Floats, spent_s: Floats, price_s: Floats
) -> tuple[float, float, float, float, float, int, int]:
    """Return device time, energy above idle, launches, slowdown, what is outside the data, own and joint tokens.

    Written: `most`, what a rank has of each sum at most; `total`, what all have together, but of the sequences that
    sample the most of a rank; attention of the slowest rank to the rows of `price_s`; `spent_s` is scratch.
    """
    n_ranks = len(rank_sums)
    n_eager = _sum_and_most(layout, rank_sums, most, total)
    in_graph, n_own = graph_tokens(layout, most)
    n_joint = n_own * n_ranks if in_graph else n_eager
    longest_s, compute_s, memory_s, launches, gaps, outside_s = -1.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for rank in range(n_ranks):
        rank_s, compute, memory, n_launches, n_gaps, outside = price_attention(
            numbers, layout, rank_sums[rank], spent_s
        )
        compute_s, memory_s = compute_s + compute, memory_s + memory
        if rank_s > longest_s:
            longest_s, launches, gaps, outside_s = rank_s, n_launches, n_gaps, outside
            for group in range(price_s.shape[1]):
                price_s[0, group], price_s[1, group] = spent_s[0, group], spent_s[1, group]
    n_mean, n_sampled = -(-n_joint // n_ranks), int(most[of.N_SAMPLED])
    own, joint = layout[of.TOKENS_AT], layout[of.JOINT_AT]
    head = layout[of.HEAD_AT] + 4 * n_sampled
    kernel_s = _at(numbers, own, n_own) + _at(numbers, joint, n_joint) + numbers[head] + longest_s
    compute_s = compute_s / n_ranks + _at(numbers, own + 1, n_mean) + _at(numbers, joint + 1, n_joint)
    memory_s = memory_s / n_ranks + _at(numbers, own + 2, n_mean) + _at(numbers, joint + 2, n_joint)
    network_s = _at(numbers, own + 3, n_mean) + _at(numbers, joint + 3, n_joint) + numbers[head + 3]
    launches = numbers[of.TOKEN_LAUNCHES] + numbers[of.JOINT_LAUNCHES] + launches
    gaps = numbers[of.TOKEN_GAPS] + numbers[of.JOINT_GAPS] + gaps
    if n_sampled > 0:
        launches, gaps = launches + numbers[of.HEAD_LAUNCHES], gaps + numbers[of.HEAD_GAPS]
    device_s, launch_s, slowdown_s, dynamic_j = close_price(
        numbers, most, in_graph, kernel_s, launches, gaps,
        compute_s + numbers[head + 1], memory_s + numbers[head + 2], network_s, total[of.N_TOKENS],
    )  # fmt: skip
    total[of.N_SAMPLED] = most[of.N_SAMPLED]
    return device_s, dynamic_j, launch_s, slowdown_s, outside_s, n_own, n_joint


@inner
def _sum_and_most(layout: Ints, rank_sums: Floats, most: Floats, total: Floats) -> int:
    """Sum up the ranks, and return how many tokens the experts see outside a graph."""
    n_ranks, n_joint = len(rank_sums), 0
    for field in range(len(most)):
        most[field] = total[field] = rank_sums[0, field]
        for rank in range(1, n_ranks):
            most[field] = max(most[field], rank_sums[rank, field])
            total[field] += rank_sums[rank, field]
    for rank in range(n_ranks):
        n_own = int(rank_sums[rank, of.N_TOKENS])
        n_joint += n_own if n_own > 0 else layout[of.DUMMY_TOKENS]
    padded = int(most[of.N_TOKENS]) * n_ranks
    if layout[of.EAGER_PADS] == 1 and most[of.N_PREFILL_TOKENS] == 0.0 and 2 * n_joint >= padded:
        return padded
    return n_joint


@inner
def _at(numbers: Floats, first: int, n: int) -> float:
    """Return what a column of a table, which begins at `first`, has at `n` tokens."""
    knot, fraction = locate(n)
    low = first + 4 * knot
    high = low + 4 if fraction > 0.0 else low
    return float(numbers[low] * (1.0 - fraction) + numbers[high] * fraction)
