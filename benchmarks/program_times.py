"""How long do the planner's integer programs take at full size, and how close to the optimum do they end?

Run as `python benchmarks/program_times.py [SECONDS]`: the time limit of each program, 30 s unless stated.  Instances
are made up (drawn with a fixed seed); what they share with real ones is their size.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from apex_sim.planner.programs.fleet_columns import compose
from apex_sim.planner.programs.fleet_composition import best_composition, k_best
from apex_sim.planner.programs.fleet_limits import Demand, Limits, Objective
from apex_sim.planner.programs.pipeline import Pipeline
from apex_sim.planner.programs.pipeline_partition import PartitionObjective, partition
from apex_sim.planner.programs.shape_option import ShapeOption
from apex_sim.planner.programs.solvers import Solver, SolverTimeOutError, solver

#: Of one program: (name of the case, call that returns (objective, gap, status)).
Case = tuple[str, Callable[[], tuple[float, float, str]]]
OBJECTIVES: tuple[Objective, ...] = ("usd_per_h", "power_w", "n_devices", "mean_loss")


def _shapes(n: int, n_classes: int, n_types: int) -> list[ShapeOption]:
    """Return shapes whose capacity grows a little less than their devices, and with which larger ones are faster."""
    random = np.random.default_rng(1)
    usd, power_w, speed = (
        random.uniform(1, 10, n_types),
        random.uniform(300, 1200, n_types),
        random.uniform(1, 8, n_types),
    )
    shapes = []
    for s in range(n):
        kind, devices = s % n_types, int(2 ** random.integers(0, 5))
        capacity = speed[kind] * devices ** random.uniform(0.8, 1.0) * random.uniform(0.5, 1.0, n_classes)
        capacity /= np.arange(1, n_classes + 1) * (random.random(n_classes) > 0.15) + 1e-300
        capacity[capacity > 1e100] = 0.0
        loss = tuple((np.arange(1, n_classes + 1) / speed[kind] / devices**0.5).tolist())
        price, watts = usd[kind] * devices, power_w[kind] * devices * random.uniform(0.8, 1.0)
        shapes.append(ShapeOption(f"s{s}", f"gpu-{kind}", devices, price, watts, tuple(capacity.tolist()), loss))
    return shapes


def _fleets(by: Solver) -> Iterator[Case]:
    shapes = _shapes(200, 8, 6)
    devices = {f"gpu-{kind}": 4096 // 6 for kind in range(6)}
    demand = Demand(tuple((1500.0 / np.arange(1, 9)).tolist()))
    limits = Limits(devices=devices, utilisation_frac=0.9)
    for objective in OBJECTIVES:
        name = f"fleet, 200 shapes, 8 classes, 6 types, {objective}"
        yield name, lambda of=objective: _of(best_composition(shapes, demand, limits, of, by))  # type: ignore[misc]
    budget = Limits(devices=devices, utilisation_frac=0.9, usd_per_h=24000.0)
    yield (
        "the same, mean_loss within 24,000 USD/h",
        lambda: _of(best_composition(shapes, demand, budget, "mean_loss", by)),
    )
    yield "the same, 5 best by usd_per_h (the fifth)", lambda: _of(k_best(shapes, demand, limits, k=5, by=by)[-1])
    random = np.random.default_rng(2)
    factors = {shape.name: float(random.uniform(0.6, 1.0)) for shape in shapes}

    def simulate(name: str) -> ShapeOption:
        shape = next(shape for shape in shapes if shape.name == name)
        capacity = tuple(k * factors[name] for k in shape.capacity_per_s)
        return ShapeOption(name, shape.device, shape.n_devices, shape.usd_per_h, shape.power_w, capacity, shape.loss)

    def columns() -> tuple[float, float, str]:
        found = compose(shapes, simulate, demand, limits, by=by)
        return found.best.objective, found.gap_frac, f"{found.best.status}, {len(found.simulated)} simulated"

    yield "the same, shapes simulated as they are used", columns
    many, mixed = _shapes(60, 30, 6), Demand(tuple((300.0 / np.arange(1, 31)).tolist()))
    yield "mix, 60 options, 30 buckets", lambda: _of(best_composition(many, mixed, Limits(devices=devices), by=by))


def _of(found: object) -> tuple[float, float, str]:
    return found.objective, found.gap_frac, found.status  # type: ignore[attr-defined]


def _pipeline(n_layers: int, n_stages: int, *, uneven: bool) -> Pipeline:
    """Return layers of about a millisecond with a head of 1.5, the second half of the devices 1.7 times slower."""
    random = np.random.default_rng(3)
    layer_s = 1e-3 * (random.uniform(0.8, 1.2, n_layers) if uneven else np.ones(n_layers))
    slowness = [1.7 if uneven and s >= n_stages // 2 else 1.0 for s in range(n_stages)]
    rows = tuple(tuple((layer_s * factor).tolist()) for factor in slowness)
    budget = (2e9 * n_layers / n_stages,) * n_stages
    return Pipeline(rows, (1e9,) * n_layers, budget, head_s=tuple(1.5e-3 * factor for factor in slowness))


def _partitions(by: Solver) -> Iterator[Case]:
    objectives: tuple[PartitionObjective, ...] = ("slowest", "sum")
    for n_layers in (80, 126):
        for uneven in (False, True):
            what = "uneven layers and devices" if uneven else "equal layers and devices"
            for objective in objectives:
                name = f"{n_layers} layers, 16 stages, {what}, {objective}"
                pipeline = _pipeline(n_layers, 16, uneven=uneven)
                yield name, lambda p=pipeline, of=objective: _of(partition(p, of, by=by))  # type: ignore[misc]
    for n_layers, n_stages in ((80, 4), (80, 8), (126, 16)):
        pipeline = _pipeline(n_layers, n_stages, uneven=True)
        name = f"{n_layers} layers, {n_stages} stages, two device types in any order"
        yield name, lambda p=pipeline: _of(partition(p, any_order=True, by=by))  # type: ignore[misc]


def main() -> None:
    """Print one line per program."""
    by = solver(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0)
    print(f"{by.name}, at most {by.time_limit_s:g} s each; time includes writing the program\n")
    print(f"{'program':68} {'wall':>8} {'objective':>12} {'gap':>8}  status")
    for name, call in (*_fleets(by), *_partitions(by)):
        start_s = time.perf_counter()
        try:
            objective, gap, status = call()
        except SolverTimeOutError:
            objective, gap, status = float("nan"), float("inf"), "no solution in time"
        print(f"{name:68} {time.perf_counter() - start_s:7.2f}s {objective:12.6g} {gap:8.2%}  {status}", flush=True)


if __name__ == "__main__":
    main()
