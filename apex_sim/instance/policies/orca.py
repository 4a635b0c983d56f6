"""Orca's iteration-level scheduling: requests join and leave at any step, each with memory for its longest answer.

Rules of Yu et al., Orca, OSDI 2022, Algorithm 1, as https://github.com/microsoft/vidur reads them
(vidur/scheduler/replica_scheduler/orca_replica_scheduler.py): all running sequences in each step, new ones with their
whole prompts, first come first served; what a request may at most need is reserved when it is admitted.
"""

from __future__ import annotations

from apex_sim.instance.scheduler_queue import SchedulerQueue, schedule_tokens
from apex_sim.instance.sequence import Entry


def schedule_orca(queue: SchedulerQueue) -> list[Entry]:
    """Return the next batch: one token of every running sequence, and every waiting prompt that fits."""
    batch = [schedule_tokens(sequence, 1) for sequence in queue.running]
    budget = queue.settings.max_num_batched_tokens - len(batch)
    while queue.waiting and len(queue.running) < queue.settings.max_num_seqs:
        sequence = queue.waiting[0]
        if sequence.n_uncomputed > budget or not queue.reserve(sequence):
            break
        queue.running.append(queue.waiting.popleft())
        batch.append(schedule_tokens(sequence, sequence.n_uncomputed))
        budget -= batch[-1].n_new
    return batch
