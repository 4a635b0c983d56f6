"""Which tables does docs/accuracy.md have?  Each function returns one as Markdown; errors are in percent."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apex_sim.cost.coefficient_file import FOLDER, calibrated_devices
from apex_sim.report.quantity import time_text
from apex_sim.truth.axes import AXES, QUANTITIES, quantity_column, with_quantities
from apex_sim.truth.error_summary import ALL_SOURCES, ErrorStatistics, pooled_statistics, source_statistics
from apex_sim.truth.ranking_quality import ANY_DEVICES, RankingQuality
from apex_sim.truth.validation import CaseResult, Validation

TITLES = {"ttft": "TTFT", "tpot": "TPOT / ITL", "e2e": "E2E", "throughput": "output tokens/s"}
AXIS_TITLES = {
    "engine": "engine and version",
    "device": "device",
    "family": "model family",
    "plan": "plan",
    "load": "requests at once",
}
#: Fitted kernel forms on the page: group, precision in the coefficient file, name, and the goal set beforehand.
KERNELS = (
    ("gemm", "bf16", "GEMM bf16", "8 / 5"),
    ("gemm", "fp8", "GEMM fp8", "14 / 8"),
    ("gemm", "fp8-block", "GEMM fp8, blocks of 128", ""),
    ("gemm", "nvfp4", "GEMM nvfp4", ""),
    ("prefill_attention", "bf16-kv", "prefill attention", "10 / 6"),
    ("decode_attention", "bf16-kv", "decode attention", "10 / 6"),
    ("decode_attention", "fp8-kv", "decode attention, fp8 cache", ""),
    ("mla_decode_attention", "bf16-kv", "latent decode attention", ""),
    ("moe", "bf16", "MoE bf16", "15 / 9"),
    ("moe", "fp8", "MoE fp8", "15 / 9"),
    ("moe", "fp8-block", "MoE fp8, blocks of 128", ""),
    ("moe", "nvfp4", "MoE nvfp4", ""),
    ("moe", "w4a16", "MoE int4 weights", ""),
    ("moe", "mxfp4", "MoE mxfp4 (*)", ""),
    ("all_reduce", "vllm", "all-reduce, custom", "8 / 5"),
    ("all_reduce", "nccl", "all-reduce, NCCL", "8 / 5"),
)
_DEVICE_ORDER = ("h100-sxm", "h200-sxm", "b200", "gb200", "rtx-pro-6000", "a100-sxm-80gb", "l40s")


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; a vertical bar in a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def percent(fraction: float | None, sign: bool = False) -> str:
    """Return a fraction in percent, one digit below ten."""
    if fraction is None:
        return ""
    value = 100.0 * fraction
    return f"{value:{'+' if sign else ''}.{1 if abs(value) < 99.5 else 0}f}"


def replayed(cases: Iterable[CaseResult]) -> list[CaseResult]:
    """Return the cases that were simulated."""
    return [case for case in cases if not case.skipped_reason]


def statistics(cases: Sequence[CaseResult], quantity: str) -> list[ErrorStatistics]:
    """Return the statistics of each source, then of all with equal weights if there are several."""
    rows = []
    for source in dict.fromkeys(case.source for case in cases):
        errors = [with_quantities(case.error)[quantity] for case in cases if _has(case, source, quantity)]
        if errors:
            rows.append(source_statistics(source, quantity, [error for error in errors if error is not None], []))
    return [*rows, pooled_statistics(quantity, rows)] if len(rows) > 1 else rows


def _has(case: CaseResult, source: str, quantity: str) -> bool:
    return case.source == source and with_quantities(case.error).get(quantity) is not None


def sources_table(cases: Sequence[CaseResult]) -> str:
    """Return median, p90 and bias of each quantity by source, and pooled."""
    rows = []
    for quantity in QUANTITIES:
        for row in statistics(cases, quantity):
            source = f"`{row.source}`" if row.source != ALL_SOURCES else f"**{ALL_SOURCES}**"
            errors = (percent(row.median_abs_frac), percent(row.p90_abs_frac), percent(row.bias_frac, sign=True))
            rows.append((TITLES[quantity], source, row.n, *errors))
    return table(("metric", "source", "n", "median", "p90", "bias"), rows)


def axis_tables(cases: Sequence[CaseResult], axes: Sequence[str] = AXES[1:]) -> str:
    """Return one table for each axis with several values: median and bias, sources weighing equally."""
    tables = []
    for axis in axes:
        values = list(dict.fromkeys(case.axes[axis] for case in cases))
        if len(values) < 2:
            continue
        rows = []
        for value in sorted(values, key=_natural):
            mine = [case for case in cases if case.axes[axis] == value]
            rows.append((value, len(mine), *(median_and_bias(statistics(mine, name)) for name in _measured(cases))))
        tables.append(table((AXIS_TITLES[axis], "n", *(TITLES[name] for name in _measured(cases))), rows))
    return "\n\n".join(tables)


def _natural(text: str) -> tuple[object, ...]:
    head = text.split()[0]
    return (0, int(head), text) if head.isdigit() else (1, 0, text)


def _measured(cases: Sequence[CaseResult]) -> list[str]:
    return [name for name in QUANTITIES if any(quantity_column(name, case.error) for case in cases)]


def median_and_bias(rows: Sequence[ErrorStatistics]) -> str:
    """Return "median, bias" of the last of `rows`, which is the pooled one if there are several."""
    return f"{percent(rows[-1].median_abs_frac)}, {percent(rows[-1].bias_frac, sign=True)}" if rows else ""


def worst_table(cases: Sequence[CaseResult], quantity: str, n: int = 6) -> str:
    """Return the cases that are furthest off, repeats of one prediction once."""
    found: dict[tuple[object, ...], CaseResult] = {}
    for case in sorted(cases, key=lambda case: -abs(with_quantities(case.error).get(quantity) or 0.0)):
        column = quantity_column(quantity, case.error)
        if column:
            found.setdefault((case.plan, case.predicted[column]), case)
    rows = []
    for case in list(found.values())[:n]:
        column = quantity_column(quantity, case.error)
        shown = "{:,.0f}".format if quantity == "throughput" else time_text
        values = [shown(float(of[column] or 0.0)) for of in (case.measured, case.predicted)]
        place = f"{case.axes['engine']}, {case.axes['plan']}, {case.axes['load']}"
        rows.append((f"`{case.case_id}`", place, *values, percent(case.error[column], sign=True)))
    return table(("case", "server", f"{TITLES[quantity]} measured", "predicted", "error"), rows)


def skipped_table(validations: Sequence[Validation]) -> str:
    """Return how many cases were not replayed for which reason."""
    reasons: dict[str, int] = {}
    for validation in validations:
        for reason, n in validation.summary.n_skipped_by_reason.items():
            reasons[reason] = reasons.get(reason, 0) + n
    rows = [(n, reason) for reason, n in sorted(reasons.items(), key=lambda item: -item[1])]
    return table(("n", "reason"), rows) if rows else "None."


def ranking_table(qualities: Sequence[RankingQuality]) -> str:
    """Return whether predictions put the plans that served one load into the measured order."""
    rows = [
        (
            TITLES[row.quantity] + ("" if row.devices == ANY_DEVICES else ", equal size"),
            f"`{row.source}`",
            row.n_groups,
            row.n_ties,
            "" if row.tau_b_mean is None else f"{row.tau_b_mean:.2f}",
            percent(row.best_found_frac),
            percent(row.regret_mean_frac),
            percent(row.regret_max_frac),
        )
        for row in qualities
    ]
    header = ("ordered by", "source", "groups", "ties", "tau-b", "best found %", "regret %", "worst regret %")
    return table(header, rows)


def power_table(cases: Sequence[CaseResult]) -> str:
    """Return measured and predicted watts and joules of the cases that have them."""
    rows = []
    having = [case for case in cases if "power_mean_w" in case.measured]
    for case in sorted(having, key=lambda case: case.measured["power_mean_w"]):
        cells: list[object] = [f"`{case.case_id}`", case.axes["load"]]
        for column in ("power_mean_w", "energy_per_output_token_j"):
            digits = ".0f" if column == "power_mean_w" else ".2f"
            cells += [f"{case.measured[column]:{digits}}", f"{float(case.predicted[column] or 0.0):{digits}}"]
            cells.append(percent(case.error[column], sign=True))
        rows.append(cells)
    header = ("case", "load", "W measured", "predicted", "error", "J/token measured", "predicted", "error")
    return table(header, rows)


def kernels_table() -> str:
    """Return the errors on held-out shape families that the coefficient files state."""
    devices = [name for name in _DEVICE_ORDER if name in calibrated_devices()]
    fits = {name: _fits(FOLDER / name) for name in devices}
    rows = []
    for operator, precision, title, goal in KERNELS:
        found = [fits[name].get(operator, {}).get(precision) for name in devices]
        if any(found):
            cells = [percent(fit["held_out"]["median_frac"]) if fit else "" for fit in found]
            rows.append((title, goal, *cells))
    return table(("operator", "floor / aim", *devices), rows)


def _fits(folder: Path) -> Mapping[str, Any]:
    merged: dict[str, Any] = {}
    for path in sorted(folder.glob("*.toml")):
        merged |= tomllib.loads(path.read_text(encoding="utf-8"))
    return merged


#: The groups of a leave-one-out result, those to lead with first, and what their table says of them.
LEFT_OUT = {
    "left_out_source": "source left out",
    "left_out_model": "model that no fit saw",
    "left_out_device": "device that no fit saw",
    "left_out_both": "model and device that no fit saw",
    "fitted": "fitted",
    "as_shipped": "as shipped",
}


def left_out_table(result: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return errors on what no fit saw and those of the fit, from the result of `fit_presets.py`.

    The last column compares with the fitted error of the same source, else with the mean over sources.
    """
    rows = []
    for group, title in LEFT_OUT.items():
        for row in result.get(group, ()):
            base = _fitted_frac(result.get("fitted", ()), row)
            times = f"{row['median_frac'] / base:.1f}" if base and group.startswith("left_out") else ""
            cells = (percent(row["median_frac"]), percent(row["p90_frac"]), percent(row["bias_frac"], sign=True))
            rows.append((title, row["left_out"], row["preset"], f"`{row['metric']}`", row["n"], *cells, times))
    header = ("", "rows of", "preset", "metric", "n", "median", "p90", "bias", "times the fitted error")
    parts = [table(header, rows) if rows else "The result holds no row."]
    if missing := [f"* {row['preset']}: {row['reason']}." for row in result.get("not_left_out", ())]:
        parts.append("Not left out, or not to be:\n\n" + "\n".join(missing))
    return "\n\n".join(parts)


def _fitted_frac(fitted: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> float | None:
    mine = [one for one in fitted if (one["preset"], one["metric"]) == (row["preset"], row["metric"])]
    same = [one for one in mine if one["left_out"] == row["left_out"]] or mine
    return float(np.mean([one["median_frac"] for one in same])) if same else None


def silicon_table(cases: Sequence[CaseResult], key: Callable[[CaseResult], str], title: str) -> str:
    """Return median, p90 and bias of TTFT and TPOT by rows, for each value of `key`."""
    values = sorted({key(case) for case in cases})
    rows = []
    for value in values:
        mine = [case for case in cases if key(case) == value]
        rows.append((value, len(mine), *(_row_statistics(mine, name) for name in ("ttft", "tpot"))))
    return table((title, "n", "TTFT median, p90, bias", "TPOT median, p90, bias"), rows)


def _row_statistics(cases: Sequence[CaseResult], quantity: str) -> str:
    errors = np.array([error for case in cases if (error := with_quantities(case.error).get(quantity)) is not None])
    if not len(errors):
        return ""
    absolute = np.abs(errors)
    cells = (percent(float(np.median(absolute))), percent(float(np.quantile(absolute, 0.9))))
    return ", ".join((*cells, percent(float(np.median(errors)), sign=True)))
