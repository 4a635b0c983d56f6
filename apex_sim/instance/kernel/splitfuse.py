"""DeepSpeed-FastGen's dynamic SplitFuse, compiled; the rules are those of `apex_sim.instance.policies.splitfuse`."""

from __future__ import annotations

from apex_sim.instance.kernel.blocks import (
    blocks_for,
    grow,
    head,
    n_tokens_of,
    n_uncomputed,
    pop_front,
    preempt,
    schedule_tokens,
)
from apex_sim.instance.kernel.loop import hand_over, until_decision
from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import compiled, inner


@compiled
def advance_splitfuse(state: State) -> None:
    """Run the instance until nothing is left to do."""
    while True:
        queue = until_decision(state)
        if queue < 0:
            return
        _decide(state, queue)
        hand_over(state, queue)


@inner
def _decide(state: State, queue: int) -> None:
    record = state.queues[queue]
    n_before, n_waiting = record["n_running"], record["n_waiting"]
    n_left_out, cut = _serve_single_tokens(state, queue)
    _serve_prompts(state, queue, cut)
    if record["n_entries"] == 0:
        while record["n_running"] > 0:
            record["n_running"] -= 1
            preempt(state, queue, state.running[queue, record["n_running"]])
    record["is_steady"] = 1 if n_left_out == 0 and record["n_running"] == n_before else 0
    if record["n_waiting"] != n_waiting:
        record["is_steady"] = 0


@inner
def _serve_single_tokens(state: State, queue: int) -> tuple[int, int]:
    """Schedule those that lack one token and have a block for it, and put the others before them.

    Return how many others there are, and which of them is a cut prompt; -1 if none is.
    """
    record, running, n_served, n_left_out, cut = state.queues[queue], state.running, 0, 0, -1
    for index in range(record["n_running"]):
        request = running[queue, index]
        uncomputed = n_uncomputed(state, request)
        if uncomputed == 1 and grow(state, queue, request, n_tokens_of(state, request)):
            schedule_tokens(state, queue, request, uncomputed)
            state.preempted[n_served] = request
            n_served += 1
        else:
            running[queue, n_left_out] = request
            n_left_out += 1
            if uncomputed > 1:
                cut = request
    for index in range(n_served):
        running[queue, n_left_out + index] = state.preempted[index]
    return n_left_out, cut


@inner
def _serve_prompts(state: State, queue: int, cut: int) -> None:
    record, running, engine = state.queues[queue], state.running, state.engine[0]
    budget = engine["budget"] - record["n_entries"]
    if cut >= 0:
        if not _holds_all(state, queue, cut):
            return
        if budget > 0:
            budget -= _serve(state, queue, cut, budget)
    while record["n_waiting"] > 0 and budget > 0 and record["n_running"] < engine["max_num_seqs"]:
        request = head(state, queue)
        if not _holds_all(state, queue, request):
            return
        pop_front(state, queue)
        budget -= _serve(state, queue, request, budget)
        place = record["n_running"]
        if n_uncomputed(state, request) > 0:
            while place > 0:
                running[queue, place] = running[queue, place - 1]
                place -= 1
        running[queue, place] = request
        record["n_running"] += 1


@inner
def _holds_all(state: State, queue: int, request: int) -> bool:
    """Whether the free blocks hold all tokens of a prompt."""
    missing = blocks_for(state, n_tokens_of(state, request)) - state.requests[request]["blocks"]
    return bool(missing <= state.queues[queue]["n_free"])


@inner
def _serve(state: State, queue: int, request: int, budget: int) -> int:
    """Schedule what the budget allows of a prompt; return how many tokens."""
    n_new = min(n_uncomputed(state, request), budget)
    grow(state, queue, request, state.requests[request]["computed"] + n_new)
    schedule_tokens(state, queue, request, n_new)
    return int(n_new)
