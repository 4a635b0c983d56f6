"""TensorRT-LLM's default with chunked context, compiled; rules as in `apex_sim.instance.policies.no_evict_chunked`."""

from __future__ import annotations

from apex_sim.instance.kernel.blocks import grow, head, n_uncomputed, pop_front, schedule_tokens
from apex_sim.instance.kernel.loop import hand_over, until_decision
from apex_sim.instance.kernel.no_evict import blocks_at_end, decodes_now
from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import compiled, inner


@compiled
def advance_no_evict_chunked(state: State) -> None:
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
    record, running, requests = state.queues[queue], state.running, state.requests
    n_before, n_left = record["n_running"], record["n_free"]
    for index in range(n_before):
        request = running[queue, index]
        n_left -= blocks_at_end(state, request) - requests[request]["blocks"]
    for index in range(n_before):
        request = running[queue, index]
        if requests[request]["computed"] >= requests[request]["prompt"] and decodes_now(state, request):
            grow(state, queue, request, requests[request]["computed"] + 1)
            schedule_tokens(state, queue, request, 1)
    n_decodes = record["n_entries"]
    budget = _serve_prompts(state, queue, n_before, state.engine[0]["budget"] - n_decodes)
    _admit(state, queue, n_left, budget)
    record["is_steady"] = 1 if record["n_entries"] == n_decodes == n_before else 0


@inner
def _serve_prompts(state: State, queue: int, n_running: int, budget: int) -> int:
    """Continue started prompts in order; return the budget left, 0 if one of them got nothing."""
    running, requests = state.running, state.requests
    for index in range(n_running):
        request = running[queue, index]
        if requests[request]["computed"] >= requests[request]["prompt"]:
            continue
        n_new = _chunk(state, request, budget)
        if n_new == 0:
            return 0
        grow(state, queue, request, requests[request]["computed"] + n_new)
        schedule_tokens(state, queue, request, n_new)
        budget -= n_new
    return budget


@inner
def _admit(state: State, queue: int, n_left: int, budget: int) -> None:
    """Start waiting requests in order; the first whose blocks are not free, or that gets no token, ends it."""
    record = state.queues[queue]
    while record["n_waiting"] > 0 and record["n_running"] < state.engine[0]["max_num_seqs"]:
        request = head(state, queue)
        n_new, needed = _chunk(state, request, budget), blocks_at_end(state, request)
        if needed > n_left or n_new == 0:
            return
        n_left -= needed
        budget -= n_new
        grow(state, queue, request, n_new)
        pop_front(state, queue)
        state.running[queue, record["n_running"]] = request
        record["n_running"] += 1
        schedule_tokens(state, queue, request, n_new)


@inner
def _chunk(state: State, request: int, budget: int) -> int:
    """Return how many tokens of a prompt the budget takes: all that are left, or whole blocks."""
    n_left = n_uncomputed(state, request)
    return n_left if n_left <= budget else int(budget - budget % state.engine[0]["block_size"])
