"""DeepSpeed-FastGen's dynamic SplitFuse: every step is filled to the budget, one prompt at most is cut for it.

Rules of https://github.com/microsoft/DeepSpeed-MII mii/batching/ragged_batching.py, `schedule_requests` and
`reset_request_status`: requests of one token first, then prompts, a cut one before the others; a prompt goes on only
if the free blocks hold the whole of it; nobody is preempted until nothing can run, then everybody is.
"""

from __future__ import annotations

from apex_sim.instance.scheduler_queue import SchedulerQueue, schedule_tokens
from apex_sim.instance.sequence import Entry, Sequence


def schedule_splitfuse(queue: SchedulerQueue) -> list[Entry]:
    """Return the next batch; an empty one if all were taken off their blocks."""
    batch, left_out = _serve_single_tokens(queue)
    served = [entry.sequence for entry in batch]
    cut = [sequence for sequence in left_out if sequence.n_uncomputed > 1]
    queue.running = [*left_out, *served]
    budget = queue.settings.max_num_batched_tokens - len(batch)
    if not cut or _holds_all(queue, cut[0]):
        batch += _serve_prompts(queue, cut, budget)
    if not batch:
        _start_over(queue)
    return batch


def _serve_single_tokens(queue: SchedulerQueue) -> tuple[list[Entry], list[Sequence]]:
    """Schedule those that lack one token and have a block for it; return the others too, whose turn is first."""
    batch: list[Entry] = []
    left_out: list[Sequence] = []
    for sequence in queue.running:
        if sequence.n_uncomputed == 1 and queue.grow(sequence, sequence.n_tokens):
            batch.append(schedule_tokens(sequence, 1))
        else:
            left_out.append(sequence)
    return batch, left_out


def _serve_prompts(queue: SchedulerQueue, cut: list[Sequence], budget: int) -> list[Entry]:
    batch = [_serve(queue, sequence, budget) for sequence in cut if budget]
    budget -= sum(entry.n_new for entry in batch)
    while queue.waiting and budget and len(queue.running) < queue.settings.max_num_seqs:
        sequence = queue.waiting[0]
        if not _holds_all(queue, sequence):
            break
        queue.waiting.popleft()
        batch.append(_serve(queue, sequence, budget))
        budget -= batch[-1].n_new
        queue.running.insert(len(queue.running) if batch[-1].samples else 0, sequence)
    return batch


def _holds_all(queue: SchedulerQueue, sequence: Sequence) -> bool:
    return queue.pool.blocks_for(sequence.n_tokens) - sequence.n_blocks <= queue.pool.n_free


def _serve(queue: SchedulerQueue, sequence: Sequence, budget: int) -> Entry:
    n_new = min(sequence.n_uncomputed, budget)
    queue.grow(sequence, sequence.n_computed + n_new)
    return schedule_tokens(sequence, n_new)


def _start_over(queue: SchedulerQueue) -> None:
    while queue.running:
        sequence = queue.running.pop()
        queue.preempt(sequence)
        queue.put_back(sequence)
