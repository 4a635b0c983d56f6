"""What trtllm-bench chose for the rows of TensorRT-LLM's published tables."""

from __future__ import annotations

import pytest

from apex_sim.truth.cases import read_cases
from apex_sim.truth.replay import Replay, make_replay

#: An offline row that names model, devices and lengths only.
OFFLINE = {
    "engine": "trtllm",
    "engine_version": "0.14",
    "model": "llama-3.1-70b",
    "device": "h100-sxm",
    "weight_dtype": "fp8",
    "act_dtype": "fp8",
    "kv_dtype": "fp8",
    "load_kind": "offline",
    "concurrency": "",
    "n_requests": "8",
    "max_num_seqs": "",
    "max_num_batched_tokens": "",
    "chunked_prefill": "",
    "async_scheduling": "",
    "max_model_len": "",
    "length_low_frac": "1",
}


def _replay(write_cases, **changes: str) -> Replay:
    path = write_cases(OFFLINE | changes)
    return make_replay(read_cases(path).cases[0], path.parent)


@pytest.mark.parametrize(
    ("model", "tp", "lengths", "batch", "budget"),
    [
        ("llama-3.1-70b", 2, (128, 128), 256, 1024),
        ("llama-3.1-70b", 2, (2048, 2048), 2048, 1024),  # the length of 4096 has an entry of its own
        ("llama-3.1-70b", 4, (2048, 2048), 2048, 1024),
        ("llama-3.1-8b", 1, (128, 128), 2048, 8192),
        ("mixtral-8x7b", 8, (128, 128), 8192, 8192),  # the table ends at TP4
    ],
)
def test_builds_of_0_14_are_those_of_its_table(write_cases, model, tp, lengths, batch, budget):
    isl, osl = map(str, lengths)
    replay = _replay(write_cases, model=model, tp=str(tp), n_devices=str(tp), isl_tokens=isl, osl_tokens=osl)
    shape = replay.plan.instances[0][0]
    settings = shape.scheduler
    assert (shape.preset.name, settings.policy) == ("trtllm-0.14", "no-evict-chunked")
    assert (settings.max_num_seqs, settings.max_num_batched_tokens) == (batch, budget)
    assert settings.max_model_len == sum(lengths)
    assert f"max_num_seqs: trtllm-bench's choice, {batch}" in replay.notes
    assert any("which has no tp8_pp1" in note for note in replay.notes) == (tp == 8)


def test_1_0_takes_what_the_kv_cache_would_hold_and_a_budget_for_whole_prompts(write_cases):
    """Llama 8B on an H200: 0.95 x (143,771 MiB - 8.03e9 bytes) hold 65,536 bytes for each of 22,000 tokens 93 times."""
    changes = {"engine_version": "1.0", "model": "llama-3.1-8b", "device": "h200-sxm", "tp": "1", "n_devices": "1"}
    replay = _replay(write_cases, **changes, isl_tokens="20000", osl_tokens="2000")
    shape = replay.plan.instances[0][0]
    assert (shape.scheduler.max_num_seqs, shape.scheduler.max_num_batched_tokens) == (96, 20_096)
    assert (shape.scheduler.policy, shape.scheduler.gpu_memory_utilization_frac) == ("no-evict", 0.95)
    assert shape.preset.graphs.padded(129) == 256
    replay = _replay(write_cases, **changes, isl_tokens="128", osl_tokens="128")
    settings = replay.plan.instances[0][0].scheduler
    assert (settings.max_num_seqs, settings.max_num_batched_tokens) == (4096, 8192)  # 4096 at most


def test_cells_that_are_not_empty_go_first(write_cases):
    replay = _replay(write_cases, max_num_seqs="17", chunked_prefill="0", gpu_memory_utilization_frac="0.8")
    settings = replay.plan.instances[0][0].scheduler
    assert (settings.max_num_seqs, settings.policy, settings.gpu_memory_utilization_frac) == (17, "no-evict", 0.8)
    assert not any(note.startswith("max_num_seqs: ") for note in replay.notes)


def test_a_served_load_has_the_engines_own_defaults(write_cases):
    replay = _replay(write_cases, load_kind="closed", concurrency="4", tp="2")
    settings = replay.plan.instances[0][0].scheduler
    assert (settings.policy, settings.max_num_seqs, settings.max_num_batched_tokens) == ("no-evict", 2048, 8192)
