"""What does a calibration from one load change at a server's other loads and lengths?

    python benchmarks/calibrate_one_point.py DATA/serving/cases.csv

Fits the profile of gpt-oss-120b on H200, TP2, vLLM 0.13.0 to one closed loop (16 users, 1,024 tokens in and out, both
of its repeats), and predicts the server's other closed loops.  Prints the median absolute errors before and after, by
metric and by load, and how far the one point errs where the others do not: a factor for all loads can take away what
all loads share, and no more.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from apex_sim.errors import InputError, UnsupportedError
from apex_sim.truth.calibration.profile_file import ProfileFile
from apex_sim.truth.calibration.profile_support import profile_replay
from apex_sim.truth.calibration.run_simulator import AS_SHIPPED, RunSimulator
from apex_sim.truth.calibration.served_run import ServedRun, read_runs
from apex_sim.truth.calibration.server_calibration import Calibration, calibrate_server
from apex_sim.truth.calibration.server_file import ServerFile
from apex_sim.truth.cases import read_cases

METRICS = ("ttft_median_s", "ttft_mean_s", "tpot_median_s", "tpot_p99_s", "e2e_mean_s", "output_tokens_per_s")
Errors = dict[str, tuple[float, float]]


def server_cases(path: Path, version: str = "0.13.0", tp: int = 2) -> list[str]:
    """Return the cases of the server."""
    return [
        case.case_id
        for case in read_cases(path).cases
        if (case.source, case.deployment.model) == ("inferencex_ci", "gpt-oss-120b")
        and (case.deployment.engine, case.deployment.engine_version, case.deployment.tp) == ("vllm", version, tp)
    ]


def load_of(run: ServedRun) -> tuple[int, int, int]:
    """Return users, and the longest prompt and output rounded to what the benchmark was asked for."""
    requests = run.replay.workload.requests
    longest = (requests.prompt_tokens.max(), requests.output_tokens.max())
    return run.replay.workload.load.concurrency or 0, *(2 ** round(float(np.log2(tokens))) for tokens in longest)


def errors_of(run: ServedRun, profile: ProfileFile) -> Errors:
    """Return signed errors before and after; refused where the profile does not hold."""
    profile_replay(run.replay, profile)
    simulator = RunSimulator(run)
    before, after = simulator.predict(AS_SHIPPED), simulator.predict(profile.multipliers)
    return {
        name: (before[name] / run.measured[name] - 1, after[name] / run.measured[name] - 1)
        for name in METRICS
        if name in run.measured
    }


def calibrate_from(path: Path, runs: list[ServedRun], load: tuple[int, int, int]) -> Calibration:
    """Return the calibration from the runs of one load."""
    return calibrate_server([path], ServerFile(), cases=[run.name for run in runs if load_of(run) == load])


def print_before_after(errors: list[Errors]) -> None:
    """Print median absolute errors and biases by metric."""
    print(f"{'metric':22s}{'n':>4s}{'before':>9s}{'after':>9s}{'bias before':>13s}{'bias after':>12s}")
    for name in METRICS:
        pairs = np.array([row[name] for row in errors if name in row])
        absolute, bias = np.median(np.abs(pairs), axis=0), np.median(pairs, axis=0)
        print(
            f"{name:22s}{len(pairs):4d}{absolute[0]:9.1%}{absolute[1]:9.1%}{bias[0]:+13.1%}{bias[1]:+12.1%}", flush=True
        )


def main() -> None:
    """Calibrate from the one point, then every server of the file likewise."""
    path = Path(sys.argv[1])
    runs = read_runs(path, ServerFile(), server_cases(path))
    point = (16, 1024, 1024)
    calibration = calibrate_from(path, runs, point)
    for estimate in calibration.fit.estimates:
        told = "" if estimate.informed else ", not informed by the data"
        print(f"{estimate.name:10s}x {estimate.multiplier:.3f}  80 %: {estimate.low:.3f} to {estimate.high:.3f}{told}")
    others = [run for run in runs if load_of(run) != point]
    errors = [errors_of(run, calibration.profile) for run in others]
    print(f"\nFitted to {', '.join(calibration.profile.runs)}; {len(others)} rows of the server's other loads\n")
    print_before_after(errors)
    print("\nBy load (users, tokens in, tokens out): TTFT median and TPOT median, signed, before -> after")
    by_load = {load_of(run): errors_of(run, calibration.profile) for run in runs}
    for load, row in sorted(by_load.items()):
        ttft, tpot = row["ttft_median_s"], row["tpot_median_s"]
        mark = "  (fitted)" if load == point else ""
        print(f"{load!s:20s} {ttft[0]:+7.1%} -> {ttft[1]:+6.1%}   {tpot[0]:+7.1%} -> {tpot[1]:+6.1%}{mark}")
    spread = np.array([row["tpot_median_s"][0] for row in by_load.values()])
    print(f"\nTPOT before: mean over loads {spread.mean():+.1%}, sd between loads {spread.std(ddof=1):.1%}")
    print_servers(path)


def print_servers(path: Path) -> None:
    """Calibrate every server of the file from one load, and from three of one length, and predict its other loads."""
    print("\nEvery server, from 16 users, or from 4, 16 and 64, at 1,024 in and out: median |error| on the other loads")
    print(f"{'server':44s}{'loads':>6s}{'n':>4s}  " + "".join(f"{name:>16s}" for name in ("TTFT", "TPOT", "tok/s")))
    for title, names in servers(path).items():
        try:
            runs = read_runs(path, ServerFile(), names)
        except UnsupportedError as error:
            print(f"{title:44s}  {error.problem[:60]}")
            continue
        for users in ((16,), (4, 16, 64)):
            fitted = [run.name for run in runs if load_of(run) in {(n, 1024, 1024) for n in users}]
            rest = [run for run in runs if run.name not in fitted]
            if not fitted or not rest:
                continue
            try:
                profile = calibrate_server([path], ServerFile(), cases=fitted).profile
                errors = [errors_of(run, profile) for run in rest]
            except InputError as error:
                print(f"{title:44s}{len(users):6d}  refused: {error.problem[:60]}")
                continue
            texts = [
                "{:.1%} -> {:.1%}".format(*np.median(np.abs([row[name] for row in errors]), axis=0))
                for name in ("ttft_median_s", "tpot_median_s", "output_tokens_per_s")
            ]
            print(f"{title:44s}{len(users):6d}{len(rest):4d}  " + "".join(f"{text:>16s}" for text in texts), flush=True)


def servers(path: Path) -> dict[str, list[str]]:
    """Return the cases of each server that was measured in closed loops."""
    found: dict[str, list[str]] = {}
    for case in read_cases(path).cases:
        served = case.deployment
        if case.source == "inferencex_ci" and case.load.load_kind == "closed":
            plan = f"TP{served.tp} ADP{served.attention_dp or 0} EP{served.ep or 1}"
            title = f"{served.engine} {served.engine_version} {served.model} {plan}"
            found.setdefault(title, []).append(case.case_id)
    return found


if __name__ == "__main__":
    main()
