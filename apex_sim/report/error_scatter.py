"""How do predictions lie around measurements?  One panel for each of TTFT, TPOT, E2E and throughput."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from apex_sim.report.quantity import exact_time_text
from apex_sim.report.svg import LegendEntry, palette, plot_style, svg_of
from apex_sim.report.validation_table import QUANTITY_TITLES
from apex_sim.truth.axes import QUANTITIES, quantity_column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from apex_sim.truth.validation import Validation

#: Half the width of the band around "predicted as measured".
BAND_FRAC: Final = 0.10
#: The palette's last color is pale; further sources share the one before it.
_MAX_SOURCES: Final = 7
_OTHERS: Final = "other sources"
_MARKERS: Final = "osD^vPX"
_DPI: Final = 120


@dataclass(frozen=True, slots=True)
class ScatterPanel:
    """Measured and predicted values of one quantity, source by source; `low` and `high` hold them all."""

    quantity: str
    title: str
    is_time: bool
    sources: tuple[str, ...]
    measured: tuple[tuple[float, ...], ...]
    predicted: tuple[tuple[float, ...], ...]
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ErrorScatter:
    """All panels that have points; every panel has all of `sources`, each with its color and marker."""

    sources: tuple[str, ...]
    panels: tuple[ScatterPanel, ...]


def scatter_of(validation: Validation) -> ErrorScatter:
    """Return what the plots show: of each replayed case the column of each quantity that was measured first."""
    found = list(dict.fromkeys(case.source for case in validation.cases if not case.skipped_reason))
    sources = found if len(found) <= _MAX_SOURCES else [*found[: _MAX_SOURCES - 1], _OTHERS]
    panels = [_panel(quantity, sources, validation) for quantity in QUANTITIES]
    return ErrorScatter(tuple(sources), tuple(panel for panel in panels if panel))


def _panel(quantity: str, sources: Sequence[str], validation: Validation) -> ScatterPanel | None:
    points: dict[str, list[tuple[float, float]]] = {source: [] for source in sources}
    for case in validation.cases:
        column = quantity_column(quantity, case.error)
        predicted = case.predicted.get(column) if column else None
        if column and predicted is not None and predicted > 0:
            points[case.source if case.source in points else _OTHERS].append((case.measured[column], predicted))
    values = [value for pairs in points.values() for pair in pairs for value in pair]
    if not values:
        return None
    return ScatterPanel(
        quantity=quantity,
        title=QUANTITY_TITLES[quantity],
        is_time=quantity != "throughput",
        sources=tuple(sources),
        measured=tuple(tuple(m for m, _ in points[source]) for source in sources),
        predicted=tuple(tuple(p for _, p in points[source]) for source in sources),
        low=min(values),
        high=max(values),
    )


def scatter_legend(scatter: ErrorScatter) -> list[LegendEntry]:
    """Return the legend for a page, in the order of the sources."""
    return [LegendEntry(source, color) for source, color in zip(scatter.sources, palette(), strict=False)]


def draw_panel(panel: ScatterPanel) -> str:
    """Return one panel as SVG."""
    from matplotlib.figure import Figure

    with plot_style():
        figure = Figure(figsize=(3.8, 3.6), layout="constrained")
        _draw(figure.add_subplot(), panel)
        return svg_of(figure, f"scatter-{panel.quantity}")


def draw_scatter(scatter: ErrorScatter) -> tuple[str, bytes]:
    """Return all panels in one figure with its legend, as SVG and as PNG."""
    from matplotlib.figure import Figure

    with plot_style():
        n_rows = max(1, (len(scatter.panels) + 1) // 2)
        figure = Figure(figsize=(7.6, 3.6 * n_rows + 0.5), layout="constrained")
        for index, panel in enumerate(scatter.panels):
            _draw(figure.add_subplot(n_rows, 2, index + 1), panel)
        if scatter.panels:
            handles, labels = figure.axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
        else:
            figure.text(0.5, 0.5, "no case was replayed", ha="center", va="center")
        return svg_of(figure, "scatter"), _png(figure)


def _draw(axes: Axes, panel: ScatterPanel) -> None:
    edges = (panel.low / 1.3, panel.high * 1.3)
    axes.fill_between(
        edges,
        [edge * (1 - BAND_FRAC) for edge in edges],
        [edge * (1 + BAND_FRAC) for edge in edges],
        color="#dfe3e8",
        linewidth=0,
        label=f"within {BAND_FRAC:.0%}",
    )
    axes.plot(edges, edges, color="#8a96a3", linewidth=0.9)
    for index, source in enumerate(panel.sources):
        axes.plot(
            panel.measured[index],
            panel.predicted[index],
            _MARKERS[index],
            color=f"C{index}",
            markersize=4,
            markeredgecolor="white",
            markeredgewidth=0.4,
            linestyle="none",
            label=source,
        )
    axes.set(xscale="log", yscale="log", xlim=edges, ylim=edges, xlabel="measured", ylabel="predicted", aspect="equal")
    axes.grid(visible=True, axis="both")
    axes.set_title(panel.title)
    _set_ticks(axes, panel)


def _set_ticks(axes: Axes, panel: ScatterPanel) -> None:
    """Set the same few ticks on both axes, with their unit."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    span = panel.high / panel.low
    subs = (1.0, 2.0, 5.0) if span < 20 else (1.0, 3.0) if span < 300 else (1.0,)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, panel.is_time)))


def _tick(value: float, is_time: bool) -> str:
    return exact_time_text(value) if is_time else f"{value:,.0f}"


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI)
    return stream.getvalue()
