"""Fit the few times of an engine that only served runs tell: `python benchmarks/fit_presets.py CASES.csv ...`.

Each preset has a handful of named parameters with a prior; they are fitted by robust least squares to the measured
runs of the sources below, each source weighing the same.  Then each source is left out in turn, and runs of models and
devices that no fit saw are predicted.  `--json FILE` keeps the errors for the accuracy page.  Files: the measured
cases of docs/accuracy.md, and those that benchmarks/silicon_cases.py writes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares, minimize

from apex_sim.cost.calibrated import best_cost_model
from apex_sim.cost.cost_model import CostModel
from apex_sim.errors import InfeasiblePlanError, UnsupportedError
from apex_sim.fleet.compiled_plan import CompiledPlan, compile_plan, with_preset
from apex_sim.fleet.fleet import simulate_plan
from apex_sim.metrics.slo import Slo
from apex_sim.metrics.summary import summarise
from apex_sim.preset.preset import Preset
from apex_sim.truth.case import Case
from apex_sim.truth.cases import read_cases
from apex_sim.truth.replay import Replay, make_replay

#: Parameter: value expected beforehand, and its spread in log space.
Priors = Mapping[str, tuple[float, float]]

PRIORS: Mapping[str, Priors] = {
    "vllm-0.6": {
        "host.step_s": (4e-3, 0.5),
        "host.sequence_s": (2e-4, 0.7),
        "host.frontend_s": (4e-3, 0.5),
        "slowdown.growth": (0.4, 0.5),
    },
    "vllm-1": {"host.between_steps_s": (5e-4, 0.7), "host.frontend_s": (5e-3, 0.4), "host.prompt_token_s": (4e-6, 0.2)},
    "sglang": {"host.between_steps_s": (4e-4, 0.7), "host.frontend_s": (1e-2, 1.0)},
}
#: Sources that a preset is fitted to; all others are only predicted.
FITTED_TO = {"vllm-0.6": ("apex_plus",), "vllm-1": ("inferencex_ci", "nebius_gloria"), "sglang": ("inferencex_ci",)}
#: What a residual of one means for each metric; a closed loop's mean TTFT hangs on its opening burst.
SCALES = {
    "ttft_mean_s": 0.10,
    "ttft_median_s": 0.08,
    "tpot_mean_s": 0.03,
    "tpot_median_s": 0.03,
    "itl_mean_s": 0.03,
    "e2e_mean_s": 0.03,
    "output_tokens_per_s": 0.03,
}
#: A prior counts as this share of one source.
PRIOR_WEIGHT = 0.15
#: What the median signed error of a source and metric weighs beside its single errors together.
BIAS_WEIGHT = 2.0


@dataclass(frozen=True)
class Served:
    """A measured run, with its compiled plan where that is kept for many predictions."""

    case: Case
    replay: Replay
    cost: CostModel
    compiled: CompiledPlan | None = None

    @property
    def preset(self) -> Preset:
        """The engine as the replay has it."""
        return self.replay.plan.instances[0][0].preset

    def predict(self, values: Mapping[str, float]) -> dict[str, float | None]:
        """Return the metrics under other values of the preset's parameters."""
        preset, replay = with_values(self.preset, values), self.replay
        tables = self.compiled or compile_plan(replay.model, replay.cluster, replay.plan, self.cost)
        plan, compiled = with_preset(replay.plan, tables, lambda _: preset)
        run = simulate_plan(
            self.replay.model, self.replay.cluster, plan, self.replay.workload, self.cost, compiled=compiled
        )
        metrics = self.replay.as_streamed(summarise(run, self.replay.cluster, Slo()))
        return {name: metrics[name] for name in self.case.measured}


def with_values(preset: Preset, values: Mapping[str, float]) -> Preset:
    """Return the preset with parameters such as "host.step_s" replaced."""
    for name, value in values.items():
        part, field = name.split(".")
        preset = replace(preset, **{part: replace(getattr(preset, part), **{field: value})})
    return preset


def read_served(paths: Iterable[Path]) -> list[Served]:
    """Return the runs that can be replayed by one of the presets."""
    served: list[Served] = []
    for path in paths:
        for case in read_cases(path).cases:
            try:
                replay = make_replay(case, path.parent)
            except (UnsupportedError, InfeasiblePlanError):
                continue
            if replay.plan.instances[0][0].preset.name not in PRIORS:
                continue
            served.append(Served(case, replay, best_cost_model(replay.cluster.device)))
    return served


def with_tables(runs: Sequence[Served]) -> list[Served]:
    """Return the runs with what they compile to, which repeats of a load share."""
    known: dict[tuple[object, ...], CompiledPlan] = {}
    for run in runs:
        replay = run.replay
        if replay.key not in known:
            known[replay.key] = compile_plan(replay.model, replay.cluster, replay.plan, run.cost)
    return [replace(run, compiled=known[run.replay.key]) for run in runs]


def predictions(runs: Sequence[Served], values: Mapping[str, float]) -> list[dict[str, float | None]]:
    """Return the metrics of each run; repeats of a load are simulated once."""
    known: dict[tuple[object, ...], Served] = {}
    for run in runs:
        known.setdefault(run.replay.key, run)
    wanted = {name for run in runs for name in run.case.measured}
    simulated = {}
    for key, run in known.items():
        case = replace(run.case, measured=dict.fromkeys(wanted, 1.0))
        simulated[key] = replace(run, case=case).predict(values)
    return [simulated[run.replay.key] for run in runs]


def errors(runs: Sequence[Served], predicted: Sequence[Mapping[str, float | None]], metric: str) -> np.ndarray:
    """Return the signed relative errors of a metric, over the runs that measured it."""
    pairs = [
        (found[metric], run.case.measured[metric])
        for run, found in zip(runs, predicted, strict=True)
        if metric in run.case.measured and found[metric] is not None
    ]
    return np.array([float(found or 0.0) / measured - 1.0 for found, measured in pairs])


def fit(preset: str, runs: Sequence[Served]) -> dict[str, float]:
    """Return the parameters that explain the runs best; sources weigh the same."""
    priors = PRIORS[preset]
    sources = sorted({run.case.source for run in runs})

    def values(z: np.ndarray) -> dict[str, float]:
        return {name: mean * float(np.exp(spread * z[i])) for i, (name, (mean, spread)) in enumerate(priors.items())}

    def residuals(z: np.ndarray) -> np.ndarray:
        parts = [PRIOR_WEIGHT * np.asarray(z)]
        predicted = predictions(runs, values(z))
        for source in sources:
            for metric, scale in SCALES.items():
                logs = [
                    np.log(found[metric] / run.case.measured[metric])
                    for run, found in zip(runs, predicted, strict=True)
                    if run.case.source == source and metric in run.case.measured and found[metric]
                ]
                if logs and not is_second(metric, runs, source):
                    parts.append(robust(np.array(logs) / scale) / np.sqrt(len(logs)))
                    parts.append(robust(np.array([BIAS_WEIGHT * np.median(logs) / scale])))
        return np.concatenate(parts)

    # Terms that stand in for each other make valleys with several floors: start from both ends of the priors too.
    found = [
        least_squares(residuals, start, diff_step=0.05, max_nfev=8)
        for start in (np.full(len(priors), level) for level in (0.0, 1.0, -1.0))
    ]
    # Medians of closed loops jump by whole steps, on which derivatives stick: end with a search that needs none.
    best = min(found, key=lambda one: one.cost).x

    def cost(z: np.ndarray) -> float:
        return float(np.sum(residuals(z) ** 2))

    return values(minimize(cost, best, method="Nelder-Mead", options={"maxfev": 60, "xatol": 0.05, "fatol": 0.01}).x)


def robust(residuals: np.ndarray) -> np.ndarray:
    """Return residuals whose squares grow like the residual itself once it is large (pseudo-Huber)."""
    return np.asarray(np.sign(residuals) * np.sqrt(2.0 * (np.sqrt(1.0 + residuals**2) - 1.0)))


#: What a fit looks at in place of a metric, where both were measured: the mean TTFT of a closed loop hangs on its
#: opening burst, and inter-token times on how many tokens a stream sends together.
BETTER = {"ttft_mean_s": "ttft_median_s", "itl_mean_s": "tpot_mean_s"}


def is_second(metric: str, runs: Sequence[Served], source: str) -> bool:
    """Whether the source has a better metric than this one."""
    better = BETTER.get(metric)
    return any(run.case.source == source and better in run.case.measured for run in runs)


def rows(preset: str, left_out: str, runs: Sequence[Served], values: Mapping[str, float]) -> list[dict[str, object]]:
    """Return the error figures of each metric over the runs."""
    table, predicted = [], predictions(runs, values)
    for metric in SCALES:
        found = errors(runs, predicted, metric)
        if len(found):
            table.append(
                {
                    "preset": preset,
                    "left_out": left_out,
                    "metric": metric,
                    "n": len(found),
                    "median_frac": float(np.median(np.abs(found))),
                    "p90_frac": float(np.quantile(np.abs(found), 0.9)),
                    "bias_frac": float(np.median(found)),
                }
            )
    return table


def groups(runs: Sequence[Served], key: Callable[[Case], str]) -> dict[str, list[Served]]:
    """Return the runs by a key of their cases."""
    found: dict[str, list[Served]] = {}
    for run in runs:
        found.setdefault(key(run.case), []).append(run)
    return found


def name_of(case: Case) -> str:
    """Return what an unseen run is grouped by."""
    return f"{case.deployment.model} on {case.deployment.device}, {case.source}"


def main() -> None:
    """Fit, leave out, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path, nargs="+", help="CSV files of measured cases")
    parser.add_argument("--json", type=Path, help="keep the errors there")
    arguments = parser.parse_args()
    everything = read_served(arguments.cases)
    result: dict[str, list[dict[str, object]]] = {
        "parameters": [],
        "fitted": [],
        "as_shipped": [],
        "left_out_source": [],
        "left_out_model": [],
        "left_out_device": [],
        "left_out_both": [],
        "not_left_out": [],
    }
    for preset in PRIORS:
        runs = [run for run in everything if run.preset.name == preset]
        train = with_tables([run for run in runs if run.case.source in FITTED_TO[preset]])
        unseen = [run for run in runs if run.case.source not in FITTED_TO[preset]]
        if not train:
            result["not_left_out"].append({"preset": preset, "reason": "no run of its sources in the files"})
            continue
        values = fit(preset, train)
        result["parameters"].append({"preset": preset, "values": values})
        by_source = groups(train, lambda case: case.source)
        for source, mine in by_source.items():
            result["fitted"] += rows(preset, source, mine, values)
            result["as_shipped"] += rows(preset, source, mine, {})
            rest = [run for run in train if run.case.source != source]
            if rest:
                result["left_out_source"] += rows(preset, source, mine, fit(preset, rest))
        if len(by_source) == 1:
            result["not_left_out"].append({"preset": preset, "reason": "one source only: nothing is left to fit"})
        models = {run.case.deployment.model for run in train}
        devices = {run.case.deployment.device for run in train}
        for part, is_new in (
            ("left_out_model", (True, False)),
            ("left_out_device", (False, True)),
            ("left_out_both", (True, True)),
        ):
            new = [
                run
                for run in unseen
                if (run.case.deployment.model not in models, run.case.deployment.device not in devices) == is_new
            ]
            for name, mine in groups(new, name_of).items():
                result[part] += rows(preset, name, mine, values)
            if not new:
                reason = f"no run with {part.removeprefix('left_out_')} unseen in the files"
                result["not_left_out"].append({"preset": preset, "reason": reason})
    report(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


def report(result: Mapping[str, Sequence[Mapping[str, object]]]) -> None:
    """Print parameters and errors."""
    for entry in result["parameters"]:
        print(entry["preset"], {name: float(f"{value:.3g}") for name, value in dict(entry["values"]).items()})
    for part in ("fitted", "as_shipped", "left_out_source", "left_out_model", "left_out_device", "left_out_both"):
        print(f"\n{part}: median, p90 of |error|, bias in percent")
        for row in result[part]:
            figures = " ".join(
                f"{100 * float(str(row[name])):6.1f}" for name in ("median_frac", "p90_frac", "bias_frac")
            )
            print(f"{row['preset']:9} {row['left_out']:38} {row['metric']:20} {row['n']:4} {figures}")
    for entry in result["not_left_out"]:
        print(f"{entry['preset']}: {entry['reason']}")


if __name__ == "__main__":
    main()
