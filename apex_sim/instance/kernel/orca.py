"""Orca's iteration-level scheduling, compiled; the rules are those of `apex_sim.instance.policies.orca`."""

from __future__ import annotations

from apex_sim.instance.kernel.blocks import head, n_uncomputed, pop_front, reserve, schedule_one, schedule_tokens
from apex_sim.instance.kernel.loop import hand_over, until_decision
from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import compiled, inner


@compiled
def advance_orca(state: State) -> None:
    """Run the instance until nothing is left to do."""
    while True:
        queue = until_decision(state)
        if queue < 0:
            return
        _decide(state, queue)
        hand_over(state, queue)


@inner
def _decide(state: State, queue: int) -> None:
    record, engine = state.queues[queue], state.engine[0]
    n_before = record["n_running"]
    for index in range(n_before):
        schedule_one(state, queue, state.running[queue, index])
    budget = engine["budget"] - n_before
    while record["n_waiting"] > 0 and record["n_running"] < engine["max_num_seqs"]:
        request = head(state, queue)
        n_new = n_uncomputed(state, request)
        if n_new > budget or not reserve(state, queue, request):
            break
        pop_front(state, queue)
        state.running[queue, record["n_running"]] = request
        record["n_running"] += 1
        schedule_tokens(state, queue, request, n_new)
        budget -= n_new
    record["is_steady"] = 1 if record["n_running"] == n_before else 0
