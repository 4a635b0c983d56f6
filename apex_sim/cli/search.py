"""`apex-sim search`: which plan is best?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

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
_INTERRUPTED: Final = 130
_EPILOG = """\b
Examples:
  apex-sim search quickstart
  apex-sim search quickstart --rate 8 --slo ttft_p99_s=1
  apex-sim search --model llama-3.1-8b --cluster 2xh100-sxm --workload chat
  apex-sim search quickstart --cells --max-num-seqs-of 64,256 --gap 2%
  apex-sim search my-study.toml --json | jq '.plans[0].plan.label'
"""


@click.command("search", cls=StudyCommand, epilog=_EPILOG)
@with_study_flags
@run_flags.GAP
@run_flags.EXHAUSTIVE
@run_flags.JOBS
@run_flags.DASK
@run_flags.JOB_TIMEOUT
@run_flags.STORE
@run_flags.LOG_JOBS
@run_flags.CHECK
@run_flags.REFERENCE
@run_flags.STRICT
@run_flags.OUT
@run_flags.NO_FILES
@run_flags.JSON
def search_command(
    study: str | None,
    gap: float | None,
    exhaustive: bool,
    jobs: int | None,
    dask: str | None,
    item_timeout_s: float | None,
    store: Path | None,
    log_jobs: bool,
    check: bool,
    reference: bool,
    strict: bool,
    out: Path | None,
    no_files: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Find the best plan, and say how far from the best possible it can be.

    Small spaces are simulated whole. In larger ones bounds, the first requests and the whole workload decide in turn,
    until no plan can be better by more than 5 %, or a tenth of the plans has been simulated whole.

    STUDY is a name of the catalogue (folder search/) or a TOML file. Flags override it; without it, --model, --cluster
    and --workload state the question. Files: report.html, plans.csv and result.json.
    """
    from apex_sim.planner.answer import answer_study
    from apex_sim.planner.effort import Effort
    from apex_sim.report.document import search_document

    if exhaustive and gap is not None:
        raise click.UsageError("--gap and --exhaustive exclude each other.")
    question = study_of(study, flags)
    default = DEFAULT_FOLDER / file_name(question.name)
    folder = choose_folder(out, no_files=no_files, as_json=as_json, default=default, names=_FILES)
    with progress_bar("Simulating plans") as progress:
        result = answer_study(
            question,
            n_jobs=jobs,
            progress=progress,
            check=check,
            reference=reference,
            strict=strict,
            effort=Effort(gap_frac=gap, exhaustive=exhaustive),
            dask=dask,
            store=store,
            item_timeout_s=item_timeout_s,
            log=_log if log_jobs and store else None,
        )
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
    if result.interrupted:
        click.echo("Interrupted: this is the best so far.", err=True)
        raise click.exceptions.Exit(_INTERRUPTED)
    if result.problem:
        raise NoAnswerError(result.problem)


def _log(text: str) -> None:
    click.echo(f"apex-sim: {text}", err=True)
