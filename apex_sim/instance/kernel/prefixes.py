"""Which prompts' blocks stay behind for later requests?  `PrefixCache` over plain arrays.

The queue of free blocks is a doubly linked list of cached units that nobody holds and of stretches of bare blocks;
neighbouring stretches are one record, so that there are never more of them than units and one.
"""

from __future__ import annotations

from typing import Any

from apex_sim.instance.kernel.state import Records, State
from apex_sim.machine_code import inner


def start_queue(engine: Any, units: Records, n_blocks: int) -> None:
    """Put all blocks into the queue, none of them cached."""
    n_units = (len(units) - 3) // 2
    engine["first_free"] = engine["last_free"] = n_units
    units[n_units]["n_blocks"] = n_blocks
    units[n_units]["before"] = units[n_units]["after"] = -1
    for spare in range(n_units + 1, len(units)):
        units[spare]["after"] = spare + 1
    units[-1]["after"] = -1
    engine["spare"] = n_units + 1


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
def hold_units(state: State, request: int, n_units: int) -> None:
    """Let a request hold its first units, all cached."""
    first = state.unit_first[request]
    for index in range(first, first + n_units):
        unit = state.unit_numbers[index]
        if state.units[unit]["references"] == 0:
            _unlink(state, unit)
            _merge(state, state.units[unit]["before"], state.units[unit]["after"])
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
def take_from_queue(state: State, n_blocks: int) -> None:
    """Take free blocks from the head of the queue; cached units that they were part of are forgotten."""
    n_units = (len(state.units) - 3) // 2
    left = n_blocks
    while left > 0:
        place = int(state.engine[0]["first_free"])
        n_here = state.units[place]["n_blocks"]
        if place >= n_units and n_here > left:
            state.units[place]["n_blocks"] = n_here - left
            return
        _unlink(state, place)
        if place >= n_units:
            _give_spare(state, place)
        else:
            state.units[place]["references"] = -1
            if n_here > left:
                _put_first(state, n_here - left)
                return
        left -= n_here


@inner
def n_bare_first(state: State) -> int:
    """Return how many blocks can be taken before a cached unit is forgotten."""
    first = state.engine[0]["first_free"]
    return int(state.units[first]["n_blocks"]) if first >= (len(state.units) - 3) // 2 else 0


@inner
def release_units(state: State, request: int) -> int:
    """Put a request's blocks at the end of the queue, its last first; return how many are free again."""
    unit_blocks = state.engine[0]["unit_blocks"]
    record, first = state.requests[request], state.unit_first[request]
    n_freed = record["blocks"]
    for index in range(first, first + record["seen"]):
        n_freed -= unit_blocks * state.unit_held[index]
    if n_freed > 0:
        _put_last(state, n_freed)
    for index in range(first + record["seen"] - 1, first - 1, -1):
        if state.unit_held[index] == 0:
            continue
        unit = state.unit_numbers[index]
        state.unit_held[index] = 0
        state.units[unit]["references"] -= 1
        if state.units[unit]["references"] == 0:
            state.units[unit]["n_blocks"] = unit_blocks
            _link_last(state, unit)
            n_freed += unit_blocks
    record["seen"] = 0
    return int(n_freed)


@inner
def _unlink(state: State, place: int) -> None:
    before, after = state.units[place]["before"], state.units[place]["after"]
    if before >= 0:
        state.units[before]["after"] = after
    else:
        state.engine[0]["first_free"] = after
    if after >= 0:
        state.units[after]["before"] = before
    else:
        state.engine[0]["last_free"] = before


@inner
def _merge(state: State, before: int, after: int) -> None:
    """Make one of two neighbouring stretches of bare blocks."""
    if min(before, after) >= (len(state.units) - 3) // 2:
        state.units[before]["n_blocks"] += state.units[after]["n_blocks"]
        _unlink(state, after)
        _give_spare(state, after)


@inner
def _link_last(state: State, place: int) -> None:
    last = state.engine[0]["last_free"]
    state.units[place]["before"], state.units[place]["after"] = last, -1
    if last >= 0:
        state.units[last]["after"] = place
    else:
        state.engine[0]["first_free"] = place
    state.engine[0]["last_free"] = place


@inner
def _put_last(state: State, n_blocks: int) -> None:
    """Put bare blocks at the end of the queue."""
    last, n_units = state.engine[0]["last_free"], (len(state.units) - 3) // 2
    if last >= n_units:
        state.units[last]["n_blocks"] += n_blocks
        return
    place = _take_spare(state)
    state.units[place]["n_blocks"] = n_blocks
    _link_last(state, place)


@inner
def _put_first(state: State, n_blocks: int) -> None:
    """Put bare blocks at the head of the queue."""
    first, n_units = state.engine[0]["first_free"], (len(state.units) - 3) // 2
    if first >= n_units:
        state.units[first]["n_blocks"] += n_blocks
        return
    place = _take_spare(state)
    state.units[place]["n_blocks"] = n_blocks
    state.units[place]["before"], state.units[place]["after"] = -1, first
    if first >= 0:
        state.units[first]["before"] = place
    else:
        state.engine[0]["last_free"] = place
    state.engine[0]["first_free"] = place


@inner
def _take_spare(state: State) -> int:
    place = int(state.engine[0]["spare"])
    state.engine[0]["spare"] = state.units[place]["after"]
    return place


@inner
def _give_spare(state: State, place: int) -> None:
    state.units[place]["after"] = state.engine[0]["spare"]
    state.engine[0]["spare"] = place
