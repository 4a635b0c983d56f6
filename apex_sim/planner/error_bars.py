"""How sure is it that one plan beats another?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from apex_sim.metrics.definitions import MetricDefinition
from apex_sim.planner.evaluation import Evaluation
from apex_sim.planner.ranking import is_answer
from apex_sim.truth.error_bar import Terms, below_probability, is_coin_toss, terms_of
from apex_sim.truth.validated import load_validated

#: Every plan is compared with so many of the best.
N_LEADERS: Final = 5

Figure = tuple[float, Terms]
#: By label of another plan: the probability that this one is better in truth.
Beats = dict[str, float]


def beats_of(plans: Sequence[Evaluation], objective: MetricDefinition) -> tuple[Beats, ...]:
    """Return for each of the ranked plans how probably it beats each of the leaders on the objective.

    Only plans that keep up with the load and all limits are compared; others, and objectives without an interval, have
    no entry.
    """
    figures = [_figure(plan, objective.name) if is_answer(plan) else None for plan in plans]
    leaders = list(zip(plans, figures, strict=True))[:N_LEADERS]
    found = []
    for plan, figure in zip(plans, figures, strict=True):
        chances = {
            leader.plan.label: _probability(figure, rival, objective) for leader, rival in leaders if leader is not plan
        }
        found.append({label: chance for label, chance in chances.items() if chance is not None})
    return tuple(found)


def beats_probability(mine: Evaluation, other: Evaluation, objective: MetricDefinition) -> float | None:
    """Return the probability that `mine` is better than `other` in truth; None if the objective has no interval."""
    figures = _figure(mine, objective.name), _figure(other, objective.name)
    return _probability(*figures, objective)


def _figure(plan: Evaluation, name: str) -> Figure | None:
    value = plan.metrics[name]
    if plan.spread is None or not value:
        return None
    terms = terms_of(plan.spread, name, load_validated().scales(plan.spread.footing))
    return (value, terms) if terms else None


def _probability(mine: Figure | None, other: Figure | None, objective: MetricDefinition) -> float | None:
    if mine is None or other is None:
        return None
    below = below_probability(mine, other)
    return below if objective.better == "lower" else 1.0 - below


def coin_tosses(plans: Sequence[Evaluation], beats: Sequence[Beats]) -> tuple[str, ...]:
    """Return the labels of the plans that cannot be told from the best."""
    if not plans:
        return ()
    best = plans[0].plan.label
    return tuple(
        plan.plan.label
        for plan, chances in zip(plans[1:], beats[1:], strict=True)
        if best in chances and is_coin_toss(chances[best])
    )
