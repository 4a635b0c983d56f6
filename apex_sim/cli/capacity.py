"""`apex-sim capacity`: how much traffic can a plan take within the limits?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from apex_sim.cli import run_flags
from apex_sim.cli.chosen_plan import PLAN, named_plans
from apex_sim.cli.output import print_columns, print_json, print_wrapped
from apex_sim.cli.study_flags import StudyCommand, study_of, with_study_flags
from apex_sim.cli.values import PositiveNumber
from apex_sim.errors import NoAnswerError

if TYPE_CHECKING:
    from apex_sim.planner.capacity import Capacity
    from apex_sim.planner.study import Study

_EPILOG = """\b
Examples:
  apex-sim capacity quickstart
  apex-sim capacity quickstart --plan 'DP1 TP8 PP1 fp8' --draws 10
  apex-sim capacity quickstart --share 0.95
"""


@click.command("capacity", cls=StudyCommand, epilog=_EPILOG)
@with_study_flags
@PLAN
@click.option(
    "--plans",
    "n_plans",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="So many of the plans that take the most, without --plan.",
)
@click.option(
    "--draws",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="Draws of the load that must agree; parts of a trace.",
)
@click.option(
    "--share",
    type=PositiveNumber(),
    metavar="FRAC",
    help="Judge by the share of requests within all limits, such as 0.95, instead of the limits' statistics.",
)
@run_flags.JSON
def capacity_command(
    study: str | None,
    labels: tuple[str, ...],
    n_plans: int,
    draws: int,
    share: float | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Find the highest rate that a plan keeps up with.

    STUDY and flags as in 'apex-sim search'; the load needs a rate. The answer is an interval: up to its lower end every
    draw of the load keeps every limit, from its upper end on none does. Without limits, the backlog must not grow.
    """
    from apex_sim.planner.capacity import highest_rate, highest_rates
    from apex_sim.report.document import SCHEMA_VERSION, json_safe, study_document

    question = study_of(study, flags)
    if labels:
        plans = named_plans(question, labels)
        found = tuple(highest_rate(question, plan, n_draws=draws, share_frac=share) for plan in plans)
    else:
        found = highest_rates(question, n_plans=n_plans, n_draws=draws, share_frac=share)
    if as_json:
        plans_found = [each.as_dict() for each in found]
        document = {"schema_version": SCHEMA_VERSION, "study": study_document(question), "plans": plans_found}
        print_json(json_safe(document))
    else:
        _print_capacities(question, found)
    if all(each.keeps_per_s is None for each in found):
        raise NoAnswerError(f"no plan keeps every limit at any rate: {found[0].judgements[0].verdict}")


def _print_capacities(study: Study, found: tuple[Capacity, ...]) -> None:
    from apex_sim.report.quantity import limit_text, number

    click.echo(study.title)
    click.echo()
    limits = ", ".join(limit_text(name, limit) for name, limit in study.slo.limits)
    print_wrapped(
        f"Requests per second within {limits}." if limits else "Requests per second without a growing backlog."
    )
    click.echo()
    columns = ("plan", "keeps", "fails", "saturates", "$/h", "breaks first")
    rows = [
        (
            each.plan.label,
            number(each.keeps_per_s),
            number(each.fails_per_s),
            number(each.estimate_per_s),
            number(each.usd_per_h),
            each.breaks or "-",
        )
        for each in found
    ]
    print_columns(columns, rows, right=columns[1:5])
    click.echo()
    print_wrapped(
        f"keeps: each of {found[0].n_draws} draws keeps every limit; fails: none does; {found[0].confidence}. "
        f"saturates: closed form, without limits. The study offers {number(found[0].offered_per_s)} per second."
    )
    for each in found:
        for note in each.notes:
            print_wrapped(f"{each.plan.label}: {note}.")
