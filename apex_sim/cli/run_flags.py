"""Which flags say how a command runs and where its answer goes?"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from apex_sim.cli.values import GapShare, PositiveNumber

JOBS: Final = click.option(
    "--jobs", type=click.IntRange(min=1), metavar="N", help="Worker processes; else decided by the work at hand."
)
CHECK: Final = click.option("--check", is_flag=True, help="Assert the simulator's invariants in every run.")
REFERENCE: Final = click.option(
    "--reference", is_flag=True, help="Run the readable engine instead of the compiled one: the same, slowly."
)
STRICT: Final = click.option(
    "--strict", is_flag=True, help="Refuse what lies outside the range that measured servers back."
)
OUT: Final = click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Where the files go; else ./apex-sim-out/STUDY, and with --json nowhere.",
)
NO_FILES: Final = click.option("--no-files", is_flag=True, help="Print only.")
JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
GAP: Final = click.option(
    "--gap",
    type=GapShare(),
    metavar="SHARE",
    help="Go on until no plan can be better than the best found by more than this, such as 5%.",
)
EXHAUSTIVE: Final = click.option("--exhaustive", is_flag=True, help="Simulate every plan on the whole workload.")
STORE: Final = click.option(
    "--store",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keep every outcome there: a killed search resumes, a second one is free.",
)
DASK: Final = click.option(
    "--dask", metavar="ADDRESS", help="Work on a Dask cluster: tcp://host:8786, or local for processes here."
)
JOB_TIMEOUT: Final = click.option(
    "--job-timeout",
    "item_timeout_s",
    type=PositiveNumber(),
    metavar="S",
    help="Replace a worker process that takes longer for one simulation, and try again.",
)
LOG_JOBS: Final = click.option(
    "--log-jobs", is_flag=True, help="With --store: say on stderr what is begun and what is stored."
)
