"""SGLang's scheduler: prompts first and alone, admitted by what outputs may still need; else one token for everybody.

Rules of SGLang 0.5.5 (the same in 0.5.6), sglang/srt/managers/scheduler.py `get_next_batch_to_run`,
`get_new_batch_prefill` and `update_running_batch`, schedule_policy.py `PrefillAdder.add_chunked_req` and `add_one_req`,
schedule_batch.py `retract_decode`.

Not modelled: the radix cache; prompts mixed with decodes (`enable_mixed_chunk`); orders of the queue other than first
come, first served; the admission that simulates when requests end, which the engine uses for requests that ignore EOS
while the radix cache is off (`add_one_req_ignore_eos`).  Differences: a sequence that ended no longer reserves (the
engine sums it up until it schedules decodes again); a token in flight of a retracted sequence is kept, not sampled
again; the last, wasted token of a sequence frees its slot with the rest, not a step later; a prompt takes the blocks of
all its chunks with the first one, which no decision can tell, since nobody else takes blocks before it is done; with
pipeline stages one set of running sequences feeds all batches in flight, where the engine has a set for each.
"""

from __future__ import annotations

from dataclasses import dataclass

from apex_sim.instance.admission import Admission
from apex_sim.instance.scheduler_queue import SchedulerQueue, schedule_tokens
from apex_sim.instance.sequence import Entry, Sequence


def schedule_sglang(queue: SchedulerQueue) -> list[Entry]:
    """Return the next batch: prompts as long as any is admitted, else one token of every running sequence."""
    return _prefill(queue) or _decode(queue)


@dataclass(slots=True)
class _Budget:
    """Tokens that a batch of prompts may still take; `total_left` and `free_left` with and without reservations."""

    page_tokens: int
    input_left: int
    chunk_left: int
    total_left: float
    free_left: int

    def paged(self, n_tokens: int) -> int:
        return -(-n_tokens // self.page_tokens) * self.page_tokens

    def charge(self, n_tokens: int, n_reserved: int) -> None:
        paged = self.paged(n_tokens)
        self.total_left -= paged + n_reserved
        self.free_left -= paged
        self.input_left -= paged
        self.chunk_left -= paged


def _prefill(queue: SchedulerQueue) -> list[Entry]:
    state = queue.reserving
    if state.chunked:
        state.is_full = False
    elif state.is_full or not queue.waiting:
        return []
    n_seats = queue.settings.max_num_seqs - state.n_seats
    budget, batch = _budget(queue, state), list[Entry]()
    if state.chunked:
        batch.append(_go_on(queue, state, state.chunked, budget))
    while queue.waiting:
        state.is_full = state.is_full or len(batch) >= n_seats
        if state.is_full:
            break
        entry = _admit(queue, state, budget, is_first=not batch)
        if entry is None:
            break
        batch.append(entry)
        state.is_full = budget.total_left <= 0 or budget.free_left <= 0
        if state.is_full or budget.input_left <= 0 or budget.chunk_left <= 0:
            break
    state.n_seats += len(batch) - (1 if batch and state.chunked else 0)
    return batch


def _budget(queue: SchedulerQueue, state: Admission) -> _Budget:
    rule, free = state.reservation, queue.pool.tokens_free
    most = (
        min(max_new_tokens(queue, sequence) - sequence.n_generated, rule.clip_tokens)
        for sequence in queue.running
        if sequence is not state.chunked
    )
    chunk = queue.settings.max_num_batched_tokens
    return _Budget(
        queue.pool.block_size_tokens,
        rule.max_prefill_tokens,
        chunk,
        free - sum(most) * state.ratio,
        free,
    )


def max_new_tokens(queue: SchedulerQueue, sequence: Sequence) -> int:
    """Return the output limit, cut as the engine does so that the whole request fits an empty pool."""
    return min(sequence.max_output_tokens, max(0, queue.pool.tokens_in_all - sequence.prompt_tokens - 2))


def _go_on(queue: SchedulerQueue, state: Admission, sequence: Sequence, budget: _Budget) -> Entry:
    """Schedule the next chunk of the prompt under way, whose blocks it has."""
    n_new = min(sequence.n_uncomputed, budget.chunk_left)
    is_last = n_new == sequence.n_uncomputed
    limit = min(max_new_tokens(queue, sequence), state.reservation.clip_tokens)
    budget.charge(n_new, limit if is_last else 0)
    state.chunked = None if is_last else sequence
    return schedule_tokens(sequence, n_new)


def _admit(queue: SchedulerQueue, state: Admission, budget: _Budget, *, is_first: bool) -> Entry | None:
    """Admit the head of `waiting`, whole or its first chunk; None, and perhaps full, if it has to wait."""
    sequence, clip = queue.waiting[0], state.reservation.clip_tokens
    limit, n_new = max_new_tokens(queue, sequence), sequence.n_uncomputed
    total = n_new + min(max(limit - sequence.n_generated, 0), clip)
    if total >= budget.total_left:
        state.is_full = True
        return None
    paged, reserved = budget.paged(n_new), min(limit, clip)
    if paged >= budget.input_left and not is_first:
        return None
    if paged > budget.chunk_left:
        n_new, reserved = budget.chunk_left // budget.page_tokens * budget.page_tokens, 0
        if not n_new:
            return None
    if not queue.grow(sequence, sequence.n_uncomputed):  # with windows, free tokens are no exact count
        state.is_full = True
        return None
    budget.charge(n_new, reserved)
    state.chunked = sequence if n_new < sequence.n_uncomputed else None
    queue.running.append(queue.waiting.popleft())
    return schedule_tokens(sequence, n_new)


def _decode(queue: SchedulerQueue) -> list[Entry]:
    state = queue.reserving
    state.is_full = state.is_full and len(queue.running) >= state.n_seats
    if _blocks_missing(queue) > queue.pool.n_free:
        _retract(queue, state)
    elif any(sequence.n_uncomputed for sequence in queue.running):
        state.n_decays += 1
    state.n_seats = len(queue.running)
    return [
        schedule_tokens(sequence, 1)
        for sequence in queue.running
        if sequence.n_uncomputed and queue.grow(sequence, sequence.n_computed + 1)
    ]


def _blocks_missing(queue: SchedulerQueue) -> int:
    return sum(
        max(0, queue.pool.blocks_for(sequence.n_computed + 1) - sequence.n_blocks)
        for sequence in queue.running
        if sequence.n_uncomputed
    )


def _retract(queue: SchedulerQueue, state: Admission) -> None:
    """Send running sequences to the end of `waiting` until the others' next tokens fit: the fewest outputs first.

    Of equal ones the longest prompt goes first, then the last in the batch.  The last one stays.
    """
    rule = state.reservation
    queue.running.sort(key=lambda sequence: (sequence.n_generated, -sequence.prompt_tokens), reverse=True)
    ready = [sequence for sequence in queue.running if sequence.n_uncomputed]
    while len(ready) > 1 and _blocks_missing(queue) > queue.pool.n_free:
        victim = ready.pop()
        queue.running.remove(victim)
        queue.preempt(victim)
        queue.waiting.append(victim)
        state.is_full = False
    decoded = sum(sequence.n_generated for sequence in queue.running)
    limits = sum(max_new_tokens(queue, sequence) for sequence in queue.running)
    state.start_ratio = min(1.0, (decoded + rule.retract_steps * len(queue.running)) / (limits + 1))
    state.n_decays = 0
