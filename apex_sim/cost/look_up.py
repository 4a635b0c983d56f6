"""Where in a stage's tables does a batch lie?  Compiled look-ups that interpolate between knots."""

from __future__ import annotations

from typing import Final

import numpy as np

from apex_sim.cost import step_tables as at
from apex_sim.cost.parts import Floats
from apex_sim.cost.step_tables import Ints
from apex_sim.machine_code import compiled, inner

#: Token tables hold every count up to here, and then each edge of a GEMM tile with its neighbours on both sides:
#: kernels take another tile beyond an edge (1,025), and other schedules from one on (8,192 in vLLM's fp8 GEMM).
DENSE_TOKENS: Final = 1024
TILE_TOKENS: Final = 64
#: Beyond, one tile more is 0.2 % of the work: tokens of all attention ranks together are looked up between every 32nd.
TILED_TOKENS: Final = 32_768
COARSE_TOKENS: Final = 2048
_TILED_KNOT: Final = DENSE_TOKENS + 3 * (TILED_TOKENS - DENSE_TOKENS) // TILE_TOKENS


@compiled
def locate(n_tokens: int) -> tuple[int, float]:
    """Return the knot of the token table at or below `n_tokens` and the fraction of the way to the next.

    Examples
    --------
    >>> locate(7), locate(1024), locate(1025), locate(1056), locate(1088)
    ((7, 0.0), (1024, 0.0), (1025, 0.0), (1025, 0.5), (1027, 0.0))
    >>> locate(32768), locate(33792), locate(34816)
    ((2512, 0.0), (2512, 0.5), (2513, 0.0))
    """
    if n_tokens <= DENSE_TOKENS:
        return n_tokens, 0.0
    if n_tokens > TILED_TOKENS:
        steps = (n_tokens - TILED_TOKENS) // COARSE_TOKENS
        return _TILED_KNOT + steps, (n_tokens - TILED_TOKENS - steps * COARSE_TOKENS) / COARSE_TOKENS
    tiles = (n_tokens - DENSE_TOKENS) // TILE_TOKENS
    rest = n_tokens - DENSE_TOKENS - tiles * TILE_TOKENS
    knot = DENSE_TOKENS + 3 * tiles
    if rest == 0:
        return knot, 0.0
    return knot + 1, (rest - 1) / (TILE_TOKENS - 2)


def knots(max_tokens: int) -> Floats:
    """Return the token counts that a table holds, from 0 to at least `max_tokens`.

    Examples
    --------
    >>> [int(n) for n in knots(34000)[[7, 1024, 1025, 1026, 1027, 2512, 2513]]]
    [7, 1024, 1025, 1087, 1088, 32768, 34816]
    """
    dense = np.arange(min(max_tokens, DENSE_TOKENS) + 1, dtype=np.float64)
    if max_tokens <= DENSE_TOKENS:
        return dense
    edges = np.arange(DENSE_TOKENS, min(max_tokens, TILED_TOKENS), TILE_TOKENS, dtype=np.float64)
    sparse = [edges + 1, edges + TILE_TOKENS - 1, edges + TILE_TOKENS]
    coarse = np.arange(TILED_TOKENS, max_tokens, COARSE_TOKENS, dtype=np.float64) + COARSE_TOKENS
    return np.concatenate([dense, np.stack(sparse, axis=1).ravel(), coarse])


@inner
def knot_of(numbers: Floats, first: int, n_knots: int, value: float) -> int:
    """Return the index of the knot at or below `value` among `n_knots` ascending ones, at most the last but one."""
    low, high = 0, n_knots - 1
    while high - low > 1:
        middle = (low + high) // 2
        if numbers[first + middle] <= value:
            low = middle
        else:
            high = middle
    return low


@inner
def share_of(numbers: Floats, knot: int, value: float) -> float:
    """Return how far `value` lies from a knot to the next; the last interval goes on beyond its end."""
    share: float = (value - numbers[knot]) / (numbers[knot + 1] - numbers[knot])
    return share


@inner
def look_up_prefill(numbers: Floats, layout: Ints, group: int, sums: Floats) -> tuple[float, float, float, float]:
    """Return kernel, compute and memory time of a group's prefill launch, and 1 if it lies outside the data.

    `group` is the position of the group's fields in `layout`.
    """
    of_class = at.BY_CLASS + layout[group + at.CLASS] * at.CLASS_FIELDS
    n_sequences, n_queries = sums[at.N_PREFILL_SEQUENCES], sums[at.N_PREFILL_TOKENS]
    queries = n_queries / n_sequences
    past, equal_keys = equal_past(queries, sums[of_class + at.PAIRS] / n_queries, layout[group + at.WINDOW_TOKENS])
    n_past = layout[group + at.N_PAST]
    i = knot_of(numbers, layout[group + at.SEQUENCES_AT], layout[group + at.N_SEQUENCES], n_sequences)
    j = knot_of(numbers, layout[group + at.QUERIES_AT], layout[group + at.N_QUERIES], queries)
    k = knot_of(numbers, layout[group + at.PAST_AT], n_past, past)
    u = share_of(numbers, layout[group + at.SEQUENCES_AT] + i, n_sequences)
    v = share_of(numbers, layout[group + at.QUERIES_AT] + j, queries)
    w = share_of(numbers, layout[group + at.PAST_AT] + k, past)
    kernel_s = compute_s = memory_s = outside = 0.0
    for di in range(2):
        for dj in range(2):
            weight = (u if di == 1 else 1.0 - u) * (v if dj == 1 else 1.0 - v)
            if weight != 0.0:
                row = layout[layout[group + at.FIRST_ROW_AT] + i + di] + j + dj
                low = layout[group + at.PREFILL_AT] + (row * n_past + k) * 4
                kernel_s += weight * (numbers[low] * (1.0 - w) + numbers[low + 4] * w)
                compute_s += weight * (numbers[low + 1] * (1.0 - w) + numbers[low + 5] * w)
                memory_s += weight * (numbers[low + 2] * (1.0 - w) + numbers[low + 6] * w)
                outside = max(outside, numbers[low + 3])
    ratio = sums[of_class + at.KEYS] / (equal_keys * n_sequences)
    if abs(ratio - 1.0) > 1e-9:
        kernel_factor, memory_factor = key_factors(numbers, layout, group, n_sequences, queries, past, ratio)
        kernel_s *= kernel_factor
        memory_s *= memory_factor
    return kernel_s, compute_s, memory_s, outside


@inner
def equal_past(queries: float, mean_keys: float, window: int) -> tuple[float, float]:
    """Return behind which past equal sequences see `mean_keys` on average, as a knot of the table, and their keys.

    The inverse of `apex_sim.cost.prefill_table.uniform_work`.
    """
    if window == 0:
        past = max(mean_keys - (queries + 1.0) / 2.0, 0.0)
        return past, past + queries
    growing = min(queries, float(window))
    least = (growing * (growing + 1.0) / 2.0 + (queries - growing) * window) / queries
    all_growing = mean_keys - (queries + 1.0) / 2.0
    if all_growing + queries <= window:
        past = max(all_growing, 0.0)
    else:
        past = window - (1.0 + np.sqrt(1.0 + 8.0 * queries * max(window - mean_keys, 0.0))) / 2.0
        past = min(max(past, 0.0), float(window))
    share = min(max((mean_keys - least) / (window - least), 0.0), 1.0) if window > least else 1.0
    return share, min(past + queries, window + queries - 1.0)


@inner
def key_factors(
    numbers: Floats, layout: Ints, group: int, n_sequences: float, queries: float, past: float, ratio: float
) -> tuple[float, float]:
    """Return what kernel and memory time are multiplied with when keys are `ratio` times those of equal sequences."""
    n_queries, n_past = layout[group + at.N_COARSE_QUERIES], layout[group + at.N_COARSE_PAST]
    ratios, n_ratios = layout[group + at.RATIOS_AT], layout[group + at.N_RATIOS]
    ratio = min(max(ratio, numbers[ratios]), numbers[ratios + n_ratios - 1])
    i = knot_of(numbers, layout[group + at.COARSE_SEQUENCES_AT], layout[group + at.N_COARSE_SEQUENCES], n_sequences)
    j = knot_of(numbers, layout[group + at.COARSE_QUERIES_AT], n_queries, queries)
    k = knot_of(numbers, layout[group + at.COARSE_PAST_AT], n_past, past)
    m = knot_of(numbers, ratios, n_ratios, ratio)
    u = share_of(numbers, layout[group + at.COARSE_SEQUENCES_AT] + i, n_sequences)
    v = share_of(numbers, layout[group + at.COARSE_QUERIES_AT] + j, queries)
    w = share_of(numbers, layout[group + at.COARSE_PAST_AT] + k, past)
    x = share_of(numbers, ratios + m, ratio)
    kernel = memory = 0.0
    for corner in range(8):
        di, dj, dk = corner & 1, (corner >> 1) & 1, corner >> 2
        weight = (u if di == 1 else 1.0 - u) * (v if dj == 1 else 1.0 - v) * (w if dk == 1 else 1.0 - w)
        if weight != 0.0:
            cell = (((i + di) * n_queries + j + dj) * n_past + k + dk) * n_ratios + m
            low = layout[group + at.FACTORS_AT] + 2 * cell
            kernel += weight * (numbers[low] * (1.0 - x) + numbers[low + 2] * x)
            memory += weight * (numbers[low + 1] * (1.0 - x) + numbers[low + 3] * x)
    return kernel, memory
