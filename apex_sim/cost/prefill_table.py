"""How long does prefill attention take, by look-up?

A launch has four sizes: sequences, queries, (query, key) pairs and keys.  A cell of the table stands for equal
sequences with a number of queries each behind a past, which fixes all four: any such launch is looked up as it is, up
to interpolation.  A mixed batch is looked up at its sequences, mean queries and mean keys seen; where its keys are
fewer or more than those of the equal sequences that have the same pairs, a coarse second table says what that changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from apex_sim.cost.attention_launch import AttentionGroup, LaunchSizes, prefill_launch
from apex_sim.cost.basis import Basis
from apex_sim.cost.bound import BOUNDS, compute_bound
from apex_sim.cost.context_parallel import ContextShards
from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.forms.linear_attention import CHUNK_TOKENS, LinearHeads
from apex_sim.cost.operator_table import kernel_only
from apex_sim.cost.parts import Floats
from apex_sim.cost.sizes import AttentionSizes, LatentSizes, PrefillWork

#: Queries in a tile, and how many edges are resolved: beyond, one tile more is below 2 % of the work.
_TILE_TOKENS = 128
_N_EDGES = 64
#: Numbers of sequences up to here, and how often the first waves of them fill the device, are knots.
_DENSE_SEQUENCES = 32
_N_WAVES = 6
#: Query counts up to here are knots.
_DENSE_QUERIES = 16
#: Ratios of neighbouring knots between those.
_SEQUENCE_RATIO = 1.06
_QUERY_RATIO = 1.08
_PAST_RATIO = 1.2
#: Knots between no past and a full window.
_N_WINDOW_KNOTS = 33
#: Keys over those of equal sequences.
KEY_RATIOS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class PrefillKnots:
    """Where the table of a group is evaluated.

    Row `first_row[i] + j` holds `sequences[i]` sequences of `queries[j]` queries each; a row of sequences ends where
    the step budget does.  `past` is in tokens for full attention; behind a window it runs from 0 (no past) to 1 (every
    query sees a full window).
    """

    sequences: Floats
    queries: Floats
    first_row: NDArray[np.int64]
    past: Floats


@dataclass(frozen=True, slots=True)
class PrefillTable:
    """Prices of all layers of a group together.

    Parameters
    ----------
    prices_s : (rows, past, 3): kernel, compute and memory time.
    outside : (rows, past): whether the size lies outside the data.
    coarse : knots of the second table; `first_row` is not used.
    key_factor : (sequences, queries, past, key ratios, 2): kernel and memory time over those of equal sequences.
    """

    window: int | None
    knots: PrefillKnots
    prices_s: Floats
    outside: NDArray[np.bool_]
    coarse: PrefillKnots
    key_factor: Floats
    n_launches: float
    gap_launches: float
    basis: Basis

    def of_layers(self, n_layers: int) -> PrefillTable:
        """Return the table of so many layers, from that of one."""
        n_launches, gap_launches = self.n_launches * n_layers, self.gap_launches * n_layers
        return replace(self, prices_s=self.prices_s * n_layers, n_launches=n_launches, gap_launches=gap_launches)

    def scaled(self, factor: float) -> PrefillTable:
        """Return the table with kernels that take `factor` times as long, at the same work and bytes."""
        return replace(self, prices_s=self.prices_s * kernel_only(factor, 3))

    def bound(self, n_sequences: float, n_queries: float) -> str:
        """Return what bounds a launch of so many new prompts of `n_queries` each, at the nearest cell."""
        first_row = self.knots.first_row
        i = int(np.abs(self.knots.sequences - n_sequences).argmin())
        n_rows = int(np.append(first_row, len(self.prices_s))[i + 1] - first_row[i])
        j = int(np.abs(self.knots.queries[:n_rows] - n_queries).argmin())
        return BOUNDS[0] if compute_bound(self.prices_s[first_row[i] + j, 0]) else BOUNDS[1]


def tabulate_prefill(
    cost: CostModel, group: AttentionGroup, max_tokens: int, max_sequences: int, max_context: int, n_sms: int
) -> PrefillTable:
    """Evaluate the group's prefill launches of up to `max_tokens` queries."""
    knots = _knots(group, max_tokens, max_sequences, max_context, n_sms)
    rows = np.diff(knots.first_row, append=_n_rows(knots, max_tokens)[1])
    sequences = np.repeat(knots.sequences, rows)[:, None]
    queries = np.concatenate([knots.queries[:n] for n in rows])[:, None]
    parts = prefill_launch(cost, uniform_work(sequences, queries, knots.past[None, :], group.window), group.sizes)
    shape = len(sequences), len(knots.past)
    prices = np.stack([np.broadcast_to(part, shape) for part in (parts.kernel_s, parts.compute_s, parts.memory_s)], -1)
    coarse = _coarse_knots(knots)
    return PrefillTable(
        group.window,
        knots,
        prices * group.n_layers,
        ~np.broadcast_to(parts.basis.in_range, shape),
        coarse,
        _key_factor(cost, group, coarse),
        parts.n_launches * group.n_layers,
        parts.gap_launches * group.n_layers,
        parts.basis,
    )


def uniform_work(sequences: Floats, queries: Floats, past: Floats, window: int | None) -> PrefillWork:
    """Return `sequences` equal sequences of `queries` each behind `past`, in the unit of `PrefillKnots.past`."""
    sequences, queries, past = np.broadcast_arrays(sequences, queries, past)
    if window is None:
        mean_keys = past + (queries + 1.0) / 2.0
        return PrefillWork(
            sequences * queries * mean_keys, sequences * queries, sequences * (past + queries), sequences
        )
    least = least_mean_keys(queries, window)
    past_tokens = _past_tokens(least + past * (window - least), queries, window)
    growing = np.clip(window - past_tokens, 0.0, queries)
    pairs = growing * past_tokens + growing * (growing + 1.0) / 2.0 + (queries - growing) * window
    keys = np.minimum(past_tokens + queries, window + queries - 1.0)
    return PrefillWork(sequences * pairs, sequences * queries, sequences * keys, sequences)


def least_mean_keys(queries: Floats, window: int) -> Floats:
    """Return how many keys a query of a new prompt sees on average behind a sliding window."""
    growing = np.minimum(queries, window)
    return (growing * (growing + 1.0) / 2.0 + (queries - growing) * window) / queries


def _past_tokens(mean_keys: Floats, queries: Floats, window: int) -> Floats:
    """Return the past behind which `queries` queries see `mean_keys` keys on average; the window if all see it full."""
    all_growing = mean_keys - (queries + 1.0) / 2.0
    growing = (1.0 + np.sqrt(1.0 + 8.0 * queries * np.maximum(window - mean_keys, 0.0))) / 2.0
    return np.clip(np.where(all_growing + queries <= window, all_growing, window - growing), 0.0, window)


def _key_factor(cost: CostModel, group: AttentionGroup, coarse: PrefillKnots) -> Floats:
    grid = np.meshgrid(coarse.sequences, coarse.queries, coarse.past, np.array(KEY_RATIOS), indexing="ij")
    sequences, queries, past, ratio = grid
    equal = uniform_work(sequences, queries, past, group.window)
    keys = np.maximum(equal.n_key_tokens * ratio, equal.n_query_tokens)
    parts = prefill_launch(cost, PrefillWork(equal.pairs, equal.n_query_tokens, keys, sequences), group.sizes)
    times = np.stack([np.broadcast_to(part, ratio.shape) for part in (parts.kernel_s, parts.memory_s)], -1)
    own = KEY_RATIOS.index(1.0)
    factor: Floats = times / times[:, :, :, own : own + 1]
    return factor


def _knots(group: AttentionGroup, max_tokens: int, max_sequences: int, max_context: int, n_sms: int) -> PrefillKnots:
    heads, shared = _heads(group.sizes)
    sequences = _sequence_knots(max(2, min(max_sequences, max_tokens)), n_sms / heads)
    queries = _query_knots(max(2, max_tokens), shared)
    past = np.linspace(0.0, 1.0, _N_WINDOW_KNOTS) if group.window else _past_knots(max_context)
    knots = PrefillKnots(sequences, queries, np.zeros(0, dtype=np.int64), past)
    return PrefillKnots(sequences, queries, _n_rows(knots, max_tokens)[0], past)


def _heads(sizes: LaunchSizes) -> tuple[int, int]:
    """Return how many heads have keys of their own, and how many share a tile of queries."""
    match sizes:
        case AttentionSizes():
            return sizes.n_kv_heads, sizes.n_q_heads // sizes.n_kv_heads
        case LatentSizes():
            return sizes.n_heads, 1
        case LinearHeads():
            return int(sizes.n_v_heads), _TILE_TOKENS // CHUNK_TOKENS
        case ContextShards():
            return _heads(sizes.own)


def _n_rows(knots: PrefillKnots, max_tokens: int) -> tuple[NDArray[np.int64], int]:
    """Return the first row of each number of sequences, and how many rows there are.

    A row reaches the budget of the next smaller number of sequences, so that numbers between have both ends.
    """
    fewer = np.concatenate([[1.0], knots.sequences[:-1]])
    n = np.minimum(np.searchsorted(knots.queries, max_tokens / fewer) + 1, len(knots.queries))
    ends = list(accumulate(np.maximum(n, 2).tolist()))
    return np.array([0, *ends[:-1]], dtype=np.int64), ends[-1]


def _sequence_knots(most: int, wave: float) -> Floats:
    """Return numbers of sequences: each of the first, both sides of the first full waves, and a geometric series."""
    waves = np.maximum(np.floor(wave * np.arange(1.0, _N_WAVES + 1)), 1.0)
    knots = np.concatenate(
        [np.arange(1.0, _DENSE_SEQUENCES + 1), waves, waves + 1.0, _series(_DENSE_SEQUENCES, most, _SEQUENCE_RATIO)]
    )
    return _cut(knots, most)


def _query_knots(most: int, heads_per_tile: int) -> Floats:
    """Return query counts: the first, both sides of tile edges, and a geometric series.

    A tile may hold the queries of all heads that share keys, so that its edges come earlier for short chunks.
    """
    first = np.arange(1.0, _DENSE_QUERIES + 1)
    shared = np.floor(_TILE_TOKENS * np.arange(1.0, heads_per_tile + 1) / heads_per_tile)
    edges = _TILE_TOKENS * np.arange(1.0, _N_EDGES + 1)
    knots = np.concatenate(
        [first, shared, shared + 1.0, edges, edges + 1.0, _series(_DENSE_QUERIES, most, _QUERY_RATIO)]
    )
    return _cut(knots, most)


def _past_knots(most: int) -> Floats:
    return _cut(np.concatenate([[0.0, 1.0, 4.0], _series(16, most, _PAST_RATIO)]), max(most, 2))


def _series(first: float, most: float, ratio: float) -> Floats:
    n = np.ceil(np.log(max(most / first, 1.0)) / np.log(ratio))
    return np.round(first * ratio ** np.arange(n))


def _cut(knots: Floats, most: float) -> Floats:
    return np.unique(np.concatenate([knots[(knots >= 0.0) & (knots < most)], [float(most)]]))


def _coarse_knots(knots: PrefillKnots) -> PrefillKnots:
    """Return knots in powers of two and four over the same range."""
    sequences = 2.0 ** np.arange(np.ceil(np.log2(knots.sequences[-1])) + 1.0)
    queries = np.array([1.0, 4.0, 16.0, 64.0, 128.0, 129.0])
    queries = np.concatenate([queries, _series(256, 2.0 * knots.queries[-1], 2.0)])
    past = np.concatenate([[0.0, 16.0], _series(64, 4.0 * knots.past[-1], 4.0)])
    if knots.past[-1] == 1.0:
        past = np.linspace(0.0, 1.0, 5)
    return PrefillKnots(sequences, queries, knots.first_row, past)
