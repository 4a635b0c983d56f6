"""Static batching, as FasterTransformer does it: nobody joins a batch, and the next begins when all of one have ended.

Rules of https://github.com/microsoft/vidur
(vidur/scheduler/replica_scheduler/faster_transformer_replica_scheduler.py): a batch is formed first come, first served,
each request with memory for its longest answer; all prompts are computed before anybody decodes; those that have ended
are computed no more.
"""

from __future__ import annotations

from apex_sim.instance.scheduler_queue import SchedulerQueue, schedule_tokens
from apex_sim.instance.sequence import Entry


def schedule_static(queue: SchedulerQueue) -> list[Entry]:
    """Return the next batch: whole prompts within the token budget, or else one token of every sequence."""
    if not queue.running:
        _form(queue)
    prompts: list[Entry] = []
    budget = queue.settings.max_num_batched_tokens
    for sequence in queue.running:
        if sequence.n_computed:
            continue
        if sequence.n_uncomputed > budget:
            break
        prompts.append(schedule_tokens(sequence, sequence.n_uncomputed))
        budget -= prompts[-1].n_new
    return prompts or [schedule_tokens(sequence, 1) for sequence in queue.running]


def _form(queue: SchedulerQueue) -> None:
    while queue.waiting and len(queue.running) < queue.settings.max_num_seqs:
        if not queue.reserve(queue.waiting[0]):
            break
        queue.running.append(queue.waiting.popleft())
