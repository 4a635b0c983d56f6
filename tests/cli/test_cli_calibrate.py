"""`apex-sim calibrate` writes one profile, says what it learnt, and never writes over another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from apex_sim.cli.main import commands
from apex_sim.truth.calibration.profile_file import read_profile

SERVER = ("--engine", "vllm", "--engine-version", "0.13.0", "--model", "llama-3.1-8b", "--device", "h100-sxm")
FLAGS = (*SERVER, "--tp", "1", "--max-model-len", "4096")
BENCH: dict[str, Any] = {
    "num_prompts": 40,
    "request_rate": "inf",
    "max_concurrency": 8,
    "duration": 3.8,
    "completed": 40,
    "total_input_tokens": 24_000,
    "total_output_tokens": 3200,
    "output_throughput": 3200 / 3.8,
    "median_ttft_ms": 130.0,
    "mean_ttft_ms": 130.0,
    "median_tpot_ms": 7.8,
    "mean_tpot_ms": 7.8,
}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a benchmark file in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(BENCH))
    return path


def run(*arguments: str, exit_code: int = 0) -> Result:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(commands, list(arguments))
    assert result.exit_code == exit_code, result.output
    return result


def test_a_profile_is_written_and_explained_in_80_columns(bench: Path) -> None:
    output = run("calibrate", str(bench), *FLAGS).output
    profile = read_profile(Path("apex-sim-out/calibration.toml"))
    assert profile.server.model == "llama-3.1-8b"
    assert profile.support.concurrency == [8.0, 8.0]
    for text in ("decode kernels", "informed by the data", "nothing could be held back", "one load:", "Chi-square"):
        assert text in " ".join(output.split())
    assert max(map(len, output.splitlines())) <= 80


def test_an_existing_file_is_not_replaced_unasked(bench: Path) -> None:
    Path("mine.toml").write_text("precious")
    result = run("calibrate", str(bench), *FLAGS, "--out", "mine.toml", exit_code=2)
    assert "a file is there already" in result.output
    assert Path("mine.toml").read_text() == "precious"
    run("calibrate", str(bench), *FLAGS, "--out", "mine.toml", "--force")
    assert read_profile(Path("mine.toml")).runs == ["bench.json"]


def test_json_is_one_document_and_writes_nothing_unasked(bench: Path) -> None:
    document = json.loads(run("calibrate", str(bench), *FLAGS, "--json").stdout)
    assert document["written"] is None
    assert {"host", "frontend", "prompt", "decode", "support", "server"} <= set(document["profile"])
    assert {row["metric"] for row in document["fitted"]} == {"ttft_median_s", "tpot_median_s", "output_tokens_per_s"}
    assert not Path("apex-sim-out").exists()


def test_a_study_and_a_validation_take_the_profile(bench: Path) -> None:
    run("calibrate", str(bench), *FLAGS, "--out", "mine.toml")
    study = ("--model", "llama-3.1-8b", "--cluster", "1xh100-sxm", "--workload", "chat", "--concurrency", "16")
    plan = ("--tp", "1", "--pp", "1", "--no-files", "--n-requests", "50")
    document = json.loads(run("simulate", *study, *plan, "--profile", "mine.toml", "--json").stdout)
    assert any("calibration profile of vllm 0.13.0" in text for text in document["provenance"]["assumed"])
    refused = run("search", *study, "--tp", "1", "--preset", "sglang", "--profile", "mine.toml", exit_code=2).output
    assert "fitted to preset vllm-1" in refused


def test_a_case_is_chosen_and_foreign_servers_are_skipped(bench: Path, tmp_path: Path) -> None:
    columns = (
        "case_id,source,engine,engine_version,model,device,tp,max_model_len,isl_tokens,osl_tokens,length_low_frac,"
        "load_kind,concurrency,n_requests,ttft_median_s,tpot_median_s"
    )
    rows = [
        "a,mine,vllm,0.13.0,llama-3.1-8b,h100-sxm,1,4096,600,80,1,closed,8,40,0.13,0.0078",
        "b,mine,vllm,0.13.0,llama-3.1-8b,h100-sxm,2,4096,600,80,1,closed,8,40,0.09,0.005",
    ]
    cases = tmp_path / "cases.csv"
    cases.write_text("\n".join([columns, *rows]))
    assert "another server than a: tp differ" in run("calibrate", str(cases), exit_code=2).output
    assert "unknown case 'c'" in run("calibrate", str(cases), "--case", "c", exit_code=2).output
    run("calibrate", str(cases), "--case", "a", "--out", "mine.toml")
    document = json.loads(run("validate", "serving", str(cases), "--profile", "mine.toml", "--json").stdout)
    reasons = {case["case_id"]: case["skipped_reason"] for case in document["cases"]}
    assert not reasons["a"]
    assert "the profile is of another server: tp 1 there, 2 here" in reasons["b"]


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        (("gone.json", *FLAGS), "gone.json: cannot be read: No such file"),
        (("bench.json", *SERVER), "the benchmark does not say tp"),
        (("bench.json", *FLAGS, "--engine", "lmdeploy"), "engine lmdeploy 0.13.0"),
        (("bench.json", *FLAGS, "--tp", "3"), "cannot be simulated"),
        (("bench.json", *FLAGS, "--out", "x.toml", "--no-files"), "--out and --no-files exclude each other"),
        (("bench.json", *FLAGS, "--server", "gone.toml"), "gone.toml: no such file"),
    ],
)
def test_bad_input_ends_in_a_message(bench: Path, typed: tuple[str, ...], problem: str) -> None:
    result = run("calibrate", *typed, exit_code=2)
    assert problem in " ".join(result.output.split())
    assert "Traceback" not in result.output
