"""SGLang's scheduler, compiled; the rules are those of `apex_sim.instance.policies.sglang`."""

from __future__ import annotations

from apex_sim.instance.kernel.blocks import (
    blocks_for,
    grow,
    head,
    n_uncomputed,
    pop_front,
    push_back,
    release,
    schedule_tokens,
)
from apex_sim.instance.kernel.loop import hand_over, until_decision
from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import compiled, inner


@compiled
def advance_sglang(state: State) -> None:
    """Run the instance until nothing is left to do."""
    while True:
        queue = until_decision(state)
        if queue < 0:
            return
        for rank in range(state.engine[0]["n_ranks"]):
            _decide(state, queue + rank)
        hand_over(state, queue)


@inner
def _decide(state: State, queue: int) -> None:
    record = state.queues[queue]
    record["is_steady"] = 0
    if record["under_way"] > 0:
        record["is_full"] = 0
    if record["under_way"] > 0 or (record["is_full"] == 0 and record["n_waiting"] > 0):
        _prefill(state, queue)
    if record["n_entries"] == 0:
        n_before = record["n_running"]
        _decode(state, queue)
        if record["n_running"] == n_before == record["n_entries"]:
            record["is_steady"] = 1 if record["is_full"] == 1 or record["n_waiting"] == 0 else 0


@inner
def _prefill(state: State, queue: int) -> None:
    """Go on with the prompt under way and admit others; `rest` holds what they may still take."""
    record, engine, rest = state.queues[queue], state.engine[0], state.engine[0]
    n_seats = engine["max_num_seqs"] - record["n_seats"]
    _open_budget(state, queue)
    if record["under_way"] > 0:
        _go_on(state, queue)
    while record["n_waiting"] > 0:
        if record["n_entries"] >= n_seats:
            record["is_full"] = 1
        if record["is_full"] == 1 or not _admit(state, queue):
            break
        record["is_full"] = 1 if rest["total_left"] <= 0.0 or rest["free_left"] <= 0 else 0
        if record["is_full"] == 1 or rest["input_left"] <= 0 or rest["chunk_left"] <= 0:
            break
    record["n_seats"] += record["n_entries"]
    if record["n_entries"] > 0 and record["under_way"] > 0:
        record["n_seats"] -= 1


@inner
def _open_budget(state: State, queue: int) -> None:
    record, rest, most = state.queues[queue], state.engine[0], 0
    for index in range(record["n_running"]):
        request = state.running[queue, index]
        if request + 1 != record["under_way"]:
            left = _max_new_tokens(state, queue, request) - state.requests[request]["generated"]
            most += min(left, rest["clip_tokens"])
    free = _tokens_in(state, record["n_free"])
    rest["input_left"] = rest["max_prefill_tokens"]
    rest["chunk_left"] = state.engine[0]["budget"]
    rest["total_left"] = free - most * _ratio(state, queue)
    rest["free_left"] = free


@inner
def _ratio(state: State, queue: int) -> float:
    record, rest = state.queues[queue], state.engine[0]
    if record["n_decays"] == 0:
        return float(record["start_ratio"])
    return float(max(record["start_ratio"] - record["n_decays"] * rest["decay_ratio"], rest["least_ratio"]))


@inner
def _tokens_in(state: State, n_blocks: int) -> int:
    """Return the longest sequence that `n_blocks` hold, as `KvLayout.tokens_in`."""
    engine, at_most = state.engine[0], 0
    for index in range(len(state.window_lists)):
        at_most += state.window_lists[index, 0] * state.window_lists[index, 1]
    filled = (n_blocks - at_most) // engine["n_full_lists"] if engine["n_full_lists"] > 0 else 0
    return int(max(filled, n_blocks // engine["n_lists"]) * engine["block_size"])


@inner
def _max_new_tokens(state: State, queue: int, request: int) -> int:
    room = _tokens_in(state, state.queues[queue]["n_blocks"]) - state.requests[request]["prompt"] - 2
    return int(min(state.requests[request]["limit"], max(0, room)))


@inner
def _paged(state: State, n_tokens: int) -> int:
    page = state.engine[0]["block_size"]
    return int(-(-n_tokens // page) * page)


@inner
def _charge(state: State, n_tokens: int, n_reserved: int) -> None:
    rest, paged = state.engine[0], _paged(state, n_tokens)
    rest["total_left"] -= paged + n_reserved
    rest["free_left"] -= paged
    rest["input_left"] -= paged
    rest["chunk_left"] -= paged


@inner
def _go_on(state: State, queue: int) -> None:
    """Schedule the next chunk of the prompt under way, whose blocks it has."""
    record, rest = state.queues[queue], state.engine[0]
    request = record["under_way"] - 1
    n_left = n_uncomputed(state, request)
    n_new = min(n_left, rest["chunk_left"])
    reserved = 0
    if n_new == n_left:
        reserved = min(_max_new_tokens(state, queue, request), rest["clip_tokens"])
        record["under_way"] = 0
    _charge(state, n_new, reserved)
    schedule_tokens(state, queue, request, n_new)


@inner
def _admit(state: State, queue: int) -> bool:
    """Admit the head of `waiting`, whole or its first chunk; False, and perhaps full, if it has to wait."""
    record, rest, page = state.queues[queue], state.engine[0], state.engine[0]["block_size"]
    request = head(state, queue)
    limit, n_left = _max_new_tokens(state, queue, request), n_uncomputed(state, request)
    total = n_left + min(max(limit - state.requests[request]["generated"], 0), rest["clip_tokens"])
    if total >= rest["total_left"]:
        record["is_full"] = 1
        return False
    n_new, paged, reserved = n_left, _paged(state, n_left), min(limit, rest["clip_tokens"])
    if paged >= rest["input_left"] and record["n_entries"] > 0:
        return False
    if paged > rest["chunk_left"]:
        n_new, reserved = rest["chunk_left"] // page * page, 0
        if n_new == 0:
            return False
    if not grow(state, queue, request, n_left):
        record["is_full"] = 1
        return False
    _charge(state, n_new, reserved)
    if n_new < n_left:
        record["under_way"] = request + 1
    pop_front(state, queue)
    state.running[queue, record["n_running"]] = request
    record["n_running"] += 1
    schedule_tokens(state, queue, request, n_new)
    return True


@inner
def _decode(state: State, queue: int) -> None:
    record, running = state.queues[queue], state.running
    if record["n_running"] < record["n_seats"]:
        record["is_full"] = 0
    n_ready = _n_ready(state, queue)
    if _blocks_missing(state, queue) > record["n_free"]:
        _retract(state, queue, n_ready)
    elif n_ready > 0:
        record["n_decays"] += 1
    record["n_seats"] = record["n_running"]
    for index in range(record["n_running"]):
        request = running[queue, index]
        if n_uncomputed(state, request) > 0 and grow(state, queue, request, state.requests[request]["computed"] + 1):
            schedule_tokens(state, queue, request, 1)


@inner
def _n_ready(state: State, queue: int) -> int:
    n_ready = 0
    for index in range(state.queues[queue]["n_running"]):
        n_ready += 1 if n_uncomputed(state, state.running[queue, index]) > 0 else 0
    return n_ready


@inner
def _blocks_missing(state: State, queue: int) -> int:
    missing = 0
    for index in range(state.queues[queue]["n_running"]):
        request = state.running[queue, index]
        if n_uncomputed(state, request) > 0:
            record = state.requests[request]
            missing += max(0, blocks_for(state, record["computed"] + 1) - record["blocks"])
    return missing


@inner
def _retract(state: State, queue: int, n_ready: int) -> None:
    """Send running requests to the end of `waiting` until the others' next tokens fit, and reserve more."""
    record, running, rest = state.queues[queue], state.running, state.engine[0]
    _sort_running(state, queue)
    while n_ready > 1 and _blocks_missing(state, queue) > record["n_free"]:
        _retract_last(state, queue)
        n_ready -= 1
    decoded, limits = 0, 0
    for index in range(record["n_running"]):
        decoded += state.requests[running[queue, index]]["generated"]
        limits += _max_new_tokens(state, queue, running[queue, index])
    share = (decoded + rest["retract_steps"] * record["n_running"]) / (limits + 1)
    record["start_ratio"], record["n_decays"] = min(1.0, share), 0


@inner
def _retract_last(state: State, queue: int) -> None:
    """Send the last running request that is not in flight to the end of `waiting`."""
    record, running = state.queues[queue], state.running
    place = record["n_running"] - 1
    while n_uncomputed(state, running[queue, place]) == 0:
        place -= 1
    request = running[queue, place]
    record["n_running"] -= 1
    for index in range(place, record["n_running"]):
        running[queue, index] = running[queue, index + 1]
    release(state, queue, request)
    state.requests[request]["computed"] = 0
    state.requests[request]["preemptions"] += 1
    push_back(state, queue, request)
    record["is_full"] = 0


@inner
def _sort_running(state: State, queue: int) -> None:
    """Sort by outputs, most first, then by prompt, shortest first; equal ones keep their order."""
    running, requests = state.running, state.requests
    for last in range(1, state.queues[queue]["n_running"]):
        request, place = running[queue, last], last
        while place > 0:
            before, mine = requests[running[queue, place - 1]], requests[request]
            if before["generated"] > mine["generated"]:
                break
            if before["generated"] == mine["generated"] and before["prompt"] <= mine["prompt"]:
                break
            running[queue, place] = running[queue, place - 1]
            place -= 1
        running[queue, place] = request
