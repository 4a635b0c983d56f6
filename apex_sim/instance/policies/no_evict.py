"""TensorRT-LLM's default: a request is started only if all blocks that it may ever need are free, and never evicted.

Rules of https://github.com/NVIDIA/TensorRT-LLM, cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp
`GuaranteedNoEvictScheduler` at commit cf6abc45, microBatchScheduler.cpp at 0a949d31 without chunked context, and
tensorrt_llm/_torch/pyexecutor/py_executor.py `_update_generation_requests_that_will_complete_next_iteration`: with
overlap, a request that reaches its limit is not scheduled again.

Not modelled: chunked context (`no_evict_chunked` has it), reuse of blocks between requests (on by default) with its
rule to hold a prompt back that could reuse another's blocks, batch waiting, `max_batch_size` requests for each pipeline
stage (here `max_num_seqs` in all).
"""

from __future__ import annotations

from apex_sim.instance.scheduler_queue import SchedulerQueue, schedule_tokens
from apex_sim.instance.sequence import Entry, Sequence


def schedule_no_evict(queue: SchedulerQueue) -> list[Entry]:
    """Return the next batch: a token of each running request, then whole prompts whose last block is free as well."""
    n_left = queue.pool.n_free - sum(blocks_at_end(queue, each) - each.n_blocks for each in queue.running)
    batch = []
    for sequence in queue.running:
        if decodes_now(sequence):
            queue.grow(sequence, sequence.n_computed + 1)
            batch.append(schedule_tokens(sequence, 1))
    budget = queue.settings.max_num_batched_tokens - len(batch)
    while queue.waiting and len(queue.running) < queue.settings.max_num_seqs:
        sequence = queue.waiting[0]
        n_new, needed = sequence.n_uncomputed, blocks_at_end(queue, sequence)
        if n_new > queue.settings.max_num_batched_tokens:
            queue.reject(queue.waiting.popleft(), f"prompt of {n_new} tokens exceeds the step budget")
            continue
        if needed > n_left or n_new > budget:
            break
        n_left -= needed
        budget -= n_new
        queue.grow(sequence, n_new)
        queue.running.append(queue.waiting.popleft())
        batch.append(schedule_tokens(sequence, n_new))
    return batch


def decodes_now(sequence: Sequence) -> bool:
    """Whether the next token may be scheduled: it is there, or pending ones do not yet reach the request's limit."""
    if sequence.n_pending and sequence.n_generated + sequence.n_pending >= sequence.max_output_tokens:
        return False
    return sequence.n_uncomputed > 0


def blocks_at_end(queue: SchedulerQueue, sequence: Sequence) -> int:
    """Return the blocks that a request holds once it has all of its output."""
    return queue.pool.blocks_for(sequence.prompt_tokens + sequence.max_output_tokens)
