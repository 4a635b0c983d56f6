"""A calibration recovers times that are known, says what it cannot tell, and refuses what cannot be true."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apex_sim.cost.calibrated import best_cost_model
from apex_sim.errors import ImplausibleError, InputError, UnsupportedError
from apex_sim.fleet.fleet import simulate_plan
from apex_sim.metrics.slo import Slo
from apex_sim.metrics.summary import summarise
from apex_sim.planner.provenance import provenance_of
from apex_sim.planner.study import load_study, make_study
from apex_sim.record.run import FleetRun
from apex_sim.truth.calibration.fit import fit_multipliers
from apex_sim.truth.calibration.parameters import NAMES, prior_log_sds, scale_preset
from apex_sim.truth.calibration.profile_file import profile_toml, read_profile, write_profile
from apex_sim.truth.calibration.profile_support import apply_profile
from apex_sim.truth.calibration.run_simulator import RunSimulator
from apex_sim.truth.calibration.served_run import read_runs
from apex_sim.truth.calibration.server_calibration import Calibration, calibrate_server, make_evidence
from apex_sim.truth.calibration.server_file import ServerFile, make_server

KNOWN = (1.6, 1.0, 1.15, 1.1)
SERVER: dict[str, Any] = {
    "engine": "vllm",
    "engine_version": "0.13.0",
    "model": "llama-3.1-8b",
    "device": "h100-sxm",
    "tp": 1,
    "max_model_len": 4096,
    "async_scheduling": 0,
}


def summary(users: int, measured: dict[str, float], n: int = 40, prompt: int = 600, output: int = 80) -> dict[str, Any]:
    """Return what `vllm bench serve --save-result` writes."""
    rate = measured["output_tokens_per_s"]
    return {
        "model_id": "llama-3.1-8b",
        "num_prompts": n,
        "request_rate": "inf",
        "burstiness": 1.0,
        "max_concurrency": users,
        "duration": n * output / rate,
        "completed": n,
        "total_input_tokens": n * prompt,
        "total_output_tokens": n * output,
        "output_throughput": rate,
        "mean_ttft_ms": measured["ttft_mean_s"] * 1e3,
        "median_ttft_ms": measured["ttft_median_s"] * 1e3,
        "p99_ttft_ms": measured["ttft_p99_s"] * 1e3,
        "mean_tpot_ms": measured["tpot_mean_s"] * 1e3,
        "median_tpot_ms": measured["tpot_median_s"] * 1e3,
        "p99_tpot_ms": measured["tpot_p99_s"] * 1e3,
    }


PLACEHOLDER = {
    **{f"{latency}_{name}_s": 0.01 for latency in ("ttft", "tpot") for name in ("mean", "median", "p99")},
    "output_tokens_per_s": 50.0,
}


def simulate_known(path: Path, server: ServerFile, multipliers: tuple[float, ...]) -> FleetRun:
    """Serve the load of a benchmark file with a preset whose times are known."""
    (run,) = read_runs(path, server)
    simulator = RunSimulator(run)
    return simulator._run_under(scale_preset(simulator.preset, multipliers))


def bench(folder: Path, users: int, multipliers: tuple[float, ...] = KNOWN, **changes: Any) -> Path:
    """Write a summary that a server with known times would have given to a closed loop."""
    server = ServerFile(**SERVER | changes)
    path = folder / f"users-{users}.json"
    path.write_text(json.dumps(summary(users, PLACEHOLDER)))
    (run,) = read_runs(path, server)
    result = simulate_known(path, server, multipliers)
    measured = summarise(result, run.replay.cluster, Slo())
    path.write_text(json.dumps(summary(users, {name: measured[name] or 0.0 for name in PLACEHOLDER})))
    return path


def detailed(folder: Path, users: int, n: int = 80) -> Path:
    """Write what `--save-detailed` adds, of requests of unequal lengths."""
    rng = np.random.default_rng(5)
    data = summary(users, PLACEHOLDER, n)
    data |= {"input_lens": rng.integers(300, 900, n).tolist(), "output_lens": rng.integers(40, 120, n).tolist()}
    data |= {"ttfts": [0.01] * n, "itls": [[0.01] * (tokens - 1) for tokens in data["output_lens"]]}
    path = folder / "detailed.json"

    def write() -> None:
        data["total_input_tokens"], data["total_output_tokens"] = sum(data["input_lens"]), sum(data["output_lens"])
        data["output_throughput"] = data["total_output_tokens"] / data["duration"]
        path.write_text(json.dumps(data))

    write()
    requests = simulate_known(path, ServerFile(**SERVER), KNOWN).requests
    data["ttfts"] = requests.ttft_s.tolist()
    data["itls"] = [[gap] * (n - 1) for gap, n in zip(requests.tpot_s.tolist(), data["output_lens"], strict=True)]
    data["duration"] = float(requests.finish_s.max())
    write()
    return path


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Calibration:
    folder = tmp_path_factory.mktemp("runs")
    return calibrate_server([bench(folder, 1), bench(folder, 8), bench(folder, 32)], ServerFile(**SERVER))


def test_known_times_lie_in_their_intervals(calibration: Calibration) -> None:
    found = {estimate.name: estimate for estimate in calibration.fit.estimates}
    for name, known in zip(NAMES, KNOWN, strict=True):
        estimate = found[name]
        assert estimate.low <= known <= estimate.high, name
        assert estimate.low < estimate.multiplier < estimate.high
        assert 0 < estimate.log_sd <= estimate.prior_log_sd * 1.001
    assert found["prompt"].informed
    assert calibration.fit.chi_square < calibration.fit.n_residuals


def test_known_times_are_recovered_where_the_model_is_trusted(tmp_path: Path) -> None:
    """Scatter of a tenth as much, as there is none between simulations: priors then pull by little."""
    runs = [run for users in (1, 8, 32) for run in read_runs(bench(tmp_path, users), ServerFile(**SERVER))]
    evidence = [replace(each, sd_of={k: sd / 10 for k, sd in each.sd_of.items()}) for each in make_evidence(runs)]
    for estimate, known in zip(fit_multipliers(evidence).estimates, KNOWN, strict=True):
        assert estimate.multiplier == pytest.approx(known, rel=0.05), estimate.name


def test_a_preset_that_was_compared_with_such_servers_is_trusted_more() -> None:
    seen, unseen = (prior_log_sds("vllm", model, "h200-sxm") for model in ("gpt-oss-120b", "llama-3.1-8b"))
    assert (seen <= unseen).all()
    assert seen[-1] < unseen[-1] / 3


def test_host_and_kernels_are_said_to_be_hard_to_tell_apart(calibration: Calibration) -> None:
    """At small batches one constant of the host stands for decode kernels that take longer (docs/calibrate.md)."""
    one, other, correlation = calibration.fit.strongest_correlation()
    assert {one, other} == {"host", "decode"}
    assert correlation < -0.7


def test_what_was_held_back_is_predicted_better(calibration: Calibration) -> None:
    rows = [row for row in calibration.check.metrics if row.metric == "tpot_median_s"]
    assert calibration.check.how.startswith("leave one load out: each of 3")
    assert len(rows) == 3
    assert max(abs(row.after_frac) for row in rows) < 0.03 < min(abs(row.before_frac) for row in rows)


def test_the_later_half_of_one_detailed_run_is_held_back(tmp_path: Path) -> None:
    calibration = calibrate_server([detailed(tmp_path, 8)], ServerFile(**SERVER))
    assert calibration.check.how.startswith("later half")
    errors = {row.metric: row for row in calibration.check.metrics}
    assert abs(errors["tpot_median_s"].after_frac) < 0.02 < abs(errors["tpot_median_s"].before_frac)
    assert calibration.profile.support.prompt_tokens[1] < 900
    assert any("in the order in which they were sent" in note for note in calibration.notes)


def test_one_summary_says_that_nothing_could_be_held_back(tmp_path: Path) -> None:
    calibration = calibrate_server([bench(tmp_path, 8)], ServerFile(**SERVER))
    assert "nothing could be held back" in calibration.check.how
    assert {row.metric for row in calibration.check.metrics} == {
        "ttft_mean_s",
        "ttft_p99_s",
        "tpot_mean_s",
        "tpot_p99_s",
    }
    assert any("all equal to the mean" in note for note in calibration.notes)


def test_a_host_that_is_hidden_is_called_not_informed(tmp_path: Path) -> None:
    """With asynchronous scheduling and a large batch the kernels take longer than the host at any belief about it."""
    server = ServerFile(**SERVER | {"async_scheduling": 1})
    path = bench(tmp_path, 32, (1.0, 1.0, 1.0, 1.0), async_scheduling=1)
    host = calibrate_server([path], server).fit.estimates[0]
    assert not host.informed
    assert host.log_sd == pytest.approx(host.prior_log_sd, rel=0.05)


def test_runs_of_one_load_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    first = bench(tmp_path, 8)
    data = json.loads(first.read_text())
    second = tmp_path / "again.json"
    second.write_text(json.dumps(data | {key: data[key] * 1.3 for key in data if "tpot" in key}))
    with pytest.raises(InputError, match=r"again\.json: contradictory runs of one load: tpot_median_s.*users-8\.json"):
        calibrate_server([first, second], ServerFile(**SERVER))


def test_runs_that_no_server_explains_are_refused(tmp_path: Path) -> None:
    """Twenty times longer steps are another model or device, whatever the host and the kernels."""
    slow = summary(8, PLACEHOLDER | {"tpot_median_s": 2.0, "tpot_mean_s": 2.0, "tpot_p99_s": 2.0})
    path = tmp_path / "slow.json"
    path.write_text(json.dumps(slow))
    with pytest.raises(InputError, match=r"slow\.json: no host time and kernel efficiency explain the runs"):
        calibrate_server([path], ServerFile(**SERVER))


def test_impossible_figures_end_in_a_message(tmp_path: Path) -> None:
    """No memory is read in 1e-200 s; outputs of one token have no TPOT."""
    path = tmp_path / "odd.json"
    tiny = dict.fromkeys(("tpot_mean_s", "tpot_median_s", "tpot_p99_s"), 1e-200)
    path.write_text(json.dumps(summary(8, PLACEHOLDER | tiny)))
    with pytest.raises(ImplausibleError, match=r"odd\.json: tpot_mean_s is 1e-200, below .* reading the weights"):
        calibrate_server([path], ServerFile(**SERVER))
    path.write_text(json.dumps(summary(8, PLACEHOLDER, output=1)))
    with pytest.raises(InputError, match="tpot_median_s was measured, and cannot come about"):
        calibrate_server([path], ServerFile(**SERVER))


def test_too_little_is_refused(tmp_path: Path) -> None:
    data = {k: v for k, v in summary(8, PLACEHOLDER).items() if "ttft" not in k and "tpot" not in k}
    path = tmp_path / "few.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"few\.json has neither TTFT nor TPOT"):
        calibrate_server([path], ServerFile(**SERVER))
    with pytest.raises(InputError, match="does not say engine, engine_version, device, tp"):
        calibrate_server([path])


def test_a_profile_comes_back_as_it_was_written_and_nothing_is_overwritten(
    calibration: Calibration, tmp_path: Path
) -> None:
    path = write_profile(calibration.profile, tmp_path / "mine.toml")
    assert tomllib.loads(path.read_text())["server"]["model"] == "llama-3.1-8b"
    again = read_profile(path)
    assert profile_toml(again) == path.read_text()
    path.write_text("mine")
    with pytest.raises(InputError, match="a file is there already"):
        write_profile(again, path)
    assert path.read_text() == "mine"
    assert read_profile(write_profile(again, path, force=True)) == again


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("format = 1", "format = 2"), "format"),
        (("multiplier = ", "multiplier = -"), "host.multiplier"),
        (("[support]", "[suport]"), "suport"),
        (("preset_sha256", "# preset_sha256"), "preset_sha256"),
    ],
)
def test_a_broken_profile_is_refused_with_its_key(
    calibration: Calibration, tmp_path: Path, change: tuple[str, str], problem: str
) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(profile_toml(calibration.profile).replace(*change))
    with pytest.raises(InputError, match=problem):
        read_profile(path)


def study(path: Path, **changes: Any) -> Any:
    space = {"tp": [1], "pp": [1], **changes.pop("space", {})}
    data = {"model": "llama-3.1-8b", "cluster": "1xh100-sxm", "workload": "chat", "load": {"concurrency": 16}}
    return make_study(data | {"profile": str(path), "space": space} | changes, name="mine", where="test")


def test_a_study_under_a_profile_has_its_times_and_says_so(calibration: Calibration, tmp_path: Path) -> None:
    from apex_sim.planner.simulation import simulate_study

    path = write_profile(calibration.profile, tmp_path / "mine.toml")
    plain = study(path, profile=None)
    mine = study(path)
    assert mine.preset.host.step_s / plain.preset.host.step_s == pytest.approx(calibration.profile.host.multiplier)
    assert mine.preset.factors.decode == pytest.approx(calibration.profile.decode.multiplier)
    simulation = simulate_study(mine)
    notes = " ".join(simulation.provenance.assumed)
    assert "calibration profile of vllm 0.13.0, llama-3.1-8b on h100-sxm, TP1" in notes
    assert "profile extrapolated: mean prompt tokens" in notes
    assert provenance_of(plain).assumed != simulation.provenance.assumed


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": "llama-3.1-70b", "cluster": "4xh100-sxm", "space": {"tp": [4]}}, "model llama-3.1-8b there"),
        ({"cluster": "1xh200-sxm"}, "device h100-sxm there, h200-sxm here"),
        ({"cluster": "2xh100-sxm", "space": {"tp": []}}, "tp 1 there, 2 here"),
        ({"space": {"weight_dtypes": ["fp8"]}}, "weight_dtype bf16 there, fp8 here"),
        ({"load": {"concurrency": 300}}, "users of an instance 300: the profile was fitted at 1 to 32"),
    ],
)
def test_outside_its_support_a_profile_is_refused(
    calibration: Calibration, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    from apex_sim.planner.space import enumerate_space

    path = write_profile(calibration.profile, tmp_path / "mine.toml")
    with pytest.raises(UnsupportedError, match=problem):
        enumerate_space(study(path, **changes))


def test_an_open_loop_far_from_the_support_is_refused_after_its_run(calibration: Calibration, tmp_path: Path) -> None:
    from apex_sim.planner.simulation import simulate_study

    path = write_profile(calibration.profile, tmp_path / "mine.toml")
    assert simulate_study(study(path, load={"rate_per_s": 5.0})).run.mean_users > 1
    with pytest.raises(UnsupportedError, match=r"users of an instance \d+.*the profile was fitted at 1 to 32"):
        simulate_study(study(path, load={"offline": True, "n_requests": 1200}))


def test_another_preset_or_a_changed_one_refuses_the_profile(calibration: Calibration, tmp_path: Path) -> None:
    path = write_profile(calibration.profile, tmp_path / "mine.toml")
    with pytest.raises(InputError, match="fitted to preset"):
        study(path, space={"preset": "sglang"})
    preset = load_study("quickstart").preset
    changed = replace(preset, host=replace(preset.host, step_s=preset.host.step_s * 2))
    with pytest.raises(InputError, match="fitted to other times of preset"):
        apply_profile(changed, calibration.profile)


def test_flags_win_over_the_server_file(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text('engine = "vllm"\ntp = 4\n')
    assert make_server(path, {"tp": 2, "device": None}).tp == 2
    path.write_text('engin = "vllm"\n')
    with pytest.raises(InputError, match="engin"):
        make_server(path, {})


def test_an_engine_log_sets_the_pool(tmp_path: Path) -> None:
    path, log = bench(tmp_path, 32), tmp_path / "engine.log"
    log.write_text("INFO GPU KV cache size: 32,768 tokens\n")
    calibration = calibrate_server([path], ServerFile(**SERVER), engine_log=log)
    assert any("KV pool: 2048 blocks by" in note for note in calibration.notes)
    log.write_text("INFO GPU KV cache size: 1,024 tokens\n")
    with pytest.raises(InputError, match="64 blocks is below max_model_len 4096"):
        calibrate_server([path], ServerFile(**SERVER), engine_log=log)


def test_simulated_figures_are_those_of_the_engine(tmp_path: Path) -> None:
    """Multipliers of one change nothing."""
    (run,) = read_runs(bench(tmp_path, 8), ServerFile(**SERVER))
    plain = simulate_plan(
        run.replay.model,
        run.replay.cluster,
        run.replay.plan,
        run.replay.workload,
        best_cost_model(run.replay.cluster.device),
    )
    expected = summarise(plain, run.replay.cluster, Slo())
    assert RunSimulator(run).predict((1.0, 1.0, 1.0, 1.0))["tpot_median_s"] == expected["tpot_median_s"]
