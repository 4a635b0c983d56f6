"""`apex-sim calibrate`: what do my own benchmark runs say about my server?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from apex_sim.cli import completion, run_flags
from apex_sim.cli.output import DEFAULT_FOLDER, print_columns, print_json, progress_bar
from apex_sim.cli.values import PositiveNumber

if TYPE_CHECKING:
    from apex_sim.truth.calibration.server_calibration import Calibration

_DEFAULT: Final = DEFAULT_FOLDER / "calibration.toml"
_COUNT: Final = click.IntRange(min=1)
_EPILOG: Final = """\b
Examples:
  apex-sim calibrate bench.json --engine vllm --engine-version 0.13.0 \\
      --model gpt-oss-120b --device h200-sxm --tp 2
  apex-sim calibrate load-*.jsonl --server server.toml --engine-log vllm.log
  apex-sim calibrate cases.csv --case my-16 --case my-64 --out mine.toml
  apex-sim simulate my-study.toml --profile mine.toml

docs/calibrate.md has the method, the priors and the limits.
"""

#: Flags of the server; each is named after its key in a server's TOML file.
_SERVER_FLAGS: Final = (
    click.option("--engine", metavar="NAME", help="vllm, sglang or trtllm."),
    click.option("--engine-version", metavar="VERSION", help="Such as 0.13.0."),
    click.option("--model", metavar="NAME", shell_complete=completion.complete_model, help="Name of the catalogue."),
    click.option("--device", metavar="NAME", shell_complete=completion.complete_hardware, help="Such as h200-sxm."),
    click.option("--tp", type=_COUNT, metavar="N", help="Tensor parallelism."),
    click.option("--pp", type=_COUNT, metavar="N", help="Pipeline stages."),
    click.option("--dp", type=_COUNT, metavar="N", help="Instances behind one address."),
    click.option("--weight-dtype", metavar="DTYPE", help="Else the checkpoint's own."),
    click.option("--kv-dtype", metavar="DTYPE", help="Else bf16."),
    click.option("--max-model-len", type=_COUNT, metavar="N", help="Else the model's own."),
    click.option("--max-num-seqs", type=_COUNT, metavar="N", help="Else the engine's default."),
    click.option("--max-num-batched-tokens", type=_COUNT, metavar="N", help="Else the engine's default."),
    click.option(
        "--gpu-memory-utilization",
        "gpu_memory_utilization_frac",
        type=PositiveNumber(),
        metavar="SHARE",
        help="Else the engine's default.",
    ),
    click.option("--async-scheduling/--no-async-scheduling", default=None, help="Else the engine's default."),
    click.option(
        "--length-low-frac",
        type=PositiveNumber(),
        metavar="SHARE",
        help="Lengths lie in [SHARE x L, L], where a file gives their mean only; else all are equal.",
    ),
)


def _with_server_flags(command: Any) -> Any:
    for option in reversed(_SERVER_FLAGS):
        command = option(command)
    return command


@click.command("calibrate", epilog=_EPILOG)
@click.argument("runs", metavar="RUNS...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--server", type=click.Path(path_type=Path), metavar="FILE", help="TOML file of the server; flags win.")
@_with_server_flags
@click.option("--engine-log", type=click.Path(path_type=Path), metavar="FILE", help="Log that states the KV cache.")
@click.option("--case", "cases", metavar="ID", multiple=True, help="Only this case of a CSV; repeatable.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help=f"The profile; else ./{_DEFAULT}, with --json none."
)
@click.option("--force", is_flag=True, help="Replace a profile that is there already.")
@run_flags.NO_FILES
@run_flags.JSON
def calibrate_command(
    runs: tuple[Path, ...],
    server: Path | None,
    engine_log: Path | None,
    cases: tuple[str, ...],
    out: Path | None,
    force: bool,
    no_files: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Fit a server's host time and kernel efficiency to its own benchmark runs.

    RUNS are results of vllm bench serve, SGLang bench_serving, GuideLLM or AIPerf, told by their content, or CSV files
    of measured cases. Writes a small profile with intervals and support, for --profile elsewhere, and states the
    errors on what the fit did not see.
    """
    from apex_sim.report.calibration_report import calibration_document
    from apex_sim.truth.calibration.profile_file import require_free, write_profile
    from apex_sim.truth.calibration.server_calibration import calibrate_server
    from apex_sim.truth.calibration.server_file import make_server

    place = _place(out, no_files=no_files, as_json=as_json)
    if place:
        require_free(place, force=force)
    stated = {name: int(value) if isinstance(value, bool) else value for name, value in flags.items()}
    with progress_bar("Simulating runs") as progress:
        calibration = calibrate_server(
            runs, make_server(server, stated), engine_log=engine_log, cases=cases or None, progress=progress
        )
    if place:
        write_profile(calibration.profile, place, force=force)
    if as_json:
        print_json(calibration_document(calibration, str(place) if place else None))
    else:
        _print(calibration)
    if place:
        click.echo(f"Wrote {place}", err=True)


def _place(out: Path | None, *, no_files: bool, as_json: bool) -> Path | None:
    if no_files and out is not None:
        raise click.UsageError("--out and --no-files exclude each other.")
    return None if no_files or (as_json and out is None) else out or _DEFAULT


def _print(calibration: Calibration) -> None:
    from apex_sim.report.calibration_report import TIMES, error_rows, time_rows

    profile, fit = calibration.profile, calibration.fit
    server = profile.server
    plan = f"{server.device}, TP{server.tp} PP{server.pp}"
    title = f"{server.model} {server.weight_dtype} on {plan}: {server.engine} {server.engine_version}"
    click.echo(click.wrap_text(f"{title} (preset {server.preset})", 79) + "\n")
    times = ("times", "x preset", "80 % interval", "prior 80 %", "informed by the data")
    print_columns(times, time_rows(calibration), right=times[1:2])
    one, other, correlation = fit.strongest_correlation()
    if one:
        click.echo(f"\nHardest to tell apart: {TIMES[one]} and {TIMES[other]}, correlation {correlation:+.2f}.")
    click.echo(f"Chi-square {fit.chi_square:.1f} for {fit.n_residuals} figures.\n")
    columns = ("metric", "n", "preset", "profile")
    print_columns(columns, error_rows(calibration.fitted), right=columns[1:], title="Fitted: median |error|")
    click.echo()
    print_columns(columns, error_rows(calibration.check.metrics), right=columns[1:], title="Check: median |error|")
    click.echo(click.wrap_text(f"How: {calibration.check.how}.", 79) + "\n")
    for note in calibration.notes:
        click.echo(click.wrap_text(note, 79, "- ", "  "))
