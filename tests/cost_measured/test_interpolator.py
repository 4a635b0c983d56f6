"""Interpolation between measured kernels: exact where something was measured, close between, silent beyond."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_tables import H100, TABLE, Writer, gemm_columns, row_of

from apex_sim.cost.basis import Basis
from apex_sim.cost.calibrated import best_cost_model
from apex_sim.cost.measured.interpolator import Interpolator, interpolate
from apex_sim.cost.measured.kernel_table import KernelTable
from apex_sim.cost.measured.measured_costs import MeasuredCosts
from apex_sim.cost.measured.parquet_tables import read_parquet_table
from apex_sim.cost.sizes import AttentionSizes, DecodeWork, PrefillWork
from apex_sim.hardware.cluster import load_cluster

FIT = best_cost_model(H100)


def wavy(m: float, n: float, k: float) -> float:
    """Return a smooth ratio to the roofline, from 1.1 to 1.9."""
    return 1.5 + 0.2 * np.sin(np.log2(m) / 3) + 0.1 * np.sin(np.log2(n) / 2) + 0.1 * np.cos(np.log2(k) / 2)


@pytest.fixture
def table(write: Writer, tmp_path: Path) -> KernelTable:
    write(TABLE, gemm_columns(wavy))
    found = read_parquet_table(tmp_path, "h100-sxm", "gemm", "bf16")
    assert found is not None
    return found


@pytest.fixture
def costs(table: KernelTable, tmp_path: Path) -> MeasuredCosts:
    return MeasuredCosts(H100, tmp_path, FIT)


def test_measured_rows_come_back_as_measured(table: KernelTable) -> None:
    time, inside = interpolate(table, H100).time(table.sizes, cold=False)
    assert inside.all()
    assert time.kernel_s == pytest.approx(table.seconds, rel=1e-12)


def without(table: KernelTable, n: float, k: float) -> Interpolator:
    family = (table.sizes["n"] == n) & (table.sizes["k"] == k)
    return interpolate(table.take(~family), H100)


def test_a_family_that_was_not_measured_lies_between_its_neighbours(table: KernelTable) -> None:
    n, k = 4096.0, 2048.0
    family = table.take((table.sizes["n"] == n) & (table.sizes["k"] == k))
    time, inside = without(table, n, k).time(family.sizes, cold=False)
    assert inside.all()
    # The truth bends by 0.1 sin'' (log2(n) / 2) / 4: over half an octave that is 0.1 %.  What is left is how the
    # fitted form's tiles differ from the roofline that these times were made of.
    assert np.median(np.abs(time.kernel_s / family.seconds - 1.0)) < 0.03


def test_a_family_at_the_corner_has_no_neighbours_and_keeps_the_form(table: KernelTable) -> None:
    n = k = 16384.0
    family = table.take((table.sizes["n"] == n) & (table.sizes["k"] == k))
    between = without(table, n, k)
    time, inside = between.time(family.sizes, cold=False)
    assert not inside.any()
    assert between.fit is not None
    assert time.kernel_s.tolist() != family.seconds.tolist()


def test_a_duplicate_measurement_is_averaged(write: Writer, tmp_path: Path) -> None:
    columns = gemm_columns(wavy)
    row = row_of(columns, 64, 1024, 1024)
    for name, values in columns.items():
        values.append(values[row] if name != "latency" else 4.0 * float(values[row]))  # type: ignore[arg-type]
    write(TABLE, columns)
    table = read_parquet_table(tmp_path, "h100-sxm", "gemm", "bf16")
    assert table is not None
    one = {name: values[row] for name, values in table.sizes.items()}
    time, _ = interpolate(table, H100).time(one, cold=False)
    assert float(time.kernel_s) == pytest.approx(2.0 * table.seconds[row])  # the geometric mean


def test_inside_the_hull_the_table_answers(costs: MeasuredCosts, table: KernelTable) -> None:
    parts = costs.gemm(4096.0, 8192, 8192, "bf16", "bf16")
    assert parts.basis.back_end == "measured"
    assert parts.basis.source == table.source
    assert bool(parts.basis.in_range)
    row = np.flatnonzero((table.sizes["m"] == 4096) & (table.sizes["n"] == 8192) & (table.sizes["k"] == 8192))[0]
    assert parts.kernel_s == pytest.approx(table.seconds[row], rel=0.02)  # large products do not live in L2
    assert parts.gap_launches == 0.0


def test_outside_the_hull_the_fallback_answers_and_says_so(costs: MeasuredCosts) -> None:
    parts, theirs = (cost.gemm(7.0, 99_999, 8192, "bf16", "bf16") for cost in (costs, FIT))
    assert (parts.basis.back_end, bool(parts.basis.in_range)) == ("calibrated", False)
    assert parts.kernel_s == theirs.kernel_s


def test_sizes_partly_outside_are_told_apart(costs: MeasuredCosts) -> None:
    m = np.array([1.0, 5.0, 8192.0, 8193.0, 60000.0])
    parts, theirs = (cost.gemm(m, 1024, 1024, "bf16", "bf16") for cost in (costs, FIT))
    assert np.asarray(parts.basis.in_range).tolist() == [True, True, True, False, False]
    assert np.asarray(parts.kernel_s)[3:].tolist() == np.asarray(theirs.kernel_s)[3:].tolist()
    assert "outside its hull" in parts.basis.source


def test_operators_and_formats_without_a_table_are_the_fallbacks_own(costs: MeasuredCosts) -> None:
    sizes = AttentionSizes(32, 8, 128, "bf16")
    work, step = PrefillWork(8390656.0, 4096.0, 4096.0, 1.0), DecodeWork(8.0, 8192.0)
    node = load_cluster("8xh100-sxm").group(8)
    for mine, theirs in (
        (costs.gemm(8.0, 1024, 1024, "fp8", "fp8"), FIT.gemm(8.0, 1024, 1024, "fp8", "fp8")),
        (costs.prefill_attention(work, sizes), FIT.prefill_attention(work, sizes)),
        (costs.decode_attention(step, sizes), FIT.decode_attention(step, sizes)),
        (costs.all_reduce(1e6, node, "custom"), FIT.all_reduce(1e6, node, "custom")),
        (costs.elementwise(8.0, 4096, 4.0), FIT.elementwise(8.0, 4096, 4.0)),
        (costs.send(1e6, node.intra_node), FIT.send(1e6, node.intra_node)),
    ):
        assert mine.kernel_s == theirs.kernel_s
        assert mine.basis.key == theirs.basis.key


def test_no_price_beats_dram(write: Writer, tmp_path: Path) -> None:
    columns = gemm_columns(wavy)
    row = row_of(columns, 1, 4096, 4096)
    columns["latency"][row] = 0.005  # a benchmark's loop: the weights sit in L2
    write(TABLE, columns)
    parts = MeasuredCosts(H100, tmp_path, FIT).gemm(1.0, 4096, 4096, "bf16", "bf16")
    assert parts.kernel_s >= 2 * 4096 * 4096 / H100.memory_bytes_per_s


def test_impossible_rows_are_left_out_and_the_source_says_so(write: Writer, tmp_path: Path) -> None:
    columns = gemm_columns(wavy)
    columns["latency"][row_of(columns, 8192, 16384, 16384)] = 0.1
    write(TABLE, columns)
    parts = MeasuredCosts(H100, tmp_path, FIT).gemm(4096.0, 16384, 16384, "bf16", "bf16")
    assert "1 impossible rows left out" in parts.basis.source


def test_a_prefill_with_a_past_is_outside_the_tables(write: Writer, tmp_path: Path) -> None:
    grid = [(b, s, q) for b in (1, 2, 4) for s in (512, 1024, 2048, 4096) for q in (8, 16, 32)] * 12
    columns = {
        "kernel_source": ["fa3"] * len(grid), "kv_cache_dtype": ["bfloat16"] * len(grid),
        "batch_size": [b for b, _, _ in grid], "isl": [s for _, s, _ in grid], "step": [0] * len(grid),
        "num_heads": [q for _, _, q in grid], "num_key_value_heads": [q // 4 for _, _, q in grid],
        "head_dim": [128] * len(grid), "window_size": [0] * len(grid),
        "latency": [1e3 * (2e-5 + 4 * 128 * q * b * s * s / 2 / 5e14) for b, s, q in grid],
    }  # fmt: skip
    write("h100_sxm/attention/vllm/1.0/context_attention_perf.parquet", columns)
    costs, sizes = MeasuredCosts(H100, tmp_path, FIT), AttentionSizes(16, 4, 128, "bf16")
    fresh = costs.prefill_attention(PrefillWork(2 * 1024 * 1025 / 2, 2048.0, 2048.0, 2.0), sizes)
    chunk = costs.prefill_attention(PrefillWork(1024 * 5000.0, 1024.0, 5500.0, 1.0), sizes)
    assert (fresh.basis.back_end, bool(fresh.basis.in_range)) == ("measured", True)
    assert fresh.kernel_s == pytest.approx(2e-5 + 4 * 128 * 16 * 2 * 1024 * 1024 / 2 / 5e14)
    assert (chunk.basis.back_end, bool(chunk.basis.in_range)) == ("calibrated", False)


def test_the_expected_error_is_small_where_the_times_are_smooth(costs: MeasuredCosts) -> None:
    basis: Basis = costs.gemm(64.0, 1024, 1024, "bf16", "bf16").basis
    assert basis.expected_error_frac is not None
    assert 0.0 < basis.expected_error_frac < 0.05
