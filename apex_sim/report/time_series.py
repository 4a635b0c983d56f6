"""How did queue, batch, KV cache and power develop over the run?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from apex_sim.cost.parts import Floats
from apex_sim.record.run import FleetRun, InstanceRun
from apex_sim.report.quantity import exact_time_text
from apex_sim.report.svg import plot_style, svg_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Intervals of equal length that a run is cut into.
N_INTERVALS: Final = 240


@dataclass(frozen=True, slots=True)
class TimeSeries:
    """A run at the ends of `N_INTERVALS` equal intervals, all instances together.

    Parameters
    ----------
    time_s : ends of the intervals.
    n_waiting, n_running, n_in_step : requests that waited and ran, and sequences in the steps, when the last kept steps
        before were decided.
    kv_used_frac : share of the KV blocks in use then.
    power_w : mean over the interval of all devices, idle power included; the energy of a step counts at its end.
    """

    time_s: Floats
    n_waiting: Floats
    n_running: Floats
    n_in_step: Floats
    kv_used_frac: Floats
    power_w: Floats

    def columns(self) -> dict[str, Floats]:
        """Return the columns by name."""
        return {name: getattr(self, name) for name in self.__slots__}


def series_of(run: FleetRun) -> TimeSeries:
    """Return the series of `run`, from the steps that its records kept."""
    edges_s = np.linspace(0.0, run.makespan_s, N_INTERVALS + 1)
    time_s, width_s = edges_s[1:], run.makespan_s / N_INTERVALS
    state = {
        name: sum((_before(instance, name, time_s) for instance in run.instances), np.zeros(N_INTERVALS))
        for name in ("n_waiting", "n_running", "n_sequences", "n_blocks_used")
    }
    dynamic_j = sum((_energy_j(instance, edges_s) for instance in run.instances), np.zeros(N_INTERVALS + 1))
    idle_j = sum(stage.idle_j for instance in run.instances for stage in instance.stages)
    power_w = np.diff(dynamic_j) / width_s + idle_j / run.makespan_s
    n_blocks = sum(instance.memory.n_blocks for instance in run.instances)
    used = state["n_blocks_used"] / n_blocks
    return TimeSeries(time_s, state["n_waiting"], state["n_running"], state["n_sequences"], used, power_w)


def _before(instance: InstanceRun, name: str, time_s: Floats) -> Floats:
    """Return a column as the last kept step that was decided before each time has it, 0 before the first."""
    decided_s, values = instance.steps.column("decided_s"), instance.steps.column(name)
    last = np.searchsorted(decided_s, time_s, side="right")
    return np.concatenate([[0.0], values])[last]


def _energy_j(instance: InstanceRun, time_s: Floats) -> Floats:
    """Return the energy above idle up to each time."""
    end_s, joules = instance.steps.column("end_s"), instance.steps.column("dynamic_j")
    above: Floats = np.interp(time_s, np.concatenate([[0.0], end_s]), np.concatenate([[0.0], joules]))
    return above


def draw_series(series: TimeSeries) -> list[str]:
    """Return one SVG each for requests, KV cache and power."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    drawn = []
    with plot_style():
        for name, title, lines in (
            ("requests", "Requests", ((series.n_waiting, "waiting"), (series.n_running, "running"))),
            ("kv", "KV blocks in use, %", ((100.0 * series.kv_used_frac, ""),)),
            ("power", "Power of all devices, W", ((series.power_w, ""),)),
        ):
            figure = Figure(figsize=(3.8, 2.2), layout="constrained")
            axes = figure.add_subplot()
            _draw_lines(axes, series.time_s, lines)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda time_s, _: exact_time_text(time_s)))
            axes.set_title(title)
            drawn.append(svg_of(figure, f"series-{name}"))
    return drawn


def _draw_lines(axes: Axes, time_s: Floats, lines: tuple[tuple[Floats, str], ...]) -> None:
    for index, (values, label) in enumerate(lines):
        dashes = "-" if index == 0 else (0, (4, 1.5))
        axes.plot(time_s, values, color=f"C{index}", linewidth=1.0, linestyle=dashes, label=label or None)
    if any(label for _, label in lines):
        axes.legend(loc="upper right", frameon=False, fontsize="small")
    axes.set_ylim(bottom=0.0)
    axes.set_xlim(0.0, float(time_s[-1]))
