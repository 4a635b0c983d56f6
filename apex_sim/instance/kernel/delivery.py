"""What does the end of a batch bring?  Tokens leave, and so do requests that have all of theirs."""

from __future__ import annotations

import numpy as np

from apex_sim.instance.kernel import state as at
from apex_sim.instance.kernel.blocks import leave, release
from apex_sim.instance.kernel.places import take_out
from apex_sim.instance.kernel.record import count_gap
from apex_sim.instance.kernel.speculation import take_in_drafts
from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import inner
from apex_sim.record.request_records import FINISHED, RUNNING


@inner
def take_in(state: State, queue: int) -> None:
    """Deliver the tokens of the batch that has ended and let finished requests go."""
    engine, slot, n_samples = state.engine[0], state.queues[queue]["taking"], 0
    for rank in range(queue, queue + engine["n_ranks"]):
        for index in range(state.flight_sizes[rank, slot]):
            n_samples += state.flights[rank, slot, index]["samples"]
    engine["barren_steps"] = 0 if n_samples > 0 else engine["barren_steps"] + 1
    if engine["barren_steps"] > len(state.queues) * engine["depth"] * engine["max_model_len"]:
        engine["error"] = at.NO_PROGRESS
    for rank in range(queue, queue + engine["n_ranks"]):
        _deliver(state, rank, slot)


@inner
def _deliver(state: State, queue: int, slot: int) -> None:
    """Deliver the tokens of one queue's part of a step."""
    now_s, since_s, n_gaps = state.engine[0]["now_s"], np.nan, 0
    speculates = state.engine[0]["n_draft_tokens"] > 0
    for index in range(state.flight_sizes[queue, slot]):
        entry = state.flights[queue, slot, index]
        request = state.requests[entry["request"]]
        if entry["samples"] == 0 or request["status"] != RUNNING:
            continue
        request["pending"] -= 1
        request["generated"] += take_in_drafts(state, entry["request"], entry["samples"] - 1) if speculates else 1
        if request["generated"] == 1:
            request["first_s"] = now_s
        elif request["last_s"] == since_s:
            n_gaps += 1
        else:
            if n_gaps > 0:
                count_gap(state, now_s - since_s, n_gaps)
            since_s, n_gaps = request["last_s"], 1
        request["last_s"] = now_s
        if request["generated"] == request["output"]:
            _finish(state, queue, entry["request"])
    if n_gaps > 0:
        count_gap(state, now_s - since_s, n_gaps)


@inner
def _finish(state: State, queue: int, request: int) -> None:
    record, running = state.queues[queue], state.running
    place = 0
    while place < record["n_running"] and running[queue, place] != request:
        place += 1
    if place < record["n_running"]:
        record["n_running"] -= 1
        for index in range(place, record["n_running"]):
            running[queue, index] = running[queue, index + 1]
    else:
        _remove_waiting(state, queue, request)
    release(state, queue, request)
    state.requests[request]["status"] = FINISHED
    state.requests[request]["finish_s"] = state.engine[0]["now_s"]
    leave(state, request)


@inner
def _remove_waiting(state: State, queue: int, request: int) -> None:
    record, waiting = state.queues[queue], state.waiting
    capacity, found = waiting.shape[1], False
    if state.engine[0]["is_sorted"] == 1:
        place = record["first_waiting"]
        while waiting[queue, place] != request:
            place += 1
        take_out(state, queue, place)
        return
    for index in range(record["n_waiting"] - 1):
        here = (record["first_waiting"] + index) % capacity
        found = found or waiting[queue, here] == request
        if found:
            waiting[queue, here] = waiting[queue, (here + 1) % capacity]
    record["n_waiting"] -= 1
