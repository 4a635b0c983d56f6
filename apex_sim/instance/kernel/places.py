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
    """Put a request among those that wait, which a sorted queue keeps as a heap: parents stand before children."""
    record = state.queues[queue]
    record["n_waiting"] += 1
    _rise(state, queue, record["n_waiting"] - 1, request)


@inner
def take_out(state: State, queue: int, place: int) -> int:
    """Take the request at a place of the heap, 0 for the first in order."""
    record, waiting = state.queues[queue], state.waiting
    taken = waiting[queue, place]
    record["n_waiting"] -= 1
    n, last = record["n_waiting"], waiting[queue, record["n_waiting"]]
    child = 2 * place + 1
    while child < n:
        if child + 1 < n and stands_before(state, waiting[queue, child + 1], waiting[queue, child]):
            child += 1
        waiting[queue, place] = waiting[queue, child]
        place, child = child, 2 * child + 1
    if place < n:
        _rise(state, queue, place, last)
    return int(taken)


@inner
def _rise(state: State, queue: int, place: int, request: int) -> None:
    """Put a request at a free place of the heap, or nearer to the root."""
    waiting = state.waiting
    while place > 0 and stands_before(state, request, waiting[queue, (place - 1) // 2]):
        waiting[queue, place] = waiting[queue, (place - 1) // 2]
        place = (place - 1) // 2
    waiting[queue, place] = request


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
