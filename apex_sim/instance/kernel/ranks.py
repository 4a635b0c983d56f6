"""When does a step of several attention ranks end?  Their batches are priced together, on the only stage."""

from __future__ import annotations

from apex_sim.cost import step_tables as of
from apex_sim.cost.look_up import locate
from apex_sim.cost.parts import Floats
from apex_sim.cost.rank_price import close_price, price_attention
from apex_sim.cost.step_price import graph_tokens
from apex_sim.instance.kernel.batch import drawn_imbalance, occupy, sample_step, sum_up
from apex_sim.instance.kernel.record import is_sampled
from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import inner


@inner
def send_ranks(state: State) -> None:
    """Send the batches that all ranks decided as one step, and keep them in flight; the first rank leads."""
    engine, leader = state.engine[0], state.queues[0]
    slot = (leader["first_flight"] + leader["n_flight"]) % state.flights.shape[1]
    for rank in range(len(state.queues)):
        sum_up(state, rank)
        for field in range(len(state.sums)):
            state.rank_sums[rank, field] = state.sums[field]
        n_entries = state.queues[rank]["n_entries"]
        for index in range(n_entries):
            state.flights[rank, slot, index]["request"] = state.entries[rank, index]["request"]
            state.flights[rank, slot, index]["samples"] = state.entries[rank, index]["samples"]
        state.flight_sizes[rank, slot] = n_entries
    leader["n_flight"] += 1
    leader["n_same"] = 0
    device_s = _price_ranks(state)
    end_s = occupy(state, len(state.engine) - 1, leader["decided_s"], engine["now_s"], device_s)
    state.flight_ends_s[0, slot] = end_s
    if is_sampled(state, len(state.engine)):
        sample_step(state, len(state.engine) - 1, end_s)


@inner
def _price_ranks(state: State) -> float:
    """Price the step and count what it visits; return its device time.  As `apex_sim.cost.rank_price.price_ranks`."""
    stage, n_ranks, most, price_s = state.stages[0], len(state.queues), state.most, state.price_s
    engine = state.engine[0]
    numbers = state.numbers[stage["numbers_at"] : stage["numbers_end"]]
    layout = state.layout[stage["layout_at"] : stage["layout_end"]]
    n_tokens = _sum_and_most(state)
    in_graph, n_own = graph_tokens(layout, most)
    n_joint = n_own * n_ranks if in_graph else _joint_tokens(state, layout[of.DUMMY_TOKENS], layout[of.EAGER_PADS])
    longest_s, compute_s, memory_s, launches, gaps, outside_s = -1.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for rank in range(n_ranks):
        spent_s, compute, memory, n_launches, n_gaps, outside = price_attention(
            numbers, layout, state.rank_sums[rank], price_s
        )
        compute_s, memory_s = compute_s + compute, memory_s + memory
        if spent_s > longest_s:
            longest_s, launches, gaps, outside_s = spent_s, n_launches, n_gaps, outside
            for group in range(price_s.shape[1]):
                state.line[0, group], state.line[1, group] = price_s[0, group], price_s[1, group]
    compute_s, memory_s = compute_s / n_ranks, memory_s / n_ranks
    n_mean, n_sampled = -(-n_joint // n_ranks), int(most[of.N_SAMPLED])
    own, joint = layout[of.TOKENS_AT], layout[of.JOINT_AT]
    head = layout[of.HEAD_AT] + 4 * n_sampled
    kernel_s = _at(numbers, own, n_own, 0) + _at(numbers, joint, n_joint, 0) + numbers[head] + longest_s
    compute_s = compute_s + _at(numbers, own, n_mean, 1) + _at(numbers, joint, n_joint, 1) + numbers[head + 1]
    memory_s = memory_s + _at(numbers, own, n_mean, 2) + _at(numbers, joint, n_joint, 2) + numbers[head + 2]
    network_s = _at(numbers, own, n_mean, 3) + _at(numbers, joint, n_joint, 3) + numbers[head + 3]
    launches = numbers[of.TOKEN_LAUNCHES] + numbers[of.JOINT_LAUNCHES] + launches
    gaps = numbers[of.TOKEN_GAPS] + numbers[of.JOINT_GAPS] + gaps
    if n_sampled > 0:
        launches, gaps = launches + numbers[of.HEAD_LAUNCHES], gaps + numbers[of.HEAD_GAPS]
    device_s, launch_s, slowdown_s, dynamic_j = close_price(
        numbers, most, in_graph, kernel_s, launches, gaps, compute_s, memory_s, network_s, n_tokens
    )
    if engine["varies"] == 1 and layout[of.SPREAD_AT] > 0:
        knot, fraction = locate(n_joint)
        imbalance_s = drawn_imbalance(state, len(state.engine) - 1, knot, fraction)
        device_s += imbalance_s
        dynamic_j += numbers[of.ACTIVE_W] * imbalance_s
        stage["imbalance_s"] += imbalance_s
    stage["n_steps"] += 1
    stage["busy_s"] += device_s
    stage["launch_s"] += launch_s
    stage["slowdown_s"] += slowdown_s
    stage["dynamic_j"] += dynamic_j
    stage["outside_s"] += outside_s
    _visit(state.token_visits, n_own)
    _visit(state.joint_visits, n_joint)
    state.head_visits[0, n_sampled] += 1.0
    for group in range(price_s.shape[1]):
        state.attention_s[0, 0, group] += state.line[0, group]
        state.attention_s[0, 1, group] += state.line[1, group]
    return float(device_s)


@inner
def _sum_and_most(state: State) -> float:
    """Put the most that a rank has into `most` and what all have together into `sums`; return the tokens of all."""
    for field in range(len(state.sums)):
        state.most[field] = state.sums[field] = state.rank_sums[0, field]
        for rank in range(1, len(state.queues)):
            state.most[field] = max(state.most[field], state.rank_sums[rank, field])
            state.sums[field] += state.rank_sums[rank, field]
    return float(state.sums[of.N_TOKENS])


@inner
def _joint_tokens(state: State, n_dummy: int, pads: int) -> int:
    """Return how many tokens the experts see outside a graph."""
    n_joint, n_ranks = 0, len(state.queues)
    for rank in range(n_ranks):
        n_own = int(state.rank_sums[rank, of.N_TOKENS])
        n_joint += n_own if n_own > 0 else n_dummy
    padded = int(state.most[of.N_TOKENS]) * n_ranks
    if pads == 1 and state.most[of.N_PREFILL_TOKENS] == 0.0 and 2 * n_joint >= padded:
        return padded
    return n_joint


@inner
def _at(numbers: Floats, first: int, n: int, part: int) -> float:
    """Return a table's kernel, compute, memory or network time at `n` tokens."""
    knot, fraction = locate(n)
    low = first + 4 * knot + part
    high = low + 4 if fraction > 0.0 else low
    return float(numbers[low] * (1.0 - fraction) + numbers[high] * fraction)


@inner
def _visit(visits: Floats, n: int) -> None:
    knot, fraction = locate(n)
    visits[0, knot] += 1.0 - fraction
    if fraction > 0.0:
        visits[0, knot + 1] += fraction
