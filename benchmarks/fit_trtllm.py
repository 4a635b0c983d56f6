"""Fit the free figures of the TensorRT-LLM presets: `python benchmarks/fit_trtllm.py CASES.csv`.

The cases are published offline throughputs (`apex-sim validate serving` replays the same).  One set of figures for each
preset: host time of a step and of a sequence, and the slowdown of steps with prompts by weight format, each with a
prior.  Prints the figures, the errors of the fit by source, and those at models that were left out of a refit.
Nothing is written: what stands in `apex_sim/preset` is copied from here by hand, rounded.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from apex_sim.cost.calibrated import best_cost_model
from apex_sim.cost.preset_change import change_preset
from apex_sim.fleet.compiled_plan import CompiledPlan, compile_plan
from apex_sim.fleet.fleet import simulate_plan
from apex_sim.plan.plan import Plan
from apex_sim.preset.load import PRESETS
from apex_sim.preset.preset import Preset
from apex_sim.truth.case import Case
from apex_sim.truth.cases import read_cases
from apex_sim.truth.replay import Replay, make_replay

COLUMN = "output_tokens_per_s"
#: Scatter of a run's error that no figure explains, and how many of a source's runs count as independent: lengths and
#: plans of one model err together.
NOISE, N_INDEPENDENT = 0.08, 40
N_ROUNDS = 2


@dataclass(frozen=True)
class Figure:
    """A figure to fit: how it stands in a preset, its prior, the prior's deviation and its limits."""

    name: str
    put: Callable[[Preset, float], Preset]
    prior: float
    deviation: float
    low: float
    high: float


def _host(name: str) -> Callable[[Preset, float], Preset]:
    return lambda preset, value: replace(preset, host=replace(preset.host, **{name: value}))


def _slowdown(name: str) -> Callable[[Preset, float], Preset]:
    return lambda preset, value: replace(preset, slowdown=replace(preset.slowdown, **{name: value}))


def _bf16_growth(preset: Preset, value: float) -> Preset:
    return replace(preset, slowdown=replace(preset.slowdown, growth_of={"bf16": value}))


#: Priors: a C++ loop of half a millisecond, a Python one of two; kernels in a step as long as alone.
FIGURES = {
    "trtllm-0.14": (
        Figure("host.step_s", _host("step_s"), 1e-3, 1e-3, 1e-4, 2e-2),
        Figure("host.sequence_s", _host("sequence_s"), 2e-6, 5e-6, 0.0, 1e-4),
        Figure("slowdown.growth", _slowdown("growth"), 0.1, 0.1, -0.3, 1.0),
        Figure("slowdown.growth_of bf16", _bf16_growth, 0.1, 0.1, -0.3, 1.0),
    ),
    "trtllm": (
        Figure("host.step_s", _host("step_s"), 2e-3, 2e-3, 1e-4, 2e-2),
        Figure("host.sequence_s", _host("sequence_s"), 15e-6, 1e-5, 0.0, 1e-4),
        Figure("slowdown.growth", _slowdown("growth"), 0.1, 0.1, -0.3, 1.0),
    ),
}


@dataclass(frozen=True, eq=False)
class Run:
    """A case with its compiled plan."""

    case: Case
    replay: Replay
    compiled: CompiledPlan

    @property
    def preset(self) -> Preset:
        """The preset that the replay chose."""
        return self.replay.plan.instances[0][0].preset

    def error(self, preset: Preset) -> float:
        """Return the logarithm of simulated over measured throughput under the times of `preset`."""
        own = replace(preset, graphs=self.preset.graphs, defaults=self.preset.defaults)
        (shape, n), (memory, model) = self.replay.plan.instances[0], *self.compiled.values()
        changed = replace(shape, preset=own)
        run = simulate_plan(
            self.replay.model,
            self.replay.cluster,
            Plan(((changed, n),), self.replay.plan.router),
            self.replay.workload,
            best_cost_model(self.replay.cluster.device),
            compiled={changed: (memory, change_preset(model, own))},
        )
        return math.log(run.requests.emitted_tokens.sum() / run.makespan_s / self.case.measured[COLUMN])


def load(path: Path) -> list[Run]:
    """Return TensorRT-LLM's offline runs of a file, ready to simulate."""
    runs = []
    for case in read_cases(path).cases:
        if case.deployment.engine == "trtllm" and COLUMN in case.measured:
            replay = make_replay(case, path.parent)
            cost = best_cost_model(replay.cluster.device)
            runs.append(Run(case, replay, compile_plan(replay.model, replay.cluster, replay.plan, cost)))
    return runs


def apply(figures: Sequence[Figure], values: Sequence[float], preset: Preset) -> Preset:
    """Return `preset` with the figures set to `values`."""
    for figure, value in zip(figures, values, strict=True):
        preset = figure.put(preset, float(value))
    return preset


@dataclass(frozen=True)
class Line:
    """Errors of all runs around a point, to first order in the figures' deviations from their priors."""

    figures: Sequence[Figure]
    at: np.ndarray
    errors: np.ndarray
    slopes: np.ndarray

    def solve(self, kept: np.ndarray) -> list[float]:
        """Return the figures that best explain the kept runs, each as far as its prior lets it."""
        n = int(kept.sum())
        low = [(figure.low - figure.prior) / figure.deviation for figure in self.figures]
        high = [(figure.high - figure.prior) / figure.deviation for figure in self.figures]

        def residuals(scaled: np.ndarray) -> np.ndarray:
            errors = (self.errors + self.slopes @ (scaled - self.at))[kept] / NOISE
            return np.concatenate([errors * math.sqrt(min(N_INDEPENDENT, n) / n), scaled])

        start = np.clip(self.at, np.array(low) + 1e-6, np.array(high) - 1e-6)
        found = least_squares(residuals, start, bounds=(low, high), loss="soft_l1")
        return [f.prior + f.deviation * x for f, x in zip(self.figures, found.x, strict=True)]


def line_at(runs: Sequence[Run], figures: Sequence[Figure], preset: Preset, values: Sequence[float]) -> Line:
    """Return the errors of `runs` around `values`, by differences of half a deviation."""
    errors = np.array([run.error(apply(figures, values, preset)) for run in runs])
    slopes = []
    for index, figure in enumerate(figures):
        moved = list(values)
        moved[index] += 0.5 * figure.deviation
        changed = apply(figures, moved, preset)
        slopes.append((np.array([run.error(changed) for run in runs]) - errors) / 0.5)
    at = np.array([(value - f.prior) / f.deviation for f, value in zip(figures, values, strict=True)])
    return Line(figures, at, errors, np.array(slopes).T)


def report(title: str, errors: Sequence[float]) -> None:
    """Print the median and 90th percentile of absolute errors, and the median of signed ones."""
    relative = np.expm1(np.array(errors))
    sizes = np.abs(relative)
    print(
        f"{title:44} n {len(relative):4d}  median {np.median(sizes):6.1%}  p90 {np.quantile(sizes, 0.9):6.1%}"
        f"  bias {np.median(relative):+6.1%}",
        flush=True,
    )


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path)
    parser.add_argument("--preset", choices=list(FIGURES), action="append")
    parser.add_argument("--shipped", action="store_true", help="print the errors of the presets as they are, and end")
    arguments = parser.parse_args()
    everything = load(arguments.cases)
    for name in arguments.preset or FIGURES:
        figures, preset = FIGURES[name], PRESETS[name]
        runs = [run for run in everything if run.preset.name == name]
        report(f"{name} as shipped", [run.error(preset) for run in runs])
        if arguments.shipped:
            continue
        everyone = np.full(len(runs), True)
        values = [figure.prior for figure in figures]
        for _ in range(N_ROUNDS):
            line = line_at(runs, figures, preset, values)
            values = line.solve(everyone)
        for figure, value in zip(figures, values, strict=True):
            print(f"  {figure.name} = {value:.4g} (prior {figure.prior:.4g})")
        fitted = apply(figures, values, preset)
        report(f"{name} fitted", [run.error(fitted) for run in runs])
        left_out = []
        models = np.array([run.case.deployment.model for run in runs])
        for model in sorted(set(models)):
            refitted = apply(figures, line.solve(models != model), preset)
            errors = [run.error(refitted) for run in runs if run.case.deployment.model == model]
            report(f"  without {model}, at {model}", errors)
            left_out += errors
        report(f"{name} at left-out models", left_out)


if __name__ == "__main__":
    main()
