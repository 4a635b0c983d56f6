"""TensorRT-LLM's default with chunked context: as `no_evict`, and a prompt may take several steps.

Rules of https://github.com/NVIDIA/TensorRT-LLM, cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp
`GuaranteedNoEvictScheduler` and microBatchScheduler.cpp `setCtxRequestsChunkSize` under FIRST_COME_FIRST_SERVED:
decodes go first, then prompts in the order of their start take what is left of the token budget.  A chunk that does
not end its prompt is cut to whole KV blocks, so that less than one block of budget computes nothing.

Not modelled: what `no_evict` leaves out as well; EQUAL_PROGRESS, the other rule for chunks.
"""

from __future__ import annotations

from apex_sim.instance.policies.no_evict import blocks_at_end, decodes_now
from apex_sim.instance.scheduler_queue import SchedulerQueue, schedule_tokens
from apex_sim.instance.sequence import Entry, Sequence


def schedule_no_evict_chunked(queue: SchedulerQueue) -> list[Entry]:
    """Return the next batch: a token of each decoding request, then chunks of prompts whose last block is pledged."""
    n_left = queue.pool.n_free - sum(blocks_at_end(queue, each) - each.n_blocks for each in queue.running)
    batch, prompts = [], []
    for sequence in queue.running:
        if sequence.n_computed < sequence.prompt_tokens:
            prompts.append(sequence)
        elif decodes_now(sequence):
            queue.grow(sequence, sequence.n_computed + 1)
            batch.append(schedule_tokens(sequence, 1))
    budget = queue.settings.max_num_batched_tokens - len(batch)
    for sequence in prompts:
        n_new = _chunk(queue, sequence, budget)
        if not n_new:
            return batch
        queue.grow(sequence, sequence.n_computed + n_new)
        batch.append(schedule_tokens(sequence, n_new))
        budget -= n_new
    return batch + _admit(queue, n_left, budget)


def _admit(queue: SchedulerQueue, n_left: int, budget: int) -> list[Entry]:
    """Start waiting requests in order; the first whose blocks are not free, or that gets no token, ends it."""
    batch: list[Entry] = []
    while queue.waiting and len(queue.running) < queue.settings.max_num_seqs:
        sequence = queue.waiting[0]
        n_new, needed = _chunk(queue, sequence, budget), blocks_at_end(queue, sequence)
        if needed > n_left or not n_new:
            break
        n_left -= needed
        budget -= n_new
        queue.grow(sequence, n_new)
        queue.running.append(queue.waiting.popleft())
        batch.append(schedule_tokens(sequence, n_new))
    return batch


def _chunk(queue: SchedulerQueue, sequence: Sequence, budget: int) -> int:
    """Return how many tokens of a prompt the budget takes: all that are left, or whole blocks."""
    n_left = sequence.n_uncomputed
    return n_left if n_left <= budget else budget - budget % queue.pool.block_size_tokens
