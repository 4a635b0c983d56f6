"""Which prompts' blocks stay behind for later requests?

The rules of vLLM 0.12.0 (vllm/v1/core/block_pool.py, kv_cache_manager.py), in units of the source's own hashed blocks
instead of 16 tokens: blocks that nobody references wait in one queue, cached or not, in the order in which they were
freed, each request's last first; who needs blocks takes them from its head, and what was cached there is forgotten.  A
unit is found again from the moment when its computation is scheduled.  Two requests that compute the same unit at once
keep a copy each, of which the first is found.  Generated tokens are never found by others.
"""

from __future__ import annotations

from collections import OrderedDict

from apex_sim.errors import InputError
from apex_sim.instance.sequence import Sequence
from apex_sim.plan.memory import Memory
from apex_sim.plan.shape import SchedulerSettings


class PrefixCache:
    """Cached units of one pool; `unit_blocks` KV blocks of `unit_tokens` tokens together each."""

    def __init__(self, n_blocks: int, unit_tokens: int, unit_blocks: int) -> None:
        self.unit_tokens = unit_tokens
        self.unit_blocks = unit_blocks
        self._n_references: dict[int, int] = {}
        #: What is free, first out first: number of blocks by unit, or by a negative number where nothing is cached.
        self._free: OrderedDict[int, int] = OrderedDict({-1: n_blocks})
        self._n_bare = 1

    def find(self, sequence: Sequence) -> int:
        """Return how many of the sequence's first units are cached; its last token is always computed."""
        most = min(len(sequence.units), (sequence.n_tokens - 1) // self.unit_tokens)
        n = 0
        while n < most and sequence.units[n] in self._n_references:
            n += 1
        return n

    def n_idle(self, units: tuple[int, ...]) -> int:
        """Return how many of these cached units nobody references."""
        return sum(self._n_references[unit] == 0 for unit in units)

    def reference(self, sequence: Sequence, unit: int) -> None:
        """Let the sequence hold a cached unit."""
        if self._n_references[unit] == 0:
            del self._free[unit]
        self._n_references[unit] += 1
        sequence.held.append(unit)

    def remember(self, sequence: Sequence) -> None:
        """Cache the units that the sequence has computed since the last call, unless they are."""
        n_computed = min(sequence.n_computed // self.unit_tokens, len(sequence.units))
        for unit in sequence.units[sequence.n_seen : n_computed]:
            if unit not in self._n_references:
                self._n_references[unit] = 1
                sequence.held.append(unit)
        sequence.n_seen = max(sequence.n_seen, n_computed)

    def take(self, n_blocks: int) -> None:
        """Take free blocks from the head of the queue; cached units that they were part of are forgotten."""
        while n_blocks:
            key, n_here = self._free.popitem(last=False)
            self._n_references.pop(key, None)
            if n_here > n_blocks:
                self._add_bare(n_here - n_blocks)
                self._free.move_to_end(-self._n_bare, last=False)
            n_blocks -= min(n_blocks, n_here)

    def release(self, sequence: Sequence) -> int:
        """Put the sequence's blocks at the end of the queue, its last first; return how many are free again."""
        n_own = sequence.n_blocks - self.unit_blocks * len(sequence.held)
        if n_own:
            self._add_bare(n_own)
        n_freed = n_own
        for unit in reversed(sequence.held):
            self._n_references[unit] -= 1
            if self._n_references[unit] == 0:
                self._free[unit] = self.unit_blocks
                n_freed += self.unit_blocks
        sequence.held.clear()
        sequence.n_seen = 0
        return n_freed

    def _add_bare(self, n_blocks: int) -> None:
        self._n_bare += 1
        self._free[-self._n_bare] = n_blocks


def prefix_cache_of(settings: SchedulerSettings, memory: Memory, unit_tokens: int | None) -> PrefixCache | None:
    """Return an empty cache if the settings want one and requests have hashed blocks, else None.

    Raises
    ------
    InputError : a hashed block is no whole number of KV blocks, or the model's blocks are of several kinds.
    """
    if not settings.prefix_cache or unit_tokens is None:
        return None
    unit_blocks, rest = divmod(unit_tokens, memory.layout.block_size_tokens)
    if rest or memory.layout.n_lists != 1:
        what = f"KV blocks of {memory.layout.block_size_tokens}" if rest else "layers with windows or states"
        raise InputError(
            f"prefixes are hashed in blocks of {unit_tokens} tokens, which cannot be cached in {what} yet",
            where="prefix_cache",
            remedy="turn the prefix cache off, or choose a block size that divides them",
        )
    return PrefixCache(memory.n_blocks, unit_tokens, unit_blocks)
