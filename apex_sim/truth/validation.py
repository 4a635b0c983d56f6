"""How far are simulated TTFT, TPOT, throughput and power from those of measured servers?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from apex_sim.cost.calibrated import best_cost_model
from apex_sim.errors import ImplausibleError, InfeasiblePlanError, UnsupportedError
from apex_sim.fleet.compiled_plan import compile_plan
from apex_sim.fleet.fleet import simulate_plan
from apex_sim.metrics.slo import Slo
from apex_sim.metrics.summary import summarise
from apex_sim.truth.axes import axis_values, summarise_axes
from apex_sim.truth.calibration.profile_file import ProfileFile, read_profile
from apex_sim.truth.calibration.profile_support import profile_notes, profile_replay
from apex_sim.truth.case import MEASURED, Case
from apex_sim.truth.case_choice import cases_path, chosen_cases
from apex_sim.truth.cases import read_cases
from apex_sim.truth.error_bar import Spread, intervals_of, spread_of
from apex_sim.truth.error_summary import ErrorSummary, relative_error, summarise_errors
from apex_sim.truth.noise import noise_floors
from apex_sim.truth.plausibility import require_plausible
from apex_sim.truth.ranking_quality import rank_groups, summarise_rankings
from apex_sim.truth.replay import Replay, make_replay
from apex_sim.truth.response import Served
from apex_sim.truth.served_plan import ServedCase, plan_groups
from apex_sim.truth.validated import load_validated

#: Output tokens that one process simulates in about the time that worker processes take to start.
_WORTH_WORKERS_TOKENS: Final = 2_000_000

#: Told how many simulations are done, out of how many.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case, predicted and measured.

    `predicted`, `error` (signed, relative) and `interval` have the keys of `measured`, the columns of the CSV; they are
    empty for a case that was skipped, and `skipped_reason` is empty for one that was replayed.  An `interval` holds the
    truth with 80 % as estimated without the case's own source; None where the run does not define the metric.  `axes`
    is the case's place on each axis of the summary, `note` the file's own.
    """

    case_id: str
    source: str
    engine: str
    engine_version: str
    model: str
    device: str
    plan: str
    measured: Mapping[str, float]
    predicted: Mapping[str, float | None]
    error: Mapping[str, float | None]
    interval: Mapping[str, tuple[float, float] | None]
    noise_frac: float | None
    skipped_reason: str
    notes: tuple[str, ...]
    axes: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, slots=True)
class Validation:
    """All cases of a file with their errors.

    `n_simulations` is below the number of replayed cases when some are repeats of one another; `assumed` and
    `cost_provenance` say what the predictions rest on; `cpu_s` is the processor time of all simulations;
    `spreads` holds by case what moves its metrics.
    """

    source_file: str
    cases: tuple[CaseResult, ...]
    summary: ErrorSummary
    n_simulations: int
    cost_provenance: tuple[str, ...]
    assumed: tuple[str, ...]
    notes: tuple[str, ...]
    cpu_s: float = field(compare=False)
    spreads: Mapping[str, Spread] = field(default_factory=dict, compare=False)


def validate_serving(
    path: Path | str,
    *,
    n_jobs: int | None = None,
    progress: Progress | None = None,
    limit: int | None = None,
    sources: Collection[str] | None = None,
    engines: Collection[str] | None = None,
    models: Collection[str] | None = None,
    devices: Collection[str] | None = None,
    profile: Path | str | None = None,
) -> Validation:
    """Replay the measured cases of a CSV and compare.

    Parameters
    ----------
    path : measured cases in the columns of docs/design.md, section 8, or the name of cases that ship with the project
        ("published").
    n_jobs : worker processes; None decides by the work at hand.  The result does not depend on it.
    progress : told after each simulation; cases that repeat one another share one.
    limit : take the first so many of the cases that are left.
    sources, engines, models, devices : take the cases with one of these only, named as in the file.
    profile : calibration profile under whose times the cases of its server are replayed; all others are skipped.

    Raises
    ------
    InputError : the file is broken, names a request file that is missing, broken or outside its folder, or `limit` is
        below 1.
    UnknownNameError : no case has one of `sources`, `engines`, `models` or `devices`; or no cases of that name.
    """
    file = read_cases(cases_path(path))
    wanted = {"source": sources, "engine": engines, "model": models, "device": devices}
    cases, notes = chosen_cases(file.cases, limit, wanted)
    calibrated = None if profile is None else read_profile(Path(profile))
    replays, reasons = _replays(cases, file.path.parent, calibrated)
    predicted, cpu_s = _simulate(replays, n_jobs, progress)
    results = tuple(
        _result(case, replay, predicted.get(replay.key) if replay else None, reason)
        for case, replay, reason in zip(cases, replays, reasons, strict=True)
    )
    return Validation(
        source_file=str(path),
        cases=results,
        summary=_summary(cases, replays, results),
        n_simulations=len(predicted),
        cost_provenance=_distinct(best_cost_model(replay.cluster.device).provenance for replay in replays if replay),
        assumed=_distinct(text for replay in replays if replay for text in _assumed(replay)),
        notes=(*file.notes, *notes, *(profile_notes(calibrated) if calibrated else ())),
        cpu_s=cpu_s,
        spreads={case.case_id: predicted[replay.key][1] for case, replay in zip(cases, replays, strict=True) if replay},
    )


def _summary(cases: Sequence[Case], replays: Sequence[Replay | None], results: Sequence[CaseResult]) -> ErrorSummary:
    """Return the errors by source and by axis, and whether plans came out in the measured order."""
    sources, errors = [case.source for case in cases], [result.error for result in results]
    repeats = [
        (case.source, case.deployment.engine_version, replay.key) if replay else None
        for case, replay in zip(cases, replays, strict=True)
    ]
    noise = noise_floors([case.noise_frac for case in cases], repeats, [case.measured for case in cases])
    summary = summarise_errors(sources, errors, noise, [result.skipped_reason for result in results])
    kept = [i for i, replay in enumerate(replays) if replay]
    rankings = rank_groups(
        plan_groups(
            [
                ServedCase(case, replay, result.predicted)
                for case, replay, result in zip(cases, replays, results, strict=True)
                if replay
            ]
        )
    )
    return replace(
        summary,
        by_axis=summarise_axes(
            [results[i].axes for i in kept],
            [sources[i] for i in kept],
            [errors[i] for i in kept],
            [noise[i] for i in kept],
        ),
        rankings=rankings,
        ranking_quality=summarise_rankings(rankings),
    )


def _replays(cases: Sequence[Case], folder: Path, profile: ProfileFile | None) -> tuple[list[Replay | None], list[str]]:
    """Return the replay of each case, or None and the reason why there is none."""
    replays: list[Replay | None] = []
    reasons = []
    for case in cases:
        replay, reason = None, ""
        try:
            replay = make_replay(case, folder)
            require_plausible(case, replay)
            replay = replay if profile is None else profile_replay(replay, profile)
        except UnsupportedError as error:
            replay, reason = None, error.problem
        except InfeasiblePlanError as error:
            reason = f"does not run: {error.reason}"
        except ImplausibleError as error:
            replay, reason = None, f"cannot have been measured: {error}"
        replays.append(replay)
        reasons.append(reason)
    return replays, reasons


Predicted = dict[str, float | None]
Outcome = tuple[Predicted, Spread]


def _simulate(
    replays: Sequence[Replay | None], n_jobs: int | None, progress: Progress | None
) -> tuple[dict[tuple[object, ...], Outcome], float]:
    """Return metrics and spread of each distinct replay by its key, and the processor time that they took."""
    distinct = {replay.key: replay for replay in replays if replay}
    # The longest first, so that no worker is left with it at the end.
    ordered = sorted(distinct.values(), key=lambda replay: -replay.n_output_tokens)
    predicted: dict[tuple[object, ...], Outcome] = {}
    total_s = 0.0
    for replay, (outcome, cpu_s) in zip(ordered, _run_all(ordered, n_jobs), strict=True):
        predicted[replay.key] = outcome
        total_s += cpu_s
        if progress:
            progress(len(predicted), len(ordered))
    return predicted, total_s


def _run_all(replays: Sequence[Replay], n_jobs: int | None) -> Iterator[tuple[Outcome, float]]:
    """Yield the metrics in the order of `replays`, computed in this process or in several."""
    jobs = min(n_jobs or os.cpu_count() or 1, len(replays))
    pays = sum(replay.n_output_tokens for replay in replays) > _WORTH_WORKERS_TOKENS
    if jobs <= 1 or not (n_jobs or pays):
        yield from map(_run, replays)
        return
    from joblib import Parallel, delayed

    pool = Parallel(n_jobs=jobs, return_as="generator", initializer=_keep_workers)
    results: Iterable[Any] = pool(delayed(_run)(replay) for replay in replays)
    yield from results


def _keep_workers() -> None:
    """Let joblib's workers live: where psutil is there, it takes kept tables for a leak and ends them.

    The pool then waits for ever for what they were to do (joblib 1.6).  Kept tables are bounded.
    """
    from joblib.externals.loky import process_executor

    process_executor._USE_PSUTIL = False


def _run(replay: Replay) -> tuple[Outcome, float]:
    started_s = time.process_time()
    model, cluster, workload, cost = (
        replay.model,
        replay.cluster,
        replay.workload,
        best_cost_model(replay.cluster.device),
    )
    compiled = compile_plan(model, cluster, replay.plan, cost)
    run = simulate_plan(model, cluster, replay.plan, workload, cost, compiled=compiled)
    metrics = replay.as_streamed(summarise(run, cluster, Slo()))
    drawn = workload.seed is not None
    spread = spread_of(Served(model, cluster, workload, cost, Slo(), compiled, run), drawn=drawn)
    return ({name: metrics[name] for name in MEASURED}, spread), time.process_time() - started_s


def _result(case: Case, replay: Replay | None, outcome: Outcome | None, reason: str) -> CaseResult:
    predicted, spread = outcome or ({}, None)
    mine = {name: predicted[name] for name in case.measured if name in predicted}
    bars = intervals_of(mine, spread, load_validated().without(case.source)) if spread else {}
    return CaseResult(
        case_id=case.case_id,
        source=case.source,
        engine=case.deployment.engine,
        engine_version=case.deployment.engine_version,
        model=case.deployment.model,
        device=case.deployment.device,
        plan=replay.plan.label if replay else "",
        measured=case.measured,
        predicted=mine,
        error={name: relative_error(value, case.measured[name]) for name, value in mine.items()},
        interval={name: (bars[name].low, bars[name].high) if name in bars else None for name in mine},
        noise_frac=case.noise_frac,
        skipped_reason=reason,
        notes=replay.notes if replay else (),
        axes=axis_values(case, replay) if replay else {},
        note=case.note,
    )


def _assumed(replay: Replay) -> list[str]:
    """Return which figures behind a replay are assumed."""
    preset, device = replay.plan.instances[0][0].preset, replay.cluster.device
    parts = (("graphs", preset.graphs), ("host time", preset.host), ("buffers", preset.buffers))
    texts = [f"{preset.name} {name}: {part.source}" for name, part in parts if part.kind == "assumed"]
    return texts + [f"{device.name} {key}: {f.source}" for key, f in device.figures.items() if f.kind == "assumed"]


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
