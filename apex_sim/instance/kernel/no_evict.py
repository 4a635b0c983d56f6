"""TensorRT-LLM's default, compiled; the rules are those of `apex_sim.instance.policies.no_evict`."""

from __future__ import annotations

from apex_sim.instance.kernel import state as at
from apex_sim.instance.kernel.blocks import (
    blocks_for,
    grow,
    head,
    n_uncomputed,
    pop_front,
    reject_head,
    schedule_tokens,
)
from apex_sim.instance.kernel.loop import hand_over, until_decision
from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import compiled, inner


@compiled
def advance_no_evict(state: State) -> None:
    """Run the instance until nothing is left to do."""
    while True:
        queue = until_decision(state)
        if queue < 0:
            return
        for rank in range(state.engine[0]["n_ranks"]):
            _decide(state, queue + rank)
        hand_over(state, queue)


@inner
def _decide(state: State, queue: int) -> None:
    record, running = state.queues[queue], state.running
    n_before, n_left = record["n_running"], record["n_free"]
    for index in range(n_before):
        request = running[queue, index]
        n_left -= blocks_at_end(state, request) - state.requests[request]["blocks"]
    for index in range(n_before):
        request = running[queue, index]
        if decodes_now(state, request):
            grow(state, queue, request, state.requests[request]["computed"] + 1)
            schedule_tokens(state, queue, request, 1)
    n_decodes = record["n_entries"]
    n_rejected = _admit(state, queue, n_left, state.engine[0]["budget"] - n_decodes)
    record["is_steady"] = 0
    if n_rejected == 0 and record["n_entries"] == n_decodes == n_before:
        record["is_steady"] = 1


@inner
def _admit(state: State, queue: int, n_left: int, budget: int) -> int:
    """Start whole prompts whose last block is free as well; return how many were rejected."""
    record, engine, n_rejected = state.queues[queue], state.engine[0], 0
    while record["n_waiting"] > 0 and record["n_running"] < engine["max_num_seqs"]:
        request = head(state, queue)
        n_new, needed = n_uncomputed(state, request), blocks_at_end(state, request)
        if n_new > engine["budget"]:
            reject_head(state, queue, at.PROMPT_EXCEEDS_BUDGET)
            n_rejected += 1
            continue
        if needed > n_left or n_new > budget:
            break
        n_left -= needed
        budget -= n_new
        grow(state, queue, request, n_new)
        pop_front(state, queue)
        state.running[queue, record["n_running"]] = request
        record["n_running"] += 1
        schedule_tokens(state, queue, request, n_new)
    return n_rejected


@inner
def decodes_now(state: State, request: int) -> bool:
    """Whether the next token may be scheduled."""
    record = state.requests[request]
    if record["pending"] > 0 and record["generated"] + record["pending"] >= record["limit"]:
        return False
    return n_uncomputed(state, request) > 0


@inner
def blocks_at_end(state: State, request: int) -> int:
    """Return the blocks that a request holds once it has all of its output."""
    return blocks_for(state, state.requests[request]["prompt"] + state.requests[request]["limit"])
