"""What happens next?  The loops of an instance's queues, between one decision and the next.

At one instant batches end and the host becomes free, then requests arrive, then schedulers decide.
"""

from __future__ import annotations

import numpy as np

from apex_sim.instance.kernel import state as at
from apex_sim.instance.kernel.batch import send_batch
from apex_sim.instance.kernel.blocks import push_back, reject
from apex_sim.instance.kernel.delivery import take_in
from apex_sim.instance.kernel.leap import take_leap
from apex_sim.instance.kernel.places import put_in_place
from apex_sim.instance.kernel.prefixes import settle_units
from apex_sim.instance.kernel.record import note_queues
from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import inner


@inner
def until_decision(state: State) -> int:
    """Go on to the next decision; return the queue that decides, or -1 when nothing is left to do before `until_s`."""
    engine, queues = state.engine[0], state.queues
    while engine["error"] == 0:
        if engine["host_holder"] < 0 and engine["n_host_waiters"] > 0 and not _due(state):
            queue = _next_host_waiter(state)
            engine["host_holder"] = queue
            queues[queue]["decided_s"] = engine["now_s"]
            for rank in range(engine["n_ranks"]):
                queues[queue + rank]["n_entries"] = 0
            return queue
        first = _first_queue(state)
        first_s = np.inf if first < 0 else queues[first]["wait_s"]
        coming_s = state.coming_s[engine["first_coming"]] if engine["n_coming"] > 0 else np.inf
        if min(first_s, coming_s) >= engine["until_s"]:
            engine["quiet_s"] = max(engine["quiet_s"], min(first_s, coming_s))
            return -1
        if coming_s < first_s:
            engine["now_s"] = max(engine["now_s"], coming_s)
            _enqueue(state)
            continue
        engine["now_s"] = max(engine["now_s"], first_s)
        goes_on = True
        if queues[first]["phase"] == at.ON_HOST:
            send_batch(state, first)
            engine["host_holder"] = -1
            take_leap(state, first)
            goes_on = _may_decide_again(state, first)
        else:
            take_in(state, first)
        if goes_on:
            _go_on(state, first)
        else:
            _wait_for_oldest(state, first)
    return -1


@inner
def _due(state: State) -> bool:
    """Whether something else happens at this instant, before schedulers decide."""
    now_s = state.engine[0]["now_s"]
    for queue in range(len(state.queues)):
        record = state.queues[queue]
        if record["phase"] >= at.ON_HOST and record["wait_s"] <= now_s:
            return True
    return bool(state.engine[0]["n_coming"] > 0 and state.coming_s[state.engine[0]["first_coming"]] <= now_s)


@inner
def _first_queue(state: State) -> int:
    """Return the queue whose batch ends or whose host time is over first; -1 if there is none."""
    first, first_s = -1, np.inf
    for queue in range(len(state.queues)):
        record = state.queues[queue]
        if record["phase"] >= at.ON_HOST and record["wait_s"] < first_s:
            first, first_s = queue, record["wait_s"]
    return first


@inner
def _may_decide_again(state: State, queue: int) -> bool:
    """Whether another batch may be decided before the oldest has ended."""
    record = state.queues[queue]
    oldest_s = state.flight_ends_s[queue, record["first_flight"]]
    return bool(record["n_flight"] < state.engine[0]["depth"] and oldest_s > state.engine[0]["now_s"])


@inner
def _enqueue(state: State) -> None:
    """Put the next request into the least loaded queue, or refuse it if too many wait."""
    engine, best = state.engine[0], _place_of_next(state)
    request = state.coming[engine["first_coming"]]
    state.requests[request]["queued_s"] = state.coming_s[engine["first_coming"]]
    engine["first_coming"] += 1
    engine["n_coming"] -= 1
    if engine["most_waiting"] >= 0 and _n_waiting(state) >= engine["most_waiting"]:
        _refuse(state, request)
        return
    if engine["is_sorted"] == 1:
        put_in_place(state, best, request)
    else:
        push_back(state, best, request)
    settle_units(state, best, request)
    engine["n_placed"] += 1
    leader = 0 if engine["n_ranks"] > 1 else best
    if state.queues[leader]["phase"] == at.IDLE:
        for rank in range(leader, leader + engine["n_ranks"]):
            rested = state.queues[rank]
            rested["start_ratio"], rested["n_decays"] = state.engine[0]["first_ratio"], 0
            rested["is_full"], rested["n_seats"] = 0, 0
        _go_on(state, leader)


@inner
def _n_waiting(state: State) -> int:
    n_waiting = 0
    for queue in range(len(state.queues)):
        n_waiting += state.queues[queue]["n_waiting"]
    return int(n_waiting)


@inner
def _refuse(state: State, request: int) -> None:
    """Refuse a request when it reaches the scheduler; the clock may have leapt beyond that."""
    engine = state.engine[0]
    now_s = engine["now_s"]
    engine["now_s"] = state.requests[request]["queued_s"]
    state.requests[request]["reason"] = at.TOO_MANY_WAIT
    reject(state, request)
    engine["now_s"] = now_s


@inner
def _place_of_next(state: State) -> int:
    """Return the least loaded queue by the engine's rule, or, where it has none, the next in turn."""
    engine, best, least = state.engine[0], int(state.engine[0]["n_placed"] % len(state.queues)), np.inf
    for queue in range(len(state.queues) if engine["waiting_weight"] > 0 else 0):
        record = state.queues[queue]
        n = engine["waiting_weight"] * record["n_waiting"] + record["n_running"] + record["n_swapped"]
        if n < least:
            best, least = queue, n
    return best


@inner
def _n_unfinished(state: State, queue: int) -> int:
    """Return how many requests a loop has in all its ranks."""
    n = 0
    for rank in range(state.engine[0]["n_ranks"]):
        record = state.queues[queue + rank]
        n += record["n_waiting"] + record["n_running"] + record["n_swapped"]
    return int(n)


@inner
def _go_on(state: State, queue: int) -> None:
    """Let a queue's loop take its next turn: ask for the host, wait for the oldest batch, or wait for a request."""
    record = state.queues[queue]
    if _n_unfinished(state, queue) > 0 and record["n_flight"] < state.engine[0]["depth"]:
        record["retries"] = 0
        _ask_for_host(state, queue)
    else:
        _wait_for_oldest(state, queue)


@inner
def _ask_for_host(state: State, queue: int) -> None:
    engine, record = state.engine[0], state.queues[queue]
    record["phase"], record["asked"] = at.WANTS_HOST, engine["n_asked"]
    engine["n_asked"] += 1
    engine["n_host_waiters"] += 1


@inner
def _next_host_waiter(state: State) -> int:
    """Return the queue that asked for the host before the others that still want it."""
    engine, first = state.engine[0], -1
    engine["n_host_waiters"] -= 1
    for queue in range(len(state.queues)):
        record = state.queues[queue]
        if record["phase"] == at.WANTS_HOST and (first < 0 or record["asked"] < state.queues[first]["asked"]):
            first = queue
    return first


@inner
def _wait_for_oldest(state: State, queue: int) -> None:
    """Wait for the end of the oldest batch in flight, or, without one, for a request."""
    record = state.queues[queue]
    if record["n_flight"] == 0:
        record["phase"] = at.IDLE
        return
    record["taking"] = record["first_flight"]
    record["wait_s"] = state.flight_ends_s[queue, record["first_flight"]]
    record["first_flight"] = (record["first_flight"] + 1) % state.flights.shape[1]
    record["n_flight"] -= 1
    record["phase"] = at.WAITS_FOR_END


@inner
def hand_over(state: State, queue: int) -> None:
    """Spend the host's time on the batch that was decided; without one, try once more or wait."""
    record, engine = state.queues[queue], state.engine[0]
    most = 0
    for rank in range(engine["n_ranks"]):
        _note_scheduled(state, queue + rank)
        most = max(most, state.queues[queue + rank]["n_entries"])
    if most > 0:
        note_queues(state)
        record["n_left_waiting"] = record["n_waiting"]
        record["phase"] = at.ON_HOST
        record["host_s"] = engine["host_step_s"] + engine["host_sequence_s"] * most
        record["wait_s"] = engine["now_s"] + record["host_s"]
        return
    engine["host_holder"] = -1
    if record["n_flight"] == 0 and record["retries"] == 0:
        record["retries"] = 1
        _ask_for_host(state, queue)
        return
    if record["n_flight"] == 0 and _n_unfinished(state, queue) > 0:
        engine["error"] = at.STUCK
    _wait_for_oldest(state, queue)


@inner
def _note_scheduled(state: State, queue: int) -> None:
    """Note when requests are first picked for a step."""
    for index in range(state.queues[queue]["n_entries"]):
        entry = state.entries[queue, index]
        request = state.requests[entry["request"]]
        if request["preemptions"] == 0 and np.isnan(request["scheduled_s"]):
            request["scheduled_s"] = state.engine[0]["now_s"]
