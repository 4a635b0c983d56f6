"""Replaying measured cases, and refusing those that cannot be replayed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from apex_sim.cost.calibrated import best_cost_model
from apex_sim.errors import InputError, UnknownNameError
from apex_sim.fleet.fleet import simulate_plan
from apex_sim.truth.case import MEASURED
from apex_sim.truth.cases import read_cases
from apex_sim.truth.replay import Replay, make_replay
from apex_sim.truth.validation import validate_serving

V0 = {
    "engine_version": "0.6.0",
    "model": "llama-3.1-70b",
    "device": "h100-sxm",
    "weight_dtype": "bf16",
    "async_scheduling": "0",
    "max_num_seqs": "",
    "max_num_batched_tokens": "",
    "chunked_prefill": "",
    "max_model_len": "",
    "gpu_memory_utilization_frac": "0.97",
    "n_devices": "4",
    "tp": "4",
}


def replay_of(path: Path) -> Replay:
    return make_replay(read_cases(path).cases[0], path.parent)


def test_a_case_is_replayed_and_compared_with_what_was_measured(write_cases):
    path = write_cases({})
    validation = validate_serving(path)
    (case,) = validation.cases
    replay = replay_of(path)
    run = simulate_plan(
        replay.model, replay.cluster, replay.plan, replay.workload, best_cost_model(replay.cluster.device)
    )
    ttft_s, tpot_s = float(run.requests.ttft_s.mean()), float(run.requests.tpot_s.mean())
    assert case.plan == "DP1 TP2 PP1 mxfp4"
    assert case.predicted == {"ttft_mean_s": pytest.approx(ttft_s), "tpot_mean_s": pytest.approx(tpot_s)}
    assert case.error["ttft_mean_s"] == pytest.approx(ttft_s / 0.05 - 1)
    assert case.error["tpot_mean_s"] == pytest.approx(tpot_s / 0.004 - 1)
    assert case.interval == {"ttft_mean_s": None, "tpot_mean_s": None}
    assert any("8 warm-up requests are not simulated" in note for note in case.notes)
    assert "gpu_memory_utilization_frac: the engine's default, 0.9" in case.notes


def test_drawn_lengths_and_load_are_those_of_the_columns(write_cases):
    workload = replay_of(write_cases({})).workload
    prompts, outputs = workload.requests.prompt_tokens, workload.requests.output_tokens
    assert (workload.load.kind, workload.load.concurrency, workload.load.n_warmup) == ("closed", 4, 8)
    assert workload.requests.n == 12
    assert 80 <= prompts.min() <= prompts.max() <= 100
    assert 16 <= outputs.min() <= outputs.max() <= 20
    assert (workload.requests.max_output_tokens == outputs).all()  # the load ignores EOS


def test_attention_dp_has_tp_ranks_of_one_device(write_cases):
    """The case's tp of 2 is the number of ranks; experts are whole where ep says so, else divided."""
    sharded = replay_of(write_cases({"attention_dp": "1"})).plan.expand()[0]
    assert (sharded.tp, sharded.attention_dp, sharded.ep, sharded.n_devices) == (1, 2, 1, 2)
    assert replay_of(write_cases({"attention_dp": "1", "ep": "2"})).plan.label == "DP1 TP1 ADP2 EP2 PP1 mxfp4"
    assert replay_of(write_cases({"ep": "2"})).plan.label == "DP1 TP2 EP2 PP1 mxfp4"


def test_a_closed_loop_never_has_more_users_than_requests(write_cases):
    assert replay_of(write_cases({"n_requests": "3"})).workload.load.concurrency == 3


def test_a_request_file_beside_the_csv_is_replayed_as_it_stands(write_cases, tmp_path):
    (tmp_path / "requests.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0.5,30,4\n2.0,50,1\n")
    path = write_cases({"workload": "requests.csv", "load_kind": "trace", "n_requests": "2", "concurrency": ""})
    workload = replay_of(path).workload
    assert workload.requests.arrival_s.tolist() == [0.5, 2.0]
    assert workload.requests.output_tokens.tolist() == [4, 1]
    assert validate_serving(path).summary.n_replayed == 1


@pytest.mark.parametrize("name", ["../requests.csv", "/etc/passwd", "link.csv"])
def test_a_request_file_outside_the_folder_is_refused(write_cases, tmp_path, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "requests.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0.5,30,4\n")
    (inside / "link.csv").symlink_to(tmp_path / "requests.csv")
    path = write_cases({"workload": name, "load_kind": "trace"}).rename(inside / "cases.csv")
    with pytest.raises(InputError, match=r"line 2: workload .* lies outside the folder"):
        validate_serving(path)


def test_a_missing_request_file_is_refused_with_its_line(write_cases):
    with pytest.raises(InputError, match=r"line 2.*no trace file"):
        validate_serving(write_cases({"workload": "gone.csv", "load_kind": "trace"}))


def test_lengths_beyond_any_model_are_refused_with_their_line(write_cases):
    with pytest.raises(InputError, match=r"line 2, key 'prompt_tokens\.tokens'"):
        validate_serving(write_cases({"isl_tokens": "99999999999"}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"engine": "sglang", "engine_version": "1.0"}, "engine sglang 1.0: no preset was made from a release near it"),
        ({"engine": "tgi"}, "engine tgi 0.13.0 is not built yet: known engines are vllm, sglang, trtllm"),
        (
            {"engine": "sglang", "engine_version": "0.5.6", "chunked_prefill": "0"},
            "preset sglang without chunked prefill",
        ),
        (
            {
                "engine": "trtllm",
                "engine_version": "1.0",
                "isl_tokens": "9000",
                "max_model_len": "",
                "chunked_prefill": "",
            },
            "needs chunked context",
        ),
        ({"engine_version": "latest"}, "engine vllm latest is not built yet: the version must be a number"),
        ({"model": "no-such-model"}, "model no-such-model is not in the catalogue"),
        ({"model": "/etc/hostname"}, "model /etc/hostname is not in the catalogue"),
        ({"device": "no-such-gpu"}, "device no-such-gpu is not in the catalogue"),
        ({"device": "../h200-sxm"}, "device ../h200-sxm is not in the catalogue"),
        ({"ep": "3"}, "expert parallelism over 3 of 2 devices is not simulated yet"),
        ({"n_devices": "3"}, "n_devices 3 is not tp x pp x dp = 2"),
        ({"dp": "5", "n_devices": "10"}, "cluster: '10xh200-sxm' asks for 10 devices in one node"),
        ({"prefix_cache": "1"}, "a prefix cache is not simulated yet"),
        ({"speculation": "eagle3"}, "speculation is not simulated yet"),
        ({"chunked_prefill": "0"}, "preset vllm-1 without chunked prefill is not built yet"),
        ({"weight_dtype": "int4"}, "int4 weights with bf16 KV cache are not simulated yet"),
        ({"act_dtype": "fp8"}, "mxfp4 weights with fp8 activations are not simulated yet"),
        ({"isl_tokens": ""}, "isl_tokens is empty, so the load is not known"),
        ({"length_low_frac": ""}, "length_low_frac is empty, so the load is not known"),
        ({"concurrency": ""}, "concurrency is empty, so the load is not known"),
        ({"load_kind": ""}, "load_kind is empty, so the load is not known"),
        ({"load_kind": "poisson"}, "rate_per_s is empty, so the load is not known"),
        ({"load_kind": "trace"}, "workload is empty, so the load is not known"),
        ({"max_num_batched_tokens": "2"}, "settings: max_num_batched_tokens 2 is below max_num_seqs 4"),
        ({"max_model_len": "90"}, "does not fit max_model_len 90"),
        ({"tp": "3", "n_devices": "3"}, "does not run: TP 3 does not divide"),
    ],
)
def test_what_cannot_be_replayed_is_skipped_with_its_reason(write_cases, change, reason):
    validation = validate_serving(write_cases(change))
    (case,) = validation.cases
    assert reason in case.skipped_reason
    assert (case.predicted, case.error, case.notes) == ({}, {}, ())
    assert case.measured["ttft_mean_s"] == 0.05
    assert validation.summary.n_skipped_by_reason == {case.skipped_reason: 1}


def test_a_context_that_the_kv_pool_cannot_hold_is_skipped_not_shortened(write_cases):
    (case,) = validate_serving(write_cases(V0 | {"tp": "2", "n_devices": "2"})).cases
    assert case.skipped_reason.startswith("does not run: memory:")
    assert "max_model_len 131072" in case.skipped_reason


@pytest.mark.parametrize(
    ("change", "policy", "budget"),
    [
        ({}, "chunked", 512),  # context 131,072: above the 32,768 tokens up to which v0 runs prompts whole
        ({"max_model_len": "8192"}, "prefill-first", 8192),
        ({"max_model_len": "8192", "chunked_prefill": "1"}, "chunked", 512),
        ({"max_model_len": "8192", "chunked_prefill": "0", "max_num_batched_tokens": "9000"}, "prefill-first", 9000),
    ],
)
def test_v0_settings_follow_columns_and_defaults(write_cases, change, policy, budget):
    settings = replay_of(write_cases(V0 | change)).plan.instances[0][0].scheduler
    assert (settings.policy, settings.max_num_batched_tokens) == (policy, budget)
    assert settings.gpu_memory_utilization_frac == 0.97


@pytest.mark.parametrize(
    ("version", "cell", "is_on"),
    [("0.13.0", "", False), ("0.14.0", "", True), ("0.13.0", "1", True), ("1.2", "0", False)],
)
def test_asynchronous_scheduling_is_the_default_from_0_14_on(write_cases, version, cell, is_on):
    path = write_cases({"engine_version": version, "async_scheduling": cell})
    assert replay_of(path).plan.instances[0][0].scheduler.async_scheduling is is_on


def test_whole_instances_are_replicated_for_dp(write_cases):
    replay = replay_of(write_cases({"dp": "2", "n_devices": "4"}))
    assert replay.plan.label == "DP2 TP2 PP1 mxfp4"
    assert replay.cluster.n_devices == 4
    assert replay_of(write_cases({"dp": "8", "n_devices": "16"})).cluster.n_nodes == 2


def test_measured_kv_blocks_are_set_beside_the_simulated_ones(write_cases):
    assert any("12345 measured" in note for note in replay_of(write_cases({"n_gpu_blocks": "12345"})).notes)


def test_repeats_share_one_simulation_and_keep_their_own_errors(write_cases):
    told = []
    path = write_cases({}, {"ttft_mean_s": "0.1"}, {"concurrency": "2"})
    validation = validate_serving(path, progress=lambda done, total: told.append((done, total)))
    assert validation.n_simulations == 2
    assert told == [(1, 2), (2, 2)]
    first, second, _ = validation.cases
    assert first.predicted == second.predicted
    assert second.error["ttft_mean_s"] == pytest.approx((1 + first.error["ttft_mean_s"]) / 2 - 1)


def test_the_number_of_workers_changes_nothing(write_cases):
    path = write_cases({}, {"concurrency": "2"}, {"device": "no-such-gpu"})
    assert validate_serving(path, n_jobs=1) == validate_serving(path, n_jobs=2)


def test_limit_and_sources_choose_cases_and_say_so(write_cases):
    path = write_cases({}, {"source": "other"}, {})
    limited = validate_serving(path, limit=2)
    assert [case.case_id for case in limited.cases] == ["case-0", "case-1"]
    assert "2 of 3 cases" in limited.notes
    assert [case.case_id for case in validate_serving(path, sources=["other"]).cases] == ["case-1"]
    with pytest.raises(UnknownNameError, match=r"unknown source 'othr'.*'other'"):
        validate_serving(path, sources=["othr"])
    with pytest.raises(InputError, match="limit is 0"):
        validate_serving(path, limit=0)


DATA = os.environ.get("APEX_SIM_TEST_DATA")


@pytest.mark.skipif(not DATA, reason="APEX_SIM_TEST_DATA does not name the shared measurements")
def test_published_cases_are_replayed_or_skipped_with_a_reason():
    serving = Path(DATA or "") / "serving"
    validation = validate_serving(serving / "apex_h100_vllm060" / "cases.csv", limit=2)
    for case in validation.cases:
        assert case.skipped_reason == ""
        # A datasheet roofline and assumed host times; the measured step was 20.4 ms.
        assert case.predicted["itl_mean_s"] == pytest.approx(0.0204, rel=0.25)
    offline = validate_serving(serving / "cases.csv", sources=["trtllm_perf_v0.14", "trtllm_perf_v1.0"])
    assert offline.summary.n_replayed == 150
    errors = [case.error["output_tokens_per_s"] for case in offline.cases]
    assert np.median(np.abs(errors)) < 0.08
    assert offline.cpu_s < 120.0


def test_other_engines_cut_the_context_to_the_pool_and_take_the_number_of_requests_from_their_overview(write_cases):
    change = {"engine": "trtllm", "engine_version": "1.0", "load_kind": "offline", "n_requests": "", "concurrency": ""}
    change |= {"isl_tokens": "2048", "osl_tokens": "128", "max_model_len": "", "chunked_prefill": ""}
    replay = replay_of(write_cases(change))
    shape = replay.plan.instances[0][0]
    settings = shape.scheduler
    assert (settings.policy, settings.max_model_len, replay.workload.requests.n) == ("no-evict", 2176, 3000)
    assert shape.preset.graphs.padded(1025) == 2048
    assert any(note.startswith("n_requests: 3000") for note in replay.notes)
    sglang = {"engine": "sglang", "engine_version": "0.5.6", "max_num_batched_tokens": "32768", "max_model_len": ""}
    settings = replay_of(write_cases(sglang)).plan.instances[0][0].scheduler
    assert settings.reservation is not None
    assert (settings.policy, settings.reservation.max_prefill_tokens) == ("sglang", 32_768)


def test_every_measured_column_is_a_simulated_metric():
    from apex_sim.metrics.definitions import METRICS

    assert set(MEASURED) <= set(METRICS)
