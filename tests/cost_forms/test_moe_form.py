"""The MoE form: hand-computed limits, monotonicity, floors, and the committed fits' errors."""

from __future__ import annotations

import time

import numpy as np
import pytest

from apex_sim.cost.coefficient_file import calibrated_devices, fitted_precisions, load_fit
from apex_sim.cost.forms.moe import MoeCoefficients, MoeShape, moe_time
from apex_sim.cost.forms.routing import Routing, expert_load
from apex_sim.hardware.device import load_device

H100 = load_device("h100-sxm")
FITS = [(device, name) for device in calibrated_devices() for name in fitted_precisions(device, "moe")]

#: A kernel without any overhead: 80 % of peak compute on any tile, 90 % of bandwidth.
IDEAL = MoeCoefficients(
    peak="bf16", activation_bytes=2.0, weight_bytes=2.0, padded_to=1.0, tiles=((16, 128), (128, 128)), launch_s=5e-6,
    map_s=0.0, skipped_tile_s=0.0, misaligned_ratio=1.0, pair_s=0.0, local_expert_s=0.0, hit_expert_s=0.0,
    all_rows_ratio=0.0, own_rows_ratio=0.0, math_frac=0.8, tile_exponent=0.0, cache_ratio=1e6, prologue_k=0.0,
    tile_s=0.0, tail_waves=0.0, memory_frac=0.9, idle_frac=0.0, again_frac=0.0, again_cached_frac=1.0, sharpness=50.0,
    cached_ratio=1.0, cached_frac=0.5, rows_cached_ratio=1.0, rows_cached_frac=1.0, throttle_frac=0.0,
)  # fmt: skip
SHAPE = MoeShape(hidden_size=4096, width=2048, n_experts=128, top_k=8)
EXPERT = 3 * 4096 * 2048


def seconds(c: MoeCoefficients, shape: MoeShape, n_tokens: float, routing: Routing = "balanced", ep: int = 1) -> float:
    load = expert_load(n_tokens, int(shape.n_experts), int(shape.top_k), ep, routing)  # type: ignore[arg-type]
    return float(moe_time(c, H100, shape, n_tokens, load).kernel_s)


def test_few_tokens_wait_for_the_weights_of_the_experts_they_hit() -> None:
    # 4 tokens x 8 experts, balanced: 32 experts, 1.6 GB, 3.35 TB/s at 90 %.
    assert seconds(IDEAL, SHAPE, 4) == pytest.approx(5e-6 + 32 * EXPERT * 2 / (3.35e12 * 0.9), rel=1e-3)


def test_many_tokens_wait_for_the_arithmetic() -> None:
    # 65,536 tokens: 4,096 rows for each expert fill tiles of 128 exactly, and tiles fill waves.
    assert seconds(IDEAL, SHAPE, 65536) == pytest.approx(5e-6 + 2 * 65536 * 8 * EXPERT / (989.4e12 * 0.8), rel=1e-2)


def test_half_empty_tiles_cost_as_much_as_full_ones() -> None:
    only_tall = MoeCoefficients(
        **{name: getattr(IDEAL, name) for name in IDEAL.__slots__} | {"tiles": ((128, 128),), "math_frac": 0.05}
    )
    assert seconds(only_tall, SHAPE, 128 * 16) == pytest.approx(seconds(only_tall, SHAPE, 16), rel=1e-6)
    assert seconds(only_tall, SHAPE, 128 * 16 + 16) > 1.9 * seconds(only_tall, SHAPE, 128 * 16)


def test_floors_are_the_datasheet_times_of_the_work() -> None:
    time_of = moe_time(IDEAL, H100, SHAPE, 64.0, expert_load(64.0, 128, 8, 1, "balanced"))
    assert float(time_of.compute_s) == pytest.approx(2 * 64 * 8 * EXPERT / 989.4e12, rel=1e-3)
    rows = 64 * 8 * 2 * (2 * 4096 + 5 * 2048)
    assert float(time_of.memory_s) == pytest.approx((128 * EXPERT * 2 + rows) / 3.35e12, rel=1e-6)


@pytest.mark.parametrize(("device_name", "name"), FITS)
def test_committed_fits_are_sane(device_name: str, name: str) -> None:
    device, fit = load_device(device_name), load_fit(device_name, "moe", name, MoeCoefficients)
    tokens = 2.0 ** np.arange(0, 21)
    for ep in (1, 8):
        shape = MoeShape(7168, 2048, 256, 8, ep)
        load = expert_load(tokens, 256, 8, ep)
        time_of = moe_time(fit.coefficients, device, shape, tokens, load)
        # Never faster than the datasheet, never slower over more tokens, and a launch at the least.
        assert (time_of.kernel_s >= 0.999 * np.maximum(time_of.compute_s, time_of.memory_s)).all()
        assert (np.diff(time_of.kernel_s) > -0.02 * time_of.kernel_s[1:]).all()
        assert 3e-6 < time_of.kernel_s[0] < 2e-3
        # Far beyond the data, time is proportional to tokens, at 3 to 95 % of peak.
        assert time_of.kernel_s[-1] / time_of.kernel_s[-2] == pytest.approx(2.0, rel=0.05)
        assert 0.03 < time_of.compute_s[-1] / time_of.kernel_s[-1] < 0.96


@pytest.mark.parametrize(("device_name", "name"), FITS)
def test_skew_narrow_shards_and_cold_weights_cost_what_they_must(device_name: str, name: str) -> None:
    device, fit = load_device(device_name), load_fit(device_name, "moe", name, MoeCoefficients)
    shape, tokens = MoeShape(4096, 1536, 128, 8, 8), 8192.0
    balanced, skewed = (
        float(moe_time(fit.coefficients, device, shape, tokens, expert_load(tokens, 128, 8, 8, routing)).kernel_s)
        for routing in ("balanced", 1.2)
    )
    assert skewed > 1.05 * balanced
    one, load = MoeShape(4096, 1536, 128, 8), expert_load(32.0, 128, 8)
    whole = float(moe_time(fit.coefficients, device, one, 32.0, load).kernel_s)
    eighth = float(moe_time(fit.coefficients, device, MoeShape(4096, 192, 128, 8), 32.0, load).kernel_s)
    assert whole / 8 < eighth < whole
    assert whole >= float(moe_time(fit.coefficients, device, one, 32.0, load, cold=False).kernel_s)


@pytest.mark.parametrize(("device_name", "name"), FITS)
def test_held_out_errors_of_the_committed_fits(device_name: str, name: str) -> None:
    held = load_fit(device_name, "moe", name, MoeCoefficients).held_out
    assert held.median_frac <= (0.225 if device_name in ("a100-sxm-80gb", "l40s") else 0.15)
    assert held.n_rows >= (300 if name.endswith("4a16-marlin") or name == "mxfp4-marlin" else 600)


def test_sixteen_hundred_token_counts_take_milliseconds() -> None:
    c = load_fit("h100-sxm", "moe", "bf16", MoeCoefficients).coefficients
    tokens, shape = np.arange(1.0, 1601.0), MoeShape(7168, 2048, 256, 8, 64)
    expert_load(tokens, 256, 8, 64, 1.2)
    best_s = np.inf
    for _ in range(5):
        start = time.process_time()
        moe_time(c, H100, shape, tokens, expert_load(tokens, 256, 8, 64, 1.2))
        best_s = min(best_s, time.process_time() - start)
    assert best_s < 0.02
