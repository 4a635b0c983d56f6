"""`apex-sim sensitivity`: which input, if it were another by a tenth, would change the choice?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from apex_sim.cli import run_flags
from apex_sim.cli.chosen_plan import PLAN, chosen_plans, leaders_option
from apex_sim.cli.output import print_columns, print_json, print_wrapped, progress_bar
from apex_sim.cli.study_flags import StudyCommand, study_of, with_study_flags
from apex_sim.cli.values import PositiveNumber

if TYPE_CHECKING:
    from apex_sim.planner.sensitivity import Choice, Sensitivity
    from apex_sim.planner.study import Study

_EPILOG = """\b
Examples:
  apex-sim sensitivity quickstart
  apex-sim sensitivity quickstart --rate 17 --change 0.2
  apex-sim sensitivity quickstart --objective cost --allow-idle
"""


@click.command("sensitivity", cls=StudyCommand, epilog=_EPILOG)
@with_study_flags
@PLAN
@leaders_option(5)
@click.option(
    "--change",
    type=PositiveNumber(),
    default=0.1,
    show_default=True,
    metavar="FRAC",
    help="By how much each input is raised; lowered by the same factor.",
)
@run_flags.JOBS
@run_flags.JSON
def sensitivity_command(
    study: str | None,
    labels: tuple[str, ...],
    leaders: int,
    change: float,
    jobs: int | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Tell which inputs the choice hangs on.

    STUDY and flags as in 'apex-sim search'. The leading plans are simulated again with one input changed at a time:
    traffic, lengths, prices, speeds of the device and its links, host time, memory, limits.
    """
    from apex_sim.planner.sensitivity import sensitivities
    from apex_sim.report.document import SCHEMA_VERSION, json_safe, study_document

    question = study_of(study, flags)
    plans = chosen_plans(question, labels, leaders, jobs)
    with progress_bar("Changing inputs") as progress:
        found = sensitivities(question, plans, factor=1 + change, progress=progress)
    if as_json:
        document = {
            "schema_version": SCHEMA_VERSION,
            "study": study_document(question),
            "leaders": [plan.label for plan in plans],
            "change_frac": change,
            "best": found[0].best,
            "inputs": [each.as_dict() for each in found],
        }
        print_json(json_safe(document))
    else:
        _print_sensitivities(question, found, len(plans), change)


def _print_sensitivities(study: Study, found: tuple[Sensitivity, ...], n_plans: int, change: float) -> None:
    from apex_sim.report.quantity import counted, metric_label

    click.echo(study.title)
    click.echo()
    state = "" if found[0].keeps else ", which keeps not every limit"
    print_wrapped(f"Best of {counted(n_plans, 'leader')}: {found[0].best}{state}.")
    flips = [each.input for each in found if each.flips]
    if flips:
        print_wrapped(f"The choice hangs on: {', '.join(flips)}.", 4)
    else:
        print_wrapped(f"No input changes the choice within a factor of {1 + change:g}.", 4)
    click.echo()
    columns = ("input", "elasticity", f"/ {1 + change:g}", f"x {1 + change:g}")
    rows = [
        (
            each.input,
            "-" if each.elasticity is None else f"{each.elasticity + 0.0:+.2f}" if each.elasticity else "0",
            _choice_words(each, each.down),
            _choice_words(each, each.up),
        )
        for each in found
    ]
    print_columns(columns, rows, right=("elasticity",))
    click.echo()
    print_wrapped(
        f"elasticity: percent by which the {metric_label(study.objective.name)} of {found[0].best} changes for each "
        "percent of the input. Then the best plan with the input lower and higher: '=' if it stays."
    )
    for each in found:
        for lost in dict.fromkeys((*each.down.lost, *each.up.lost)):
            print_wrapped(f"Another {each.input}: {lost}.")


def _choice_words(sensitivity: Sensitivity, choice: Choice) -> str:
    label = "=" if choice.plan == sensitivity.best else choice.plan or "no plan runs"
    if choice.keeps == sensitivity.keeps:
        return label
    return f"{label} (keeps every limit)" if choice.keeps else f"{label} (misses a limit)"
