"""May an engine run the batch that a policy has decided?"""

from __future__ import annotations

from apex_sim.errors import InvariantError
from apex_sim.instance.scheduler_queue import SchedulerQueue
from apex_sim.instance.sequence import Entry


def require_legal_batch(queue: SchedulerQueue, entries: list[Entry]) -> None:
    """Check what a policy must keep: sequences that run, once each, tokens that are there, blocks for them, limits.

    Raises
    ------
    InvariantError : INV-3 for a sequence without the KV blocks of its tokens, INV-4 for tokens that nobody asked for or
        more than the settings allow.
    """
    running = set(map(id, queue.running))
    for entry in entries:
        sequence, name = entry.sequence, f"request {entry.sequence.request}"
        if id(sequence) not in running:
            raise InvariantError(4, f"{name} is in a batch twice, or does not run")
        running.remove(id(sequence))
        if entry.n_new < 1 or sequence.n_computed != entry.past + entry.n_new:
            raise InvariantError(
                4, f"{name} gets {entry.n_new} tokens behind {entry.past}, {sequence.n_computed} counted"
            )
        if entry.n_drafts > queue.settings.n_draft_tokens or entry.n_drafts >= entry.n_new:
            raise InvariantError(4, f"{name} verifies {entry.n_drafts} draft tokens of {entry.n_new}")
        n_known = sequence.n_tokens - (entry.samples if sequence.runs_ahead else 0) + entry.n_drafts
        if sequence.n_computed > n_known or entry.samples != (sequence.n_computed == n_known):
            raise InvariantError(4, f"{name} computes token {sequence.n_computed} of {n_known}")
        if queue.pool.blocks_for(sequence.n_computed) > sequence.n_blocks:
            raise InvariantError(3, f"{name} computes {sequence.n_computed} tokens on {sequence.n_blocks} KV blocks")
    _require_limits(queue, entries)


def _require_limits(queue: SchedulerQueue, entries: list[Entry]) -> None:
    n_tokens, budget = sum(entry.n_new for entry in entries), queue.settings.max_num_batched_tokens
    if n_tokens > budget:
        raise InvariantError(4, f"a batch of {n_tokens} tokens, max_num_batched_tokens is {budget}")
    if len(entries) > queue.settings.max_num_seqs:
        raise InvariantError(4, f"a batch of {len(entries)} sequences, max_num_seqs is {queue.settings.max_num_seqs}")
