"""What do a server's own runs say about its times?  Read, judged, fitted, checked on what was held back."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from apex_sim import __version__
from apex_sim.errors import InputError
from apex_sim.truth.benchmarks.engine_log import LoggedPool, read_engine_log
from apex_sim.truth.calibration.consistency import require_enough, require_explained, require_repeats_agree
from apex_sim.truth.calibration.fit import Evidence, Fit, fit_multipliers
from apex_sim.truth.calibration.held_back import Check, check_fit
from apex_sim.truth.calibration.likelihood import fitted_metrics, load_sd
from apex_sim.truth.calibration.profile_file import (
    FORMAT,
    ProfiledTime,
    ProfileFile,
    ProfileFit,
    ProfileSupport,
    preset_sha256,
)
from apex_sim.truth.calibration.profile_support import server_of
from apex_sim.truth.calibration.run_simulator import AS_SHIPPED, RunSimulator
from apex_sim.truth.calibration.served_run import ServedRun, read_runs, require_one_server
from apex_sim.truth.calibration.server_file import ServerFile

MAX_RUNS: Final = 100
#: What a fit takes, more or less: for the progress bar.
_POINTS_OF_A_FIT: Final = 75


@dataclass(frozen=True, slots=True)
class FittedMetric:
    """One figure that the fit used, with its signed relative error before and after."""

    run: str
    metric: str
    measured: float
    before_frac: float
    after_frac: float


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A profile, how it came about, and how far it is from what was measured."""

    profile: ProfileFile
    fit: Fit
    fitted: tuple[FittedMetric, ...]
    check: Check
    notes: tuple[str, ...]


def calibrate_server(
    paths: Sequence[Path],
    server: ServerFile | None = None,
    *,
    engine_log: Path | None = None,
    cases: Collection[str] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Calibration:
    """Fit host time and kernel efficiency of one server to its runs.

    Parameters
    ----------
    paths : benchmark outputs of vLLM, SGLang, GuideLLM or AIPerf, or CSV files of measured cases.
    server : what the benchmarks do not say.
    engine_log : log of the server, for the size of its KV cache.
    cases : take these cases of CSV files only.
    progress : told how many points were simulated, out of about how many.

    Raises
    ------
    InputError : a file is broken, foreign or contradictory; runs are of several servers, contradict each other, say too
        little, or cannot be explained.
    UnsupportedError : a server or load that cannot be simulated.
    """
    runs = [run for path in paths for run in read_runs(path, server or ServerFile(), cases)]
    if not 1 <= len(runs) <= MAX_RUNS:
        raise InputError(
            f"{len(runs)} runs", where="RUNS", remedy=f"give 1 to {MAX_RUNS}; --case chooses rows of a CSV"
        )
    require_one_server(runs)
    require_enough(runs)
    require_repeats_agree(runs)
    pool = None if engine_log is None else read_engine_log(engine_log)
    evidence = make_evidence(runs, pool)
    n_points, n_loads = 0, len({run.load for run in runs})

    def step() -> None:
        nonlocal n_points
        n_points += 1
        if progress:
            progress(n_points, max(n_points, _POINTS_OF_A_FIT * (1 + min(n_loads, 8) * (n_loads > 1))))

    fit = fit_multipliers(evidence, step)
    require_explained(evidence, fit)
    check = check_fit(evidence, fit.multipliers, step)
    return Calibration(
        profile=_profile(evidence, fit, [*paths, *([engine_log] if engine_log else [])]),
        fit=fit,
        fitted=tuple(row for each in evidence for row in _fitted(each, fit.multipliers)),
        check=check,
        notes=tuple(dict.fromkeys((*_cautions(n_loads, check), *(note for each in evidence for note in each.notes)))),
    )


def _cautions(n_loads: int, check: Check) -> list[str]:
    cautions = []
    if worse := check.worse():
        cautions.append(
            f"on what was held back the profile errs more than the preset in {', '.join(worse)}: what it learnt at "
            "some loads does not hold at others"
        )
    if n_loads == 1:
        cautions.append(
            "one load: the factors hold what the simulator errs at this load alone as well as what it errs at all; two "
            "or three loads with few and many users tell them apart, and check one another"
        )
    return cautions


def make_evidence(runs: Sequence[ServedRun], pool: LoggedPool | None = None) -> list[Evidence]:
    """Return the runs as a fit sees them: repeats of a load count as one."""
    n_of = Counter(run.load for run in runs)
    return [
        Evidence(
            RunSimulator(run, pool),
            run.measured,
            {
                name: load_sd(name, n_of[run.load])
                for name in fitted_metrics(run.measured, run.replay.workload.load.kind)
            },
        )
        for run in runs
    ]


def _fitted(each: Evidence, multipliers: tuple[float, ...]) -> list[FittedMetric]:
    before, after = each.simulator.predict(AS_SHIPPED), each.simulator.predict(multipliers)
    return [
        FittedMetric(
            each.simulator.run.name,
            name,
            each.measured[name],
            before[name] / each.measured[name] - 1,
            after[name] / each.measured[name] - 1,
        )
        for name in each.sd_of
    ]


def _profile(evidence: Sequence[Evidence], fit: Fit, files: Sequence[Path]) -> ProfileFile:
    first = evidence[0].simulator
    shape = first.run.replay.plan.instances[0][0]
    requests = [each.simulator.run.replay.workload.requests for each in evidence]
    one, other, correlation = fit.strongest_correlation()
    times = {
        estimate.name: ProfiledTime(
            multiplier=estimate.multiplier,
            interval_80=[estimate.low, estimate.high],
            prior_log_sd=estimate.prior_log_sd,
            posterior_log_sd=estimate.log_sd,
            informed=estimate.informed,
        )
        for estimate in fit.estimates
    }
    return ProfileFile(
        format=FORMAT,
        apex_sim_version=__version__,
        runs=[each.simulator.run.name for each in evidence],
        data_sha256=_sha256(files),
        preset_sha256=preset_sha256(first.preset),
        cost_model=first.cost_provenance,
        server=server_of(shape, first.run.replay.model.name, first.run.deployment.engine_version),
        support=ProfileSupport(
            concurrency=_range([_users(each.simulator) for each in evidence]),
            prompt_tokens=_range([float(n) for r in requests for n in (r.prompt_tokens.min(), r.prompt_tokens.max())]),
            output_tokens=_range([float(n) for r in requests for n in (r.output_tokens.min(), r.output_tokens.max())]),
        ),
        fit=ProfileFit(
            chi_square=fit.chi_square,
            n_residuals=fit.n_residuals,
            correlated=[name for name in (one, other) if name],
            correlation=correlation,
        ),
        **times,
    )


def _users(simulator: RunSimulator) -> float:
    """Return the users of an instance; of an open loop the mean number of its requests."""
    replay = simulator.run.replay
    users = replay.workload.load.concurrency
    return simulator.mean_users() if users is None else users / replay.plan.n_instances


def _range(values: Sequence[float]) -> list[float]:
    return [min(values), max(values)]


def _sha256(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
