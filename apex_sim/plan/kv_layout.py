"""How many KV blocks does a sequence need?

Layers with a sliding window need no more blocks than the window spans.  An engine that frees the rest (vLLM v1's hybrid
KV cache manager) keeps several block lists for each sequence, each for an equal number of layers of one kind, over one
pool of equal blocks; an engine that does not keeps one list for all layers.

Layers with linear attention keep one state for each sequence, in lists of one block each.  A block must then hold a
state, which makes it long: vLLM raises the tokens in a block until the keys and values of one layer are no smaller than
its state, and pads the state (vllm/model_executor/models/config.py, HybridAttentionMambaModelConfig, without a prefix
cache).

Under context parallelism a block spans one block of each device that shares the sequence (vLLM's virtual blocks, of
block_size x dcp_world_size tokens: vllm/v1/worker/block_table.py).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from apex_sim.model.attention import LinearAttentionCell
from apex_sim.model.model import Model
from apex_sim.plan.weights import local_kv_numbers, local_state_bytes


@dataclass(frozen=True, slots=True)
class KvLayout:
    """Block lists of one sequence.

    Parameters
    ----------
    block_size_tokens : tokens in a block.
    n_full_lists : lists that hold every token.
    window_lists : (lists, most blocks in each) for each window; a state of linear attention is one block.
    list_frac : share of the model's KV that one list stands for; uneven groups are padded, so that all lists together
        may stand for more than the whole.

    Examples
    --------
    >>> KvLayout(16).blocks_for(17)
    2
    >>> KvLayout(16, 1, ((1, 9),)).blocks_for(1600)
    109
    """

    block_size_tokens: int
    n_full_lists: int = 1
    window_lists: tuple[tuple[int, int], ...] = ()
    list_frac: float = 1.0

    @property
    def n_lists(self) -> int:
        """All lists of a sequence."""
        return self.n_full_lists + sum(lists for lists, _ in self.window_lists)

    def blocks_for(self, n_tokens: int) -> int:
        """Return the blocks that `n_tokens` of one sequence hold."""
        blocks = -(-n_tokens // self.block_size_tokens)
        return self.n_full_lists * blocks + sum(lists * min(blocks, most) for lists, most in self.window_lists)

    def tokens_in(self, n_blocks: int) -> int:
        """Return the longest sequence that `n_blocks` hold, with one kind of windows or states at most.

        Examples
        --------
        >>> KvLayout(544, 1, ((3, 1),)).tokens_in(10)
        3808
        """
        at_most = sum(lists * most for lists, most in self.window_lists)
        filled = (n_blocks - at_most) // self.n_full_lists if self.n_full_lists else 0
        return max(filled, n_blocks // self.n_lists) * self.block_size_tokens


def layout_of(
    model: Model, block_size_tokens: int, frees_windows: bool, tp: int = 1, kv_bytes_per_number: float = 2.0
) -> KvLayout:
    """Return the layout of `model` on one of `tp` devices, in an engine that frees what lies behind a window or not.

    A list serves as many layers as the rarest kind has, or as the most frequent kind has if that is less than half as
    many again (vLLM 0.22, vllm/v1/core/kv_cache_utils.py).  In steady decoding a list with window w holds the blocks
    that w - 1 earlier tokens and the new one can touch.
    """
    counts = Counter(
        layer.attention.window_tokens for layer in model.layers if not isinstance(layer.attention, LinearAttentionCell)
    )
    n_linear = model.n_layers - counts.total()
    if n_linear:
        return _hybrid_layout(model, block_size_tokens, n_linear, tp, kv_bytes_per_number)
    if not frees_windows or set(counts) <= {None}:
        return KvLayout(block_size_tokens)
    group = _group_size(*counts.values())
    windows = tuple(
        (math.ceil(n / group), math.ceil((window - 1) / block_size_tokens) + 1)
        for window, n in counts.items()
        if window is not None
    )
    return KvLayout(block_size_tokens, math.ceil(counts[None] / group), windows, group / counts.total())


def _group_size(*counts: int) -> int:
    """Return how many layers share a list, given how many there are of each kind."""
    return max(counts) if max(counts) < 1.5 * min(counts) else min(counts)


def _hybrid_layout(model: Model, align_tokens: int, n_linear: int, tp: int, kv_bytes_per_number: float) -> KvLayout:
    """Return the layout of a model with `n_linear` layers of linear attention and full attention in the others."""
    state_bytes = max(local_state_bytes(layer, tp) for layer in set(model.layers))
    token_bytes = max(local_kv_numbers(layer, tp) for layer in set(model.layers)) * kv_bytes_per_number
    n_full = model.n_layers - n_linear
    group = _group_size(n_full, n_linear)
    return KvLayout(
        align_tokens * math.ceil(state_bytes / (align_tokens * token_bytes)),
        math.ceil(n_full / group),
        ((math.ceil(n_linear / group), 1),),
        group / n_full,
    )
