"""Which prompts' blocks stay behind for later requests?  `PrefixCache` over plain arrays.

The queue of free blocks is a doubly linked list of cached units that nobody holds and of stretches of bare blocks;
neighbouring stretches are one record, so that there are never more of them than units and one.  Each scheduler queue
has records of its own, one after the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from apex_sim.instance.kernel.state import Records, State
from apex_sim.machine_code import inner


def start_queue(record: Any, units: Records, first: int, n_records: int, n_blocks: int) -> None:
    """Put all blocks of a queue, whose records begin at `first`, into its queue of free blocks, none of them cached."""
    n_units, end = (n_records - 3) // 2, first + n_records
    record["first_unit"], record["end_units"] = first, first + n_units
    record["first_free"] = record["last_free"] = first + n_units
    units[first + n_units]["n_blocks"] = n_blocks
    units[first + n_units]["before"] = units[first + n_units]["after"] = -1
    units["after"][first + n_units + 1 : end] = np.arange(first + n_units + 2, end + 1)
    units[end - 1]["after"] = -1
    record["spare"] = first + n_units + 1


@inner
def settle_units(state: State, queue: int, request: int) -> None:
    """Let the units of a request that has come to a queue be those of this queue."""
    if state.engine[0]["unit_tokens"] > 0:
        for index in range(state.unit_first[request], state.unit_first[request + 1]):
            state.unit_numbers[index] += state.queues[queue]["first_unit"]


@inner
def cached_tokens(state: State, request: int) -> int:
    """Return how many of the first tokens of a waiting request need not be computed."""
    unit_tokens = state.engine[0]["unit_tokens"]
    if unit_tokens == 0:
        return 0
    record, first = state.requests[request], state.unit_first[request]
    n_tokens = record["prompt"] + record["generated"]
    most = min(state.unit_first[request + 1] - first, (n_tokens - 1) // unit_tokens)
    n = 0
    while n < most and state.units[state.unit_numbers[first + n]]["references"] >= 0:
        n += 1
    return int(n * unit_tokens)


@inner
def n_idle_units(state: State, request: int, n_units: int) -> int:
    """Return how many of the first cached units nobody holds."""
    first, n_idle = state.unit_first[request], 0
    for index in range(first, first + n_units):
        if state.units[state.unit_numbers[index]]["references"] == 0:
            n_idle += 1
    return n_idle


@inner
def hold_units(state: State, queue: int, request: int, n_units: int) -> None:
    """Let a request hold its first units, all cached."""
    first = state.unit_first[request]
    for index in range(first, first + n_units):
        unit = state.unit_numbers[index]
        if state.units[unit]["references"] == 0:
            _unlink(state, queue, unit)
            _merge(state, queue, state.units[unit]["before"], state.units[unit]["after"])
        state.units[unit]["references"] += 1
        state.unit_held[index] = 1
    state.requests[request]["seen"] = n_units


@inner
def remember(state: State, request: int) -> None:
    """Let later requests find what a request computes, from now on."""
    unit_tokens = state.engine[0]["unit_tokens"]
    if unit_tokens == 0:
        return
    record, first = state.requests[request], state.unit_first[request]
    n_computed = min(record["computed"] // unit_tokens, state.unit_first[request + 1] - first)
    for index in range(first + record["seen"], first + n_computed):
        unit = state.unit_numbers[index]
        if state.units[unit]["references"] < 0:
            state.units[unit]["references"] = 1
            state.unit_held[index] = 1
    record["seen"] = max(record["seen"], n_computed)


@inner
def take_from_queue(state: State, queue: int, n_blocks: int) -> None:
    """Take free blocks from the head of the queue; cached units that they were part of are forgotten."""
    end_units = state.queues[queue]["end_units"]
    left = n_blocks
    while left > 0:
        place = int(state.queues[queue]["first_free"])
        n_here = state.units[place]["n_blocks"]
        if place >= end_units and n_here > left:
            state.units[place]["n_blocks"] = n_here - left
            return
        _unlink(state, queue, place)
        if place >= end_units:
            _give_spare(state, queue, place)
        else:
            state.units[place]["references"] = -1
            if n_here > left:
                _put_first(state, queue, n_here - left)
                return
        left -= n_here


@inner
def n_bare_first(state: State, queue: int) -> int:
    """Return how many blocks can be taken before a cached unit is forgotten."""
    first = state.queues[queue]["first_free"]
    return int(state.units[first]["n_blocks"]) if first >= state.queues[queue]["end_units"] else 0


@inner
def release_units(state: State, queue: int, request: int) -> int:
    """Put a request's blocks at the end of the queue, its last first; return how many are free again."""
    unit_blocks = state.engine[0]["unit_blocks"]
    record, first = state.requests[request], state.unit_first[request]
    n_freed = record["blocks"]
    for index in range(first, first + record["seen"]):
        n_freed -= unit_blocks * state.unit_held[index]
    if n_freed > 0:
        _put_last(state, queue, n_freed)
    for index in range(first + record["seen"] - 1, first - 1, -1):
        if state.unit_held[index] == 0:
            continue
        unit = state.unit_numbers[index]
        state.unit_held[index] = 0
        state.units[unit]["references"] -= 1
        if state.units[unit]["references"] == 0:
            state.units[unit]["n_blocks"] = unit_blocks
            _link_last(state, queue, unit)
            n_freed += unit_blocks
    record["seen"] = 0
    return int(n_freed)


@inner
def _unlink(state: State, queue: int, place: int) -> None:
    before, after = state.units[place]["before"], state.units[place]["after"]
    if before >= 0:
        state.units[before]["after"] = after
    else:
        state.queues[queue]["first_free"] = after
    if after >= 0:
        state.units[after]["before"] = before
    else:
        state.queues[queue]["last_free"] = before


@inner
def _merge(state: State, queue: int, before: int, after: int) -> None:
    """Make one of two neighbouring stretches of bare blocks."""
    if min(before, after) >= state.queues[queue]["end_units"]:
        state.units[before]["n_blocks"] += state.units[after]["n_blocks"]
        _unlink(state, queue, after)
        _give_spare(state, queue, after)


@inner
def _link_last(state: State, queue: int, place: int) -> None:
    last = state.queues[queue]["last_free"]
    state.units[place]["before"], state.units[place]["after"] = last, -1
    if last >= 0:
        state.units[last]["after"] = place
    else:
        state.queues[queue]["first_free"] = place
    state.queues[queue]["last_free"] = place


@inner
def _put_last(state: State, queue: int, n_blocks: int) -> None:
    """Put bare blocks at the end of the queue."""
    last, end_units = state.queues[queue]["last_free"], state.queues[queue]["end_units"]
    if last >= end_units:
        state.units[last]["n_blocks"] += n_blocks
        return
    place = _take_spare(state, queue)
    state.units[place]["n_blocks"] = n_blocks
    _link_last(state, queue, place)


@inner
def _put_first(state: State, queue: int, n_blocks: int) -> None:
    """Put bare blocks at the head of the queue."""
    first, end_units = state.queues[queue]["first_free"], state.queues[queue]["end_units"]
    if first >= end_units:
        state.units[first]["n_blocks"] += n_blocks
        return
    place = _take_spare(state, queue)
    state.units[place]["n_blocks"] = n_blocks
    state.units[place]["before"], state.units[place]["after"] = -1, first
    if first >= 0:
        state.units[first]["before"] = place
    else:
        state.queues[queue]["last_free"] = place
    state.queues[queue]["first_free"] = place


@inner
def _take_spare(state: State, queue: int) -> int:
    place = int(state.queues[queue]["spare"])
    state.queues[queue]["spare"] = state.units[place]["after"]
    return place


@inner
def _give_spare(state: State, queue: int, place: int) -> None:
    state.units[place]["after"] = state.queues[queue]["spare"]
    state.queues[queue]["spare"] = place
