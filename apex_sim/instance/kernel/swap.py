"""Which requests lie in the host's memory?  The swapping of `SchedulerQueue` over plain arrays."""

from __future__ import annotations

from apex_sim.instance.kernel import state as at
from apex_sim.instance.kernel.blocks import grow, n_tokens_of, preempt, reject, release, schedule_one, take_blocks
from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import inner


@inner
def take_off(state: State, queue: int, request: int) -> None:
    """Take a running request off its blocks, by swapping or by recomputation."""
    if state.engine[0]["swaps"] == 0:
        preempt(state, queue, request)
        return
    record, swapped = state.queues[queue], state.requests[request]
    n_blocks = swapped["blocks"]
    if n_blocks > record["n_host_free"]:
        state.engine[0]["error"] = at.SWAP_SPACE_FULL
    release(state, queue, request)
    record["n_host_free"] -= n_blocks
    record["n_copied"] += n_blocks
    swapped["on_host"] = n_blocks
    swapped["preemptions"] += 1
    state.swapped[queue, record["n_swapped"]] = request
    record["n_swapped"] += 1


@inner
def swap_in(state: State, queue: int) -> int:
    """Bring requests back, first out first, and let each decode; return how many were rejected."""
    record, engine, n_rejected = state.queues[queue], state.engine[0], 0
    while record["n_swapped"] > 0:
        request = int(state.swapped[queue, 0])
        n_blocks = state.requests[request]["on_host"]
        n_needed = n_blocks + 1
        if n_needed > record["n_blocks"]:
            _drop_first(state, queue)
            state.requests[request]["reason"] = at.CANNOT_SWAP_IN
            reject(state, request)
            n_rejected += 1
            continue
        is_full = record["n_entries"] >= min(engine["max_num_seqs"], engine["budget"])
        if record["n_free"] - n_needed < record["n_watermark"] or is_full:
            break
        _drop_first(state, queue)
        record["n_copied"] += n_blocks
        take_blocks(state, queue, request, n_blocks)
        grow(state, queue, request, n_tokens_of(state, request))
        state.running[queue, record["n_running"]] = request
        record["n_running"] += 1
        schedule_one(state, queue, request)
    return n_rejected


@inner
def _drop_first(state: State, queue: int) -> None:
    record, request = state.queues[queue], state.swapped[queue, 0]
    record["n_host_free"] += state.requests[request]["on_host"]
    state.requests[request]["on_host"] = 0
    record["n_swapped"] -= 1
    for index in range(record["n_swapped"]):
        state.swapped[queue, index] = state.swapped[queue, index + 1]
