"""`apex-sim validate`: how far are predictions from measurements?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from apex_sim.cli import run_flags
from apex_sim.cli.completion import complete_cases
from apex_sim.cli.output import choose_folder, print_json, progress_bar, stdout_console, write_files
from apex_sim.report.strict_json import json_text

if TYPE_CHECKING:
    from apex_sim.truth.kernels import CostModelName, KernelValidation
    from apex_sim.truth.validation import Validation

_FILES = ("cases.csv", "errors.csv", "result.json", "index.html", "scatter.svg", "scatter.png")
_KERNEL_FILES = ("errors.md", "worst.csv", "result.json", "kernels.svg", "kernels.png")
_EPILOG = """\b
Examples:
  apex-sim validate serving
  apex-sim validate serving measured.csv --limit 20
  apex-sim validate serving measured.csv --engine vllm --device h100-sxm --out errors
  apex-sim validate serving measured.csv --source mine --json
"""
_KERNEL_EPILOG = """\b
Examples:
  apex-sim validate kernels tables/ --device h100-sxm
  apex-sim validate kernels --operator gemm --cost-model measured
  apex-sim validate kernels profile/comp/gemm.csv --all --out kernel-errors
"""


@click.group("validate", epilog="Example: apex-sim validate serving measured.csv")
def validate_group() -> None:
    """Compare predictions with measurements."""


@validate_group.command("serving", epilog=_EPILOG)
@click.argument("cases", metavar="[CASES]", default="published", shell_complete=complete_cases)
@click.option("--source", "sources", metavar="NAME", multiple=True, help="Only cases of this source; repeatable.")
@click.option("--engine", "engines", metavar="NAME", multiple=True, help="Only cases of this engine; repeatable.")
@click.option("--model", "models", metavar="NAME", multiple=True, help="Only cases of this model; repeatable.")
@click.option("--device", "devices", metavar="NAME", multiple=True, help="Only cases of this device; repeatable.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first so many of these cases.")
@run_flags.JOBS
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Write tables, JSON, page and scatter plots there."
)
@run_flags.JSON
def serving_command(
    cases: str,
    sources: tuple[str, ...],
    engines: tuple[str, ...],
    models: tuple[str, ...],
    devices: tuple[str, ...],
    limit: int | None,
    jobs: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Replay measured serving runs and state the errors.

    CASES is a CSV with one measured run per row; empty cells are the engine's own defaults. Without it, the published
    runs that come with the project are replayed. Errors are signed and relative: (predicted - measured) / measured, by
    source, engine, device, model family, plan and load. Plans that served one load are ranked, and the order compared
    with the measured one. Cases that cannot be replayed are listed with the reason.
    """
    from apex_sim.report.document import validation_document
    from apex_sim.truth.validation import validate_serving

    folder = None if out is None else choose_folder(out, no_files=False, as_json=as_json, default=out, names=_FILES)
    with progress_bar("Replaying cases") as progress:
        validation = validate_serving(
            cases,
            n_jobs=jobs,
            progress=progress,
            limit=limit,
            sources=sources or None,
            engines=engines or None,
            models=models or None,
            devices=devices or None,
        )
    document = validation_document(validation)
    if folder:
        _write_serving(validation, folder, json_text(document))
    if as_json:
        print_json(document)
    else:
        from apex_sim.report.table import print_validation

        print_validation(validation, stdout_console())
    if folder:
        click.echo(f"Wrote {', '.join(_FILES)} to {folder}", err=True)


def _write_serving(validation: Validation, folder: Path, document: str) -> None:
    from apex_sim.report.csv_text import errors_csv, validation_csv
    from apex_sim.report.error_scatter import draw_scatter, scatter_of
    from apex_sim.report.validation_page import errors_page

    svg, png = draw_scatter(scatter_of(validation))
    texts = (validation_csv(validation), errors_csv(validation), document, errors_page(validation), svg)
    write_files(folder, dict(zip(_FILES[:-1], texts, strict=True)))
    (folder / _FILES[-1]).write_bytes(png)


@validate_group.command("kernels", epilog=_KERNEL_EPILOG)
@click.argument("tables", metavar="[TABLES]", required=False, type=click.Path(path_type=Path))
@click.option("--device", "devices", metavar="NAME", multiple=True, help="Only this device; repeatable.")
@click.option("--operator", "operators", metavar="NAME", multiple=True, help="Only this operator; repeatable.")
@click.option("--precision", "precisions", metavar="NAME", multiple=True, help="Only this precision; repeatable.")
@click.option("--engine", metavar="NAME[/VERSION]", help="Only tables of this engine; else those that were fitted.")
@click.option(
    "--held-out/--all", "held_out", default=True, help="Shape families that nothing was fitted to (default), or all."
)
@click.option(
    "--cost-model",
    type=click.Choice(("calibrated", "roofline", "measured")),
    default="calibrated",
    show_default=True,
    help="What predicts.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Write tables, JSON and plots there.")
@run_flags.JSON
def kernels_command(
    tables: Path | None,
    devices: tuple[str, ...],
    operators: tuple[str, ...],
    precisions: tuple[str, ...],
    engine: str | None,
    held_out: bool,
    cost_model: CostModelName,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare predicted with measured kernel times.

    TABLES is a folder of parquet tables in the layout of aiconfigurator-core (without it, that package's own), or a
    profile of apex_plus or Vidur in CSV. Errors are signed and relative: (predicted - measured) / measured.
    """
    from apex_sim.cost.measured.parquet_tables import packaged_folder
    from apex_sim.report.kernel_document import kernel_json
    from apex_sim.truth.kernels import KernelScope, validate_kernels

    names = _KERNEL_FILES
    folder = None if out is None else choose_folder(out, no_files=False, as_json=as_json, default=out, names=names)
    scope = KernelScope(
        devices=devices or None,
        operators=operators or None,
        precisions=precisions or None,
        engine=engine,
        held_out=held_out,
        cost_model=cost_model,
    )
    with progress_bar("Comparing tables") as progress:
        validation = validate_kernels(tables or packaged_folder(), scope, progress)
    document = kernel_json(validation)
    if folder:
        _write_kernels(validation, folder, json_text(document))
    if as_json:
        print_json(document)
    else:
        from apex_sim.report.kernel_table import print_kernel_validation

        print_kernel_validation(validation, stdout_console())
    if folder:
        click.echo(f"Wrote {', '.join(names)} to {folder}", err=True)


def _write_kernels(validation: KernelValidation, folder: Path, document: str) -> None:
    from apex_sim.report.kernel_document import errors_markdown, worst_csv
    from apex_sim.report.kernel_plot import draw_error_lines, kernel_error_lines

    families = "held-out families" if validation.scope.held_out else "all rows"
    title = f"Kernel times, {validation.scope.cost_model} back end, {families}"
    svg, png = draw_error_lines(kernel_error_lines(validation.errors, title))
    texts = (errors_markdown(validation), worst_csv(validation), document, svg)
    write_files(folder, dict(zip(_KERNEL_FILES[:-1], texts, strict=True)))
    (folder / _KERNEL_FILES[-1]).write_bytes(png)
