"""Bounds of the hardware, by hand for a dense model, and the cases that break them."""

from __future__ import annotations

import pytest

from apex_sim.hardware.device import load_device
from apex_sim.model.load import load_model
from apex_sim.plan.precision import Precision
from apex_sim.truth.cases import read_cases
from apex_sim.truth.plausibility import active_weight_bytes, hardware_bounds
from apex_sim.truth.replay import make_replay
from apex_sim.truth.validation import validate_serving

DENSE = {
    "model": "llama-3.1-70b",
    "device": "h100-sxm",
    "weight_dtype": "bf16",
    "tp": "4",
    "n_devices": "4",
    "max_num_seqs": "8",
    "length_low_frac": "1",
}


def bounds_of(path):
    case = read_cases(path).cases[0]
    return hardware_bounds(case, make_replay(case, path.parent))


def test_bounds_of_a_dense_model_by_hand(write_cases):
    """Llama-3.1-70B: 80 layers of q 8192x8192, k and v 8192x1024, o 8192x8192, gate, up and down 8192x28672."""
    layers = 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672)
    head = 128256 * 8192
    device = load_device("h100-sxm")
    bounds = bounds_of(write_cases(DENSE))
    assert bounds.weight_read_s == pytest.approx(2 * (layers + head) / (4 * device.memory_bytes_per_s))
    assert bounds.prompt_s == pytest.approx(2 * layers * 100 / (4 * device.flops("bf16")))
    assert bounds.n_at_once == 4  # users; the scheduler would take 8
    # 4 users get a token each per read of the weights, which is far below the peak of computing.
    assert bounds.output_tokens_per_s == pytest.approx(4 / bounds.weight_read_s)
    assert bounds.total_tokens_per_s == pytest.approx(4 * device.flops("bf16") / (2 * layers))


def test_many_users_are_bounded_by_computing(write_cases):
    change = {"concurrency": "4000", "n_requests": "4000", "max_num_seqs": "4000"}
    device, bounds = load_device("h100-sxm"), bounds_of(write_cases(DENSE | change))
    layers = 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672)
    # 100 prompt tokens and 20 output tokens: each output token carries six tokens through the layers.
    flop = 2 * layers * 6 + 2 * 128256 * 8192
    assert bounds.n_at_once == 4000
    assert bounds.output_tokens_per_s == pytest.approx(4 * device.flops("bf16") / flop)


def test_only_a_stated_batch_bounds_how_many_run_at_once(write_cases):
    many = DENSE | {"concurrency": "4000", "n_requests": "4000"}
    assert bounds_of(write_cases(many)).n_at_once == 8
    assert bounds_of(write_cases(many | {"dp": "2", "n_devices": "8"})).n_at_once == 16
    assert bounds_of(write_cases(many | {"max_num_seqs": ""})).n_at_once == 4000


def test_more_devices_share_weights_within_a_stage_and_work_across_copies(write_cases):
    one = bounds_of(write_cases(DENSE))
    both = bounds_of(write_cases(DENSE | {"dp": "2", "n_devices": "8"}))
    assert both.weight_read_s == one.weight_read_s
    assert both.total_tokens_per_s == pytest.approx(2 * one.total_tokens_per_s)
    assert both.n_at_once == 4  # the load has no more users
    stages = bounds_of(write_cases(DENSE | {"pp": "2", "n_devices": "8"}))
    assert stages.weight_read_s == pytest.approx(one.weight_read_s)  # a token passes one stage after the other
    assert stages.prompt_s == pytest.approx(one.prompt_s / 2)


def test_a_mixture_of_experts_reads_only_the_active_ones():
    model = load_model("gpt-oss-120b")
    active_bytes = active_weight_bytes(model, Precision("mxfp4", "bf16"))
    # 36 layers x 4 experts of 3 x 2880 x 2880 numbers at 4.25 bits are 0.95 GB; attention, router and head are bf16.
    experts_bytes = 36 * 4 * 3 * 2880 * 2880 * 4.25 / 8
    assert active_bytes > experts_bytes
    assert active_bytes < 0.2 * model.weight_bytes()
    assert active_bytes == pytest.approx(
        experts_bytes + 2 * (36 * (2880 * (4096 + 2 * 512) + 4096 * 2880 + 2880 * 128) + 201088 * 2880)
    )


@pytest.mark.parametrize(
    ("change", "column", "reason"),
    [
        ({"tpot_mean_s": "0.0001"}, "tpot_mean_s is 0.0001, below", "reading the weights takes longer"),
        ({"tpot_mean_s": "", "tpot_median_s": "0.00012"}, "tpot_median_s is 0.00012, below", "reading the weights"),
        ({"itl_mean_s": "1e-5"}, "itl_mean_s is 1e-05, below", "reading the weights"),
        ({"ttft_mean_s": "1e-6"}, "ttft_mean_s is 1e-06, below", "matrix products take longer"),
        ({"output_tokens_per_s": "1e6"}, "output_tokens_per_s is 1e+06, above", "roofline with 4 requests at once"),
        ({"total_tokens_per_s": "1e9"}, "total_tokens_per_s is 1e+09, above", "peak of matrix products"),
    ],
)
def test_what_no_hardware_can_do_is_named_and_left_out_of_the_errors(write_cases, change, column, reason):
    path = write_cases({}, change)
    validation = validate_serving(path)
    fine, impossible = validation.cases
    assert fine.skipped_reason == ""
    assert impossible.skipped_reason.startswith(f"cannot have been measured: {path}, line 3: {column}")
    assert reason in impossible.skipped_reason
    assert "Check unit, model and number of devices, or leave" in impossible.skipped_reason
    assert (impossible.predicted, impossible.error) == ({}, {})
    assert validation.summary.n_replayed == 1
    assert validation.summary.by_source[0].n == 1


def test_streams_that_bundle_tokens_have_a_median_gap_of_zero_and_are_fine(write_cases):
    assert validate_serving(write_cases({"itl_median_s": "1e-6"})).summary.n_replayed == 1
