"""vLLM v1's single loop: running sequences in order of admission, then waiting ones, all within one token budget.

Rules of vLLM 0.13.0, vllm/v1/core/sched/scheduler.py `schedule`: no difference between prefill and decode, blocks as
tokens are scheduled, the youngest running sequence is preempted, and nobody is admitted in a step that preempted.
What is cached of a waiting prompt costs neither tokens of the budget nor, as long as others hold it, blocks.

With speculation a running sequence computes its draft tokens as well, as far as budget and `max_model_len` - 1 go, and
has blocks for as many more, where the draft writes the next ones' keys (num_lookahead_tokens there).  A prompt has no
drafts before its first token, and looks ahead from its second step on.
"""

from __future__ import annotations

from apex_sim.instance.scheduler_queue import SchedulerQueue, schedule_tokens
from apex_sim.instance.sequence import Entry, Sequence


def schedule_unified(queue: SchedulerQueue) -> list[Entry]:
    """Return the next batch."""
    settings = queue.settings
    budget = settings.max_num_batched_tokens
    batch: list[Entry] = []
    n_running_before = len(queue.running)
    index = 0
    while index < len(queue.running) and budget:
        sequence = queue.running[index]
        n_new = min(_schedulable(sequence), budget)
        if sequence.n_drafts:
            n_new = min(n_new + sequence.n_drafts, budget, settings.max_model_len - 1 - sequence.n_computed)
        index += 1
        if not n_new:
            continue
        n_ahead = min(sequence.n_computed + n_new + settings.n_draft_tokens, settings.max_model_len)
        fits, withdrawn = _make_room(queue, sequence, n_ahead, batch)
        budget += sum(entry.n_new for entry in withdrawn)
        index -= len(withdrawn)
        if not fits:
            break
        batch.append(schedule_tokens(sequence, n_new))
        queue.remember(sequence)
        budget -= n_new
    if len(queue.running) == n_running_before:
        batch += _admit(queue, budget)
    return batch


def _schedulable(sequence: Sequence) -> int:
    """Return the tokens that may be scheduled; none for a sequence whose pending tokens reach its limit."""
    if sequence.n_pending and sequence.n_generated + sequence.n_pending >= sequence.max_output_tokens:
        return 0
    return sequence.n_uncomputed


def _make_room(
    queue: SchedulerQueue, sequence: Sequence, n_tokens: int, batch: list[Entry]
) -> tuple[bool, list[Entry]]:
    """Give `sequence` blocks for `n_tokens`, preempting from the back of `running`; False if it had to go itself.

    In a sorted queue the victim is whoever stands last in that order, scheduled in this step or not; the entries
    withdrawn from `batch` are returned as well.
    """
    withdrawn: list[Entry] = []
    while not queue.grow(sequence, n_tokens):
        victim = max(queue.running, key=queue.place) if queue.is_sorted else queue.running[-1]
        queue.running.remove(victim)
        for entry in [entry for entry in batch if queue.is_sorted and entry.sequence is victim]:
            batch.remove(entry)
            withdrawn.append(entry)
            victim.n_pending -= entry.samples
        queue.preempt(victim)
        queue.put_back(victim)
        if victim is sequence:
            return False, withdrawn
    return True, withdrawn


def _admit(queue: SchedulerQueue, budget: int) -> list[Entry]:
    batch: list[Entry] = []
    while queue.waiting and budget and len(queue.running) < queue.settings.max_num_seqs:
        sequence = queue.waiting[0]
        if sequence.n_pending:  # preempted with a token still in flight: its length is not known yet
            break
        n_cached = queue.cached_tokens(sequence)
        n_new = min(sequence.n_uncomputed - n_cached, budget)
        if not queue.admit(sequence, n_cached, n_cached + n_new):
            break
        queue.running.append(queue.waiting.popleft())
        batch.append(schedule_tokens(sequence, n_new))
        queue.remember(sequence)
        budget -= n_new
    return batch
