"""How are many equal decode steps taken at once?

While the same requests decode, nothing arrives that could be admitted, nobody finishes and blocks suffice, the next
steps differ in their contexts alone, and their ends lie on one line.  A leap takes all of them, and ends where the
steps themselves would: every comparison of times uses the expression that they use.
"""

from __future__ import annotations

import numpy as np

from apex_sim.cost import step_tables as of
from apex_sim.cost.decode_line import line_s
from apex_sim.instance.kernel.batch import sample_step
from apex_sim.instance.kernel.blocks import blocks_for, grow, head
from apex_sim.instance.kernel.prefixes import cached_tokens, n_bare_first
from apex_sim.instance.kernel.record import count_gap, count_gaps, is_sampled, note_queues
from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import inner

#: Host time may differ from its product by rounding.
_MARGIN = 1.0 + 1e-9


@inner
def take_leap(state: State, queue: int) -> None:
    """Take as many further steps as are sure to hold the batch just sent."""
    n_steps = _n_equal_steps(state, queue)
    if n_steps < 1:
        return
    engine, record, requests = state.engine[0], state.queues[queue], state.requests
    oldest = engine["line_done"] - record["n_flight"]
    first_s, last_s = line_end_s(state, oldest + 1), line_end_s(state, oldest + n_steps)
    _count_tokens(state, queue, first_s, last_s, oldest, n_steps)
    for index in range(record["n_running"]):
        request = requests[state.running[queue, index]]
        request["computed"] += n_steps
        request["generated"] += n_steps
        request["last_s"] = last_s
        grow(state, queue, state.running[queue, index], request["computed"])
    _count_steps(state, n_steps, record["host_s"])
    engine["line_done"] += n_steps
    engine["barren_steps"] = 0
    for index in range(record["n_flight"]):
        slot = (record["first_flight"] + index) % state.flights.shape[1]
        state.flight_ends_s[queue, slot] = line_end_s(state, engine["line_done"] - record["n_flight"] + 1 + index)
    end_s = line_end_s(state, engine["line_done"])
    state.stages[0]["free_s"] = end_s
    record["n_same"] += n_steps
    record["n_decays"] += n_steps
    record["decided_s"] = last_s
    engine["now_s"] = last_s + record["host_s"]
    engine["last_begin_s"] = max(engine["now_s"], line_end_s(state, engine["line_done"] - 1))
    engine["n_leaps"] += 1
    note_queues(state)
    if is_sampled(state, n_steps):
        sample_step(state, queue, end_s)


@inner
def line_end_s(state: State, n_steps: int) -> float:
    """Return when the first `n_steps` of the line have ended."""
    engine = state.engine[0]
    return float(engine["line_start_s"] + line_s(engine["line_first_s"], engine["line_growth_s"], n_steps))


@inner
def _n_equal_steps(state: State, queue: int) -> int:
    """Return how many further steps are certain: no end, no admission, no lack of blocks, one line."""
    engine, record = state.engine[0], state.queues[queue]
    n_flight = record["n_flight"]
    if record["is_steady"] == 0 or record["n_same"] < n_flight or n_flight != engine["depth"]:
        return 0
    admits_any = record["n_waiting"] == 0 or record["n_left_waiting"] == 0 or engine["is_sorted"] == 1
    if admits_any and record["n_waiting"] > record["n_left_waiting"]:  # came since, and may be admitted
        return 0
    most = engine["line_steps"] - engine["line_done"]
    oldest = engine["line_done"] - n_flight
    if most < 1 or oldest < -1:
        return 0
    if oldest == -1 and state.flight_ends_s[queue, record["first_flight"]] != engine["line_start_s"]:
        return 0
    for index in range(record["n_running"]):
        request = state.requests[state.running[queue, index]]
        most = min(most, request["output"] - request["generated"] - 1)
        if n_flight > 1:
            most = min(most, request["limit"] - request["generated"] - n_flight)
    if most < 1:
        return 0
    if n_flight > 1 and not _is_device_bound(state, record["host_s"], most):
        return 0
    if admits_any and engine["n_coming"] > 0:
        most = _n_before(state, oldest, most, state.coming_s[engine["first_coming"]])
    most = _n_with_blocks(state, queue, most)
    if engine["until_s"] < np.inf and most > 0:
        engine["quiet_s"] = line_end_s(state, oldest + most)
        most = _n_before(state, oldest, most, engine["until_s"])
    return most


@inner
def _is_device_bound(state: State, host_s: float, n_steps: int) -> bool:
    """Whether the host is ready before the device in each of the next steps."""
    engine = state.engine[0]
    now_s = engine["line_device_s"] + engine["line_growth_s"] * (engine["line_done"] - 1)
    then_s = now_s + engine["line_growth_s"] * n_steps
    return bool(host_s * _MARGIN < min(now_s, then_s))


@inner
def _n_before(state: State, oldest: int, most: int, time_s: float) -> int:
    """Return how many decisions, each at the end of a step, lie before `time_s`."""
    if line_end_s(state, oldest + most) < time_s:
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        if line_end_s(state, oldest + middle) < time_s:
            low = middle
        else:
            high = middle
    return low


@inner
def _n_with_blocks(state: State, queue: int, most: int) -> int:
    """Return for how many steps the free blocks last."""
    engine, record = state.engine[0], state.queues[queue]
    free = record["n_free"] - engine["keeps_one_free"]
    if engine["unit_tokens"] > 0 and record["n_waiting"] > 0 and cached_tokens(state, head(state, queue)) > 0:
        free = min(
            free, n_bare_first(state, queue)
        )  # a head that loses its hits needs fewer blocks for its first chunk
    each = most // engine["block_size"] + 1
    if record["n_running"] * each * engine["n_lists"] <= free or _blocks_missing(state, queue, most) <= free:
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        if _blocks_missing(state, queue, middle) <= free:
            low = middle
        else:
            high = middle
    return low


@inner
def _blocks_missing(state: State, queue: int, n_steps: int) -> int:
    missing = 0
    for index in range(state.queues[queue]["n_running"]):
        request = state.requests[state.running[queue, index]]
        missing += max(0, blocks_for(state, request["computed"] + n_steps) - request["blocks"])
    return missing


@inner
def _count_tokens(state: State, queue: int, first_s: float, last_s: float, oldest: int, n_steps: int) -> None:
    """Count the gaps of all tokens that `n_steps` batches, ending from `first_s` to `last_s`, deliver."""
    engine, n_running = state.engine[0], state.queues[queue]["n_running"]
    index = 0
    while index < n_running:
        since_s = state.requests[state.running[queue, index]]["last_s"]
        count = 1
        while index + count < n_running and state.requests[state.running[queue, index + count]]["last_s"] == since_s:
            count += 1
        count_gap(state, first_s - since_s, count)
        index += count
    if n_steps > 1:
        growth_s = engine["line_growth_s"]
        second_s = engine["line_first_s"] + growth_s * (oldest + 1)
        count_gaps(state, second_s, growth_s, n_steps - 1, n_running, last_s - first_s)


@inner
def _count_steps(state: State, n_steps: int, host_s: float) -> None:
    """Count time, energy and table visits of the next `n_steps` of the line, as the meter does for each."""
    engine, stage, sampled = state.engine[0], state.stages[0], int(state.sums[of.N_SAMPLED])
    n = float(n_steps)
    places = n * engine["line_done"] + n * (n - 1.0) / 2.0
    stage["n_steps"] += n_steps
    stage["busy_s"] += n * engine["line_device_s"] + places * engine["line_growth_s"]
    stage["launch_s"] += n * engine["line_launch_s"]
    stage["dynamic_j"] += n * engine["line_first_j"] + places * engine["line_growth_j"]
    if engine["depth"] == 1:
        stage["host_s"] += n * host_s
        stage["dynamic_j"] += state.numbers[stage["numbers_at"] + of.ACTIVE_W] * n * host_s
    knot, fraction = int(engine["line_knot"]), engine["line_fraction"]
    state.visits[0, 0, knot] += n * (1.0 - fraction)
    if fraction > 0.0:
        state.visits[0, 0, knot + 1] += n * fraction
    state.visits[2, 0, sampled] += n
    stage["outside_s"] += n * engine["line_outside_s"]
    for group in range(state.line.shape[1]):
        state.attention_s[0, 1, group] += n * state.line[0, group] + places * state.line[1, group]
        stage["outside_s"] += places * state.line[2, group]
    engine["n_leapt_steps"] += n_steps
