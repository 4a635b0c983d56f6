"""Linear attention: FLOP and bytes by hand, the shape of its curves, and the committed fits' errors."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from apex_sim.cost.coefficient_file import calibrated_devices, fitted_precisions, load_fit
from apex_sim.cost.forms.linear_attention import (
    LinearDecodeCoefficients,
    LinearHeads,
    LinearPrefillCoefficients,
    decode_work,
    linear_decode_time,
    linear_prefill_time,
    prefill_work,
)
from apex_sim.hardware.device import load_device
from apex_sim.model.attention import LinearAttentionCell

#: Qwen3-Next on one device.
QWEN = LinearHeads(16, 32, 128, 128, 4)
FITTED = [device for device in calibrated_devices() if fitted_precisions(device, "linear_decode")]


@cache
def _decode(device: str) -> LinearDecodeCoefficients:
    return load_fit(device, "linear_decode", "bf16", LinearDecodeCoefficients).coefficients


@cache
def _prefill(device: str) -> LinearPrefillCoefficients:
    return load_fit(device, "linear_prefill", "bf16", LinearPrefillCoefficients).coefficients


def _prefill_s(device: str, n_tokens: float, n_sequences: float = 1.0, heads: LinearHeads = QWEN) -> float:
    return float(linear_prefill_time(_prefill(device), load_device(device), heads, n_tokens, n_sequences).kernel_s)


def test_a_decoded_token_reads_and_writes_its_state() -> None:
    """One layer's 32 states of 128 x 128 and 8,192 channels of 4 taps; FLOP as the model counts them."""
    flop, state_bytes, conv_bytes = decode_work(QWEN, 3.0)
    assert float(flop) == 3 * LinearAttentionCell(16, 32, 128, 128, 4).attention_flop(1)
    assert float(state_bytes) == 3 * 2 * 2 * 32 * 128 * 128
    assert float(conv_bytes) == 3 * 2 * 8192 * (2 + 2 * 3)  # in and out, and 3 earlier inputs read and written


def test_prefill_flop_by_hand() -> None:
    """Each head and token: 3 k + 2 v products over a chunk of 64, and 3 with the state."""
    flop, state_bytes, moved = prefill_work(QWEN, 1000.0, 2.0)
    rule = 1000 * 32 * (2 * 64 * 5 * 128 + 6 * 128 * 128)
    assert float(flop) == rule + 1000 * 2 * 4 * 8192
    assert float(state_bytes) == 2 * 2 * 2 * 32 * 128 * 128
    assert float(moved) == 1000 * 2 * (3 * 8192 + 4096)


@pytest.mark.parametrize("device", FITTED)
def test_decode_grows_with_sequences_and_shrinks_with_their_heads(device: str) -> None:
    n = np.array([1.0, 8.0, 64.0, 512.0])
    times = np.asarray(linear_decode_time(_decode(device), load_device(device), QWEN, n).kernel_s)
    assert (np.diff(times) > 0).all()
    assert times[3] / times[2] == pytest.approx(8.0, rel=0.15)  # states decide, not launches
    half = LinearHeads(8, 16, 128, 128, 4)
    launch_s = _decode(device).launch_s
    assert np.asarray(linear_decode_time(_decode(device), load_device(device), half, n).kernel_s) - launch_s == (
        pytest.approx((times - launch_s) / 2)
    )


@pytest.mark.parametrize("device", FITTED)
def test_warm_states_are_no_slower(device: str) -> None:
    n = np.array([1.0, 4.0, 1024.0])
    cold, warm = (
        np.asarray(linear_decode_time(_decode(device), load_device(device), QWEN, n, cold=cold).kernel_s)
        for cold in (True, False)
    )
    assert (warm <= cold).all()
    assert warm[2] == pytest.approx(cold[2], rel=0.01)  # 1 GiB of states never fits


@pytest.mark.parametrize("device", FITTED)
def test_chunks_of_a_prompt_follow_one_another(device: str) -> None:
    """Twice the tokens take twice as long; the same tokens in four prompts less on devices that one leaves idle."""
    times = [_prefill_s(device, n) for n in (8192.0, 16_384.0, 32_768.0)]
    assert [b / a for a, b in pairwise(times)] == pytest.approx([2.0, 2.0], rel=0.25)
    if device in ("h100-sxm", "h200-sxm", "b200", "gb200"):
        assert _prefill_s(device, 16_384.0, 4.0) < 0.6 * _prefill_s(device, 16_384.0)
        quarter = LinearHeads(4, 8, 128, 128, 4)  # tensor parallelism does not shorten the chain
        assert _prefill_s(device, 16_384.0, 1.0, quarter) > 0.5 * _prefill_s(device, 16_384.0)


def test_committed_fits_meet_their_goal() -> None:
    assert set(FITTED) >= {"h100-sxm", "h200-sxm", "b200", "gb200"}
    for device in FITTED:
        decode = load_fit(device, "linear_decode", "bf16", LinearDecodeCoefficients).held_out
        prefill = load_fit(device, "linear_prefill", "bf16", LinearPrefillCoefficients).held_out
        assert decode.median_frac < 0.03, device
        assert prefill.median_frac < (0.10 if device in ("l40s", "rtx-pro-6000") else 0.04), device
        assert abs(decode.bias_frac) < 0.03, device
        assert abs(prefill.bias_frac) < 0.03, device
