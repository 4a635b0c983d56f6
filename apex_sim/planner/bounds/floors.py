"""What does work cost at least, however the scheduler batches it?

A step's price is the sum of what its tokens, its sampled sequences and its attention cost, each read from a table of
the compiled step model.  A floor is the least that a table says over every batch that holds the work in question, so
that the sum of the floors is below the price of any step with it.  Tables are staircases and may fall as well as rise:
a floor looks at all larger batches.

Between two knots a table is a line, so that its least value there is at an end; prices are floats, so that floors are
lowered by `SLACK_FRAC` where they are summed up.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from apex_sim.cost import step_tables as at
from apex_sim.cost.decode_table import DecodeTable
from apex_sim.cost.look_up import COARSE_TOKENS, DENSE_TOKENS, TILE_TOKENS, TILED_TOKENS, knots
from apex_sim.cost.operator_table import OperatorTable
from apex_sim.cost.parts import Floats
from apex_sim.cost.prefill_table import PrefillTable, uniform_work
from apex_sim.cost.step_batch import Window
from apex_sim.cost.step_model import StageModel

#: What rounding may take from a sum of floats.
SLACK_FRAC: Final = 1e-9
#: Ratio of neighbouring context lengths at which decode attention's floor is evaluated.
_KEY_RATIO: Final = 1.04

#: (seconds a step, seconds a token): a line below the floor of every step.
Line = tuple[float, float]


@dataclass(frozen=True, slots=True)
class StageFloors:
    """Floors of one stage, in seconds of each of its devices.

    Parameters
    ----------
    prompt_lines, step_lines : lines below the price of a step against all its tokens, attention aside: of steps with
        prompts, and of all steps.
    decode_step_s : a step that decodes, without its attention.
    decode_keys_s : by attention window, what attention takes at least in a step that reads so many keys of it: a
        table against keys from 0 on, and of all groups of layers with that window.
    pair_s : by attention window, prefill attention for each (query, key) pair.
    key_s : by attention window, what a key read in decoding takes at least in the best of all batches.
    sampled_s : the same of a sampled sequence.
    token_j : energy of a token beyond what an active device draws, in joules of each device.
    active_w : power above idle while active.
    """

    prompt_lines: tuple[Line, ...]
    step_lines: tuple[Line, ...]
    decode_step_s: float
    decode_keys_s: dict[Window, Floats]
    pair_s: dict[Window, float]
    sampled_s: float
    key_s: dict[Window, float]
    token_j: float
    active_w: float


def stage_floors(stage: StageModel, max_context_tokens: int) -> StageFloors:
    """Return the floors of a compiled stage for requests of up to `max_context_tokens`."""
    numbers, n_ranks = stage.tables.scalars, stage.context.shape.attention_dp
    factor = _least_factor(numbers)
    tokens, head = _Staircase.of_tokens(stage.tokens), stage.head.totals_s[1:, 0]
    joint = _Staircase.of_tokens(stage.joint) if stage.joint else None
    if stage.spread_s is not None:  # a lucky draw of the experts' loads takes any share of their time
        tokens, joint = tokens.nothing(), joint.nothing() if joint else None
    gaps_s = numbers[at.LAUNCH_S] * (stage.tokens.gap_launches + (stage.joint.gap_launches if stage.joint else 0.0))
    step_s = gaps_s + numbers[at.BETWEEN_STEPS_S]
    prompt_gap_s = numbers[at.LAUNCH_S] * sum(prefill.gap_launches for prefill, _ in stage.attention)
    decode_gap_s = numbers[at.LAUNCH_S] * sum(decode.gap_launches for _, decode in stage.attention)
    head_s = float(head.min()) if head.size else 0.0
    head_gap_s = numbers[at.LAUNCH_S] * stage.head.gap_launches
    joint_s = joint.least_s if joint else 0.0
    windows = tuple(dict.fromkeys(prefill.window for prefill, _ in stage.attention))
    fixed_s = step_s + prompt_gap_s + factor * joint_s
    return StageFloors(
        prompt_lines=tuple((fixed_s + a, b) for a, b in tokens.lines(numbers)),
        step_lines=tuple((step_s + a, b / n_ranks) for a, b in _all_lines(tokens, joint, n_ranks, factor)),
        decode_step_s=step_s + decode_gap_s + head_gap_s + factor * (tokens.least_s + joint_s + head_s),
        decode_keys_s={
            window: factor
            * np.sum([_decode_floor(d, max_context_tokens) for p, d in stage.attention if p.window == window], axis=0)
            for window in windows
        },
        pair_s={
            window: factor * sum(_pair_s(p) for p, _ in stage.attention if p.window == window) for window in windows
        },
        sampled_s=factor * _least_rate(head) / n_ranks,
        key_s={
            window: factor * sum(_key_s(d) for p, d in stage.attention if p.window == window) / n_ranks
            for window in windows
        },
        token_j=_token_j(stage),
        active_w=float(min(numbers[at.ACTIVE_W], numbers[at.RANGE_W])),
    )


def _least_factor(numbers: Floats) -> float:
    """Return the least that kernel times are multiplied with: 1, or less where steps with prompts run faster."""
    base, growth = numbers[at.SLOW_BASE], numbers[at.SLOW_GROWTH]
    return float(max(0.0, min(1.0, base, base + growth)))


@dataclass(frozen=True, slots=True)
class _Staircase:
    """Kernel time of a table of operators at its knots; the first is one token."""

    knots: Floats
    kernel_s: Floats

    @classmethod
    def of_tokens(cls, table: OperatorTable) -> _Staircase:
        kernel_s = table.totals_s[1:, 0]
        return cls(token_knots(len(kernel_s)), kernel_s)

    def nothing(self) -> _Staircase:
        return _Staircase(self.knots, np.zeros_like(self.kernel_s))

    @property
    def least_s(self) -> float:
        """The cheapest step."""
        return float(self.kernel_s.min())

    def lines(self, numbers: Floats) -> list[Line]:
        """Return lines a + b n, a and b not below 0, under the kernel time of every step of n tokens with prompts."""
        base, growth, half = (float(numbers[i]) for i in (at.SLOW_BASE, at.SLOW_GROWTH, at.SLOW_HALF_TOKENS))
        share = np.where(self.knots + half > 0.0, self.knots / np.maximum(self.knots + half, 1e-300), 1.0)
        first, last = base + growth * share, base + growth
        factor = np.maximum(np.minimum(first, np.maximum(last, 0.0) if growth < 0.0 else first), 0.0)
        return self.lines_of(factor)

    def lines_of(self, factor: Floats | float) -> list[Line]:
        """Return such lines where kernels take at least `factor` times their time, from each knot to the next."""
        ends = np.append(self.knots[1:], self.knots[-1])
        between = np.minimum(self.kernel_s, np.append(self.kernel_s[1:], self.kernel_s[-1])) * factor
        below = np.minimum.accumulate(between[::-1])[::-1]
        return _lower_lines(ends, below)


def _all_lines(own: _Staircase, joint: _Staircase | None, n_ranks: int, factor: float) -> list[Line]:
    """Return lines under the kernel time of any step against an equal share of its tokens for each rank.

    The largest rank has no fewer; what ranks do together takes at least its best rate for the tokens of all.
    """
    rate = factor * _least_rate(joint.kernel_s, joint.knots) * n_ranks if joint else 0.0
    return [(a, b + rate) for a, b in own.lines_of(factor)]


def token_knots(n: int) -> Floats:
    """Return the token counts of a table with `n` rows from one token on."""
    most = n if n <= DENSE_TOKENS else min(DENSE_TOKENS + (n - DENSE_TOKENS) * TILE_TOKENS // 3, TILED_TOKENS)
    beyond = max(0, n - len(knots(TILED_TOKENS)) + 1)
    return knots(most + beyond * COARSE_TOKENS)[1:]


def _lower_lines(n: Floats, value_s: Floats) -> list[Line]:
    """Return the lines of the lower convex hull of points, those through the first and through the origin included."""
    hull: list[tuple[float, float]] = []
    for x, y in zip(n.tolist(), value_s.tolist(), strict=True):
        if hull and hull[-1][0] == x:
            y = min(y, hull.pop()[1])
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], (x, y)):
            hull.pop()
        hull.append((x, y))
    lines = [(float(value_s.min()), 0.0), (0.0, float((value_s / n).min()))]
    for left, right in pairwise(hull):
        slope = _slope(left, right)
        start = left[1] - slope * left[0]
        if slope > 0.0 and start > 0.0:
            lines.append((start, slope))
    return lines


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])


def _least_rate(kernel_s: Floats, n: Floats | None = None) -> float:
    """Return the least time per unit; between knots a line's ratio to its size lies between those at its ends."""
    if not kernel_s.size:
        return 0.0
    sizes = np.arange(1.0, len(kernel_s) + 1) if n is None else n
    return float((kernel_s / sizes).min())


def _decode_floor(table: DecodeTable, max_keys: int) -> Floats:
    """Return the least time of a decode launch that reads at least 0, 1, 2 ... `max_keys` keys."""
    contexts, kernel_s = table.contexts, table.prices_s[:, :, 0]
    n_rows, n_knots = kernel_s.shape
    least = np.minimum.accumulate(kernel_s[:, ::-1], axis=1)[:, ::-1]
    most = int(min(max_keys, contexts[-1]))
    steps = np.ceil(np.log(max(most, 2)) / np.log(_KEY_RATIO))
    grid = np.unique(np.floor(_KEY_RATIO ** np.arange(steps + 1))).clip(1, most)
    rows = np.arange(n_rows)[:, None]
    mean = np.maximum(grid[None, :] / (rows + 1.0), contexts[0])
    knot = np.clip(np.searchsorted(contexts, mean, side="right") - 1, 0, n_knots - 2)
    share = (mean - contexts[knot]) / (contexts[knot + 1] - contexts[knot])
    here = kernel_s[rows, knot] * (1.0 - share) + kernel_s[rows, knot + 1] * share
    value = np.minimum(here, least[rows, knot + 1]).min(axis=0)
    keys = np.arange(max_keys + 1)
    floor: Floats = value[np.clip(np.searchsorted(grid, keys, side="right") - 1, 0, len(grid) - 1)]
    return floor


def _key_s(table: DecodeTable) -> float:
    """Return the least time of a decode launch for each key that it reads."""
    keys = np.arange(1.0, len(table.prices_s) + 1)[:, None] * table.contexts[None, :]
    return float((table.prices_s[:, :, 0] / keys).min())


def _pair_s(table: PrefillTable) -> float:
    """Return the least time of a prefill launch for each (query, key) pair.

    Pairs are convex in each of sequences, queries and past, so that those between knots are no more than the price's
    interpolation makes of those at the knots.
    """
    knots = table.knots
    rows = np.diff(knots.first_row, append=len(table.prices_s))
    sequences = np.repeat(knots.sequences, rows)[:, None]
    queries = np.concatenate([knots.queries[:n] for n in rows])[:, None]
    pairs = uniform_work(sequences, queries, knots.past[None, :], table.window).pairs
    least = float((table.prices_s[:, :, 0] / pairs).min())
    return least * min(1.0, float(table.key_factor[..., 0].min()))


def _token_j(stage: StageModel) -> float:
    """Return the least energy of a token beyond active power, of each device, where the power limit leaves it."""
    numbers, totals = stage.tables.scalars, stage.tokens.totals_s[1:]
    sizes = token_knots(len(totals))
    work_j = (
        totals[:, 1] * numbers[at.COMPUTE_W]
        + totals[:, 2] * numbers[at.MEMORY_W]
        + totals[:, 3] * numbers[at.NETWORK_W]
    )
    room_j = max(0.0, numbers[at.RANGE_W] - numbers[at.ACTIVE_W]) * totals[:, 0] * _least_factor(numbers)
    own_j = numbers[at.TOKEN_J] * numbers[at.MODEL_SHARE_FRAC]
    if stage.spread_s is not None or stage.joint:
        return 0.0
    return float(np.minimum(work_j / sizes + own_j, room_j / sizes).min())
