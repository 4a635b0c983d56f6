"""TensorRT-LLM's other policy, compiled; the rules are those of `apex_sim.instance.policies.max_utilization`."""

from __future__ import annotations

from apex_sim.instance.kernel.blocks import grow, head, n_uncomputed, pop_front, preempt, schedule_tokens
from apex_sim.instance.kernel.loop import hand_over, until_decision
from apex_sim.instance.kernel.no_evict import decodes_now
from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import compiled, inner


@compiled
def advance_max_utilization(state: State) -> None:
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
    n_before, index = record["n_running"], 0
    while index < record["n_running"]:
        request = running[queue, index]
        index += 1
        if decodes_now(state, request):
            if not _make_room(state, queue, request):
                break
            schedule_tokens(state, queue, request, 1)
    if record["n_running"] == n_before:
        _admit(state, queue, state.engine[0]["budget"] - record["n_entries"])
    record["is_steady"] = 1 if record["n_running"] == n_before and record["n_entries"] == n_before else 0
    if record["n_waiting"] > 0 and state.requests[head(state, queue)]["pending"] > 0:
        record["is_steady"] = 0


@inner
def _make_room(state: State, queue: int, request: int) -> bool:
    """Give a request its next block, pausing from the back of `running`; False if it had to go itself."""
    record = state.queues[queue]
    while not grow(state, queue, request, state.requests[request]["computed"] + 1):
        record["n_running"] -= 1
        victim = state.running[queue, record["n_running"]]
        preempt(state, queue, victim)
        if victim == request:
            return False
    return True


@inner
def _admit(state: State, queue: int, budget: int) -> None:
    record = state.queues[queue]
    while record["n_waiting"] > 0 and record["n_running"] < state.engine[0]["max_num_seqs"]:
        request = head(state, queue)
        n_new = n_uncomputed(state, request)
        if state.requests[request]["pending"] > 0 or n_new > budget or not grow(state, queue, request, n_new):
            return
        budget -= n_new
        pop_front(state, queue)
        state.running[queue, record["n_running"]] = request
        record["n_running"] += 1
        schedule_tokens(state, queue, request, n_new)
