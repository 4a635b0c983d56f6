"""vLLM v1's single loop, compiled; the rules are those of `apex_sim.instance.policies.unified`."""

from __future__ import annotations

from apex_sim.instance.kernel.blocks import admit, grow, head, n_uncomputed, pop_front, preempt, schedule_tokens
from apex_sim.instance.kernel.loop import hand_over, until_decision
from apex_sim.instance.kernel.places import last_place, withdraw
from apex_sim.instance.kernel.prefixes import cached_tokens, remember
from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import compiled, inner


@compiled
def advance_unified(state: State) -> None:
    """Run the instance until nothing is left to do."""
    while True:
        queue = until_decision(state)
        if queue < 0:
            return
        decide(state, queue)
        hand_over(state, queue)


@inner
def decide(state: State, queue: int) -> None:
    """Build the next batch."""
    record, running, requests = state.queues[queue], state.running, state.requests
    budget, n_drafts = state.engine[0]["budget"], state.engine[0]["n_draft_tokens"]
    most_tokens, n_before = state.engine[0]["max_model_len"], record["n_running"]
    index = 0
    while index < record["n_running"] and budget > 0:
        request = running[queue, index]
        n_new, computed = min(_schedulable(state, request), budget), requests[request]["computed"]
        if n_drafts > 0:
            n_new = min(n_new + requests[request]["drafts"], budget, most_tokens - 1 - computed)
        index += 1
        if n_new == 0:
            continue
        n_ahead = min(computed + n_new + n_drafts, most_tokens)
        fits, n_withdrawn, n_returned = _make_room(state, queue, request, n_ahead)
        budget += n_returned
        index -= n_withdrawn
        if not fits:
            break
        schedule_tokens(state, queue, request, n_new)
        if n_drafts > 0:
            requests[request]["drafts"] = 0
        remember(state, request)
        budget -= n_new
    if record["n_running"] == n_before:
        _admit(state, queue, budget)
    record["is_steady"] = 1 if record["n_running"] == n_before and record["n_entries"] == n_before else 0
    if record["n_waiting"] > 0 and requests[head(state, queue)]["pending"] > 0:
        record["is_steady"] = 0


@inner
def _schedulable(state: State, request: int) -> int:
    record = state.requests[request]
    if record["pending"] > 0 and record["generated"] + record["pending"] >= record["limit"]:
        return 0
    return n_uncomputed(state, request)


@inner
def _make_room(state: State, queue: int, request: int, n_tokens: int) -> tuple[bool, int, int]:
    """Return whether there is room, how many entries were withdrawn for it, and their tokens."""
    record, running, n_withdrawn, n_returned = state.queues[queue], state.running, 0, 0
    is_sorted = state.engine[0]["is_sorted"] == 1
    while not grow(state, queue, request, n_tokens):
        place = last_place(state, queue) if is_sorted else record["n_running"] - 1
        victim = running[queue, place]
        record["n_running"] -= 1
        for index in range(place, record["n_running"]):
            running[queue, index] = running[queue, index + 1]
        n_new = withdraw(state, queue, victim) if is_sorted else 0
        n_withdrawn += 1 if n_new > 0 else 0
        n_returned += n_new
        preempt(state, queue, victim)
        if victim == request:
            return False, n_withdrawn, n_returned
    return True, n_withdrawn, n_returned


@inner
def _admit(state: State, queue: int, budget: int) -> None:
    record = state.queues[queue]
    while record["n_waiting"] > 0 and budget > 0 and record["n_running"] < state.engine[0]["max_num_seqs"]:
        request = head(state, queue)
        if state.requests[request]["pending"] > 0:
            return
        n_cached = cached_tokens(state, request)
        n_new = min(n_uncomputed(state, request) - n_cached, budget)
        if not admit(state, queue, request, n_cached, n_cached + n_new):
            return
        pop_front(state, queue)
        state.running[queue, record["n_running"]] = request
        record["n_running"] += 1
        schedule_tokens(state, queue, request, n_new)
        remember(state, request)
        budget -= n_new
