"""Sarathi-Serve's stall-free batching: every decode runs in every step, prompt chunks fill what is left of the budget.

Rules of https://github.com/microsoft/sarathi-serve sarathi/core/scheduler/sarathi_scheduler.py: running sequences in
order of arrival, decodes before unfinished prompts before new ones; a prompt takes all its blocks when it is admitted,
even by a step that preempted.
"""

from __future__ import annotations

from collections import deque

from apex_sim.instance.policies.prefill_first import make_room, may_allocate
from apex_sim.instance.scheduler_queue import SchedulerQueue, schedule_tokens
from apex_sim.instance.sequence import Entry


def schedule_sarathi(queue: SchedulerQueue) -> list[Entry]:
    """Return the next batch."""
    batch = _decode_all(queue)
    budget = queue.settings.max_num_batched_tokens - len(batch)
    for sequence in queue.running:
        n_new = min(sequence.n_uncomputed, budget)
        if n_new:
            batch.append(schedule_tokens(sequence, n_new))
            budget -= n_new
    return batch + _admit(queue, budget)


def _decode_all(queue: SchedulerQueue) -> list[Entry]:
    """Decode in order of arrival, preempting from the end, unfinished prompts included; these are passed over."""
    unvisited, batch = deque(sorted(queue.running, key=queue.place)), []
    queue.running = []
    while unvisited:
        sequence = unvisited.popleft()
        if sequence.is_decoding:
            if not make_room(queue, sequence, unvisited):
                continue
            batch.append(schedule_tokens(sequence, 1))
        queue.running.append(sequence)
    return batch


def _admit(queue: SchedulerQueue, budget: int) -> list[Entry]:
    batch: list[Entry] = []
    while queue.waiting and budget and len(queue.running) < queue.settings.max_num_seqs:
        sequence = queue.waiting[0]
        fits = may_allocate(queue, sequence)
        if fits is None:
            queue.reject(queue.waiting.popleft(), f"prompt of {sequence.n_tokens} tokens can never fit the KV cache")
            continue
        if not fits or not queue.grow(sequence, sequence.n_tokens):
            break
        queue.running.append(queue.waiting.popleft())
        batch.append(schedule_tokens(sequence, min(sequence.n_uncomputed, budget)))
        budget -= batch[-1].n_new
    return batch
