"""Write docs/accuracy.md anew: how far simulated servers are from measured ones.

    python benchmarks/accuracy.py DATA_FOLDER [--silicon silicon_cases.csv] [--results FOLDER]

DATA_FOLDER holds the measurements (`serving/`), which are not part of the project; `--silicon` is the output of
`silicon_cases.py`.  The folder of `--results` may hold, as NAME.json or as printed (NAME.md or NAME.txt), what takes
longer: `fit_presets`, `interval_coverage` and `calibrate_one_point`, of the scripts beside this one.  What is missing
is said on the page.  Texts are in docs/accuracy_notes.md, under the headings that `note` is asked for.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import accuracy_tables as tables
import effects
import step_components

from apex_sim import __version__
from apex_sim.files import write_atomic
from apex_sim.report.error_scatter import draw_scatter, scatter_of
from apex_sim.truth.validation import CaseResult, Validation, validate_serving

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTES = DOCS / "accuracy_notes.md"
#: Devices whose rows of the silicon sample may be compared with the published closed form.
HOPPER = ("h100-sxm", "h200-sxm")


def main() -> None:
    """Replay everything and write the page with its images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, metavar="DATA_FOLDER")
    parser.add_argument("--silicon", type=Path, metavar="CASES.csv")
    parser.add_argument("--results", type=Path, metavar="FOLDER")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of the page and of images/")
    arguments = parser.parse_args()
    paths = [arguments.data / "serving" / "apex_h100_vllm060" / "cases.csv", arguments.data / "serving" / "cases.csv"]
    served = [_validated(path) for path in paths]
    silicon = _validated(arguments.silicon) if arguments.silicon else None
    _tell("effects")
    page = page_text(served, silicon, effects.study(arguments.data), step_components.table(), arguments.results)
    for name, validations in (("accuracy-serving", served), ("accuracy-silicon", [silicon] if silicon else [])):
        if validations:
            (arguments.docs / "images" / f"{name}.png").write_bytes(_scatter(validations))
    write_atomic(arguments.docs / "accuracy.md", page)


def _validated(path: Path) -> Validation:
    _tell(path.parent.name + "/" + path.name)
    return validate_serving(path)


def _tell(text: str) -> None:
    print(f"accuracy: {text}", file=sys.stderr, flush=True)


def _scatter(validations: Sequence[Validation]) -> bytes:
    """Return one figure over all cases of several files."""
    first = validations[0]
    merged = Validation(
        source_file="",
        cases=tuple(case for validation in validations for case in validation.cases),
        summary=first.summary,
        n_simulations=0,
        cost_provenance=(),
        assumed=(),
        notes=(),
        cpu_s=0.0,
    )
    return draw_scatter(scatter_of(merged))[1]


def page_text(
    served: Sequence[Validation],
    silicon: Validation | None,
    apex_effects: Mapping[str, Any],
    components: str,
    results: Path | None,
) -> str:
    """Return the whole page."""
    cases = [case for validation in served for case in tables.replayed(validation.cases)]
    parts = [
        "# Accuracy",
        "<!-- Written by benchmarks/accuracy.py; edit accuracy_notes.md instead. -->",
        note("Opening").format(version=__version__),
        "## On what no fit saw",
        note("On what no fit saw"),
        from_results(results, "fit_presets", tables.left_out_table),
        "## All replayed servers",
        note("All replayed servers"),
        tables.sources_table(cases),
        "![Predicted against measured, every replayed server](images/accuracy-serving.png)",
        note("By axis"),
        tables.axis_tables(cases),
        "### Worst cases",
        *(tables.worst_table(cases, quantity) for quantity in ("ttft", "tpot", "throughput")),
        "## Order of plans",
        note("Order of plans"),
        *(tables.ranking_table(validation.summary.ranking_quality) for validation in served if _ranked(validation)),
        "## What each effect is worth",
        note("What each effect is worth"),
        effects.effects_table(apex_effects),
        note("Order on the apex servers"),
        effects.orders_table(apex_effects),
        "<details><summary>All 46 servers</summary>",
        effects.servers_table(apex_effects),
        "</details>",
        "## Where a decode step goes",
        note("Where a decode step goes"),
        components,
        "## Calibrated from one point",
        note("Calibrated from one point"),
        from_results(results, "calibrate_one_point", None),
        "## Error bars",
        note("Error bars"),
        from_results(results, "interval_coverage", coverage_table),
        "## AIConfigurator's measurements",
        note("AIConfigurator's measurements"),
        *silicon_parts(silicon),
        "## Kernels",
        note("Kernels"),
        tables.kernels_table(),
        note("Kernels, after the table"),
        "## Power",
        note("Power"),
        tables.power_table(cases),
        note("Power, after the table"),
        "## Beside the peers",
        note("Beside the peers"),
        "## What is left, and why",
        note("What is left, and why"),
        "## What was not replayed",
        note("What was not replayed"),
        tables.skipped_table(served),
        note("What is not validated"),
        "## What is assumed",
        note("What is assumed"),
        "## Reproducing",
        note("Reproducing"),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _ranked(validation: Validation) -> bool:
    return bool(validation.summary.ranking_quality)


def note(heading: str) -> str:
    """Return the text under `## heading` of the notes.

    Raises
    ------
    SystemExit : there is no such heading.
    """
    sections = re.split(r"^## (.*)$", NOTES.read_text(encoding="utf-8"), flags=re.MULTILINE)
    texts = dict(zip(sections[1::2], sections[2::2], strict=True))
    if heading not in texts:
        raise SystemExit(f"{NOTES.name}: no heading {heading!r}")
    return texts[heading].strip()


def from_results(folder: Path | None, name: str, show: Callable[[Any], str] | None) -> str:
    """Return the result `name` of `folder` as text: its JSON through `show`, or what its script printed."""
    if folder and show and (folder / f"{name}.json").exists():
        return show(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
    for suffix in (".md", ".txt"):
        if folder and (folder / f"{name}{suffix}").exists():
            text = (folder / f"{name}{suffix}").read_text(encoding="utf-8").strip()
            return text if text.startswith("|") else f"```\n{text}\n```"
    return f"*Not run for this page: `benchmarks/{name}.py`.*"


def coverage_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return coverage and width of 80 % intervals, from the result of `interval_coverage.py`."""
    lines = []
    for row in rows:
        shares = [tables.percent(row[key]) for key in ("covered_frac", "half_width_frac", "error_frac")]
        lines.append((row["name"], row["source"], row["n"], *shares, f"{row['width_ratio']:.1f}"))
    header = ("metrics", "source left out", "n", "covered", "median half-width", "median error", "width / error")
    return tables.table(header, lines)


def silicon_parts(silicon: Validation | None) -> list[str]:
    """Return the parts of the page on the measurements that ship with AIConfigurator."""
    if silicon is None:
        return ["*Not run for this page: it takes the output of `benchmarks/silicon_cases.py`.*"]
    cases = tables.replayed(silicon.cases)
    hopper = [case for case in cases if case.device in HOPPER]
    others = [case for case in cases if case.device not in HOPPER]

    def by(key: Callable[[CaseResult], str], title: str) -> str:
        return tables.silicon_table(cases, key, title)

    return [
        f"{len(silicon.cases)} cases, {len(cases)} replayed.",
        tables.silicon_table(hopper, lambda case: f"H100 and H200, `{case.source}`", ""),
        tables.silicon_table(hopper, lambda case: "H100 and H200, all", "") if hopper else "",
        tables.silicon_table(others, lambda case: f"{case.device}, report only", "") if others else "",
        "![Predicted against measured, AIConfigurator's sample](images/accuracy-silicon.png)",
        "By engine, model and device:",
        by(lambda case: f"{case.axes['engine']}, {case.model}, {case.device}", "engine, model, device"),
        by(lambda case: case.axes["load"], "requests at once"),
        "Not replayed:",
        tables.skipped_table([silicon]),
    ]


if __name__ == "__main__":
    main()
