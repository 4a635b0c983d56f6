"""In which order do requests stand?  By rank, and those of equal rank by arrival."""

from __future__ import annotations

from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import inner


@inner
def stands_before(state: State, request: int, other: int) -> bool:
    """Whether `request` stands before `other`; requests are numbered as they arrive."""
    rank, of_other = state.requests[request]["rank"], state.requests[other]["rank"]
    return bool(rank < of_other or (rank == of_other and request < other))


@inner
def sort_running(state: State, queue: int) -> None:
    """Put `running` into that order; nearly always it is."""
    running = state.running
    for index in range(1, state.queues[queue]["n_running"]):
        request, place = running[queue, index], index
        while place > 0 and stands_before(state, request, running[queue, place - 1]):
            running[queue, place] = running[queue, place - 1]
            place -= 1
        running[queue, place] = request


@inner
def put_in_place(state: State, queue: int, request: int) -> None:
    """Put a request where it belongs among those that wait."""
    record, waiting = state.queues[queue], state.waiting
    capacity, first = waiting.shape[1], record["first_waiting"]
    place, beyond = 0, record["n_waiting"]
    while place < beyond:
        middle = (place + beyond) // 2
        if stands_before(state, request, waiting[queue, (first + middle) % capacity]):
            beyond = middle
        else:
            place = middle + 1
    here = (first + record["n_waiting"]) % capacity
    for _ in range(record["n_waiting"] - place):
        before = here - 1 if here > 0 else capacity - 1
        waiting[queue, here] = waiting[queue, before]
        here = before
    waiting[queue, here] = request
    record["n_waiting"] += 1


@inner
def last_place(state: State, queue: int) -> int:
    """Return where in `running` the request is that stands last in the order."""
    running, last = state.running, 0
    for index in range(1, state.queues[queue]["n_running"]):
        if stands_before(state, running[queue, last], running[queue, index]):
            last = index
    return last


@inner
def withdraw(state: State, queue: int, request: int) -> int:
    """Take a request out of the batch that is being decided; return its tokens there, 0 if it is not in it."""
    record, entries = state.queues[queue], state.entries
    n_entries, place = record["n_entries"], 0
    while place < n_entries and entries[queue, place]["request"] != request:
        place += 1
    if place == n_entries:
        return 0
    n_new = int(entries[queue, place]["n_new"])
    state.requests[request]["pending"] -= min(entries[queue, place]["samples"], 1)
    for index in range(place, n_entries - 1):
        entries[queue, index] = entries[queue, index + 1]
    record["n_entries"] -= 1
    return n_new
