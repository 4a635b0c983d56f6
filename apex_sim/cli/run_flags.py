"""Which flags say how a command runs and where its answer goes?"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

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
