"""What does a step compute?  The sums over its sequences that its price depends on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from apex_sim.cost.parts import Floats

#: A sliding window in tokens; None is full attention.
Window = int | None


def attended_pairs(past_tokens: int, chunk_tokens: int, window: Window) -> int:
    """Return how many (query, key) pairs causal attention computes for a chunk behind `past_tokens` of context.

    Query j of the chunk (from 0) sees min(past + j + 1, window) keys.

    Examples
    --------
    >>> attended_pairs(0, 4, None), attended_pairs(10, 1, None), attended_pairs(0, 4, 2)
    (10, 11, 7)
    """
    if window is None:
        return chunk_tokens * past_tokens + chunk_tokens * (chunk_tokens + 1) // 2
    growing = max(0, min(chunk_tokens, window - past_tokens))
    return growing * past_tokens + growing * (growing + 1) // 2 + (chunk_tokens - growing) * window


def read_keys(past_tokens: int, chunk_tokens: int, window: Window) -> int:
    """Return how many distinct keys a chunk reads."""
    total = past_tokens + chunk_tokens
    return total if window is None else min(total, window + chunk_tokens - 1)


@dataclass(slots=True)
class StepBatch:
    """Sums over the sequences of one step; lists have one entry for each attention window of the model.

    `n_tokens` counts prompt chunks and decode tokens, `n_sampled` the tokens that the head computes; `growing`
    counts the decodes that see another key in the next step, and `room` in how many steps the first of them will not.
    """

    windows: tuple[Window, ...]
    n_tokens: int = 0
    n_sequences: int = 0
    n_sampled: int = 0
    n_prefill_tokens: int = 0
    n_prefill_sequences: int = 0
    n_decode: int = 0
    n_copied_blocks: int = 0
    longest_context_tokens: int = 0
    prefill_pairs: list[int] = field(default_factory=list)
    prefill_keys: list[int] = field(default_factory=list)
    decode_keys: list[int] = field(default_factory=list)
    growing: list[int] = field(default_factory=list)
    room: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start all sums at zero."""
        self.prefill_pairs = [0] * len(self.windows)
        self.prefill_keys = [0] * len(self.windows)
        self.decode_keys = [0] * len(self.windows)
        self.growing = [0] * len(self.windows)
        self.room = [math.inf] * len(self.windows)

    def add(self, past_tokens: int, new_tokens: int, samples: int, is_decode: bool) -> None:
        """Add one sequence with `past_tokens` in the KV cache, `new_tokens` to compute and `samples` to sample."""
        self.n_tokens += new_tokens
        self.n_sequences += 1
        self.n_sampled += samples
        context = past_tokens + new_tokens
        if context > self.longest_context_tokens:
            self.longest_context_tokens = context
        if is_decode:
            self.n_decode += 1
            for index, window in enumerate(self.windows):
                self.decode_keys[index] += context if window is None or context < window else window
                if window is None or context < window:
                    self.growing[index] += 1
                    self.room[index] = min(self.room[index], math.inf if window is None else window - context)
            return
        self.n_prefill_tokens += new_tokens
        self.n_prefill_sequences += 1
        for index, window in enumerate(self.windows):
            self.prefill_pairs[index] += attended_pairs(past_tokens, new_tokens, window)
            self.prefill_keys[index] += read_keys(past_tokens, new_tokens, window)

    def sums(self) -> Floats:
        """Return the sums in the order that the tables' look-ups expect."""
        by_class = zip(self.prefill_pairs, self.prefill_keys, self.decode_keys, strict=True)
        return np.array(
            [
                self.n_tokens,
                self.n_sampled,
                self.n_prefill_tokens,
                self.n_prefill_sequences,
                self.n_decode,
                self.longest_context_tokens,
                *(value for values in by_class for value in values),
            ],
            dtype=np.float64,
        )
