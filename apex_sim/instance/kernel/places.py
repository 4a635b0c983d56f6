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
