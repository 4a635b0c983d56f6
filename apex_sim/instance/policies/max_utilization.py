"""TensorRT-LLM's other policy: start what fits now, and pause the youngest when blocks run out.

Rules of https://github.com/NVIDIA/TensorRT-LLM, cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp
`MaxUtilizationScheduler` at commit cf6abc45, and microBatchScheduler.cpp at 0a949d31 without chunked context.  Started
requests are always the oldest ones here, so that "the last started request from here on" is the last of `running`.

Not modelled: what `no_evict` leaves out as well; the second step of look-ahead with pipeline stages; a paused request
whose prompt and output exceed the input limit loses the output beyond it (here `max_num_batched_tokens` must hold
`max_model_len`).
"""

from __future__ import annotations

from apex_sim.instance.policies.no_evict import decodes_now
from apex_sim.instance.scheduler_queue import SchedulerQueue, schedule_tokens
from apex_sim.instance.sequence import Entry, Sequence


def schedule_max_utilization(queue: SchedulerQueue) -> list[Entry]:
    """Return the next batch: a token of each running request, then whole prompts, unless one was paused."""
    n_running_before, batch, index = len(queue.running), list[Entry](), 0
    while index < len(queue.running):
        sequence = queue.running[index]
        index += 1
        if decodes_now(sequence):
            if not _make_room(queue, sequence):
                break
            batch.append(schedule_tokens(sequence, 1))
    if len(queue.running) == n_running_before:
        batch += _admit(queue, queue.settings.max_num_batched_tokens - len(batch))
    return batch


def _make_room(queue: SchedulerQueue, sequence: Sequence) -> bool:
    """Give `sequence` its next block, pausing from the back of `running`; False if it had to go itself."""
    while not queue.grow(sequence, sequence.n_computed + 1):
        victim = queue.running.pop()
        queue.preempt(victim)
        queue.waiting.appendleft(victim)
        if victim is sequence:
            return False
    return True


def _admit(queue: SchedulerQueue, budget: int) -> list[Entry]:
    """Start waiting requests in order, the first that does not fit ends it."""
    batch: list[Entry] = []
    while queue.waiting and len(queue.running) < queue.settings.max_num_seqs:
        sequence = queue.waiting[0]
        n_new = sequence.n_uncomputed
        if sequence.n_pending or n_new > budget or not queue.grow(sequence, n_new):
            break
        budget -= n_new
        queue.running.append(queue.waiting.popleft())
        batch.append(schedule_tokens(sequence, n_new))
    return batch
