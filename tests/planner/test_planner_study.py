"""Study files: what they may say, what is refused and how, and what overrides do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apex_sim.errors import ApexError, InputError, UnknownNameError
from apex_sim.planner.space import default_max_model_len, enumerate_space
from apex_sim.planner.study import load_study, make_study, merge, study_names
from apex_sim.workload.load_form import LoadForm
from apex_sim.workload.requests import make_requests
from apex_sim.workload.workload import Workload

BASE: dict[str, Any] = {"model": "llama-3.1-8b", "cluster": "1xh100-sxm", "workload": "chat", "load": {"n_requests": 3}}


def _fails(changes: dict[str, Any]) -> str:
    with pytest.raises(ApexError) as caught:
        enumerate_space(make_study(merge(BASE, changes), "made-up", "made-up.toml"))
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"modle": "x"}, ["key 'modle'", "'model'"]),
        ({"space": {"wieght_dtypes": ["fp8"]}}, ["key 'space.wieght_dtypes'", "'weight_dtypes'"]),
        ({"scheduler": {"max_num_seq": 4}}, ["key 'scheduler.max_num_seq'", "'max_num_seqs'"]),
        ({"load": {"rate": 4.0}}, ["key 'load.rate'", "'rate_per_s'"]),
        ({"slo": {"ttft_p98_s": 1.0}}, ["ttft_p9", "slo"]),
        ({"model": "llama-3.1-80b"}, ["'llama-3.1-80b'", "'llama-3.1-70b'"]),
        ({"cluster": "8xh100-sxn"}, ["'h100-sxm'"]),
        ({"workload": "chats"}, ["'chat'"]),
        ({"space": {"preset": "vllm-0.7"}}, ["'vllm-0.7'", "'vllm-0.6'"]),
        ({"space": {"router": "round-robbin"}}, ["'round-robin'"]),
        ({"objective": "latency"}, ["key 'objective'", "'ttft'"]),
        ({"space": {"tp": "2"}}, ["key 'space.tp'", "'2'"]),
        ({"space": {"tp": [2.0]}}, ["space.tp", "2.0"]),
        ({"space": {"tp": [0]}}, ["key 'space.tp'", "below 1"]),
        (
            {"space": {"weight_dtypes": ["int4"]}},
            ["key 'space.weight_dtypes'", "'int4'", "bf16, fp8, fp8-block, int8, w8a16, w4a16, nvfp4, mxfp4"],
        ),
        ({"space": {"kv_dtypes": ["fp4"]}}, ["key 'space.kv_dtypes'", "bf16, fp8"]),
        ({"space": {"kv_dtypes": []}}, ["key 'space.kv_dtypes'"]),
        ({"space": {"layers": [16, 16], "pp": [4]}}, ["key 'space.layers'", "2 stages"]),
        ({"scheduler": {"max_num_seqs": 0}}, ["key 'scheduler.max_num_seqs'"]),
        ({"scheduler": {"gpu_memory_utilization_frac": 1.5}}, ["scheduler.gpu_memory_utilization_frac", "1.5"]),
        ({"scheduler": {"policy": "chunked"}}, ["no policy 'chunked'", "unified"]),
        ({"scheduler": {"max_model_len": 200_000}}, ["scheduler.max_model_len", "131072"]),
        ({"load": {"rate_per_s": 1.0, "concurrency": 2}}, ["exclude each other"]),
        ({"slo": {"ttft_p99_s": -1.0}}, ["ttft_p99_s", "-1.0"]),
        ({"slo": "fast"}, ["key 'slo'", "'fast'"]),
        ({"space": {"tp": [3], "dp": [1], "pp": [1]}}, ["no DP x TP x PP", "1 devices"]),
    ],
)
def test_mistakes_are_named_with_place_and_remedy(changes: dict[str, Any], parts: list[str]) -> None:
    message = _fails(changes)
    assert all(part in message for part in parts), message


@pytest.mark.parametrize("key", ["model", "cluster", "workload"])
def test_a_missing_key_is_named(key: str) -> None:
    data = {name: value for name, value in BASE.items() if name != key}
    with pytest.raises(InputError, match=f"key '{key}': missing"):
        make_study(data, "made-up", "made-up.toml")


def test_a_checkpoint_in_fp32_needs_a_stated_precision(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        """{"architectures": ["LlamaForCausalLM"], "hidden_size": 512, "vocab_size": 1000, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 1024, "torch_dtype": "float32",
        "max_position_embeddings": 32768}""",
        encoding="utf-8",
    )
    with pytest.raises(InputError, match="'fp32' is no number format that can be served"):
        make_study(BASE | {"model": str(config)}, "made-up", "made-up.toml")
    assert make_study(BASE | {"model": str(config), "space": {"weight_dtypes": ["bf16"]}}, "made-up", "made-up.toml")


def test_whole_numbers_pass_where_a_measure_is_asked() -> None:
    study = make_study(merge(BASE, {"slo": {"ttft_p99_s": 2}, "load": {"rate_per_s": 3}}), "made-up", "made-up.toml")
    assert study.slo.limits == (("ttft_p99_s", 2.0),)
    assert study.workload.rate_per_s == 3


def test_shipped_studies_load() -> None:
    assert "quickstart" in study_names()
    for name in study_names():
        assert load_study(name).name == name


def test_overrides_are_laid_over_table_by_table() -> None:
    base = {"a": 1, "space": {"tp": [1], "pp": [2]}, "slo": "x"}
    over = {"a": None, "b": 2, "space": {"tp": [4], "pp": None}}
    assert merge(base, over) == {"a": 1, "b": 2, "space": {"tp": [4], "pp": [2]}, "slo": "x"}
    assert base["space"] == {"tp": [1], "pp": [2]}
    study = load_study("quickstart", {"cluster": "4xh100-sxm", "load": {"seed": 3}, "space": {"preset": None}})
    assert (study.cluster.n_devices, study.workload.seed, study.preset.name) == (4, 3, "vllm-1")


def test_a_table_that_is_no_table_is_reported_and_not_merged() -> None:
    message = ""
    try:
        make_study(merge({**BASE, "space": 3}, {"space": {"tp": [1]}}), "made-up", "made-up.toml")
    except InputError as error:
        message = str(error)
    assert "key 'space'" in message


def test_a_workload_beside_the_study_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,10,5\n1,20,6\n", encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text('model = "llama-3.1-8b"\ncluster = "1xh100-sxm"\nworkload = "mine.csv"\n', encoding="utf-8")
    assert load_study(path).workload.requests.output_tokens.tolist() == [5, 6]


@pytest.mark.parametrize(
    ("objective", "statistic", "metric"),
    [
        ("e2e", "mean", "e2e_mean_s"),
        ("ttft", "p99", "ttft_p99_s"),
        ("throughput", "p99", "output_tokens_per_s"),
        ("cost", "mean", "usd_per_million_output_tokens"),
        ("energy", "mean", "energy_per_output_token_j"),
    ],
)
def test_objectives_stand_for_metrics(objective: str, statistic: str, metric: str) -> None:
    data = BASE | {"objective": objective, "statistic": statistic}
    assert make_study(data, "made-up", "made-up.toml").objective.name == metric


def _longest(prompt: int, output: int) -> Workload:
    requests = make_requests(np.array([0.0, 1.0]), np.array([5, prompt]), np.array([5, output]))
    return Workload("made-up", requests, LoadForm("trace"), 1.0, 0, (), False, "made up")


@pytest.mark.parametrize(
    ("prompt", "output", "expected"),
    [(1000, 24, 1024), (1000, 25, 2048), (131_000, 72, 131_072), (130_000, 1, 130_048)],
)
def test_default_max_model_len(prompt: int, output: int, expected: int) -> None:
    study = make_study(BASE, "made-up", "made-up.toml")
    assert default_max_model_len(replace(study, workload=_longest(prompt, output))) == expected


def test_the_default_max_model_len_stays_within_an_odd_context() -> None:
    study = make_study(BASE | {"model": "llama-2-70b"}, "made-up", "made-up.toml")
    assert study.model.max_context_tokens == 4096
    assert default_max_model_len(replace(study, workload=_longest(4000, 96))) == 4096


def test_a_request_beyond_the_context_is_refused() -> None:
    study = make_study(BASE, "made-up", "made-up.toml")
    with pytest.raises(InputError, match="request 1 has 131000 prompt and 73 output tokens"):
        default_max_model_len(replace(study, workload=_longest(131_000, 73)))


def test_an_unknown_study_gets_its_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="'quickstart'"):
        load_study("quickstrat")
