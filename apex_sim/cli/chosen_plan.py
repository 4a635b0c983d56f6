"""Which plans of a study does a command ask about: those that were named, or the leaders of a search?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from apex_sim.cli.output import progress_bar
from apex_sim.errors import InfeasiblePlanError, NoAnswerError

if TYPE_CHECKING:
    from apex_sim.plan.plan import Plan
    from apex_sim.planner.study import Study

PLAN: Final = click.option(
    "--plan",
    "labels",
    multiple=True,
    metavar="LABEL",
    help="A plan as tables call it, such as 'DP2 TP4 PP1 fp8'; repeatable. Else the leaders of a search.",
)


def leaders_option(default: int) -> Callable[[Any], Any]:
    """Return the flag that says how many leaders are asked about."""
    return click.option(
        "--leaders",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        metavar="N",
        help="So many of the best plans of a search, without --plan.",
    )


def chosen_plans(study: Study, labels: tuple[str, ...], n_leaders: int, jobs: int | None) -> tuple[Plan, ...]:
    """Return the plans called `labels`, or without any the first `n_leaders` of a search.

    Raises
    ------
    UnknownNameError : no such plan in the study's space; with the nearest labels.
    InfeasiblePlanError : a named plan cannot run.
    NoAnswerError : no plan of the space can run.
    """
    if labels:
        return named_plans(study, labels)
    from apex_sim.planner.answer import answer_study

    with progress_bar("Simulating plans") as progress:
        result = answer_study(study, n_jobs=jobs, progress=progress)
    if not result.plans:
        raise NoAnswerError(result.problem)
    return tuple(evaluation.plan for evaluation in result.plans[:n_leaders])


def named_plans(study: Study, labels: tuple[str, ...]) -> tuple[Plan, ...]:
    """Return the plans of the study's space that tables call so; errors as in `chosen_plans`."""
    from apex_sim.planner.space import enumerate_space
    from apex_sim.planner.trial import plan_by_label

    space = enumerate_space(study)
    reasons = {refusal.plan.label: refusal.reason for refusal in space.infeasible}
    every = (*space.feasible, *(refusal.plan for refusal in space.infeasible))
    plans = dict.fromkeys(plan_by_label(every, label, f"study {study.name}, --plan") for label in labels)
    for plan in plans:
        if plan.label in reasons:
            raise InfeasiblePlanError(f"{plan.label}: {reasons[plan.label]}")
    return tuple(plans)
