"""How wide is the error bar of each metric of a plan, what is it made of, and which of two plans is better?

A metric's log error is a sum of normal terms that plans share: one for each operator's price, one for each block of
requests, one for the engine and one for the engine under one layout.  Sums of normal terms need no draws: the
probability that one plan beats another follows from the difference of their terms.  That is the limit of common random
numbers for many draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from apex_sim.truth.footing import Footing, footing_of
from apex_sim.truth.metric_class import class_of
from apex_sim.truth.operator_error import ErrorTerm, TypicalLoad, phase_errors, total_log_sd
from apex_sim.truth.request_blocks import Floats, block_deviations
from apex_sim.truth.response import Response, Served, responses
from apex_sim.truth.validated import Z_80, Scales, Validated

LEVEL: Final = 0.80
#: A choice whose better plan wins less often than this, and more often than the complement, is a coin toss.
TIE: Final = (0.2, 0.8)
#: No choice is surer than this: of choices on measured servers that normal tails gave more, 1 to 3 % were lost
#: (docs/intervals.md).
_SUREST: Final = 0.99
#: No prediction is better known than this.
_LEAST_LOG_SD: Final = 0.002


@dataclass(frozen=True, slots=True)
class Spread:
    """What moves a plan's metrics: by metric, log deviations for one standard deviation of each term.

    `prompt` and `decode` are the errors of a step's kernel time by operator, `response` what metrics make of them.
    """

    footing: Footing
    prompt: Mapping[ErrorTerm, float]
    decode: Mapping[ErrorTerm, float]
    response: Mapping[str, Response]
    blocks: Mapping[str, Floats] = field(default_factory=dict)

    def cost(self, name: str) -> dict[ErrorTerm, float]:
        """Return the log deviation of metric `name` for each operator's error."""
        answer = self.response[name]
        return {
            term: answer.prompt * self.prompt.get(term, 0.0) + answer.decode * self.decode.get(term, 0.0)
            for term in {**self.prompt, **self.decode}
        }


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of one metric: bounds, level, and the half-width of each part and of all, as fractions.

    A half-width h says that the part alone would reach from 1 / (1 + h) to 1 + h times the figure; parts add up in
    squares of their logs.
    """

    low: float
    high: float
    level: float
    cost_model_frac: float
    workload_frac: float
    preset_frac: float
    total_frac: float


@dataclass(frozen=True, slots=True)
class Terms:
    """The independent normal terms of one metric's log error, those that plans share by name."""

    shared: Mapping[tuple[str, ...], float]
    cost_log_sd: float
    workload_log_sd: float
    preset_log_sd: float

    @property
    def log_sd(self) -> float:
        """The standard deviation of the sum."""
        return math.sqrt(self.cost_log_sd**2 + self.workload_log_sd**2 + self.preset_log_sd**2)


def spread_of(served: Served, *, drawn: bool = True) -> Spread:
    """Return what moves the metrics of a plan that was simulated.

    Parameters
    ----------
    drawn : the requests stand for others like them; else they are the very ones that are asked about.
    """
    run = served.run
    footing = footing_of(served.model, served.workload, run)
    requests, n_instances = run.requests, run.plan.n_instances
    decode_s = float(np.nansum(requests.finish_s - requests.first_token_s))
    load = TypicalLoad(
        prompt_tokens=max(1, round(float(requests.prompt_tokens.mean()))),
        output_tokens=max(1, round(float(requests.output_tokens.mean()))),
        n_decode=max(1, round(decode_s / run.makespan_s / n_instances)) if run.makespan_s else 1,
    )
    prompt: dict[ErrorTerm, float] = {}
    decode: dict[ErrorTerm, float] = {}
    for shape, count in run.plan.instances:
        weight = count * shape.n_devices / run.plan.n_devices
        for total, part in zip((prompt, decode), phase_errors(served.compiled[shape][1], load), strict=True):
            for term, value in part.items():
                total[term] = total.get(term, 0.0) + weight * value
    blocks = block_deviations(run, served.workload.load, served.slo) if drawn else {}
    return Spread(footing, prompt, decode, responses(served), blocks)


def terms_of(spread: Spread, name: str, scales: Scales) -> Terms | None:
    """Return the terms of one metric's log error; None if it has no interval.

    A served check has seen prices and engine together: its error S is split into what kernel prices were expected to
    contribute, at most half of its variance, and the engine's own rest.  Only where prices are less sure than those of
    the checked servers does their excess come on top.  Throughput that answers to the pace of steps with a gain G below
    1 (the plan keeps up with its load) takes that share of S; where G is above 1 (a queue grows) the error of the pace
    is amplified.
    """
    kind = class_of(name)
    if kind is None or name not in spread.response:
        return None
    gain = 1.0 if kind == "energy" else abs(spread.response[name].gain)
    share, excess = min(1.0, gain) if kind == "throughput" else 1.0, max(0.0, gain - 1.0)
    scale, pace = scales[kind], scales["pace"]
    served = max(math.hypot(scale.log_sd * share, pace.log_sd * excess), _LEAST_LOG_SD)
    cost = spread.cost(name)
    expected = total_log_sd(cost)
    usual = scale.cost_log_sd * (share + excess)
    within = min(expected, usual, served / math.sqrt(2.0))
    cost_log_sd = scale.stretch * math.sqrt(max(0.0, expected**2 - usual**2) + within**2)
    preset_log_sd = scale.stretch * math.sqrt(served**2 - within**2)
    blocks = spread.blocks.get(name, np.zeros(0))
    footing = spread.footing
    own = math.sqrt(scale.layout_share) * preset_log_sd
    ratio = cost_log_sd / expected if expected else 0.0
    shared: dict[tuple[str, ...], float] = {("operator", *term): ratio * value for term, value in cost.items()}
    shared |= {("block", str(index)): value for index, value in enumerate(blocks.tolist())}
    shared[("engine", footing.preset, footing.device, footing.model)] = math.sqrt(preset_log_sd**2 - own**2)
    shared[("layout", footing.preset, footing.device, footing.model, footing.layout)] = own
    return Terms(shared, cost_log_sd, math.sqrt(float(blocks @ blocks)), preset_log_sd)


def interval_of(value: float, terms: Terms, *, most: float = math.inf) -> Interval:
    """Return the interval around `value`, which no truth exceeds `most` of."""

    def half(log_sd: float) -> float:
        return math.expm1(min(Z_80 * log_sd, 50.0))

    factor = 1.0 + half(terms.log_sd)
    return Interval(
        low=value / factor,
        high=min(value * factor, most),
        level=LEVEL,
        cost_model_frac=half(terms.cost_log_sd),
        workload_frac=half(terms.workload_log_sd),
        preset_frac=half(terms.preset_log_sd),
        total_frac=half(terms.log_sd),
    )


def intervals_of(metrics: Mapping[str, float | None], spread: Spread, validated: Validated) -> dict[str, Interval]:
    """Return the interval of each metric that has one."""
    found, scales = {}, validated.scales(spread.footing)
    for name in spread.response:
        value, terms = metrics.get(name), terms_of(spread, name, scales)
        if value and terms:
            found[name] = interval_of(value, terms, most=1.0 if name.endswith("_frac") else math.inf)
    return found


def below_probability(mine: tuple[float, Terms], other: tuple[float, Terms]) -> float:
    """Return the probability that the first of two figures is the smaller one in truth.

    Examples
    --------
    >>> terms = Terms({("layout", "a"): 0.1}, 0.0, 0.0, 0.1)
    >>> below_probability((1.0, terms), (1.0, terms))
    0.5
    """
    keys = {**mine[1].shared, **other[1].shared}
    variance = sum((mine[1].shared.get(key, 0.0) - other[1].shared.get(key, 0.0)) ** 2 for key in keys)
    lead = math.log(other[0] / mine[0])
    if variance == 0.0:
        return 0.5 + math.copysign(_SUREST - 0.5, lead) if lead else 0.5
    return 0.5 + (_SUREST - 0.5) * math.erf(lead / math.sqrt(2.0 * variance))


def is_coin_toss(probability: float) -> bool:
    """Return whether a probability of winning says too little to choose by.

    Examples
    --------
    >>> is_coin_toss(0.65), is_coin_toss(0.95)
    (True, False)
    """
    return TIE[0] < probability < TIE[1]
