"""Which flags state a study on the command line, or change one key of a study file?

A flag's parameter is named after its key in the file, with `__` for the dot: `--tp` is `space__tp`.  That name is all
that ties them together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from apex_sim.cli import completion
from apex_sim.cli.output import file_name
from apex_sim.cli.plan_flags import PLAN_FLAGS
from apex_sim.cli.scheduler_flags import SCHEDULER_FLAGS
from apex_sim.cli.values import PositiveNumber, SloLimit, limits_by_metric

if TYPE_CHECKING:
    from apex_sim.planner.study import Study

Command = TypeVar("Command", bound=Callable[..., Any])

OBJECTIVES: Final = ("ttft", "tpot", "itl", "e2e", "throughput", "cost", "energy")
STATISTICS: Final = ("mean", "median", "p90", "p95", "p99")

_COUNT: Final = click.IntRange(min=1)

QUESTION_FLAGS: Final = (
    click.option("--model", metavar="NAME", shell_complete=completion.complete_model, help="Model or config.json."),
    click.option(
        "--cluster",
        metavar="NAME",
        shell_complete=completion.complete_cluster,
        help="Devices, such as 8xh100-sxm or 2x8xh100-sxm.",
    ),
    click.option(
        "--workload",
        metavar="NAME",
        shell_complete=completion.complete_workload,
        help="Workload or trace file (.toml, .csv, .jsonl).",
    ),
    click.option("--objective", type=click.Choice(OBJECTIVES), metavar="NAME", help=f"{', '.join(OBJECTIVES)}."),
    click.option(
        "--statistic", type=click.Choice(STATISTICS), metavar="NAME", help=f"Of a latency: {', '.join(STATISTICS)}."
    ),
    click.option(
        "--slo",
        type=SloLimit(),
        metavar="METRIC=LIMIT",
        multiple=True,
        callback=limits_by_metric,
        shell_complete=completion.complete_slo,
        help="A limit that the plan must keep, such as ttft_p99_s=2; repeatable.",
    ),
)
COST_MODELS: Final = ("calibrated", "measured", "roofline")
COST_FLAGS: Final = (
    click.option(
        "--cost-model",
        type=click.Choice(COST_MODELS),
        metavar="NAME",
        help=f"{', '.join(COST_MODELS)}; by default the best that the device has.",
    ),
    click.option("--kernel-tables", metavar="FOLDER", help="Measured kernels, for --cost-model measured."),
    click.option("--profile", metavar="FILE", help="What 'apex-sim calibrate' learnt of this very server."),
)
LOAD_FLAGS: Final = (
    click.option("--n-requests", "load__n_requests", type=_COUNT, metavar="N", help="Simulate so many requests."),
    click.option("--rate", "load__rate_per_s", type=PositiveNumber(), metavar="PER_S", help="Requests per second."),
    click.option(
        "--concurrency", "load__concurrency", type=_COUNT, metavar="N", help="A closed loop of so many users."
    ),
    click.option("--offline", "load__offline", is_flag=True, default=None, help="All requests are there at the start."),
    click.option("--seed", "load__seed", type=click.IntRange(min=0), metavar="N", help="Of all random draws."),
)
_HEADINGS: Final = {"": "Question", "load": "Traffic", "space": "Plans", "scheduler": "Scheduler"}
_QUESTION: Final = ("model", "cluster", "workload", "objective", "statistic", "slo")


class StudyCommand(click.Command):
    """A command whose help groups the flags as the tables of a study file do."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each table, then what is no part of a study."""
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in (*_HEADINGS.values(), "Run")}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record:
                sections[_heading(parameter.name or "")].append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records, col_max=34)


def _heading(parameter: str) -> str:
    table, dot, _ = parameter.partition("__")
    return _HEADINGS[table if dot else ""] if dot or parameter in _QUESTION else "Run"


def with_study_flags(command: Command) -> Command:
    """Add the argument STUDY and every flag that states a part of a study."""
    for option in reversed((*QUESTION_FLAGS, *COST_FLAGS, *LOAD_FLAGS, *PLAN_FLAGS, *SCHEDULER_FLAGS)):
        command = option(command)
    return click.argument("study", required=False, shell_complete=completion.complete_study)(command)


def overrides_of(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags that were given, nested as in a study file.

    Examples
    --------
    >>> overrides_of({"model": None, "space__tp": [4], "load__seed": 1})
    {'space': {'tp': [4]}, 'load': {'seed': 1}}
    """
    nested: dict[str, Any] = {}
    for name, value in flags.items():
        table, _, key = name.rpartition("__")
        if value is not None:
            (nested.setdefault(table, {}) if table else nested)[key] = value
    return nested


def study_of(name: str | None, flags: Mapping[str, Any]) -> Study:
    """Return the study `name` with the flags laid over it, or without a name the study that the flags state.

    Raises
    ------
    UsageError : neither a study nor all of model, cluster and workload; or flags that contradict each other.
    InputError : as `apex_sim.planner.study.load_study`.
    """
    from apex_sim.planner.study import load_study, make_study

    overrides = overrides_of(flags)
    _complete_stages(overrides.get("space", {}))
    for key in ("workload", "profile"):
        file = overrides.get(key)
        if file and Path(file).is_file():
            overrides[key] = str(Path(file).absolute())  # the user's folder, not the study file's
    if name is not None:
        return load_study(name, overrides)
    missing = [f"--{key}" for key in ("model", "cluster", "workload") if key not in overrides]
    if missing:
        raise click.UsageError(
            f"Give a STUDY, or --model, --cluster and --workload (missing: {', '.join(missing)}). "
            f"'apex-sim search quickstart' runs an example."
        )
    study = make_study(overrides, name="command line", where="command line")
    parts = (study.model.name, study.cluster.name, study.workload.name)
    return replace(study, name=file_name("_".join(parts)), title="{} on {}, {}".format(*parts))


def _complete_stages(space: dict[str, Any]) -> None:
    """Let `--layers` decide the number of stages."""
    if "layers" not in space:
        return
    n_stages = len(space["layers"])
    if space.setdefault("pp", [n_stages]) != [n_stages]:
        raise click.UsageError(f"--layers states {n_stages} stages, and --pp {','.join(map(str, space['pp']))}.")
