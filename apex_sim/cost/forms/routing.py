"""How many token rows, distinct experts and tiles does the fullest expert-parallel rank get?

A router sends each of T tokens to k of E experts.  What a mixture-of-experts kernel pays for is not T k: it reads the
weights of the experts that are hit at all, it pads each expert's rows to whole tiles, and the ranks of an
expert-parallel group wait for the fullest one.

References
----------
Power law: the token counts of the measured kernels were drawn so; see `collector/helper.py`,
`_generate_power_law_distribution`, in the repository ai-dynamo/aiconfigurator.
Uniform: classical occupancy, e.g. Feller, "An Introduction to Probability Theory and Its Applications", vol. 1, IV.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Final, Literal

import numpy as np

from apex_sim.cost.forms.shares import Floats
from apex_sim.errors import InputError

#: "balanced": every expert gets the same; "uniform": each token picks k experts at random; a number: the exponent of a
#: power law over the experts' popularity (1.01 and 1.2 are what the measured tables hold).
Routing = float | Literal["balanced", "uniform"]

#: Row heights of the tiles that grouped GEMM kernels come in.
TILE_ROWS: Final = (8, 16, 32, 64, 128)
#: Popularities are drawn once, with this seed, so that plans are compared under the same routes.
_SEED: Final = 0
_N_DRAWS: Final = 8
#: Token counts at which the power law is drawn; between them its summaries are smooth.
_KNOTS: Final = np.unique(np.round(2.0 ** np.arange(0.0, 20.25, 0.5)))
#: Equally likely quantiles of the standard normal distribution.
_QUANTILES: Final = np.array([NormalDist().inv_cdf((i + 0.5) / 32) for i in range(32)])


@dataclass(frozen=True, slots=True)
class ExpertLoad:
    """What the fullest rank works on, in expectation; arrays over the token counts.

    Parameters
    ----------
    n_rows : (token, expert) pairs.
    n_hit : distinct experts with at least one row.
    n_tiles : tiles for each height of `TILE_ROWS`, first axis; every expert's rows are padded to whole tiles.
    n_fullest_rows : rows of the fullest expert.
    n_all_hit : distinct experts with at least one row on all ranks together.
    """

    n_rows: Floats
    n_hit: Floats
    n_tiles: Floats
    n_fullest_rows: Floats
    n_all_hit: Floats


def expert_load(
    n_tokens: float | Floats, n_experts: int, top_k: int, ep: int = 1, routing: Routing = "uniform"
) -> ExpertLoad:
    """Return the load of the fullest of `ep` ranks when `n_tokens` pick `top_k` of `n_experts` experts each.

    Raises
    ------
    InputError : `top_k` exceeds the experts, the experts do not divide over the ranks, or an unknown routing.

    Examples
    --------
    32 tokens that pick 4 of 128 experts at random hit 82 of them.

    >>> round(float(expert_load(32, 128, 4).n_hit))
    82
    """
    if not 1 <= top_k <= n_experts:
        raise InputError(f"top_k is {top_k} of {n_experts} experts", remedy="give 1 to n_experts")
    if ep < 1 or n_experts % ep:
        raise InputError(f"{n_experts} experts over {ep} ranks", remedy="choose an EP degree that divides the experts")
    tokens = np.maximum(np.asarray(n_tokens, dtype=float), 1e-9)
    if routing == "balanced":
        return _balanced(tokens, n_experts, top_k, ep)
    if routing == "uniform":
        return _uniform(tokens, n_experts, top_k, ep)
    if isinstance(routing, str) or not 0.0 < routing < 10.0:
        raise InputError(
            f"unknown routing {routing!r}", remedy="give 'balanced', 'uniform' or a power-law exponent from 0 to 10"
        )
    return _interpolated(tokens, n_experts, top_k, ep, float(routing))


def fullest_spread(n_tokens: Floats, n_experts: int, top_k: int, ep: int) -> Floats:
    """Return the coefficient of variation of the fullest rank's rows, from step to step, under uniform routing.

    A rank's rows are close to normal, with the variance of draws without replacement; `_largest_of` says what the
    largest of `ep` such, whose sum is fixed, has of that deviation.  0 with one rank, whose rows are always all.

    Examples
    --------
    >>> [round(float(cv), 3) for cv in fullest_spread(np.array([32.0, 3200.0]), 256, 8, 8)]
    [0.07, 0.008]
    """
    if ep == 1:
        return np.zeros_like(n_tokens)
    mean = np.maximum(n_tokens * top_k / ep, 1e-9)
    deviation = np.sqrt(mean * (1.0 - 1.0 / ep) * (n_experts - top_k) / max(n_experts - 1, 1))
    largest, spread = _largest_of(ep)
    return np.asarray(spread * deviation / (mean + largest * deviation))


@lru_cache(maxsize=64)
def _largest_of(n: int) -> tuple[float, float]:
    """Return mean and deviation of the largest of `n` exchangeable standard normal numbers whose sum is 0.

    They are (Z_i - mean Z) sqrt(n / (n - 1)) of independent Z, and the mean of these does not depend on how far the
    largest lies from it: Var max Z = Var(max Z - mean Z) + 1 / n.  Moments of max Z by quadrature of its density.
    """
    x = np.linspace(-8.0, 8.0, 4001)
    density = np.diff(np.array([NormalDist().cdf(value) for value in x]) ** n)
    middle = (x[1:] + x[:-1]) / 2.0
    mean = float((density * middle).sum())
    variance = float((density * (middle - mean) ** 2).sum())
    scale = np.sqrt(n / (n - 1))
    return float(scale * mean), float(scale * np.sqrt(variance - 1.0 / n))


def _balanced(tokens: Floats, n_experts: int, top_k: int, ep: int) -> ExpertLoad:
    rows = np.maximum(tokens * top_k / ep, np.minimum(tokens * top_k, 1.0))
    each = rows * ep / n_experts
    hit = np.minimum(rows, n_experts / ep)
    heights = np.array(TILE_ROWS, dtype=float).reshape(-1, *(1,) * tokens.ndim)
    tiles = np.where(each <= 1.0, hit, n_experts / ep * np.ceil(each / heights - 1e-9))
    return ExpertLoad(
        rows, hit, tiles, np.maximum(np.ceil(each - 1e-9), 1.0), np.minimum(tokens * top_k, float(n_experts))
    )


def _uniform(tokens: Floats, n_experts: int, top_k: int, ep: int) -> ExpertLoad:
    """Rows of an expert are binomial; rows of a rank are close to normal, and the fullest is their extreme."""
    local = n_experts // ep
    extreme = NormalDist().inv_cdf((ep - 0.375) / (ep + 0.25)) if ep > 1 else 0.0  # Blom's expected maximum
    spread = tokens * top_k / ep * (1.0 - 1.0 / ep) * (n_experts - top_k) / max(n_experts - 1, 1)
    rows = np.minimum(tokens * top_k / ep + extreme * np.sqrt(spread), tokens * min(top_k, local))
    share = np.minimum(rows / (local * tokens), 1.0)
    hit = local * (1.0 - (1.0 - share) ** tokens)
    mean, deviation = share * tokens, np.sqrt(tokens * share * (1.0 - share))
    each = np.clip(np.round(mean[..., None] + deviation[..., None] * _QUANTILES), 0.0, np.ceil(tokens)[..., None])
    more = [np.maximum(np.ceil(each / height) - 1.0, 0.0).mean(axis=-1) for height in TILE_ROWS]
    fullest = NormalDist().inv_cdf((local - 0.375) / (local + 0.25)) if local > 1 else 0.0
    fullest_rows = np.minimum(np.maximum(mean + fullest * deviation, np.minimum(rows, 1.0)), tokens)
    all_hit = n_experts * (1.0 - (1.0 - top_k / n_experts) ** tokens)
    return ExpertLoad(rows, hit, np.stack([hit + local * extra for extra in more]), fullest_rows, all_hit)


def _interpolated(tokens: Floats, n_experts: int, top_k: int, ep: int, exponent: float) -> ExpertLoad:
    at, knots = np.log(np.clip(tokens, 1.0, _KNOTS[-1])), np.log(_KNOTS)
    drawn = _drawn(n_experts, top_k, ep, exponent)
    beyond = np.maximum(tokens / _KNOTS[-1], 1.0) * np.minimum(tokens, 1.0)
    rows, hit, fullest, all_hit, *tiles = (np.exp(np.interp(at, knots, values)) for values in drawn)
    return ExpertLoad(rows * beyond, hit, np.stack(tiles) * beyond, fullest * beyond, all_hit)


@lru_cache(maxsize=256)
def _drawn(n_experts: int, top_k: int, ep: int, exponent: float) -> Floats:
    """Return logarithms of rows, hits, fullest expert, hits on all ranks and tiles (first axis) at the knots.

    More tokens of the same routes leave no expert with fewer rows; a few draws, rounded, would say so.
    """
    counts = power_law_counts(_KNOTS, n_experts, top_k, ep, exponent, _N_DRAWS, np.random.default_rng(_SEED))
    fullest = counts.sum(axis=-1).argmax(axis=-1)
    rank = np.take_along_axis(counts, fullest[..., None, None], axis=-2)[..., 0, :]
    parts = [rank.sum(axis=-1), np.minimum(rank, 1.0).sum(axis=-1), rank.max(axis=-1)]
    parts.append(np.minimum(counts, 1.0).sum(axis=(-1, -2)))
    parts += [np.where(rank < 1.0, rank, np.ceil(rank / height - 1e-9)).sum(axis=-1) for height in TILE_ROWS]
    drawn = np.log(np.maximum(np.stack(parts).mean(axis=-1), 1e-9))
    return np.asarray(np.maximum.accumulate(drawn, axis=-1))


def power_law_counts(
    n_tokens: Floats, n_experts: int, top_k: int, ep: int, exponent: float, n_draws: int, rng: np.random.Generator
) -> Floats:
    """Return rows of each expert, indexed (token count, draw, rank, expert of the rank).

    Popularity x has density x^-exponent on [1, 0.8 T] (on [0.01, 2] when T k <= E).  Counts are x scaled to T k in
    all, rounded, and capped at T; what rounding and capping leave over goes to the least loaded experts of each rank
    in turn, or comes off the most loaded ones.
    """
    tokens = np.maximum(n_tokens, 1.0)[:, None, None]
    few = tokens * top_k <= n_experts
    low, high = np.where(few, 0.01, 1.0), np.where(few, 2.0, np.maximum(0.8 * tokens, 1.0 + 1e-9))
    power = 1.0 - exponent if exponent != 1.0 else 1e-9
    draws = rng.random((1, n_draws, n_experts))
    popularity = ((high**power - low**power) * draws + low**power) ** (1.0 / power)
    target = np.round(tokens * top_k)
    counts = np.minimum(np.round(popularity / popularity.sum(axis=-1, keepdims=True) * target), tokens)
    missing = (target - counts.sum(axis=-1, keepdims=True))[..., None]
    counts = counts.reshape(*counts.shape[:2], ep, n_experts // ep)
    ranks = np.arange(ep)[:, None]
    each = np.abs(missing) // ep + (ranks < np.abs(missing) % ep)
    cap = tokens[..., None]
    return np.where(missing >= 0.0, _levelled(counts, each, cap), cap - _levelled(cap - counts, each, cap))


def _levelled(counts: Floats, extra: Floats, cap: Floats) -> Floats:
    """Return the counts after `extra` more rows went to the least loaded experts (last axis), like rising water."""
    ascending = np.sort(counts, axis=-1)
    below = np.cumsum(ascending, axis=-1) - ascending
    n_below = np.arange(counts.shape[-1])
    n_wet = np.maximum((n_below * ascending - below <= extra).sum(axis=-1, keepdims=True), 1)
    level = (extra + np.take_along_axis(below + ascending, n_wet - 1, axis=-1)) / n_wet
    return np.minimum(np.where(extra > 0.0, np.maximum(counts, level), counts), cap)
