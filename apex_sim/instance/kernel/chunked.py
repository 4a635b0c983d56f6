"""vLLM v0's chunked prefill, compiled; the rules are those of `apex_sim.instance.policies.chunked`."""

from __future__ import annotations

from apex_sim.instance.kernel import state as at
from apex_sim.instance.kernel.blocks import (
    grow,
    head,
    n_tokens_of,
    n_uncomputed,
    pop_front,
    push_front,
    reject_head,
    schedule_tokens,
)
from apex_sim.instance.kernel.loop import hand_over, until_decision
from apex_sim.instance.kernel.prefill_first import make_room, may_allocate
from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import compiled, inner


@compiled
def advance_chunked(state: State) -> None:
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
    """Serve running requests, admit prompts, and put what was not reached first, then decodes, chunks and newcomers."""
    record = state.queues[queue]
    n_candidates, n_before = record["n_waiting"], record["n_running"]
    budget, first_left, last_left = _serve_running(state, queue)
    n_served = record["n_entries"]
    n_rejected = _admit_chunks(state, queue, n_candidates, budget)
    n_chunks = _reorder(state, queue, first_left, last_left, n_served)
    record["is_steady"] = 0
    if n_rejected == 0 and n_chunks == 0 and record["n_entries"] == n_served == n_before == record["n_running"]:
        record["is_steady"] = 1


@inner
def _serve_running(state: State, queue: int) -> tuple[int, int, int]:
    """Schedule running requests; return the budget left, and which of `running` were not reached."""
    record = state.queues[queue]
    budget, index, last = state.engine[0]["budget"], 0, record["n_running"]
    while index < last and budget > 0:
        request = state.running[queue, index]
        index += 1
        last = make_room(state, queue, request, index, last)
        if last < index:
            last = index
            continue
        n_new = min(n_uncomputed(state, request), budget)
        schedule_tokens(state, queue, request, n_new)
        budget -= n_new
    return budget, index, last


@inner
def _admit_chunks(state: State, queue: int, n_candidates: int, budget: int) -> int:
    """Admit from the last `n_candidates` of `waiting`; return how many were rejected."""
    record, engine = state.queues[queue], state.engine[0]
    n_preempted = record["n_waiting"] - n_candidates
    for index in range(n_preempted):
        state.preempted[index] = pop_front(state, queue)
    n_rejected = 0
    while record["n_waiting"] > 0:
        request = head(state, queue)
        fits = may_allocate(state, queue, request)
        if fits < 0:
            reject_head(state, queue, at.PROMPT_EXCEEDS_POOL)
            n_rejected += 1
            continue
        if fits == 0 or budget == 0 or record["n_entries"] >= engine["max_num_seqs"]:
            break
        pop_front(state, queue)
        grow(state, queue, request, n_tokens_of(state, request))
        n_new = min(n_uncomputed(state, request), budget)
        schedule_tokens(state, queue, request, n_new)
        budget -= n_new
    for index in range(n_preempted - 1, -1, -1):
        push_front(state, queue, state.preempted[index])
    return n_rejected


@inner
def _reorder(state: State, queue: int, first_left: int, last_left: int, n_served: int) -> int:
    """Put `running` into its next order, and the batch into newcomers, chunks, decodes; return the chunks served."""
    record, entries, running = state.queues[queue], state.entries, state.running
    n_entries, n_left = record["n_entries"], last_left - first_left
    for index in range(n_left):
        running[queue, index] = running[queue, first_left + index]
    ordered = entries.shape[1] // 2
    place, n_chunks = 0, 0
    for index in range(n_served, n_entries):
        entries[queue, ordered + place] = entries[queue, index]
        place += 1
    for decodes in (0, 1):
        for index in range(n_served):
            if entries[queue, index]["decodes"] == decodes:
                entries[queue, ordered + place] = entries[queue, index]
                place += 1
                n_chunks += 1 - decodes
    n_new = n_entries - n_served
    for index in range(n_entries):
        entries[queue, index] = entries[queue, ordered + index]
    place = n_left
    for first, last in ((n_new + n_chunks, n_entries), (n_new, n_new + n_chunks), (0, n_new)):
        for index in range(first, last):
            running[queue, place] = entries[queue, index]["request"]
            place += 1
    record["n_running"] = place
    return n_chunks
