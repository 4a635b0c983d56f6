"""Sarathi-Serve's stall-free batching, compiled; the rules are those of `apex_sim.instance.policies.sarathi`."""

from __future__ import annotations

from apex_sim.instance.kernel import state as at
from apex_sim.instance.kernel.blocks import (
    grow,
    head,
    is_decoding,
    n_tokens_of,
    n_uncomputed,
    pop_front,
    reject_head,
    schedule_one,
    schedule_tokens,
)
from apex_sim.instance.kernel.loop import hand_over, until_decision
from apex_sim.instance.kernel.places import sort_running
from apex_sim.instance.kernel.prefill_first import make_room, may_allocate
from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import compiled, inner


@compiled
def advance_sarathi(state: State) -> None:
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
    n_before = record["n_running"]
    sort_running(state, queue)
    _decode_all(state, queue)
    n_decodes = record["n_entries"]
    budget = state.engine[0]["budget"] - n_decodes
    for index in range(record["n_running"]):
        request = state.running[queue, index]
        n_new = min(n_uncomputed(state, request), budget)
        if n_new > 0:
            schedule_tokens(state, queue, request, n_new)
            budget -= n_new
    n_rejected = _admit(state, queue, budget)
    record["is_steady"] = 0
    if n_rejected == 0 and n_decodes == n_before == record["n_entries"] == record["n_running"]:
        record["is_steady"] = 1


@inner
def _decode_all(state: State, queue: int) -> None:
    """Decode, preempting from the end of `running`; unfinished prompts are passed over."""
    record, running = state.queues[queue], state.running
    index, last, n_kept = 0, record["n_running"], 0
    while index < last:
        request = running[queue, index]
        index += 1
        if is_decoding(state, request):
            last = make_room(state, queue, request, index, last)
            if last < index:
                break
            schedule_one(state, queue, request)
        running[queue, n_kept] = request
        n_kept += 1
    record["n_running"] = n_kept


@inner
def _admit(state: State, queue: int, budget: int) -> int:
    """Admit prompts; return how many were rejected."""
    record, n_rejected = state.queues[queue], 0
    while record["n_waiting"] > 0 and budget > 0 and record["n_running"] < state.engine[0]["max_num_seqs"]:
        request = head(state, queue)
        fits = may_allocate(state, queue, request)
        if fits < 0:
            reject_head(state, queue, at.PROMPT_EXCEEDS_POOL)
            n_rejected += 1
            continue
        if fits == 0 or not grow(state, queue, request, n_tokens_of(state, request)):
            break
        pop_front(state, queue)
        state.running[queue, record["n_running"]] = request
        record["n_running"] += 1
        n_new = min(n_uncomputed(state, request), budget)
        schedule_tokens(state, queue, request, n_new)
        budget -= n_new
    return n_rejected
