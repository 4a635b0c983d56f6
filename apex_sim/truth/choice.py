"""Do the probabilities of one plan beating another hold on measured servers?

Pairs of layouts of one model that a source served with one engine under one load: the plan that is predicted to be
better was, or was not.  The source itself gives neither errors nor the stretch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from apex_sim.metrics.definitions import METRICS
from apex_sim.truth.error_bar import Terms, below_probability, terms_of
from apex_sim.truth.validated import Validated
from apex_sim.truth.validated_fit import CaseError

#: Lower ends of the ranges of probability that are reported.
BINS: Final = (0.5, 0.65, 0.8, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class ChoiceBin:
    """Pairs whose predicted winner was given a probability in a range: how many, its mean, and how often it won."""

    least: float
    n: int
    probability: float
    won_frac: float


def choices_of(errors: Sequence[CaseError], validated: Validated) -> tuple[ChoiceBin, ...]:
    """Return how often predicted winners won, by predicted probability."""
    loads = defaultdict[tuple[str, ...], dict[str, tuple[CaseError, Terms]]](dict)
    known = {source: validated.without(source) for source in {error.case.source for error in errors}}
    for error in errors:
        ground, case = error.spread.footing, error.case
        terms = terms_of(error.spread, error.name, known[case.source].scales(ground))
        if terms:
            key = (
                case.source,
                case.engine_version,
                ground.preset,
                ground.device,
                ground.model,
                ground.load,
                error.name,
            )
            loads[key].setdefault(ground.layout, (error, terms))
    outcomes = [_outcome(*pair) for layouts in loads.values() for pair in combinations(layouts.values(), 2)]
    found = []
    for least, beyond in zip(BINS, (*BINS[1:], 1.1), strict=True):
        mine = [(chance, won) for chance, won in outcomes if least <= chance < beyond]
        if mine:
            chances, wins = zip(*mine, strict=True)
            found.append(ChoiceBin(least, len(mine), sum(chances) / len(mine), sum(wins) / len(mine)))
    return tuple(found)


def _outcome(mine: tuple[CaseError, Terms], other: tuple[CaseError, Terms]) -> tuple[float, bool]:
    """Return the probability of the predicted winner, and whether it won."""
    name = mine[0].name
    predicted = [float(error.case.predicted[name] or 0.0) for error, _ in (mine, other)]
    measured = [error.case.measured[name] for error, _ in (mine, other)]
    below = below_probability((predicted[0], mine[1]), (predicted[1], other[1]))
    lower_wins = METRICS[name].better == "lower"
    chance = below if lower_wins else 1.0 - below
    won = (measured[0] < measured[1]) is lower_wins
    return (chance, won) if chance >= 0.5 else (1.0 - chance, not won)
