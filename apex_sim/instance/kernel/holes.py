"""Where does a reservation in one piece find room?  `ContiguousSpace` over plain arrays."""

from __future__ import annotations

from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import inner


@inner
def take_hole(state: State, queue: int, n_blocks: int) -> int:
    """Return where a reservation of `n_blocks` begins; -1, and no change, if no hole holds it."""
    record, holes = state.queues[queue], state.holes
    for index in range(record["n_holes"]):
        if holes[queue, index, 1] < n_blocks:
            continue
        place = holes[queue, index, 0]
        holes[queue, index, 0] += n_blocks
        holes[queue, index, 1] -= n_blocks
        if holes[queue, index, 1] == 0:
            _close(state, queue, index)
        return int(place)
    return -1


@inner
def free_hole(state: State, queue: int, place: int, n_blocks: int) -> None:
    """Free a reservation; neighbouring holes become one."""
    record, holes = state.queues[queue], state.holes
    index = 0
    while index < record["n_holes"] and holes[queue, index, 0] < place:
        index += 1
    if index < record["n_holes"] and holes[queue, index, 0] == place + n_blocks:
        n_blocks += holes[queue, index, 1]
        _close(state, queue, index)
    if index > 0 and holes[queue, index - 1, 0] + holes[queue, index - 1, 1] == place:
        holes[queue, index - 1, 1] += n_blocks
        return
    for later in range(record["n_holes"], index, -1):
        holes[queue, later, 0], holes[queue, later, 1] = holes[queue, later - 1, 0], holes[queue, later - 1, 1]
    holes[queue, index, 0], holes[queue, index, 1] = place, n_blocks
    record["n_holes"] += 1


@inner
def _close(state: State, queue: int, index: int) -> None:
    record, holes = state.queues[queue], state.holes
    record["n_holes"] -= 1
    for later in range(index, record["n_holes"]):
        holes[queue, later, 0], holes[queue, later, 1] = holes[queue, later + 1, 0], holes[queue, later + 1, 1]
