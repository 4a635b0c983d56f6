"""How does a search's CPU time grow with devices, layers and requests, and which part of it grows?

    python benchmarks/search_growth.py --out FOLDER [--sweeps devices-e2e layers-e2e ...]
    python benchmarks/search_growth.py --kimi mooncake_conversation.jsonl [--jobs 2]

The first writes a table (CSV, JSON) and a figure of every sweep, some ten minutes on one core; docs/search_growth.md
discusses them.  The second searches for plans of Kimi-K2 on 512 H200 under Mooncake's conversation trace.

Times are CPU time of one process whose machine code is there: studies, plans and tables are made anew for each point.
Error bars of the leaders, which a search of many plans makes at its end, are left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from apex_sim.planner.answer import answer_study
from apex_sim.planner.certificate import certify
from apex_sim.planner.job import Bench, Job
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.strategy import Effort, Strategy
from apex_sim.planner.study import Study, make_study

#: Parts of a search, in its order; "choose" is the strategy's own time.
PHASES: Final = ("enumerate", "bounds", "first requests", "whole", "choose")
NODES: Final = (1, 4, 16, 64, 256, 512)
LAYERS: Final = (8, 16, 32, 64, 128)
REQUESTS: Final = (250, 500, 1_000, 2_000, 4_000, 8_000, 16_000)
#: Offered requests a second for each device: steady for both models.
RATE_PER_DEVICE: Final = 0.05
DEVICES_PER_NODE: Final = 8
COST: Final[dict[str, Any]] = {
    "objective": "cost",
    "space": {"allow_idle": True},
    "slo": {"ttft_p99_s": 10.0, "tpot_p99_s": 0.1},
}
E2E: Final[dict[str, Any]] = {"objective": "e2e"}
#: 60 % of the highest rate that two plans kept up with on 512 H200, found by bisection.
KIMI_RATE_PER_S: Final = 29.5
KIMI_REQUESTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Point:
    """One search: its size, what it looked at, how near it came, and the CPU seconds of each of `PHASES`."""

    sweep: str
    size: int
    study: str
    n_enumerated: int
    n_feasible: int
    n_glimpsed: int
    n_whole: int
    n_first_jobs: int
    best: float | None
    gap_frac: float | None
    spent_s: dict[str, float]

    @property
    def total_s(self) -> float:
        """CPU seconds of the whole search."""
        return sum(self.spent_s.values())

    def row(self) -> dict[str, object]:
        """Return the point as a row of a table."""
        columns = {key: value for key, value in asdict(self).items() if key != "spent_s"}
        spent = {f"{phase.replace(' ', '_')}_cpu_s": round(self.spent_s.get(phase, 0.0), 4) for phase in PHASES}
        return {**columns, **spent, "cpu_s": round(self.total_s, 4)}


def phase_of(job: Job) -> str:
    """Return which part of a search a job belongs to."""
    return {0: "bounds", None: "whole"}.get(job.n_requests, "first requests")


def searched(study: Study, sweep: str, size: int) -> tuple[Point, Strategy]:
    """Search the study's space in this process; return what it took."""
    spent, n_jobs = Counter[str](), Counter[str]()
    started = time.process_time()
    space = enumerate_space(study)
    spent["enumerate"] = time.process_time() - started
    started = time.process_time()
    strategy, bench = Strategy(study, space, Effort()), Bench(study)
    while jobs := strategy.ask():
        spent["choose"] += time.process_time() - started
        outcomes = []
        for job in jobs:
            started = time.process_time()
            outcomes.append((job, bench(job)))
            spent[phase_of(job)] += time.process_time() - started
            n_jobs[phase_of(job)] += 1
        started = time.process_time()
        strategy.tell(outcomes)
    spent["choose"] += time.process_time() - started
    found = certify(strategy, study.objective, space.n_enumerated, None)
    counts = (space.n_enumerated, len(space.feasible), found.n_glimpsed, found.n_simulated, n_jobs["first requests"])
    title = f"{study.model.name} on {study.cluster.name}, {study.objective.name}"
    return Point(sweep, size, title, *counts, found.best, found.gap_frac, dict(spent)), strategy


# --- sweeps -----------------------------------------------------------------------------------------------------------


def _study(model: str, n_nodes: int, n_requests: int, question: dict[str, Any]) -> Study:
    rate_per_s = RATE_PER_DEVICE * DEVICES_PER_NODE * n_nodes
    load = {"n_requests": n_requests, "rate_per_s": rate_per_s}
    data = {"model": model, "cluster": f"{n_nodes}x8xh200-sxm", "workload": "chat", "load": load, **question}
    return make_study(data, "growth", "growth")


def _with_layers(n_layers: int, folder: Path) -> str:
    """Return the path of Llama-3.1-70B's config with another number of layers."""
    config = json.loads(_config_of("llama-3.1-70b").read_text(encoding="utf-8"))
    path = folder / f"llama-{n_layers}-layers.json"
    path.write_text(json.dumps({**config, "num_hidden_layers": n_layers}), encoding="utf-8")
    return str(path)


def _config_of(name: str) -> Path:
    """Return where the config of a model of the catalogue lies."""
    import apex_sim.model

    return Path(apex_sim.model.__file__).parent / "configs" / f"{name}.json"


def _points(sweep: str) -> Iterator[tuple[int, Study]]:
    """Yield the studies of a sweep with their sizes."""
    what, question = sweep.split("-")
    keys = COST if question == "cost" else E2E
    match what:
        case "devices":
            for n_nodes in NODES:
                model = "kimi-k2" if n_nodes > 1 else "llama-3.1-70b"
                yield DEVICES_PER_NODE * n_nodes, _study(model, n_nodes, 1_000, keys)
        case "layers":
            with TemporaryDirectory() as folder:
                for n_layers in LAYERS:
                    yield n_layers, _study(_with_layers(n_layers, Path(folder)), 4, 1_000, keys)
        case _:
            for n_requests in REQUESTS:
                yield n_requests, _study("kimi-k2", 16, n_requests, keys)


SWEEPS: Final = ("devices-e2e", "devices-cost", "layers-e2e", "requests-e2e", "requests-cost")


def swept(sweep: str) -> list[Point]:
    """Return the points of a sweep, and print each."""
    points = []
    for size, study in _points(sweep):
        point, _ = searched(study, sweep, size)
        points.append(point)
        print(json.dumps(point.row()), flush=True)
    return points


def slope_of(points: Sequence[Point], phase: str | None = None) -> float:
    """Return the exponent of a power law through the points, of all time or of one phase's; NaN without two of them.

    A change of model is no growth: of the sweep over devices the first point is left out.
    """
    left = points[1:] if points[0].sweep.startswith("devices") else points
    pairs = [(point.size, point.spent_s.get(phase, 0.0) if phase else point.total_s) for point in left]
    sizes, spent_s = np.array([pair for pair in pairs if pair[1] > 0.0]).reshape(-1, 2).T
    return float(np.polyfit(np.log(sizes), np.log(spent_s), 1)[0]) if len(sizes) > 1 else float("nan")


# --- what is written --------------------------------------------------------------------------------------------------


def draw(sweeps: Sequence[Sequence[Point]], path: Path) -> None:
    """Draw CPU time against size, one panel for each sweep, with the slope of all time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(sweeps), figsize=(2.9 * len(sweeps), 3.6), layout="constrained", squeeze=False
    )
    for panel, points in zip(axes[0], sweeps, strict=True):
        sizes = [point.size for point in points]
        for number, phase in enumerate(PHASES):
            spent_s = [point.spent_s.get(phase) or np.nan for point in points]
            panel.loglog(sizes, spent_s, ".-", color=f"C{number}", linewidth=0.9, label=phase)
        panel.loglog(sizes, [point.total_s for point in points], "o-", color="black", markersize=3.5, label="all")
        panel.set_title(f"{points[0].sweep}: size^{slope_of(points):.2f}", fontsize=9)
        panel.set_xlabel(points[0].sweep.split("-")[0])
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.set_ylim(1e-3, 1e2)
    axes[0][0].set_ylabel("CPU seconds")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def write(sweeps: Sequence[Sequence[Point]], folder: Path) -> None:
    """Write table and slopes as CSV and JSON, and the figure."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [point.row() for points in sweeps for point in points]
    slopes = {
        points[0].sweep: {phase or "all": slope_of(points, phase) for phase in (None, *PHASES)} for points in sweeps
    }
    with (folder / "search_growth.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)
    document = {"points": rows, "slopes": slopes}
    (folder / "search_growth.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw(sweeps, folder / "search_growth.png")
    for sweep, of_phases in slopes.items():
        print(sweep, {phase: round(slope, 2) for phase, slope in of_phases.items()})


# --- the named case ---------------------------------------------------------------------------------------------------


def kimi(trace: Path, jobs: int | None) -> None:
    """Print plans, gap and CPU time of both searches for Kimi-K2 on 512 H200, or wall time with so many workers."""
    load = {"n_requests": KIMI_REQUESTS, "rate_per_s": KIMI_RATE_PER_S}
    base = {"model": "kimi-k2", "cluster": "64x8xh200-sxm", "workload": str(trace), "load": load}
    for name, question in (("e2e", E2E), ("cost", COST)):
        study = make_study({**base, **question}, f"kimi-{name}", "kimi")
        if jobs:
            started = time.perf_counter()
            result = answer_study(study, n_jobs=jobs)
            wall_s = time.perf_counter() - started
            print(f"{name}, {jobs} jobs, with error bars: {wall_s:.1f} s wall; {result.certificate}", flush=True)
            continue
        point, strategy = searched(study, f"kimi-{name}", study.cluster.n_devices)
        best = "no answer" if strategy.best is None else strategy.plans[strategy.best].label
        print(f"{name}: {best}\n{json.dumps(point.row(), indent=1)}", flush=True)


def _warm() -> None:
    """Compile what all searches run, and load what is loaded once."""
    bench = Bench(study := _study("llama-3.1-70b", 1, 50, E2E))
    bench(Job(enumerate_space(study).feasible[0], None, bars=True))


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for table and figure")
    parser.add_argument("--sweeps", nargs="+", choices=SWEEPS, default=SWEEPS)
    parser.add_argument("--kimi", type=Path, metavar="TRACE", help="Mooncake's conversation trace")
    parser.add_argument("--jobs", type=int, help="with --kimi: wall time with so many worker processes")
    arguments = parser.parse_args()
    if not (arguments.out or arguments.kimi):
        parser.error("give --out FOLDER or --kimi TRACE")
    _warm()
    if arguments.kimi:
        kimi(arguments.kimi, arguments.jobs)
    if arguments.out:
        write([swept(sweep) for sweep in arguments.sweeps], arguments.out)


if __name__ == "__main__":
    main()
