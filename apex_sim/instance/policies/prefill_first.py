"""vLLM v0's default: a step is either prompts or decodes, and prompts go first.

Rules of vLLM 0.6.0, vllm/core/scheduler.py `_schedule_default`, `_schedule_prefills` and `_schedule_running`.
"""

from __future__ import annotations

from collections import deque

from apex_sim.instance.scheduler_queue import SchedulerQueue, schedule_tokens
from apex_sim.instance.sequence import Entry, Sequence


def schedule_prefill_first(queue: SchedulerQueue) -> list[Entry]:
    """Return the next batch: every waiting prompt that fits whole, or else one token of every running sequence."""
    prompts = _admit_prompts(queue)
    return prompts or _decode_all(queue)


def _admit_prompts(queue: SchedulerQueue) -> list[Entry]:
    batch: list[Entry] = []
    budget = queue.settings.max_num_batched_tokens
    while queue.waiting:
        sequence = queue.waiting[0]
        n_new = sequence.n_uncomputed
        if n_new > min(queue.settings.max_model_len, queue.settings.max_num_batched_tokens):
            queue.reject(queue.waiting.popleft(), f"prompt of {n_new} tokens exceeds the step budget")
            continue
        fits = may_allocate(queue, sequence)
        if fits is None:
            queue.reject(queue.waiting.popleft(), f"prompt of {n_new} tokens can never fit the KV cache")
            continue
        if not fits or n_new > budget or len(queue.running) >= queue.settings.max_num_seqs:
            break
        budget -= n_new
        queue.waiting.popleft()
        queue.grow(sequence, n_new)
        queue.running.append(sequence)
        batch.append(schedule_tokens(sequence, n_new))
    return batch


def may_allocate(queue: SchedulerQueue, sequence: Sequence) -> bool | None:
    """Return whether the blocks of the whole prompt are free above the watermark; None if they never can be."""
    need = queue.pool.blocks_for(sequence.n_tokens)
    if queue.pool.n_blocks - need < queue.pool.n_watermark:
        return None
    return queue.pool.n_free - need >= queue.pool.n_watermark


def _decode_all(queue: SchedulerQueue) -> list[Entry]:
    unvisited, batch = deque(queue.running), []
    queue.running = []
    while unvisited:
        sequence = unvisited.popleft()
        if make_room(queue, sequence, unvisited):
            queue.running.append(sequence)
            batch.append(schedule_tokens(sequence, 1))
    return batch


def make_room(queue: SchedulerQueue, sequence: Sequence, unvisited: deque[Sequence]) -> bool:
    """Give `sequence` its next block, preempting from the back of `unvisited`; False if it had to go itself.

    A sequence needs one free block even if its last block has room: the engine's own simple rule.
    """
    while queue.pool.n_free < 1 or not queue.grow(sequence, sequence.n_tokens):
        victim = unvisited.pop() if unvisited else sequence
        queue.preempt(victim)
        queue.put_back(victim)
        if victim is sequence:
            return False
    return True
