"""How sure is it that one plan beats another?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from apex_sim.metrics.definitions import MetricDefinition
from apex_sim.planner.evaluation import Evaluation
from apex_sim.planner.ranking import is_answer
from apex_sim.truth.error_bar import below_probability, is_coin_toss, terms_of
from apex_sim.truth.validated import load_validated

#: Every plan is compared with so many of the best.
N_LEADERS: Final = 5

#: By label of another plan: the probability that this one is better in truth.
Beats = dict[str, float]


def beats_of(plans: Sequence[Evaluation], objective: MetricDefinition) -> tuple[Beats, ...]:
    """Return for each of the ranked plans how probably it beats each of the leaders on the objective.

    Only plans that keep up with the load and all limits are compared; others, and objectives without an interval, have
    no entry.
    """
    leaders = [plan for plan in plans[:N_LEADERS] if is_answer(plan)]
    found = []
    for plan in plans:
        rivals = [leader for leader in leaders if leader is not plan] if is_answer(plan) else []
        chances = {rival.plan.label: beats_probability(plan, rival, objective) for rival in rivals}
        found.append({label: chance for label, chance in chances.items() if chance is not None})
    return tuple(found)


def beats_probability(mine: Evaluation, other: Evaluation, objective: MetricDefinition) -> float | None:
    """Return the probability that `mine` is better than `other` in truth; None if the objective has no interval."""
    name, validated = objective.name, load_validated()
    figures = []
    for plan in (mine, other):
        terms = terms_of(plan.spread, name, validated) if plan.spread else None
        value = plan.metrics[name]
        if terms is None or not value:
            return None
        figures.append((value, terms))
    below = below_probability(*figures)
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
