"""What of a run is kept?  Gaps by size, and a bounded sample of the steps."""

from __future__ import annotations

import math

from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import inner
from apex_sim.record.latency_histogram import LOG_RATIO, N_BINS, SMALLEST_S


@inner
def count_gap(state: State, gap_s: float, count: int) -> None:
    """Add `count` gaps between tokens."""
    place = int(math.log(gap_s / SMALLEST_S) / LOG_RATIO) if gap_s > SMALLEST_S else 0
    state.gaps[min(place, N_BINS - 1)] += count
    state.engine[0]["n_gaps"] += count
    state.engine[0]["sum_gaps_s"] += gap_s * count


@inner
def count_gaps(state: State, first_s: float, growth_s: float, n_gaps: int, count: int, sum_s: float) -> None:
    """Add `n_gaps` times `count` gaps that grow by `growth_s`, `sum_s` together."""
    index = 0
    while index < n_gaps:
        gap_s = first_s + growth_s * index
        place = int(math.log(gap_s / SMALLEST_S) / LOG_RATIO) if gap_s > SMALLEST_S else 0
        place = min(place, N_BINS - 1)
        until = n_gaps
        if growth_s > 0.0:
            beyond_s = SMALLEST_S * math.exp(LOG_RATIO * (place + 1))
            until = min(n_gaps, index + max(1, math.ceil((beyond_s - gap_s) / growth_s)))
        elif growth_s < 0.0:
            until = index + 1
        state.gaps[place] += (until - index) * count
        index = until
    state.engine[0]["n_gaps"] += n_gaps * count
    state.engine[0]["sum_gaps_s"] += sum_s * count


@inner
def is_sampled(state: State, n_steps: int) -> bool:
    """Whether the last of the next `n_steps` steps is kept; every other row goes when the sample is full."""
    engine = state.engine[0]
    engine["n_steps"] += n_steps
    engine["n_to_next_row"] -= n_steps
    if engine["n_to_next_row"] > 0:
        return False
    if engine["n_rows"] == len(state.steps):
        for row in range(engine["n_rows"] // 2):
            for column in range(state.steps.shape[1]):
                state.steps[row, column] = state.steps[2 * row, column]
        engine["n_rows"] //= 2
        engine["row_stride"] *= 2
    engine["n_to_next_row"] = engine["row_stride"]
    engine["n_rows"] += 1
    return True


@inner
def note_queues(state: State) -> None:
    """Note how many requests wait and run, and which blocks they hold, as a batch is decided."""
    engine, n_waiting, n_running, n_used = state.engine[0], 0, 0, 0
    for queue in range(len(state.queues)):
        record = state.queues[queue]
        n_waiting += record["n_waiting"] + record["n_swapped"]
        n_running += record["n_running"]
        n_used += record["n_blocks"] - record["n_free"]
    engine["n_waiting"], engine["n_running"], engine["n_blocks_used"] = n_waiting, n_running, n_used
    engine["most_blocks_used"] = max(engine["most_blocks_used"], n_used)
