"""How many KV blocks are free?"""

from __future__ import annotations

from apex_sim.errors import InvariantError
from apex_sim.instance.prefix_cache import PrefixCache
from apex_sim.plan.kv_layout import KvLayout


class BlockPool:
    """Counts the blocks of one scheduler queue; which block is which matters to `prefixes` only, if there are any."""

    def __init__(
        self, n_blocks: int, layout: KvLayout, watermark_frac: float, prefixes: PrefixCache | None = None
    ) -> None:
        self.prefixes = prefixes
        self.n_blocks = n_blocks
        self.block_size_tokens = layout.block_size_tokens
        self.blocks_for = layout.blocks_for
        self._tokens_in = layout.tokens_in
        self.n_watermark = int(watermark_frac * n_blocks)
        self.n_free = n_blocks

    @property
    def n_used(self) -> int:
        """Blocks in use."""
        return self.n_blocks - self.n_free

    @property
    def tokens_free(self) -> int:
        """Tokens of one more sequence that the free blocks hold."""
        return self._tokens_in(self.n_free)

    @property
    def tokens_in_all(self) -> int:
        """Tokens of one sequence that all blocks hold."""
        return self._tokens_in(self.n_blocks)

    def take(self, n_blocks: int) -> None:
        """Take blocks; the caller has checked that they are free.

        Raises
        ------
        InvariantError : more than are free (INV-3).
        """
        if n_blocks > self.n_free:
            raise InvariantError(3, f"{n_blocks} KV blocks taken, {self.n_free} free")
        self.n_free -= n_blocks
        if self.prefixes:
            self.prefixes.take(n_blocks)

    def give_back(self, n_blocks: int) -> None:
        """Return blocks.

        Raises
        ------
        InvariantError : more than were taken (INV-3).
        """
        self.n_free += n_blocks
        if self.n_free > self.n_blocks:
            raise InvariantError(3, f"{self.n_free} of {self.n_blocks} KV blocks free")
