"""vLLM v0's default, compiled; the rules are those of `apex_sim.instance.policies.prefill_first`."""

from __future__ import annotations

from apex_sim.instance.kernel import state as at
from apex_sim.instance.kernel.blocks import (
    blocks_for,
    grow,
    head,
    n_tokens_of,
    n_uncomputed,
    pop_front,
    reject_head,
    schedule_tokens,
)
from apex_sim.instance.kernel.loop import hand_over, until_decision
from apex_sim.instance.kernel.state import State
from apex_sim.instance.kernel.swap import swap_in, take_off
from apex_sim.machine_code import compiled, inner


@compiled
def advance_prefill_first(state: State) -> None:
    """Run the instance until nothing is left to do."""
    state.engine[0]["keeps_one_free"] = 1
    while True:
        queue = until_decision(state)
        if queue < 0:
            return
        _decide(state, queue)
        hand_over(state, queue)


@inner
def _decide(state: State, queue: int) -> None:
    record = state.queues[queue]
    n_rejected = _admit_prompts(state, queue) if record["n_swapped"] == 0 else 0
    record["is_steady"] = record["n_copied"] = 0
    if record["n_entries"] == 0:
        n_before = record["n_running"]
        _decode_all(state, queue)
        if record["n_running"] == n_before:
            n_rejected += swap_in(state, queue)
            if n_rejected == 0 and record["n_swapped"] == 0 and record["n_copied"] == 0:
                record["is_steady"] = 1


@inner
def _admit_prompts(state: State, queue: int) -> int:
    """Admit prompts; return how many were rejected."""
    record, engine = state.queues[queue], state.engine[0]
    budget, n_rejected = engine["budget"], 0
    while record["n_waiting"] > 0:
        request = head(state, queue)
        n_new = n_uncomputed(state, request)
        if n_new > min(engine["max_model_len"], engine["budget"]):
            reject_head(state, queue, at.PROMPT_EXCEEDS_BUDGET)
            n_rejected += 1
            continue
        fits = may_allocate(state, queue, request)
        if fits < 0:
            reject_head(state, queue, at.PROMPT_EXCEEDS_POOL)
            n_rejected += 1
            continue
        if fits == 0 or n_new > budget or record["n_running"] >= engine["max_num_seqs"]:
            break
        budget -= n_new
        pop_front(state, queue)
        grow(state, queue, request, n_new)
        state.running[queue, record["n_running"]] = request
        record["n_running"] += 1
        schedule_tokens(state, queue, request, n_new)
    return n_rejected


@inner
def may_allocate(state: State, queue: int, request: int) -> int:
    """Return 1 if the blocks of the whole prompt are free above the watermark, 0 if not, -1 if they never can be."""
    record, need = state.queues[queue], blocks_for(state, n_tokens_of(state, request))
    if record["n_blocks"] - need < record["n_watermark"]:
        return -1
    return 1 if record["n_free"] - need >= record["n_watermark"] else 0


@inner
def _decode_all(state: State, queue: int) -> None:
    """Decode all running requests; those that are preempted come off the back of the ones not yet visited."""
    record, running = state.queues[queue], state.running
    last, index = record["n_running"], 0
    record["n_running"] = 0
    while index < last:
        request = running[queue, index]
        index += 1
        last = make_room(state, queue, request, index, last)
        if last < index:
            return
        running[queue, record["n_running"]] = request
        record["n_running"] += 1
        schedule_tokens(state, queue, request, 1)


@inner
def make_room(state: State, queue: int, request: int, first: int, last: int) -> int:
    """Give a request its next block, preempting from the back of `running[first:last]`.

    Return the new `last`; `first - 1` if the request had to go itself.
    """
    while state.queues[queue]["n_free"] < 1 or not grow(state, queue, request, n_tokens_of(state, request)):
        if last == first:
            take_off(state, queue, request)
            return first - 1
        last -= 1
        take_off(state, queue, int(state.running[queue, last]))
    return last
