"""Do 80 % intervals hold 80 % of the truths, and how wide are they?  Each source is predicted from the others.

Run as `python benchmarks/interval_coverage.py CASES.csv...`; with `--write` it also writes what the replays say into
`apex_sim/truth/validated.toml`, which every error bar stands on: run it so after presets or kernel forms have changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from apex_sim.files import write_atomic
from apex_sim.truth.choice import choices_of
from apex_sim.truth.coverage import Coverage, coverage_of
from apex_sim.truth.validated import TABLE
from apex_sim.truth.validated_fit import case_errors, fit_validated
from apex_sim.truth.validated_text import validated_toml
from apex_sim.truth.validation import validate_serving

_HEADER = "| metrics | source | n | circles | covered % | half-width % | median error % | ratio |"


def main() -> None:
    """Replay, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="+", type=Path, metavar="CASES.csv")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name} anew")
    parser.add_argument(
        "--together", action="append", default=[], metavar="A,B", help="sources of one campaign, left out together"
    )
    parser.add_argument(
        "--without", action="append", default=[], metavar="SOURCE[@DEVICE]", help="leave out this source"
    )
    parser.add_argument("--jobs", type=int, default=None)
    arguments = parser.parse_args()
    validations = [validate_serving(path, n_jobs=arguments.jobs) for path in arguments.cases]
    errors = case_errors(validations, [names.split(",") for names in arguments.together])
    without = set(arguments.without)
    errors = [e for e in errors if not without & {e.case.source, f"{e.case.source}@{e.case.device}"}]
    validated = fit_validated(errors)
    if arguments.write:
        names = [path.parent.name if path.stem == "cases" else path.stem for path in arguments.cases]
        write_atomic(TABLE, validated_toml(validated, names))
    print(_HEADER)
    print("|---|---|---|---|---|---|---|---|")
    for row in coverage_of(errors, validated):
        print(_line(row))
    print()
    print("| predicted to win with | pairs | mean % | won % |")
    print("|---|---|---|---|")
    for each in choices_of(errors, validated):
        print(f"| {each.least:.0%} and more | {each.n} | {100 * each.probability:.1f} | {100 * each.won_frac:.1f} |")
    print()
    print("stretch by circles that hold a measured server, 0 to 3:")
    for name, factors in validated.stretch.items():
        print(name, *factors)


def _line(row: Coverage) -> str:
    widths = (row.covered_frac, row.half_width_frac, row.error_frac)
    cells = (row.name, row.source, row.n, f"{row.depth:.1f}", *(f"{100 * x:.1f}" for x in widths))
    return f"| {' | '.join(str(cell) for cell in cells)} | {row.width_ratio:.1f} |"


if __name__ == "__main__":
    main()
