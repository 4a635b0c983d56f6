"""How does an error bar read in words?"""

from __future__ import annotations

from typing import Final

from apex_sim.planner.answer import SearchResult
from apex_sim.planner.evaluation import Evaluation
from apex_sim.report.quantity import metric_label, metric_text, percent
from apex_sim.truth.error_bar import Interval

#: Metrics whose error bars are printed; files hold them all.
_SHOWN: Final = (
    "ttft_mean_s",
    "ttft_p99_s",
    "tpot_mean_s",
    "e2e_mean_s",
    "output_tokens_per_s",
    "usd_per_million_output_tokens",
    "energy_per_output_token_j",
)


def range_text(evaluation: Evaluation, name: str) -> str:
    """Return the interval of metric `name` as "low to high"; empty if it has none."""
    bar = evaluation.intervals.get(name)
    return f"{metric_text(name, bar.low)} to {metric_text(name, bar.high)}" if bar else ""


def parts_text(bar: Interval) -> str:
    """Return what an interval is made of.

    Examples
    --------
    >>> parts_text(Interval(0.9, 1.1, 0.8, 0.05, 0.01, 0.08, 0.1))
    'kernels 5 %, requests 1 %, engine 8 %'
    """
    parts = (("kernels", bar.cost_model_frac), ("requests", bar.workload_frac), ("engine", bar.preset_frac))
    return ", ".join(f"{name} {percent(half)}" for name, half in parts)


def interval_lines(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Return label and error bar, with its parts, of the metrics that are printed."""
    return [
        (metric_label(name), f"{range_text(evaluation, name)} ({parts_text(evaluation.intervals[name])})")
        for name in _SHOWN
        if name in evaluation.intervals
    ]


def interval_rows(result: SearchResult) -> list[dict[str, str]]:
    """Return one row for each ranked plan with an interval of the objective; empty if none has one."""
    name, tosses = result.study.objective.name, result.coin_tosses
    best = result.beats[0] if result.beats else {}
    label_of_best = result.plans[0].plan.label if result.plans else ""
    rows = []
    for rank, (plan, beats) in enumerate(zip(result.plans, result.beats, strict=True), start=1):
        bar, label = plan.intervals.get(name), plan.plan.label
        if bar is None:
            continue
        chance = best.get(label, 1.0 - beats[label_of_best] if label_of_best in beats else None)
        text = "" if chance is None else percent(chance) + (", a coin toss" if label in tosses else "")
        rows.append(
            {
                "rank": str(rank),
                "label": label,
                "range": range_text(plan, name),
                "parts": parts_text(bar),
                "chance": text,
            }
        )
    return rows
