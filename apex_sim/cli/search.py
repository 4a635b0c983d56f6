"""`apex-sim search`: which plan is best?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from apex_sim.cli import run_flags
from apex_sim.cli.output import (
    DEFAULT_FOLDER,
    choose_folder,
    file_name,
    print_json,
    progress_bar,
    stdout_console,
    write_files,
)
from apex_sim.cli.study_flags import StudyCommand, study_of, with_study_flags
from apex_sim.errors import NoAnswerError
from apex_sim.report.strict_json import json_text

_FILES = ("report.html", "plans.csv", "result.json")
_EPILOG = """\b
Examples:
  apex-sim search quickstart
  apex-sim search quickstart --rate 8 --slo ttft_p99_s=1
  apex-sim search --model llama-3.1-8b --cluster 2xh100-sxm --workload chat
  apex-sim search my-study.toml --json | jq '.plans[0].plan.label'
"""


@click.command("search", cls=StudyCommand, epilog=_EPILOG)
@with_study_flags
@run_flags.JOBS
@run_flags.CHECK
@run_flags.REFERENCE
@run_flags.STRICT
@run_flags.OUT
@run_flags.NO_FILES
@run_flags.JSON
def search_command(
    study: str | None,
    jobs: int | None,
    check: bool,
    reference: bool,
    strict: bool,
    out: Path | None,
    no_files: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Simulate every plan and rank them.

    STUDY is a name of the catalogue (folder search/) or a TOML file. Flags override it; without it, --model, --cluster
    and --workload state the question. Files: report.html, plans.csv and result.json.
    """
    from apex_sim.planner.answer import answer_study
    from apex_sim.report.document import search_document

    question = study_of(study, flags)
    default = DEFAULT_FOLDER / file_name(question.name)
    folder = choose_folder(out, no_files=no_files, as_json=as_json, default=default, names=_FILES)
    with progress_bar("Simulating plans") as progress:
        result = answer_study(question, n_jobs=jobs, progress=progress, check=check, reference=reference, strict=strict)
    document = search_document(result)
    if folder:
        from apex_sim.report.csv_text import search_csv
        from apex_sim.report.page import search_page

        texts = (search_page(result), search_csv(result), json_text(document))
        write_files(folder, dict(zip(_FILES, texts, strict=True)))
    if as_json:
        print_json(document)
    else:
        from apex_sim.report.table import print_search

        print_search(result, stdout_console())
    if folder:
        click.echo(f"Wrote {', '.join(_FILES)} to {folder}", err=True)
    if result.problem:
        raise NoAnswerError(result.problem)
