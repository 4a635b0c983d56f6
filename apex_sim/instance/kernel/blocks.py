"""Who holds which KV blocks?  `SchedulerQueue` and `BlockPool` over plain arrays."""

from __future__ import annotations

from apex_sim.instance.kernel.holes import free_hole, take_hole
from apex_sim.instance.kernel.places import put_in_place, take_out
from apex_sim.instance.kernel.prefixes import hold_units, n_idle_units, release_units, take_from_queue
from apex_sim.instance.kernel.state import NOWHERE, State
from apex_sim.machine_code import inner
from apex_sim.record.request_records import REJECTED


@inner
def blocks_for(state: State, n_tokens: int) -> int:
    """Return the blocks that `n_tokens` of one sequence hold."""
    engine = state.engine[0]
    blocks = -(-n_tokens // engine["block_size"])
    total = engine["n_full_lists"] * blocks
    for index in range(len(state.window_lists)):
        total += state.window_lists[index, 0] * min(blocks, state.window_lists[index, 1])
    return int(total)


@inner
def grow(state: State, queue: int, request: int, n_tokens: int) -> bool:
    """Give a request the blocks for its first `n_tokens`; False, and no change, if they are not free."""
    if n_tokens <= state.requests[request]["room"]:
        return True
    missing = blocks_for(state, n_tokens) - state.requests[request]["blocks"]
    if missing > state.queues[queue]["n_free"]:
        return False
    if missing > 0:
        take_blocks(state, queue, request, missing)
    state.requests[request]["room"] = _whole_blocks(state, n_tokens)
    return True


@inner
def take_blocks(state: State, queue: int, request: int, n_blocks: int) -> None:
    """Give a request free blocks."""
    state.queues[queue]["n_free"] -= n_blocks
    state.requests[request]["blocks"] += n_blocks
    if state.engine[0]["unit_tokens"] > 0:
        take_from_queue(state, queue, n_blocks)


@inner
def admit(state: State, queue: int, request: int, n_cached: int, n_tokens: int) -> bool:
    """Give a waiting request the blocks for its first `n_tokens`, of which `n_cached` are cached.

    False, and no change, if what is missing is not free.
    """
    unit_tokens = state.engine[0]["unit_tokens"]
    if unit_tokens > 0:
        record, unit_blocks, n_units = state.requests[request], state.engine[0]["unit_blocks"], n_cached // unit_tokens
        n_idle = n_idle_units(state, request, n_units) * unit_blocks
        if blocks_for(state, n_tokens) - n_units * unit_blocks + n_idle > state.queues[queue]["n_free"]:
            return False
        hold_units(state, queue, request, n_units)
        state.queues[queue]["n_free"] -= n_idle
        record["blocks"], record["computed"] = n_units * unit_blocks, n_cached
        if record["preemptions"] == 0:
            record["cached"] = n_cached
    return grow(state, queue, request, n_tokens)


@inner
def reserve(state: State, queue: int, request: int) -> bool:
    """Give a request, in one piece, the blocks for its longest answer; False, and no change, if no hole holds them."""
    record = state.requests[request]
    n_tokens = int(record["prompt"] + record["limit"])
    place = take_hole(state, queue, blocks_for(state, n_tokens))
    if place < 0:
        return False
    record["place"] = place
    return grow(state, queue, request, n_tokens)


@inner
def _whole_blocks(state: State, n_tokens: int) -> int:
    """Return `n_tokens` rounded up to whole blocks."""
    block_size = state.engine[0]["block_size"]
    return int(-(-n_tokens // block_size) * block_size)


@inner
def release(state: State, queue: int, request: int) -> None:
    """Free all blocks of a request that no other one holds."""
    if state.engine[0]["unit_tokens"] > 0:
        state.queues[queue]["n_free"] += release_units(state, queue, request)
    else:
        state.queues[queue]["n_free"] += state.requests[request]["blocks"]
        if state.requests[request]["place"] >= 0:
            free_hole(state, queue, int(state.requests[request]["place"]), int(state.requests[request]["blocks"]))
            state.requests[request]["place"] = NOWHERE
    state.requests[request]["blocks"] = state.requests[request]["room"] = 0


@inner
def preempt(state: State, queue: int, request: int) -> None:
    """Take a request off its blocks for recomputation, and put it before all that wait, or where it belongs."""
    release(state, queue, request)
    state.requests[request]["computed"] = 0
    state.requests[request]["drafts"] = 0
    state.requests[request]["preemptions"] += 1
    if state.engine[0]["is_sorted"] == 1:
        put_in_place(state, queue, request)
    else:
        push_front(state, queue, request)


@inner
def push_front(state: State, queue: int, request: int) -> None:
    """Put a request at the head of `waiting`."""
    record, capacity = state.queues[queue], state.waiting.shape[1]
    record["first_waiting"] = (record["first_waiting"] - 1) % capacity
    record["n_waiting"] += 1
    state.waiting[queue, record["first_waiting"]] = request


@inner
def push_back(state: State, queue: int, request: int) -> None:
    """Put a request at the end of `waiting`."""
    record, capacity = state.queues[queue], state.waiting.shape[1]
    state.waiting[queue, (record["first_waiting"] + record["n_waiting"]) % capacity] = request
    record["n_waiting"] += 1


@inner
def pop_front(state: State, queue: int) -> int:
    """Take the request at the head of `waiting`."""
    record, capacity = state.queues[queue], state.waiting.shape[1]
    if state.engine[0]["is_sorted"] == 1:  # a heap begins at 0
        return take_out(state, queue, record["first_waiting"])
    request = state.waiting[queue, record["first_waiting"]]
    record["first_waiting"] = (record["first_waiting"] + 1) % capacity
    record["n_waiting"] -= 1
    return int(request)


@inner
def head(state: State, queue: int) -> int:
    """Return the request at the head of `waiting`."""
    return int(state.waiting[queue, state.queues[queue]["first_waiting"]])


@inner
def n_tokens_of(state: State, request: int) -> int:
    """Return the prompt and output tokens that a step may compute."""
    record = state.requests[request]
    pending = record["pending"] if state.engine[0]["runs_ahead"] == 1 else 0
    return int(record["prompt"] + record["generated"] + pending)


@inner
def n_uncomputed(state: State, request: int) -> int:
    """Return the tokens that could be computed now."""
    return int(n_tokens_of(state, request) - state.requests[request]["computed"])


@inner
def is_decoding(state: State, request: int) -> bool:
    """Whether all but the newest token are computed and that one was generated."""
    record = state.requests[request]
    return bool(n_uncomputed(state, request) == 1 and record["computed"] >= record["prompt"])


@inner
def schedule_one(state: State, queue: int, request: int) -> None:
    """Hand one token of a request to the step being built."""
    schedule_tokens(state, queue, request, len(state.engine))  # 1, but Numba compiles a copy for each literal


@inner
def schedule_tokens(state: State, queue: int, request: int, n_new: int) -> None:
    """Hand `n_new` tokens of a request to the step being built; as `scheduler_queue.schedule_tokens`."""
    record, uncomputed = state.requests[request], n_uncomputed(state, request)
    samples = max(0, n_new - uncomputed + 1)
    entry = state.entries[queue, state.queues[queue]["n_entries"]]
    entry["request"] = request
    entry["past"] = record["computed"]
    entry["n_new"] = n_new
    entry["samples"] = samples
    entry["decodes"] = 1 if uncomputed == 1 and record["computed"] >= record["prompt"] else 0
    record["computed"] += n_new
    record["pending"] += min(samples, 1)
    state.queues[queue]["n_entries"] += 1


@inner
def reject_head(state: State, queue: int, reason: int) -> None:
    """Refuse the request at the head of `waiting`."""
    request = pop_front(state, queue)
    state.requests[request]["reason"] = reason
    reject(state, request)


@inner
def reject(state: State, request: int) -> None:
    """Let a request go that is refused for the reason noted with it."""
    state.requests[request]["status"] = REJECTED
    state.requests[request]["last_s"] = state.engine[0]["now_s"]
    leave(state, request)


@inner
def leave(state: State, request: int) -> None:
    """Let a request go; in a closed loop the next one arrives."""
    engine = state.engine[0]
    state.left[engine["n_left"]] = request
    engine["n_left"] += 1
    if engine["concurrent"] > 0 and engine["n_arrived"] < len(state.requests):
        arrive(state, int(engine["n_arrived"]))


@inner
def arrive(state: State, request: int) -> None:
    """Let a request arrive now; it reaches the scheduler after the time before the queue, in order of that moment."""
    engine = state.engine[0]
    engine["n_arrived"] += 1
    now_s = engine["now_s"]
    state.requests[request]["arrival_s"] = now_s
    queued_s = now_s + (engine["frontend_s"] + engine["prompt_token_s"] * state.requests[request]["prompt"])
    place = engine["first_coming"] + engine["n_coming"]
    while place > engine["first_coming"] and state.coming_s[place - 1] > queued_s:
        state.coming_s[place] = state.coming_s[place - 1]
        state.coming[place] = state.coming[place - 1]
        place -= 1
    state.coming_s[place] = queued_s
    state.coming[place] = request
    engine["n_coming"] += 1
