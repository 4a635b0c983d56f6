"""How long does attention take, by look-up?

A launch is described by its queries and by how many keys each sees on average.  A back end is evaluated once over a
grid of both, and a step interpolates.  For decode the grid is exact up to interpolation: kernels fill the device in
waves, so that each number of sequences is a knot.  For prefill a cell stands for the batch that has its sums: equal new
prompts where queries see few keys, one chunk behind a past where they see many.  Kernels cut queries into tiles, so
that the knots lie on both sides of the edges.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from apex_sim.cost.attention_launch import AttentionGroup, decode_launch, prefill_launch
from apex_sim.cost.basis import Basis
from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.parts import Floats, Parts
from apex_sim.cost.sizes import DecodeWork, PrefillWork

Rows = tuple[tuple[float, ...], ...]

#: Ratio of neighbouring mean contexts, and of query counts between the edges.
_CONTEXT_RATIO = 1.10
_QUERY_RATIO = 1.08
#: Queries in a tile, and how many edges are resolved: beyond, one tile more is below 2 % of the work.
_TILE_TOKENS = 128
_N_EDGES = 64


@dataclass(frozen=True, slots=True)
class AttentionPrice:
    """Interpolated price of the launches of one group of layers."""

    kernel_s: float
    compute_s: float
    memory_s: float
    in_range: bool


@dataclass(frozen=True, slots=True)
class AttentionTable:
    """Prices over (queries or sequences) x (mean keys seen), for all layers of a group together."""

    counts: tuple[float, ...]
    contexts: tuple[float, ...]
    kernel_s: Rows
    compute_s: Rows
    memory_s: Rows
    in_range: tuple[tuple[bool, ...], ...]
    n_launches: float
    gap_launches: float
    basis: Basis

    def price(self, count: float, mean_context: float) -> AttentionPrice:
        """Return the price at `count` queries or sequences that see `mean_context` keys on average.

        Beyond the grid's ends its last cells are extended.
        """
        i, u = _place(self.counts, count)
        j, v = _place(self.contexts, mean_context)
        weights = ((1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v)
        return AttentionPrice(
            _mix(self.kernel_s, i, j, weights),
            _mix(self.compute_s, i, j, weights),
            _mix(self.memory_s, i, j, weights),
            self.in_range[i][j],
        )


def _place(knots: tuple[float, ...], value: float) -> tuple[int, float]:
    index = min(max(bisect_right(knots, value) - 1, 0), len(knots) - 2)
    low, high = knots[index], knots[index + 1]
    return index, (value - low) / (high - low)


def _mix(rows: Rows, i: int, j: int, weights: tuple[float, float, float, float]) -> float:
    low, high = rows[i], rows[i + 1]
    return weights[0] * low[j] + weights[1] * low[j + 1] + weights[2] * high[j] + weights[3] * high[j + 1]


def prefill_table(cost: CostModel, group: AttentionGroup, max_tokens: int, max_context: int) -> AttentionTable:
    """Evaluate the group's prefill launches over up to `max_tokens` queries."""
    queries, contexts = _query_knots(max_tokens), _prompt_knots(_context_knots(max_context, group.window))
    n, mean = np.meshgrid(queries, contexts, indexing="ij")
    n_sequences = np.maximum(n / (2.0 * mean - 1.0), 1.0)
    keys = np.maximum(n, mean + (n - 1.0) / 2.0 * (n_sequences == 1.0))
    if group.window is not None:
        keys = np.minimum(keys, n_sequences * (n / n_sequences + group.window))
    work = PrefillWork(n * mean, n, keys, n_sequences)
    return _table(prefill_launch(cost, work, group.sizes), queries, contexts, group.n_layers)


def decode_table(cost: CostModel, group: AttentionGroup, max_sequences: int, max_context: int) -> AttentionTable:
    """Evaluate the group's decode launches over up to `max_sequences` sequences."""
    counts, contexts = np.arange(1.0, max(max_sequences, 2) + 1), _context_knots(max_context, group.window)
    n, mean = np.meshgrid(counts, contexts, indexing="ij")
    work = DecodeWork(n, n * mean)
    return _table(decode_launch(cost, work, group.sizes), counts, contexts, group.n_layers)


def _table(parts: Parts, counts: Floats, contexts: Floats, n_layers: int) -> AttentionTable:
    shape = len(counts), len(contexts)
    kernel, compute, memory = (
        tuple(map(tuple, (np.broadcast_to(values, shape) * n_layers).tolist()))
        for values in (parts.kernel_s, parts.compute_s, parts.memory_s)
    )
    inside = tuple(map(tuple, np.broadcast_to(parts.basis.in_range, shape).tolist()))
    launches, gaps = parts.n_launches * n_layers, parts.gap_launches * n_layers
    knots = tuple(counts.tolist()), tuple(contexts.tolist())
    return AttentionTable(*knots, kernel, compute, memory, inside, launches, gaps, parts.basis)


def _context_knots(max_context: int, window: int | None) -> Floats:
    most = float(max(2, max_context if window is None else min(window, max_context)))
    n = np.ceil(np.log(most) / np.log(_CONTEXT_RATIO))
    return np.append(_CONTEXT_RATIO ** np.arange(n), most)


def _prompt_knots(contexts: Floats) -> Floats:
    """Return `contexts` with those of equal new prompts around each edge of a tile of queries."""
    prompts = (_query_knots(_N_EDGES * _TILE_TOKENS) + 1.0) / 2.0
    return np.unique(np.concatenate([contexts, prompts[prompts < contexts[-1]]]))


def _query_knots(max_tokens: int) -> Floats:
    """Return query counts: each up to a tile, both sides of each edge of the first tiles, and a geometric series."""
    dense = np.arange(1.0, _TILE_TOKENS)
    edges = _TILE_TOKENS * np.arange(1.0, _N_EDGES + 1)
    most = float(max(2, max_tokens))
    n = np.ceil(np.log(max(most / _TILE_TOKENS, 1.0)) / np.log(_QUERY_RATIO))
    series = np.round(_TILE_TOKENS * _QUERY_RATIO ** np.arange(n))
    knots = np.concatenate([dense, edges, edges + 1.0, series])
    return np.unique(np.concatenate([knots[knots < most], [most]]))
