"""What does a scheduler hold: who waits, who runs, and which KV blocks are left?"""

from __future__ import annotations

from bisect import insort
from collections import deque

from apex_sim.errors import InfeasiblePlanError, UnsupportedError
from apex_sim.instance.admission import Admission
from apex_sim.instance.block_pool import BlockPool
from apex_sim.instance.contiguous_space import ContiguousSpace
from apex_sim.instance.sequence import Entry, Sequence
from apex_sim.plan.shape import SchedulerSettings
from apex_sim.units import GIB


class SchedulerQueue:
    """State that a batching policy works on; first come, first served, unless the settings name another order.

    `running` is in the order that the policy gives it; `rejected` collects (sequence, reason) for the engine to report.
    `swapped` lie in the host's memory, whose free blocks `n_host_free` counts; a decision moves `n_copied`.
    """

    def __init__(self, settings: SchedulerSettings, pool: BlockPool, n_host_blocks: int = 0) -> None:
        self.settings = settings
        self.pool = pool
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.swapped: deque[Sequence] = deque()
        self.n_host_free = n_host_blocks
        self.n_copied = 0
        self._space = ContiguousSpace(pool.n_blocks)
        self.rejected: list[tuple[Sequence, str]] = []
        self.is_sorted = settings.sorts_queue
        rule = settings.reservation
        self.admission = Admission(rule, rule.first_ratio) if rule else None

    @property
    def reserving(self) -> Admission:
        """State of a policy that reserves room for outputs.

        Raises
        ------
        UnsupportedError : the settings say nothing of reservations.
        """
        if self.admission is None:
            raise UnsupportedError(
                f"policy {self.settings.policy} without a rule of reservation", remedy="take the preset that has it"
            )
        return self.admission

    def rest(self) -> None:
        """Take note that nothing is left to do."""
        if self.admission:
            self.admission.rest()

    @staticmethod
    def place(sequence: Sequence) -> tuple[float, int]:
        """Return where `sequence` stands in a sorted queue: by rank, then by arrival."""
        return sequence.rank, sequence.request

    @property
    def n_unfinished(self) -> int:
        """Sequences that wait, run or are swapped out."""
        return len(self.waiting) + len(self.running) + len(self.swapped)

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
        """Give `sequence`, in one piece, the blocks for the longest answer that it may get.

        False, and no change, without a hole of that size.
        """
        n_tokens = sequence.prompt_tokens + sequence.max_output_tokens
        sequence.place = self._space.take(self.pool.blocks_for(n_tokens))
        return sequence.place is not None and self.grow(sequence, n_tokens)

    def release(self, sequence: Sequence) -> None:
        """Free all blocks of `sequence` that no other one holds."""
        prefixes = self.pool.prefixes
        if sequence.place is not None:
            self._space.give_back(sequence.place, sequence.n_blocks)
            sequence.place = None
        self.pool.give_back(prefixes.release(sequence) if prefixes else sequence.n_blocks)
        sequence.n_blocks = 0

    def cached_tokens(self, sequence: Sequence) -> int:
        """Return how many of the first tokens of a waiting sequence need not be computed."""
        prefixes = self.pool.prefixes
        return prefixes.find(sequence) * prefixes.unit_tokens if prefixes else 0

    def admit(self, sequence: Sequence, n_cached: int, n_tokens: int) -> bool:
        """Give a waiting sequence the blocks for its first `n_tokens`, of which `n_cached` are cached.

        False, and no change, if what is missing is not free.
        """
        prefixes = self.pool.prefixes
        if prefixes:
            units = sequence.units[: n_cached // prefixes.unit_tokens]
            n_shared, n_idle = len(units) * prefixes.unit_blocks, prefixes.n_idle(units) * prefixes.unit_blocks
            if self.pool.blocks_for(n_tokens) - n_shared + n_idle > self.pool.n_free:
                return False
            for unit in units:
                prefixes.reference(sequence, unit)
            self.pool.n_free -= n_idle
            sequence.n_blocks, sequence.n_seen = n_shared, len(units)
            sequence.n_computed = sequence.n_hit_tokens = n_cached
            if not sequence.n_preemptions:
                sequence.n_cached_tokens = n_cached
        return self.grow(sequence, n_tokens)

    def remember(self, sequence: Sequence) -> None:
        """Let later requests find what `sequence` computes, from now on."""
        if self.pool.prefixes:
            self.pool.prefixes.remember(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Take `sequence` off its blocks for recomputation; the caller puts it back."""
        self.release(sequence)
        sequence.n_computed = sequence.n_drafts = 0
        sequence.n_preemptions += 1

    def swap_out(self, sequence: Sequence) -> None:
        """Move the blocks of `sequence` to the host's memory.

        Raises
        ------
        InfeasiblePlanError : the host's share is full, where the engine stops.
        """
        if sequence.n_blocks > self.n_host_free:
            raise swap_space_is_full(self.settings.swap_bytes)
        sequence.n_host_blocks = sequence.n_blocks
        self.n_host_free -= sequence.n_blocks
        self.n_copied += sequence.n_blocks
        self.release(sequence)
        sequence.n_preemptions += 1
        self.swapped.append(sequence)

    def swap_in(self) -> Sequence:
        """Move the sequence that was swapped out first back; the caller has checked that blocks are free."""
        sequence = self.forget_swapped()
        self.n_copied += sequence.n_host_blocks
        self.pool.take(sequence.n_host_blocks)
        sequence.n_blocks, sequence.n_host_blocks = sequence.n_host_blocks, 0
        return sequence

    def forget_swapped(self) -> Sequence:
        """Free what the sequence that was swapped out first holds in the host's memory."""
        sequence = self.swapped.popleft()
        self.n_host_free += sequence.n_host_blocks
        return sequence

    def reject(self, sequence: Sequence, reason: str) -> None:
        """Refuse the sequence at the head of `waiting`, or one that never got there."""
        self.rejected.append((sequence, reason))


def schedule_tokens(sequence: Sequence, n_new: int) -> Entry:
    """Hand `n_new` tokens of `sequence` to the step being built.

    The step samples a token if it computes the last one there is; that token is pending until the step ends.  Tokens
    beyond are its drafts; those that were left out are forgotten.
    """
    n_drafts = n_new - sequence.n_uncomputed
    samples = n_drafts >= 0
    entry = Entry(sequence, sequence.n_computed, n_new, samples, sequence.is_decoding, max(n_drafts, 0))
    sequence.n_computed += n_new
    sequence.n_pending += samples
    sequence.n_drafts = 0
    return entry


def swap_space_is_full(swap_bytes: float) -> InfeasiblePlanError:
    """Return the error with which an engine stops that finds no room in the host's memory."""
    return InfeasiblePlanError(
        f"swap space of {swap_bytes / GIB:.3g} GiB a device is full, where the engine stops with an error"
    )
