"""Outputs of four benchmark tools give the same values; broken, foreign and contradictory ones are refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apex_sim.errors import InputError, UnsupportedError
from apex_sim.truth.benchmarks.benchmark_file import read_benchmarks
from apex_sim.truth.benchmarks.benchmark_run import BenchmarkRun
from apex_sim.truth.benchmarks.engine_log import read_engine_log
from apex_sim.truth.calibration.served_run import read_runs
from apex_sim.truth.calibration.server_file import ServerFile

Json = dict[str, Any]

#: Two requests of 100 and 300 prompt tokens; TTFT 50 and 70 ms, then 4 gaps of 10 ms and 2 of 20 ms; one user.
VLLM: Json = {
    "date": "20260101-000000",
    "endpoint_type": "openai",
    "model_id": "meta-llama/Llama-3.1-8B-Instruct",
    "num_prompts": 2,
    "request_rate": "inf",
    "burstiness": 1.0,
    "max_concurrency": 1,
    "duration": 0.2,
    "completed": 2,
    "total_input_tokens": 400,
    "total_output_tokens": 8,
    "output_throughput": 40.0,
    "mean_ttft_ms": 60.0,
    "median_ttft_ms": 60.0,
    "p99_ttft_ms": 69.8,
    "mean_tpot_ms": 15.0,
    "median_tpot_ms": 15.0,
    "p99_tpot_ms": 19.9,
    "mean_itl_ms": 13.333333333,
    "mean_e2el_ms": 100.0,
}
DETAILS: Json = {
    "input_lens": [100, 300],
    "output_lens": [5, 3],
    "ttfts": [0.05, 0.07],
    "itls": [[0.01] * 4, [0.02] * 2],
    "start_times": [1000.0, 1000.09],
}
SGLANG: Json = {
    **{
        key: VLLM[key]
        for key in VLLM
        if key not in ("mean_e2el_ms", "model_id", "date", "endpoint_type", "num_prompts")
    },
    "backend": "sglang",
    "dataset_name": "random",
    "request_rate": float("inf"),
    "random_input_len": 266,
    "random_output_len": 5,
    "random_range_ratio": 0.5,
    "total_output_tokens_retokenized": 8,
    "mean_e2e_latency_ms": 100.0,
}


def _spread(**values: float) -> Json:
    return {"successful": {**values, "percentiles": {"p99": values.get("p99")}}}


GUIDELLM: Json = {
    "benchmarks": [
        {
            "config": {"strategy": {"type_": "concurrent", "streams": 1}, "backend": {"model": "llama"}},
            "metrics": {
                "request_totals": {"successful": 2, "errored": 0},
                "time_to_first_token_ms": _spread(mean=60.0, median=60.0, p99=69.8),
                "inter_token_latency_ms": _spread(mean=13.333333333, median=15.0, p99=19.9),
                "time_per_output_token_ms": _spread(mean=25.0, median=25.0),
                "request_latency": _spread(mean=0.1, median=0.1),
                "output_tokens_per_second": _spread(mean=40.0),
                "prompt_token_count": _spread(mean=200.0, min=100, max=300),
                "output_token_count": _spread(mean=4.0, min=3, max=5),
            },
            "requests": {
                "successful": [
                    {
                        "request_start_time": 1000.0 + start,
                        "prompt_tokens": prompt,
                        "output_tokens": output,
                        "time_to_first_token_ms": ttft,
                        "request_latency": e2e,
                    }
                    for start, prompt, output, ttft, e2e in ((0.09, 300, 3, 70.0, 0.11), (0.0, 100, 5, 50.0, 0.09))
                ]
            },
        }
    ]
}
AIPERF: Json = {
    "request_count": {"unit": "requests", "avg": 2.0},
    "time_to_first_token": {"unit": "ms", "avg": 60.0, "p50": 60.0, "p99": 69.8},
    "inter_token_latency": {"unit": "ms", "avg": 15.0, "p50": 15.0, "p99": 19.9},
    "request_latency": {"unit": "sec", "avg": 0.1, "p50": 0.1},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 40.0},
    "input_sequence_length": {"unit": "tokens", "avg": 200.0, "min": 100, "max": 300},
    "output_sequence_length": {"unit": "tokens", "avg": 4.0, "min": 3, "max": 5},
    "input_config": {"loadgen": {"concurrency": 1}, "endpoint": {"model_names": ["llama"]}},
}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes JSON documents, one per line, to a file whose name says nothing."""

    def to_file(*documents: Json) -> Path:
        path = tmp_path / "result.txt"
        path.write_text("\n".join(json.dumps(document) for document in documents))
        return path

    return to_file


@pytest.mark.parametrize(
    ("document", "tool", "has_times"),
    [
        (VLLM, "vllm bench serve", False),
        (VLLM | DETAILS, "vllm bench serve", True),
        (SGLANG, "SGLang bench_serving", False),
        (GUIDELLM, "GuideLLM", True),
        (AIPERF, "AIPerf", False),
    ],
    ids=["vllm", "vllm-detailed", "sglang", "guidellm", "aiperf"],
)
def test_every_tool_gives_the_same_run_in_seconds(write: Write, document: Json, tool: str, has_times: bool) -> None:
    (run,) = read_benchmarks(write(document))
    assert (run.tool, run.times is not None) == (tool, has_times)
    assert (run.load_kind, run.concurrency, run.rate_per_s, run.n_requests) == ("closed", 1, None, 2)
    assert (run.prompts.mean_tokens, run.outputs.mean_tokens) == (200.0, 4.0)
    expected = {
        "ttft_mean_s": 0.06,
        "ttft_median_s": 0.06,
        "ttft_p99_s": 0.0698,
        "tpot_mean_s": 0.015,
        "tpot_median_s": 0.015,
        "tpot_p99_s": 0.0199,
        "e2e_mean_s": 0.1,
        "output_tokens_per_s": 40.0,
    }
    assert {name: run.measured[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert run.measured.get("itl_mean_s", 0.0133333333) == pytest.approx(0.0133333333)


def test_requests_come_in_the_order_in_which_they_were_sent(write: Write) -> None:
    (run,) = read_benchmarks(write(GUIDELLM))
    assert run.times is not None
    assert run.times.prompt_tokens.tolist() == [100, 300]
    assert run.times.start_s is not None
    assert run.times.start_s.tolist() == pytest.approx([0.0, 0.09])


def test_lines_are_runs(write: Write) -> None:
    runs = read_benchmarks(write(SGLANG, SGLANG | {"max_concurrency": 2}))
    assert [run.concurrency for run in runs] == [1, 2]
    assert [run.where.rpartition(", ")[2] for run in runs] == ["line 1", "line 2"]


@pytest.mark.parametrize(
    ("change", "kind", "concurrency", "rate_per_s"),
    [
        ({"max_concurrency": None}, "offline", None, None),
        ({"max_concurrency": None, "request_rate": 2.5}, "poisson", None, 2.5),
        ({"max_concurrency": 8, "request_rate": 2.5}, "poisson", None, 2.5),
        ({"max_concurrency": None, "request_rate": 2.5, "burstiness": float("inf")}, "fixed_rate", None, 2.5),
    ],
)
def test_loads_are_told_apart(
    write: Write, change: Json, kind: str, concurrency: int | None, rate_per_s: float | None
) -> None:
    (run,) = read_benchmarks(write(VLLM | change))
    assert (run.load_kind, run.concurrency, run.rate_per_s) == (kind, concurrency, rate_per_s)


def test_phases_of_newer_aiperf_state_the_load(write: Write) -> None:
    config = {"phases": [{"type": "concurrency", "concurrency": 8, "exclude_from_results": True}]}
    config["phases"].append({"type": "concurrency", "concurrency": 4})
    (run,) = read_benchmarks(write(AIPERF | {"input_config": config}))
    assert run.concurrency == 4


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (VLLM | {"output_throughput": 80.0}, r"contradictory: output_throughput is 80, and .* give 40"),
        (VLLM | {"median_ttft_ms": 90.0}, r"contradictory: median TTFT 0\.09 s, above its 99th percentile"),
        (VLLM | {"mean_e2el_ms": 50.0}, r"contradictory: mean TTFT 0\.06 s, above the mean end-to-end"),
        (VLLM | DETAILS | {"output_lens": [5, 30]}, "contradictory: sum of output_lens"),
        (VLLM | DETAILS | {"ttfts": [0.05]}, r"key 'ttfts': 1 entries, 2 requests"),
        (VLLM | DETAILS | {"itls": [[0.01] * 4, "x"]}, r"key 'itls': not one list of gaps"),
        (VLLM | DETAILS | {"itls": [[0.01] * 4, ["x"]]}, r"key 'itls': a gap is no number"),
        (VLLM | {"completed": 0}, r"key 'completed': 0 is no whole number above 0"),
        (VLLM | {"num_prompts": 50}, "48 of 50 requests failed"),
        (VLLM | {"duration": "long"}, r"key 'duration': 'long' is no number"),
        (VLLM | {"mean_ttft_ms": float("nan")}, r"key 'mean_ttft_ms': nan is no number"),
        (VLLM | {"mean_ttft_ms": -1.0}, r"ttft_mean_s is -0\.001"),
        ({k: v for k, v in VLLM.items() if k != "duration"}, "as vllm bench serve it lacks duration"),
        ({"choices": [], "usage": {}}, r"the keys \(choices, usage\) are those of no known benchmark"),
        (
            {"benchmarks": [{"config": {}, "metrics": {}}]},
            r"key 'benchmarks\[0\]\.metrics\.request_totals\.successful'",
        ),
        ({"benchmarks": []}, "no benchmark in the report"),
        (AIPERF | {"was_cancelled": True}, "the run was cancelled"),
        (AIPERF | {"time_to_first_token": {"avg": 60.0}}, r"time_to_first_token\.unit': no unit\. State one of s, sec"),
        (AIPERF | {"time_to_first_token": {"unit": "h", "avg": 1.0}}, "unit 'h'"),
        (AIPERF | {"output_token_throughput": {"unit": "requests/sec", "avg": 1.0}}, "unit 'requests/sec'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(write: Write, document: Json, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as raised:
        read_benchmarks(write(document))
    assert "result.txt" in raised.value.where
    assert raised.value.remedy


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (VLLM | {"request_rate": 2.0}, "a rate of 2/s together with at most 1 requests at a time"),
        (VLLM | {"request_rate": 2.0, "max_concurrency": None, "burstiness": 0.5}, "burstiness 0.5"),
        (VLLM | {"ramp_up_strategy": "linear"}, "a rate that ramps up"),
        (AIPERF | {"input_config": {"loadgen": {"concurrency": 1, "request_rate": 3.0}}}, "neither a concurrency nor"),
    ],
)
def test_loads_that_cannot_be_replayed_are_refused(write: Write, document: Json, problem: str) -> None:
    with pytest.raises(UnsupportedError, match=problem):
        read_benchmarks(write(document))


def test_a_sweep_of_guidellm_is_refused_where_its_load_is_unknown(write: Write) -> None:
    report = json.loads(json.dumps(GUIDELLM))
    report["benchmarks"][0]["config"]["strategy"] = {"type_": "trace"}
    with pytest.raises(UnsupportedError, match="a load of type 'trace'"):
        read_benchmarks(write(report))


@pytest.mark.parametrize(
    "text", ["", "  \n", '{"completed": 2, "dur', "[1, 2]", "{" * 5000, '{"a": ' + "9" * 5000 + "}"]
)
def test_a_file_that_is_cut_off_or_no_benchmark_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"result\.json"):
        read_benchmarks(path)


def test_the_line_that_was_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "appended.jsonl"
    path.write_text(json.dumps(VLLM) + "\n" + json.dumps(VLLM)[:200])
    with pytest.raises(InputError, match=r"appended\.jsonl, line 2: cut off"):
        read_benchmarks(path)


def test_a_text_that_is_neither_benchmark_nor_cases_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.write_text("INFO starting\n")
    with pytest.raises(InputError, match=r"no benchmark of a known tool.*vllm bench serve"):
        read_runs(path, ServerFile())


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apex_sim.truth.benchmarks.benchmark_file.MAX_BYTES", 100)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(VLLM))
    with pytest.raises(InputError, match="more than the 100 accepted"):
        read_benchmarks(path)


@pytest.mark.parametrize(
    ("text", "n_tokens", "n_blocks"),
    [
        ("INFO [kv_cache_utils.py:1087] GPU KV cache size: 1,234,560 tokens\n", 1_234_560, None),
        ("INFO gpu_executor.py:122] # GPU blocks: 27036, # CPU blocks: 13107\n", None, 27036),
        (
            "[TP0] max_total_num_tokens=171008, chunked_prefill_size=8192\n[TP1] max_total_num_tokens=171000,\n",
            171000,
            None,
        ),
        ("[MemUsageChange] Allocated 26.91 GiB for max tokens in paged KV cache (220480).\n", 220480, None),
    ],
)
def test_logs_of_all_engines_state_the_pool(
    tmp_path: Path, text: str, n_tokens: int | None, n_blocks: int | None
) -> None:
    path = tmp_path / "engine.log"
    path.write_text(f"starting\n{text}ready\n")
    pool = read_engine_log(path)
    assert (pool.n_tokens, pool.n_blocks) == (n_tokens, n_blocks)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ready\n", "no line says how large the KV cache is"),
        ("GPU KV cache size: 100 tokens\nGPU KV cache size: 200 tokens\n", "contradictory: KV caches of 100 and 200"),
    ],
)
def test_a_log_without_a_pool_or_with_two_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "engine.log"
    path.write_text(text)
    with pytest.raises(InputError, match=problem):
        read_engine_log(path)


SERVER: Json = {"engine": "vllm", "engine_version": "0.13.0", "device": "h100-sxm", "tp": 1, "max_model_len": 4096}


def served(path: Path, **changes: Any) -> Any:
    (run,) = read_runs(path, ServerFile(**SERVER | changes))
    return run


def test_a_run_is_replayed_with_its_own_lengths(write: Write) -> None:
    run = served(write(VLLM | DETAILS))
    requests = run.replay.workload.requests
    assert requests.prompt_tokens.tolist() == [100, 300]
    assert requests.output_tokens.tolist() == [5, 3]
    assert run.replay.model.name == "llama-3.1-8b"
    assert any("as the client called it" in note for note in run.notes)


def test_lengths_are_drawn_where_only_their_range_is_known(write: Write) -> None:
    prompts = served(write(AIPERF), model="llama-3.1-8b").replay.workload.requests.prompt_tokens
    assert 80 <= prompts.min() <= prompts.max() <= 300
    fixed = served(write(VLLM))
    assert set(fixed.replay.workload.requests.prompt_tokens.tolist()) == {200}
    assert any("states no spread" in note for note in fixed.notes)
    stated = served(write(VLLM), length_low_frac=0.5)
    assert max(stated.replay.workload.requests.prompt_tokens.tolist()) <= 267


def test_arrivals_are_those_of_the_requests(write: Write) -> None:
    run = served(write(VLLM | DETAILS | {"max_concurrency": None, "request_rate": 11.0}))
    assert run.replay.workload.requests.arrival_s.tolist() == pytest.approx([0.0, 0.09])


def test_a_server_that_cannot_have_run_is_refused_with_its_file(write: Write) -> None:
    with pytest.raises(UnsupportedError, match=r"result\.txt: cannot be simulated: .*max_model_len"):
        served(write(VLLM | DETAILS), max_model_len=64)


def test_runs_are_values(write: Write) -> None:
    (run,) = read_benchmarks(write(VLLM))
    assert isinstance(run, BenchmarkRun)
    with pytest.raises(AttributeError):
        run.n_requests = 3  # type: ignore[misc]
