"""`apex-sim simulate`: what happens under one given plan?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from apex_sim.cli import run_flags
from apex_sim.cli.output import (
    DEFAULT_FOLDER,
    choose_folder,
    file_name,
    print_json,
    stdout_console,
    write_files,
)
from apex_sim.cli.study_flags import StudyCommand, study_of, with_study_flags
from apex_sim.report.strict_json import json_text

if TYPE_CHECKING:
    from apex_sim.planner.space import Space

_FILES = ("report.html", "requests.csv", "series.csv", "result.json")
_EPILOG = """\b
Examples:
  apex-sim simulate quickstart --tp 8 --pp 1 --dp 1 --weight-dtype fp8
  apex-sim simulate quickstart --tp 2 --layers 19,20,20,21 --dp 1 \\
      --weight-dtype bf16
  apex-sim simulate --model llama-3.1-8b --cluster 1xh100-sxm \\
      --workload chat --concurrency 32
"""


@click.command("simulate", cls=StudyCommand, epilog=_EPILOG)
@with_study_flags
@run_flags.CHECK
@run_flags.REFERENCE
@run_flags.STRICT
@run_flags.OUT
@run_flags.NO_FILES
@run_flags.JSON
def simulate_command(
    study: str | None,
    check: bool,
    reference: bool,
    strict: bool,
    out: Path | None,
    no_files: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Simulate one plan, request by request.

    STUDY and flags as in 'apex-sim search'; together they must leave one plan. Files: report.html, requests.csv,
    series.csv (queue, batch, KV cache and power over time) and result.json, by default in ./apex-sim-out/STUDY/PLAN.
    """
    from apex_sim.planner.simulation import simulate_study
    from apex_sim.planner.space import enumerate_space
    from apex_sim.report.document import simulation_document

    question = study_of(study, flags)
    space = enumerate_space(question)
    _require_one_plan(space)
    (plan,) = space.feasible or (space.infeasible[0].plan,)
    default = DEFAULT_FOLDER / file_name(question.name) / file_name(plan.label)
    folder = choose_folder(out, no_files=no_files, as_json=as_json, default=default, names=_FILES)
    simulation = simulate_study(question, check=check, reference=reference, strict=strict)
    document = simulation_document(simulation)
    if folder:
        from apex_sim.report.csv_text import series_csv, simulation_csv
        from apex_sim.report.page import simulation_page

        texts = (
            simulation_page(simulation),
            simulation_csv(simulation),
            series_csv(simulation),
            json_text(document),
        )
        write_files(folder, dict(zip(_FILES, texts, strict=True)))
    if as_json:
        print_json(document)
    else:
        from apex_sim.report.table import print_simulation

        print_simulation(simulation, stdout_console())
    if folder:
        click.echo(f"Wrote {', '.join(_FILES)} to {folder}", err=True)


def _require_one_plan(space: Space) -> None:
    """Refuse a space of several plans, naming the flags that leave a choice."""
    plans = [*space.feasible, *(refusal.plan for refusal in space.infeasible)]
    if len(plans) == 1:
        return
    values: dict[str, set[Any]] = {
        "--tp": {shape.tp for plan in plans for shape, _ in plan.instances},
        "--pp": {shape.pp for plan in plans for shape, _ in plan.instances},
        "--attention-dp": {shape.attention_dp for plan in plans for shape, _ in plan.instances},
        "--dp": {plan.n_instances for plan in plans},
        "--weight-dtype": {shape.precision.weight for plan in plans for shape, _ in plan.instances},
        "--kv-dtype": {shape.precision.kv for plan in plans for shape, _ in plan.instances},
    }
    missing = [flag for flag, found in values.items() if len(found) > 1]
    raise click.UsageError(
        f"The space holds {len(plans)} plans, and a simulation takes one. State one value for {', '.join(missing)}."
    )
