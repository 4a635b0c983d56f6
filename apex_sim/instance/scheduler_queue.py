"""What does a scheduler hold: who waits, who runs, and which KV blocks are left?"""

from __future__ import annotations

from bisect import insort
from collections import deque

from apex_sim.instance.block_pool import BlockPool
from apex_sim.instance.sequence import Entry, Sequence
from apex_sim.plan.shape import SchedulerSettings


class SchedulerQueue:
    """State that a batching policy works on; first come, first served, unless the settings name another order.

    `running` is in the order that the policy gives it; `rejected` collects (sequence, reason) for the engine to report.
    """

    def __init__(self, settings: SchedulerSettings, pool: BlockPool) -> None:
        self.settings = settings
        self.pool = pool
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.rejected: list[tuple[Sequence, str]] = []
        self.is_sorted = settings.sorts_queue

    @staticmethod
    def place(sequence: Sequence) -> tuple[float, int]:
        """Return where `sequence` stands in a sorted queue: by rank, then by arrival."""
        return sequence.rank, sequence.request

    @property
    def n_unfinished(self) -> int:
        """Sequences that wait or run."""
        return len(self.waiting) + len(self.running)

    def enqueue(self, sequence: Sequence) -> None:
        """Let a sequence that has arrived wait."""
        if self.is_sorted:
            insort(self.waiting, sequence, key=self.place)
        else:
            self.waiting.append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Let a sequence that was preempted wait: before all others, or where it belongs in a sorted queue."""
        if self.is_sorted:
            insort(self.waiting, sequence, key=self.place)
        else:
            self.waiting.appendleft(sequence)

    def grow(self, sequence: Sequence, n_tokens: int) -> bool:
        """Give `sequence` the blocks for its first `n_tokens`; False, and no change, if they are not free."""
        missing = self.pool.blocks_for(n_tokens) - sequence.n_blocks
        if missing > self.pool.n_free:
            return False
        if missing > 0:
            self.pool.take(missing)
            sequence.n_blocks += missing
        return True

    def reserve(self, sequence: Sequence) -> bool:
        """Give `sequence` the blocks for the longest answer that it may get; False, and no change, without them."""
        return self.grow(sequence, sequence.prompt_tokens + sequence.max_output_tokens)

    def release(self, sequence: Sequence) -> None:
        """Free all blocks of `sequence`."""
        self.pool.give_back(sequence.n_blocks)
        sequence.n_blocks = 0

    def preempt(self, sequence: Sequence) -> None:
        """Take `sequence` off its blocks for recomputation; the caller puts it back."""
        self.release(sequence)
        sequence.n_computed = 0
        sequence.n_preemptions += 1

    def reject(self, sequence: Sequence, reason: str) -> None:
        """Refuse the sequence at the head of `waiting`, or one that never got there."""
        self.rejected.append((sequence, reason))


def schedule_tokens(sequence: Sequence, n_new: int) -> Entry:
    """Hand `n_new` tokens of `sequence` to the step being built.

    The step samples a token if it computes the last one there is; that token is pending until the step ends.
    """
    samples = n_new == sequence.n_uncomputed
    entry = Entry(sequence, sequence.n_computed, n_new, samples, sequence.is_decoding)
    sequence.n_computed += n_new
    sequence.n_pending += samples
    return entry
