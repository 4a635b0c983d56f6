"""Static batching, compiled; the rules are those of `apex_sim.instance.policies.static`."""

from __future__ import annotations

from apex_sim.instance.kernel.blocks import head, n_uncomputed, pop_front, reserve, schedule_one, schedule_tokens
from apex_sim.instance.kernel.loop import hand_over, until_decision
from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import compiled, inner


@compiled
def advance_static(state: State) -> None:
    """Run the instance until nothing is left to do."""
    while True:
        queue = until_decision(state)
        if queue < 0:
            return
        _decide(state, queue)
        hand_over(state, queue)


@inner
def _decide(state: State, queue: int) -> None:
    record, running = state.queues[queue], state.running
    if record["n_running"] == 0:
        _form(state, queue)
    budget = state.engine[0]["budget"]
    for index in range(record["n_running"]):
        if state.requests[running[queue, index]]["computed"] > 0:
            continue
        n_new = n_uncomputed(state, running[queue, index])
        if n_new > budget:
            break
        schedule_tokens(state, queue, running[queue, index], n_new)
        budget -= n_new
    record["is_steady"] = 0
    if record["n_entries"] == 0:
        for index in range(record["n_running"]):
            schedule_one(state, queue, running[queue, index])
        record["is_steady"] = 1


@inner
def _form(state: State, queue: int) -> None:
    record = state.queues[queue]
    while record["n_waiting"] > 0 and record["n_running"] < state.engine[0]["max_num_seqs"]:
        request = head(state, queue)
        if not reserve(state, queue, request):
            return
        pop_front(state, queue)
        state.running[queue, record["n_running"]] = request
        record["n_running"] += 1
