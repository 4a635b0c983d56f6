"""What is simulated for one measured run, and what was seen of it?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from apex_sim.errors import InfeasiblePlanError, InputError, UnknownNameError, UnsupportedError
from apex_sim.truth.benchmarks.benchmark_file import TOOLS, is_json, read_benchmarks
from apex_sim.truth.benchmarks.benchmark_run import BenchmarkRun, Lengths, RequestTimes
from apex_sim.truth.calibration.server_file import ServerFile, require_stated
from apex_sim.truth.case import Case, Deployment, OfferedLoad
from apex_sim.truth.cases import read_cases
from apex_sim.truth.plausibility import require_plausible
from apex_sim.truth.replay import Replay, make_replay
from apex_sim.workload.requests import make_requests
from apex_sim.workload.trace_file import columns_of
from apex_sim.workload.workload import Workload


@dataclass(frozen=True, slots=True, eq=False)
class ServedRun:
    """One measured run: its replay and its figures.

    `times` are those of its requests, None where only summaries are known; `noise_frac` is by how much TTFT differs
    between repeats, where somebody says so.
    """

    name: str
    where: str
    deployment: Deployment
    replay: Replay
    measured: Mapping[str, float]
    times: RequestTimes | None
    noise_frac: float | None
    notes: tuple[str, ...]

    @property
    def load(self) -> tuple[object, ...]:
        """Equal for runs of the same load: kind, users, rate, and mean lengths within about a tenth."""
        workload = self.replay.workload
        means = (workload.requests.prompt_tokens.mean(), workload.requests.output_tokens.mean())
        rate = workload.rate_per_s and round(workload.rate_per_s, 2)
        return (workload.load.kind, workload.load.concurrency, rate, *(round(float(np.log(m)) * 10) for m in means))


def read_runs(path: Path, server: ServerFile, cases: Collection[str] | None = None) -> list[ServedRun]:
    """Return the runs of a benchmark file, or of a CSV of measured cases.

    Parameters
    ----------
    server : what a benchmark file does not say; a CSV says it itself.
    cases : take these cases of a CSV only.

    Raises
    ------
    InputError : as `read_benchmarks` and `read_cases`; the server is not known well enough, or cannot have served this.
    ImplausibleError : no hardware of that kind can have been that fast.
    UnknownNameError : the CSV has no such case.
    """
    if is_json(path):
        return [_from_benchmark(run, server, path.parent) for run in read_benchmarks(path)]
    if "case_id" not in columns_of(path)[1]:
        raise InputError("no benchmark of a known tool, nor measured cases", where=str(path), remedy=f"use {TOOLS}")
    file = read_cases(path)
    known = {case.case_id for case in file.cases}
    for name in cases or ():
        if name not in known:
            raise UnknownNameError("case", name, known, where=str(path))
    chosen = [case for case in file.cases if not cases or case.case_id in cases]
    return [_served(case, path.parent, None, ()) for case in chosen]


def _from_benchmark(run: BenchmarkRun, server: ServerFile, folder: Path) -> ServedRun:
    notes = [f"{run.tool}, {run.n_requests} requests", *run.notes]
    if server.model is None and run.model:
        server = server.model_copy(update={"model": run.model})
        notes.append(f"model: {run.model}, as the client called it")
    require_stated(server, run.where)
    low_frac, spread = _low_frac(run, server)
    notes += spread
    load = OfferedLoad(
        workload=None,
        isl_tokens=_longest(run.prompts, low_frac),
        osl_tokens=_longest(run.outputs, low_frac),
        length_low_frac=low_frac,
        load_kind=run.load_kind,
        concurrency=run.concurrency,
        rate_per_s=run.rate_per_s,
        n_requests=run.n_requests,
        n_warmup=None,
        seed=None,
    )
    case = Case(
        case_id=Path(run.where.partition(",")[0]).name + run.where.partition(",")[2],
        source=run.tool,
        where=run.where,
        deployment=server.deployment(),
        settings=server.settings(),
        load=load,
        measured=run.measured,
        noise_frac=None,
        note="",
    )
    return _served(case, folder, run.times, notes)


def _low_frac(run: BenchmarkRun, server: ServerFile) -> tuple[float, list[str]]:
    """Return the share of the longest length at which lengths begin, and what of it is assumed."""
    if run.times is not None:
        both = (run.times.prompt_tokens, run.times.output_tokens)
        return float(min(column.min() / column.max() for column in both)), []
    stated = [lengths for lengths in (run.prompts, run.outputs) if lengths.least_tokens and lengths.most_tokens]
    if len(stated) == 2 and server.length_low_frac is None:
        least = [(lengths.least_tokens or 0.0) / (lengths.most_tokens or 1.0) for lengths in stated]
        return float(np.mean(least)), ["lengths: uniform between the least and the most that the benchmark states"]
    if server.length_low_frac is not None:
        return server.length_low_frac, [f"lengths: uniform in [{server.length_low_frac:g} L, L], as stated"]
    return 1.0, [
        "lengths: all equal to the mean, as the benchmark states no spread; give --length-low-frac, or save details"
    ]


def _longest(lengths: Lengths, low_frac: float) -> int:
    """Return L such that lengths uniform in [low_frac x L, L] have the mean that was seen."""
    return max(1, round(2 * lengths.mean_tokens / (1 + low_frac)))


def _served(case: Case, folder: Path, times: RequestTimes | None, notes: Sequence[str]) -> ServedRun:
    if times is not None:
        load = replace(
            case.load,
            isl_tokens=int(times.prompt_tokens.max()),
            osl_tokens=int(times.output_tokens.max()),
        )
        case = replace(case, load=load)
    try:
        replay = make_replay(case, folder)
    except (UnsupportedError, InfeasiblePlanError) as error:
        problem = error.reason if isinstance(error, InfeasiblePlanError) else error.problem
        raise UnsupportedError(
            f"cannot be simulated: {problem}", where=case.where, remedy="state the server as it was started"
        ) from None
    require_plausible(case, replay)
    if times is not None:
        replay = replace(replay, workload=_as_seen(replay.workload, times, case))
    notes = (*notes, *replay.notes, *replay.workload.notes)
    return ServedRun(
        case.case_id,
        case.where,
        case.deployment,
        replay,
        case.measured,
        times,
        case.noise_frac,
        tuple(dict.fromkeys(notes)),
    )


def _as_seen(workload: Workload, times: RequestTimes, case: Case) -> Workload:
    """Return the load with the lengths of the requests as they were sent, and their arrivals where those are known."""
    n, load = len(times.ttft_s), workload.load
    arrival_s = np.zeros(n) if load.kind != "trace" else workload.requests.arrival_s
    if load.kind == "trace" and times.start_s is not None:
        arrival_s = np.maximum.accumulate(times.start_s)
    if len(arrival_s) != n:
        raise InputError(
            f"{n} requests in detail, {len(arrival_s)} counted", where=case.where, remedy="give the tool's own file"
        )
    requests = make_requests(
        arrival_s,
        times.prompt_tokens,
        times.output_tokens,
        max_output_tokens=times.output_tokens,
        where=case.where,
    )
    if load.concurrency is not None:
        requests = requests.closed_loop(load.concurrency)
    notes = ("lengths: those of the requests, in the order in which they were sent",)
    return replace(workload, requests=requests, notes=notes)


def require_one_server(runs: Sequence[ServedRun]) -> None:
    """Check that all runs are of one server: its flags may differ, what it serves with what may not.

    Raises
    ------
    InputError : two runs differ in engine, version, model, device, plan or number format.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.deployment != first.deployment:
            names = [
                name
                for name in type(run.deployment).__slots__
                if getattr(run.deployment, name) != getattr(first.deployment, name)
            ]
            raise InputError(
                f"another server than {first.name}: {', '.join(names)} differ",
                where=f"{run.where} ({run.name})",
                remedy="calibrate each server by itself; --case chooses rows of a CSV",
            )
