"""What makes up the whole, plan by plan: where the device time goes, and what fills the device memory?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from apex_sim.planner.evaluation import Evaluation
from apex_sim.report.document import breakdown_shares
from apex_sim.report.headline import verdict
from apex_sim.report.svg import LegendEntry, palette, plot_style, svg_of
from apex_sim.units import GIB

#: Most plans that one figure shows.
MAX_BARS: Final = 12

_OTHER: Final = "other kernels"
#: Groups of operators in the order of the bars; what is not named here is another kernel.
_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "matrix multiplies": ("qkv_gemm", "out_gemm", "up_gemm", "down_gemm", "moe", "router", "lm_head"),
    "attention": ("prefill_attention", "decode_attention"),
    "communication": ("all_reduce", "all_gather", "all_to_all", "send"),
    _OTHER: (),
    "kernel launches": ("launch",),
    "slow prompts": ("slowdown",),
    "host": ("host",),
    "idle": ("idle",),
}
_GROUP_OF: Final = {operator: group for group, operators in _GROUPS.items() for operator in operators}
_INCH_OF_BAR: Final = 0.30
_SHARE_WITH_TEXT: Final = 0.055


@dataclass(frozen=True, slots=True)
class StackedBars:
    """One bar for each label, made of `parts`: values by name, one for each bar; drawn in multiples of `unit`."""

    name: str
    axis: str
    unit: float
    labels: tuple[str, ...]
    parts: dict[str, tuple[float, ...]]


def breakdown_info(evaluations: Sequence[Evaluation]) -> StackedBars:
    """Return the share of device time of each group of operators, for the leading plans; shares add up to 1."""
    shown = evaluations[:MAX_BARS]
    sums = [dict.fromkeys(_GROUPS, 0.0) for _ in shown]
    for total, evaluation in zip(sums, shown, strict=True):
        for operator, share in breakdown_shares(evaluation).items():
            total[_GROUP_OF.get(operator, _OTHER)] += share
    parts = {group: tuple(total[group] for total in sums) for group in _GROUPS}
    return StackedBars("time", "share of device time, %", 0.01, bar_labels(shown), parts)


def memory_info(evaluations: Sequence[Evaluation]) -> StackedBars:
    """Return what fills the tightest device of the leading plans, in bytes; the parts add up to its memory."""
    shown = evaluations[:MAX_BARS]
    rows = [_memory_parts(evaluation.memory) for evaluation in shown]
    parts = {name: tuple(row[name] for row in rows) for name in (rows[0] if rows else ())}
    return StackedBars("memory", "memory of the tightest device, GiB", GIB, bar_labels(shown), parts)


def _memory_parts(memory: dict[str, float]) -> dict[str, float]:
    """Return the terms of one device in bytes; what the profiling run needs at its peak is what the others leave."""
    buffers = memory["communicator_bytes"] + memory["misc_bytes"]
    fixed = memory["weight_bytes"] + buffers + memory["kv_bytes"]
    return {
        "weights": memory["weight_bytes"],
        "KV cache": memory["kv_bytes"],
        "activations and sampler": memory["budget_bytes"] - fixed,
        "communication and other buffers": buffers,
        "outside the engine's share": memory["memory_bytes"] - memory["budget_bytes"],
    }


def bar_labels(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    """Return rank, plan and, where it is not an answer, the state of each plan; one plan alone has no rank."""
    labels = []
    for rank, evaluation in enumerate(evaluations, start=1):
        state = verdict(evaluation)
        number = f"{rank}  " if len(evaluations) > 1 else ""
        labels.append(f"{number}{evaluation.plan.label}{'' if state in ('ok', 'too short') else f' ({state})'}")
    return tuple(labels)


def bars_legend(bars: StackedBars) -> list[LegendEntry]:
    """Return the legend, in the order of the parts."""
    return [LegendEntry(name, color) for name, color in zip(bars.parts, _colors(len(bars.parts)), strict=True)]


def _colors(n: int) -> list[str]:
    """Return `n` colors; the palette's last, a pale one, goes to the last part: what nobody uses."""
    *strong, pale = palette()
    return [*strong[: n - 1], pale]


def draw_bars(bars: StackedBars) -> str:
    """Return the bars as SVG, the first label on top; segments that are wide enough carry their value."""
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure

    n = len(bars.labels)
    parts = [[value / bars.unit for value in values] for values in bars.parts.values()]
    total = max(map(sum, zip(*parts, strict=True)))
    with plot_style():
        figure = Figure(figsize=(9.4, 0.75 + _INCH_OF_BAR * n), layout="constrained")
        axes = figure.add_subplot()
        left = [0.0] * n
        for values, color in zip(parts, _colors(len(parts)), strict=True):
            axes.barh(range(n), values, left=left, height=0.72, color=color, edgecolor="white", linewidth=0.6)
            red, green, blue = to_rgb(color)
            ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.6 else "#1c2733"
            for index, value in enumerate(values):
                if value > _SHARE_WITH_TEXT * total:
                    middle = left[index] + value / 2
                    axes.text(middle, index, f"{value:.0f}", ha="center", va="center", color=ink, size="small")
                left[index] += value
        axes.set_yticks(range(n), list(bars.labels))
        axes.set(xlabel=bars.axis, xlim=(0, total), ylim=(n - 0.45, -0.55))
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        return svg_of(figure, bars.name)
