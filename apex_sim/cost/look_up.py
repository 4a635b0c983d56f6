"""Where in a stage's tables does a batch lie?  Compiled look-ups that interpolate between knots."""

from __future__ import annotations

from typing import Final

import numpy as np

from apex_sim.cost.parts import Floats
from apex_sim.cost.step_tables import BatchSums, StageTables
from apex_sim.machine_code import compiled

#: Token tables hold every count up to here, and then each edge of a GEMM tile with its neighbours on both sides:
#: kernels take another tile beyond an edge (1,025), and other schedules from one on (8,192 in vLLM's fp8 GEMM).
DENSE_TOKENS: Final = 1024
TILE_TOKENS: Final = 64


@compiled
def locate(n_tokens: int) -> tuple[int, float]:
    """Return the knot of the token table at or below `n_tokens` and the fraction of the way to the next.

    Examples
    --------
    >>> locate(7), locate(1024), locate(1025), locate(1056), locate(1088)
    ((7, 0.0), (1024, 0.0), (1025, 0.0), (1025, 0.5), (1027, 0.0))
    """
    if n_tokens <= DENSE_TOKENS:
        return n_tokens, 0.0
    tiles = (n_tokens - DENSE_TOKENS) // TILE_TOKENS
    rest = n_tokens - DENSE_TOKENS - tiles * TILE_TOKENS
    knot = DENSE_TOKENS + 3 * tiles
    if rest == 0:
        return knot, 0.0
    return knot + 1, (rest - 1) / (TILE_TOKENS - 2)


@compiled
def row_knot(knots: Floats, row: int, value: float) -> int:
    """Return the knot of a row at or below `value`, at most the last but one; rows may be padded with infinity."""
    low, high = 0, knots.shape[1] - 1
    while high - low > 1:
        middle = (low + high) // 2
        if knots[row, middle] <= value:
            low = middle
        else:
            high = middle
    while low > 0 and knots[row, low + 1] == np.inf:
        low -= 1
    return low


@compiled
def row_share(knots: Floats, row: int, index: int, value: float) -> float:
    """Return how far `value` lies from a knot to the next; the last interval goes on beyond its end."""
    share: float = (value - knots[row, index]) / (knots[row, index + 1] - knots[row, index])
    return share


@compiled
def look_up_prefill(tables: StageTables, batch: BatchSums, group: int) -> tuple[float, float, float, bool]:
    """Return kernel, compute and memory time of a group's prefill launch, and whether it lies outside the data."""
    at = tables.attention_class[group]
    n_sequences, window = float(batch.n_prefill_sequences), tables.window_tokens[group]
    queries = batch.n_prefill_tokens / n_sequences
    mean_keys = batch.prefill_pairs[at] / batch.n_prefill_tokens
    past, equal_keys = equal_past(queries, mean_keys, window)
    i = row_knot(tables.prefill_sequences, group, n_sequences)
    j = row_knot(tables.prefill_queries, group, queries)
    k = row_knot(tables.prefill_past, group, past)
    u = row_share(tables.prefill_sequences, group, i, n_sequences)
    v = row_share(tables.prefill_queries, group, j, queries)
    w = row_share(tables.prefill_past, group, k, past)
    kernel_s = compute_s = memory_s = 0.0
    for corner in range(8):
        di, dj, dk = corner & 1, (corner >> 1) & 1, corner >> 2
        weight = (u if di else 1.0 - u) * (v if dj else 1.0 - v) * (w if dk else 1.0 - w)
        if weight != 0.0:
            row = tables.prefill_first_row[group, i + di] + j + dj
            kernel_s += weight * tables.prefill_s[group, row, k + dk, 0]
            compute_s += weight * tables.prefill_s[group, row, k + dk, 1]
            memory_s += weight * tables.prefill_s[group, row, k + dk, 2]
    ratio = batch.prefill_keys[at] / (equal_keys * n_sequences)
    if abs(ratio - 1.0) > 1e-9:
        kernel_factor, memory_factor = key_factors(tables, group, n_sequences, queries, past, ratio)
        kernel_s *= kernel_factor
        memory_s *= memory_factor
    outside = tables.prefill_outside[group, tables.prefill_first_row[group, i] + j, k]
    return kernel_s, compute_s, memory_s, outside


@compiled
def equal_past(queries: float, mean_keys: float, window: float) -> tuple[float, float]:
    """Return behind which past equal sequences see `mean_keys` on average, as a knot of the table, and their keys."""
    if window == 0.0:
        past = max(mean_keys - (queries + 1.0) / 2.0, 0.0)
        return past, past + queries
    growing = min(queries, window)
    least = (growing * (growing + 1.0) / 2.0 + (queries - growing) * window) / queries
    all_growing = mean_keys - (queries + 1.0) / 2.0
    if all_growing + queries <= window:
        past = max(all_growing, 0.0)
    else:
        past = window - (1.0 + np.sqrt(1.0 + 8.0 * queries * max(window - mean_keys, 0.0))) / 2.0
        past = min(max(past, 0.0), window)
    share = min(max((mean_keys - least) / (window - least), 0.0), 1.0) if window > least else 1.0
    return share, min(past + queries, window + queries - 1.0)


@compiled
def key_factors(
    tables: StageTables, group: int, n_sequences: float, queries: float, past: float, ratio: float
) -> tuple[float, float]:
    """Return what kernel and memory time are multiplied with when keys are `ratio` times those of equal sequences."""
    ratios = tables.key_ratios
    ratio = min(max(ratio, ratios[0, 0]), ratios[0, -1])
    i = row_knot(tables.coarse_sequences, 0, n_sequences)
    j = row_knot(tables.coarse_queries, 0, queries)
    k = row_knot(tables.coarse_past, group, past)
    m = row_knot(ratios, 0, ratio)
    shares = (
        row_share(tables.coarse_sequences, 0, i, n_sequences),
        row_share(tables.coarse_queries, 0, j, queries),
        row_share(tables.coarse_past, group, k, past),
        row_share(ratios, 0, m, ratio),
    )
    kernel = memory = 0.0
    for corner in range(16):
        di, dj, dk, dm = corner & 1, (corner >> 1) & 1, (corner >> 2) & 1, corner >> 3
        weight = (
            (shares[0] if di else 1.0 - shares[0])
            * (shares[1] if dj else 1.0 - shares[1])
            * (shares[2] if dk else 1.0 - shares[2])
            * (shares[3] if dm else 1.0 - shares[3])
        )
        if weight != 0.0:
            kernel += weight * tables.key_factor[group, i + di, j + dj, k + dk, m + dm, 0]
            memory += weight * tables.key_factor[group, i + di, j + dj, k + dk, m + dm, 1]
    return kernel, memory
