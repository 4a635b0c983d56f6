"""What does the price of a step look up, and of what batch?  Plain arrays and numbers, as compiled code takes them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apex_sim.cost.parts import Floats

Ints = NDArray[np.int64]


class StageTables(NamedTuple):
    """Tables of one stage as plain arrays; the first axis of what belongs to attention is the group of equal layers.

    Rows of knots that are shorter than others are padded with infinity.

    Parameters
    ----------
    token_s, head_s : (knots, 4): kernel, compute, memory and network time; the first knot is no work.
    attention_class : index of each group's window among the windows of a batch.
    window_tokens : sliding window of each group, 0 for full attention.
    decode_contexts, decode_s, decode_outside : as in `DecodeTable`.
    prefill_sequences, prefill_queries, prefill_past, prefill_first_row, prefill_s, prefill_outside : as in
        `PrefillTable`.
    coarse_sequences, coarse_queries, coarse_past, key_ratios, key_factor : its second table; all but past and factor
        have one row for all groups.
    launches : (groups, 4): kernels of a prefill launch, of them with a gap, and the same of a decode launch.
    other_launches : kernels of the token-wise operators, of them with a gap, and the same of the head.
    graph_sizes : captured sizes, none when steps run eagerly.
    graphs_decode_only, graphs_pad, graph_context_tokens : which steps they cover.
    launch_s, eager_launch_s : gap at each kernel, and time to issue one outside a graph.
    slowdown : base, growth and half-way tokens of what prompts outside graphs take beyond their kernels.
    power : active, compute, memory and network watts, joules a token, and watts of the dynamic range.
    max_tokens : largest step.
    model_share_frac : share of the model that each device computes.
    """

    token_s: Floats
    head_s: Floats
    attention_class: Ints
    window_tokens: Floats
    decode_contexts: Floats
    decode_s: Floats
    decode_outside: NDArray[np.bool_]
    prefill_sequences: Floats
    prefill_queries: Floats
    prefill_past: Floats
    prefill_first_row: Ints
    prefill_s: Floats
    prefill_outside: NDArray[np.bool_]
    coarse_sequences: Floats
    coarse_queries: Floats
    coarse_past: Floats
    key_ratios: Floats
    key_factor: Floats
    launches: Floats
    other_launches: Floats
    graph_sizes: Ints
    graphs_decode_only: bool
    graphs_pad: bool
    graph_context_tokens: int
    launch_s: float
    eager_launch_s: float
    slowdown: Floats
    power: Floats
    max_tokens: int
    model_share_frac: float


class BatchSums(NamedTuple):
    """What of a batch its price depends on; arrays have one entry for each attention window of the model."""

    n_tokens: int
    n_sampled: int
    n_prefill_tokens: int
    n_prefill_sequences: int
    n_decode: int
    longest_context_tokens: int
    prefill_pairs: Floats
    prefill_keys: Floats
    decode_keys: Floats
