"""The GEMM form against hand limits, and its recorded errors against the project's floors."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apex_sim.cost.coefficient_file import FOLDER, calibrated_devices, fitted_precisions, load_fit
from apex_sim.cost.forms.gemm import GemmCoefficients, gemm_time, quantise_time
from apex_sim.errors import InputError, UnsupportedError
from apex_sim.hardware.device import load_device

FITS = [(device, precision) for device in calibrated_devices() for precision in fitted_precisions(device, "gemm")]
#: Median error on held-out families that must hold (H100, H200, B200; half as much again on A100 and L40S).
FLOORS = {"bf16": 0.08, "fp8": 0.14}
NEWEST = ["h100-sxm", "h200-sxm", "b200"]


def gemm(device: str, precision: str) -> GemmCoefficients:
    """Return the coefficients of one fit."""
    return load_fit(device, "gemm", precision, GemmCoefficients).coefficients


@pytest.mark.parametrize(("device", "precision"), FITS)
def test_a_cold_product_never_beats_the_datasheet(device: str, precision: str) -> None:
    """Weights alone need n k bytes / bandwidth; many rows need 2 m n k / peak."""
    c, hardware = gemm(device, precision), load_device(device)
    m = np.array([1.0, 16, 300, 8192, 65536])
    time = gemm_time(c, hardware, m, 16384, 53248)
    assert np.all(time.kernel_s >= 16384 * 53248 * c.weight_bytes / hardware.memory_bytes_per_s)
    assert np.all(time.kernel_s >= 2.0 * m * 16384 * 53248 / hardware.peak_flops[c.peak])


@pytest.mark.parametrize(("device", "precision"), FITS)
def test_extrapolation_stays_within_reach_of_the_roofline(device: str, precision: str) -> None:
    """A product far larger than any measured one runs at 15 % to 95 % of peak."""
    time = gemm_time(gemm(device, precision), load_device(device), 65536, 106496, 53248)
    assert 0.15 <= float(time.compute_s / time.kernel_s) <= 0.95


@pytest.mark.parametrize(("device", "precision"), FITS)
def test_more_rows_cost_more_up_to_tile_noise(device: str, precision: str) -> None:
    """A change of tile may save a little, never more than a tenth, and the trend is up; padding hides between tiles."""
    c = gemm(device, precision)
    step = 256.0 if c.padding_ratio else 1.0
    kernel_s = gemm_time(c, load_device(device), np.arange(step, 4097, step), 8192, 8192).kernel_s
    assert np.max(np.maximum.accumulate(kernel_s) / kernel_s) < 1.1
    assert kernel_s[-1] > 3 * kernel_s[0]


@pytest.mark.parametrize(("device", "precision"), FITS)
def test_scalars_and_arrays_agree_and_cold_is_never_faster(device: str, precision: str) -> None:
    """The table compiler passes arrays, reports pass scalars."""
    c, hardware = gemm(device, precision), load_device(device)
    m = np.array([1.0, 7.0, 128.0, 129.0, 5000.0])
    cold, warm = (gemm_time(c, hardware, m, 1024, 4096, cold=cold).kernel_s for cold in (True, False))
    assert cold == pytest.approx([float(gemm_time(c, hardware, rows, 1024, 4096).kernel_s) for rows in m], rel=1e-12)
    assert np.all(cold >= warm)


def test_one_row_of_a_large_matrix_reads_its_weights_at_most_of_the_bandwidth() -> None:
    """8192 x 8192 in bf16 is 134 MB: 40 us of an H100's 3.35 TB/s, plus a launch of a few microseconds."""
    time = gemm_time(gemm("h100-sxm", "bf16"), load_device("h100-sxm"), 1, 8192, 8192)
    assert 42e-6 < float(time.kernel_s) < 60e-6
    assert float(time.memory_s) == pytest.approx((8192 * 8192 + 2 * 8192) * 2 / 3.35e12)


def test_quantisation_is_free_for_bf16_and_never_beats_its_bytes() -> None:
    """A of 8192 x 8192: 2 bytes read and 1 written for each number."""
    h100 = load_device("h100-sxm")
    assert float(quantise_time(gemm("h100-sxm", "bf16"), h100, 8192, 8192).kernel_s) == 0.0
    for precision in ("fp8", "fp8-block"):
        assert float(quantise_time(gemm("h100-sxm", precision), h100, 8192, 8192).kernel_s) >= 3 * 8192**2 / 3.35e12


def test_a_fixed_dispatch_steps_where_the_library_changes_the_tile() -> None:
    """vLLM's Hopper fp8 kernel pads 65 to 128 rows alike, so a narrow matrix costs the same at 65 and at 128 rows."""
    c, h100 = gemm("h100-sxm", "fp8"), load_device("h100-sxm")
    at = {m: float(gemm_time(c, h100, m, 128, 16384).kernel_s) for m in (64, 65, 128, 129)}
    assert at[65] == pytest.approx(at[128], rel=0.02)
    assert at[65] > 1.2 * at[64]
    assert at[129] > 1.2 * at[128]


@pytest.mark.parametrize(
    ("device", "precision", "n", "k", "few", "full", "measured"),
    [
        ("h200-sxm", "fp8", 65536, 16384, 129, 256, 577 / 359),
        ("h200-sxm", "fp8", 65536, 16384, 257, 512, 1132 / 688),
        ("h100-sxm", "fp8", 65536, 16384, 129, 256, 612 / 415),
        ("rtx-pro-6000", "nvfp4", 65536, 2048, 8, 128, 74.9 / 37.1),
    ],
)
def test_padding_a_tile_costs_more_than_filling_it(
    device: str, precision: str, n: int, k: int, few: int, full: int, measured: float
) -> None:
    """Few rows of a tile take longer than all of them where every SM fills padding; the ratio is a measured one."""
    c, hardware = gemm(device, precision), load_device(device)
    kernel_s = gemm_time(c, hardware, np.array([few, full]), n, k, cold=False).kernel_s
    assert kernel_s[0] / kernel_s[1] == pytest.approx(measured, rel=0.35)
    assert kernel_s[0] > 1.2 * kernel_s[1]


def test_free_padding_leaves_only_the_loads_of_full_tiles() -> None:
    """With an endless bandwidth for padding, 129 rows cost what 256 do, two tiles; few tiles are no worse off."""
    c, h200 = gemm("h200-sxm", "fp8"), load_device("h200-sxm")
    free = gemm_time(replace(c, padding_ratio=1e9), h200, np.array([129.0, 256.0]), 65536, 16384).kernel_s
    assert free[0] == pytest.approx(free[1], rel=0.03)
    alone = gemm_time(c, h200, np.array([129.0, 256.0]), 3072, 51200).kernel_s
    assert alone[0] == pytest.approx(alone[1], rel=0.1)


def test_a_cluster_pads_an_odd_number_of_tiles() -> None:
    """257 rows are three tiles of 128, four in clusters of two; a single tile stays alone."""
    h100 = load_device("h100-sxm")
    paired = replace(gemm("h100-sxm", "fp8"), padding_ratio=0.0)
    assert paired.cluster_tiles == 2
    m = np.array([257.0, 512.0])
    two, one = (gemm_time(replace(paired, cluster_tiles=size), h100, m, 65536, 8192).kernel_s for size in (2.0, 1.0))
    assert two[0] == pytest.approx(two[1], rel=0.05)
    assert one[0] == pytest.approx(0.75 * one[1], rel=0.05)
    alone = [gemm_time(replace(paired, cluster_tiles=size), h100, 16, 8192, 8192).kernel_s for size in (2.0, 1.0)]
    assert alone[0] == alone[1]


def test_rows_that_outgrow_the_cache_are_read_again() -> None:
    """A of 4096 x 12288 in fp8 is half of an L40S's L2, of 16384 x 12288 twice of it: 31 and 21 % of peak measured."""
    c, l40s = gemm("l40s", "fp8-block"), load_device("l40s")
    time = gemm_time(c, l40s, np.array([4096.0, 16384.0]), 12288, 12288, cold=False)
    assert time.compute_s / time.kernel_s == pytest.approx([0.31, 0.21], rel=0.1)
    kept = gemm_time(replace(c, row_spill_frac=0.0), l40s, np.array([4096.0, 16384.0]), 12288, 12288, cold=False)
    assert kept.kernel_s[1] / kept.kernel_s[0] == pytest.approx(4.0, rel=0.05)


def test_a_long_kernel_meets_the_power_limit() -> None:
    """GB200 in fp8 blocks runs 0.37 ms at 67 % of peak and 2.8 ms at 36 % of it."""
    c, gb200 = gemm("gb200", "fp8-block"), load_device("gb200")
    time = gemm_time(c, gb200, np.array([4096.0, 16384.0]), 12288, 12288, cold=False)
    assert time.compute_s / time.kernel_s == pytest.approx([0.67, 0.36], rel=0.2)
    free = gemm_time(replace(c, throttle_frac=0.0), gb200, np.array([4096.0, 16384.0]), 12288, 12288, cold=False)
    assert free.kernel_s[1] / free.kernel_s[0] == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize(("device", "precision"), FITS)
def test_every_fit_says_how_far_it_reaches_and_how_wrong_it_is(device: str, precision: str) -> None:
    """Source, range and held-out errors are there, and held-out families exist."""
    fit = load_fit(device, "gemm", precision, GemmCoefficients)
    assert "gemm_perf.parquet" in fit.source
    assert set(fit.range) == {"m", "n", "k"}
    assert fit.covers(m=16, n=4096, k=4096)
    assert not fit.covers(m=1e6, n=4096, k=4096)
    assert fit.n_families >= 200
    assert fit.held_out.n_families >= 50
    assert 0 < fit.held_out.median_frac <= fit.held_out.p90_frac


@pytest.mark.parametrize("precision", FLOORS)
@pytest.mark.parametrize("device", [*NEWEST, "a100-sxm-80gb", "l40s"])
def test_recorded_errors_keep_the_floors(device: str, precision: str) -> None:
    """Median error on held-out families."""
    if precision not in fitted_precisions(device, "gemm"):
        pytest.skip(f"{device} has no {precision} arithmetic")
    held_out = load_fit(device, "gemm", precision, GemmCoefficients).held_out
    assert held_out.median_frac <= FLOORS[precision] * (1.0 if device in NEWEST else 1.5)


@pytest.mark.parametrize(("device", "precision"), FITS)
def test_no_fit_is_biased_or_worse_where_serving_spends_its_time(device: str, precision: str) -> None:
    """Bias within 5 %, and the largest tenth of the products no worse than twice the whole table."""
    held_out = load_fit(device, "gemm", precision, GemmCoefficients).held_out
    assert abs(held_out.bias_frac) <= 0.05
    assert held_out.top_decile_median_frac <= 2.0 * held_out.median_frac


def test_what_was_not_fitted_is_refused_with_what_there_is(tmp_path: Path) -> None:
    """Unknown device, precision and operator; a file with a wrong coefficient."""
    with pytest.raises(UnsupportedError, match=r"no kernel times were fitted for device 'abacus'.*h100-sxm"):
        load_fit("abacus", "gemm", "bf16", GemmCoefficients)
    with pytest.raises(UnsupportedError, match=r"no gemm kernel times were fitted at 'fp8'.*bf16"):
        load_fit("a100-sxm-80gb", "gemm", "fp8", GemmCoefficients)
    with pytest.raises(UnsupportedError, match=r"no sorting kernel times were fitted.*gemm"):
        load_fit("h100-sxm", "sorting", "bf16", GemmCoefficients)
    (tmp_path / "toy").mkdir()
    text = (FOLDER / "h100-sxm" / "gemm.toml").read_text(encoding="utf-8")
    (tmp_path / "toy" / "gemm.toml").write_text(text.replace("launch_s", "lunch_s"), encoding="utf-8")
    with pytest.raises(InputError, match=r"toy.*gemm\.bf16.*launch_s, lunch_s"):
        load_fit("toy", "gemm", "bf16", GemmCoefficients, folder=tmp_path)


def test_the_recorded_error_can_be_measured_again() -> None:
    """Recompute one held-out family from the tables, if their folder is given: (4096, 8192) is one."""
    folder = os.environ.get("APEX_SIM_KERNEL_DATA")
    if not folder:
        pytest.skip("APEX_SIM_KERNEL_DATA does not name the folder aiconfigurator_core/systems/data")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = Path(folder) / "h100_sxm/gemm/vllm/0.24.0/gemm_perf.parquet"
    where = [("gemm_dtype", "=", "bfloat16"), ("n", "=", 4096), ("k", "=", 8192)]
    rows = parquet.read_table(path, filters=where).to_pandas()
    assert len(rows) > 50
    predicted = gemm_time(gemm("h100-sxm", "bf16"), load_device("h100-sxm"), rows.m, 4096, 8192, cold=False).kernel_s
    assert np.median(np.abs(predicted / (rows.latency * 1e-3) - 1.0)) < 0.1
