"""vLLM v0's default: a step is either prompts or decodes, and prompts go first.

Rules of vLLM 0.6.0, vllm/core/scheduler.py `_schedule_default`, `_schedule_prefills`, `_schedule_running` and
`_schedule_swapped`, and vllm/core/block_manager_v1.py `can_swap_in`.
"""

from __future__ import annotations

from collections import deque

from apex_sim.instance.scheduler_queue import SchedulerQueue, schedule_tokens
from apex_sim.instance.sequence import Entry, Sequence


def schedule_prefill_first(queue: SchedulerQueue) -> list[Entry]:
    """Return the next batch: every waiting prompt that fits whole, or else one token of every running sequence."""
    queue.n_copied = 0
    prompts = [] if queue.swapped else _admit_prompts(queue)
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
    n_before, unvisited, batch = len(queue.running), deque(queue.running), list[Entry]()
    queue.running = []
    while unvisited:
        sequence = unvisited.popleft()
        if make_room(queue, sequence, unvisited):
            queue.running.append(sequence)
            batch.append(schedule_tokens(sequence, 1))
    if len(queue.running) == n_before:
        batch += _bring_back(queue, len(batch))
    return batch


def _bring_back(queue: SchedulerQueue, n_scheduled: int) -> list[Entry]:
    """Swap sequences in, first out first, and let each decode; each must find a block beside its own."""
    batch: list[Entry] = []
    most = min(queue.settings.max_num_seqs, queue.settings.max_num_batched_tokens)
    while queue.swapped:
        n_needed = queue.swapped[0].n_host_blocks + 1
        if n_needed > queue.pool.n_blocks:
            queue.reject(
                queue.forget_swapped(), "swapped out for good: the KV cache cannot hold its blocks and one more"
            )
            continue
        if queue.pool.n_free - n_needed < queue.pool.n_watermark or n_scheduled + len(batch) >= most:
            break
        sequence = queue.swap_in()
        queue.grow(sequence, sequence.n_tokens)
        queue.running.append(sequence)
        batch.append(schedule_tokens(sequence, 1))
    return batch


def make_room(queue: SchedulerQueue, sequence: Sequence, unvisited: deque[Sequence]) -> bool:
    """Give `sequence` its next block, preempting from the back of `unvisited`; False if it had to go itself.

    A sequence needs one free block even if its last block has room: the engine's own simple rule.
    """
    while queue.pool.n_free < 1 or not queue.grow(sequence, sequence.n_tokens):
        victim = unvisited.pop() if unvisited else sequence
        if queue.settings.swaps:
            queue.swap_out(victim)
        else:
            queue.preempt(victim)
            queue.put_back(victim)
        if victim is sequence:
            return False
    return True
