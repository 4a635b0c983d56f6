"""Tables in aiconfigurator-core's layout: what is read from them, and how broken ones are refused."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_tables import H100, TABLE, Writer, gemm_columns, roofline_ms, row_of

from apex_sim.cost.measured import parquet_tables
from apex_sim.cost.measured.kernel_table import KernelTable
from apex_sim.cost.measured.parquet_tables import packaged_folder, read_parquet_table, table_devices
from apex_sim.cost.measured.plausibility import impossible_rows
from apex_sim.errors import InputError, UnknownNameError, UnsupportedError


def flat(m: float, n: float, k: float) -> float:
    return 1.0


def read(folder: Path, precision: str = "bf16") -> KernelTable:
    table = read_parquet_table(folder, "h100-sxm", "gemm", precision)
    assert table is not None
    return table


def test_milliseconds_become_seconds_and_rows_keep_their_numbers(write: Writer, tmp_path: Path) -> None:
    columns = gemm_columns(flat)
    write(TABLE, columns)
    table = read(tmp_path)
    assert len(table) == 15 * 13 * 13
    assert table.n_families() == 13 * 13
    assert (table.rows[0], table.rows[-1]) == (1, len(table))
    m, n, k = (float(columns[name][7]) for name in "mnk")  # type: ignore[arg-type]
    assert table.seconds[7] == pytest.approx(1e-3 * roofline_ms(m, n, k))
    assert table.source == f"{TABLE}, gemm_dtype bfloat16, linear"


def test_the_newest_release_of_the_preferred_engine_counts(write: Writer, tmp_path: Path) -> None:
    for place, kernel in (
        ("vllm/0.9.0", "old"),
        ("vllm/0.24.0", "new"),
        ("vllm/0.30.0.dev1", "raw"),
        ("sglang/1.0", "x"),
    ):
        write(f"h100_sxm/gemm/{place}/gemm_perf.parquet", gemm_columns(flat, kernel))
    assert read(tmp_path).source.endswith("new")
    sglang = read_parquet_table(tmp_path, "h100-sxm", "gemm", "bf16", "sglang")
    old = read_parquet_table(tmp_path, "h100-sxm", "gemm", "bf16", "vllm/0.9.0")
    assert sglang is not None
    assert old is not None
    assert (sglang.source[-1], old.source[-3:]) == ("x", "old")


def test_the_most_frequent_kernel_counts_unless_another_is_named(write: Writer, tmp_path: Path) -> None:
    columns = gemm_columns(flat)
    columns["kernel_source"] = ["b_triton" if i % 3 == 0 else "a_cutlass" for i in range(len(columns["m"]))]
    columns["latency"] = [float(i + 1) for i in range(len(columns["m"]))]
    write(TABLE, columns)
    table = read_parquet_table(tmp_path, "h100-sxm", "gemm", "bf16", "vllm")
    other = read_parquet_table(tmp_path, "h100-sxm", "gemm", "bf16-triton", "vllm")
    assert table is not None
    assert other is not None
    assert table.source.endswith("a_cutlass")
    assert not np.any((table.rows - 1) % 3 == 0)
    assert other.source.endswith("b_triton")
    assert np.all((other.rows - 1) % 3 == 0)


def attention(**changes: list[object]) -> dict[str, list[object]]:
    one = {"kernel_source": ["fa3"], "kv_cache_dtype": ["bfloat16"], "attn_dtype": ["bfloat16"], "batch_size": [4],
           "isl": [1], "step": [99], "num_heads": [32], "num_key_value_heads": [0], "head_dim": [128],
           "window_size": [64], "latency": [0.02]}  # fmt: skip
    return {**one, **changes}


def test_decode_counts_the_new_token_applies_the_window_and_reads_no_kv_heads_as_multi_head(
    write: Writer, tmp_path: Path
) -> None:
    write("h100_sxm/attention/vllm/1.0/generation_attention_perf.parquet", attention())
    table = read_parquet_table(tmp_path, "h100-sxm", "decode_attention", "bf16-kv", "vllm")
    assert table is not None
    sizes = {name: float(values[0]) for name, values in table.sizes.items()}
    assert sizes["mean_context_tokens"] == 100
    assert sizes["context_tokens"] == 4 * 64
    assert sizes["beyond_window_frac"] == 1
    assert sizes["n_kv_heads"] == 32
    assert float(table.family["num_key_value_heads"][0]) == 0  # as the held-out rule sees it


def test_prefill_counts_the_pairs_under_the_causal_mask(write: Writer, tmp_path: Path) -> None:
    columns = attention(isl=[10], step=[0], window_size=[0])
    write("h100_sxm/attention/vllm/1.0/context_attention_perf.parquet", columns)
    table = read_parquet_table(tmp_path, "h100-sxm", "prefill_attention", "bf16-kv", "vllm")
    assert table is not None
    assert float(table.sizes["pairs"][0]) == 4 * 55


def test_experts_are_split_by_tensor_parallelism_and_those_without_a_gate_are_known(
    write: Writer, tmp_path: Path
) -> None:
    columns = {"kernel_source": ["k"] * 2, "moe_dtype": ["bfloat16"] * 2, "num_tokens": [8, 8],
               "hidden_size": [4096, 2688], "inter_size": [14336, 1856], "topk": [2, 6], "num_experts": [8, 128],
               "moe_tp_size": [2, 1], "moe_ep_size": [1, 4], "distribution": ["balanced", "power_law_1.2"],
               "latency": [1.0, 1.0]}  # fmt: skip
    write("h100_sxm/moe/vllm/1.0/moe_perf.parquet", columns)
    table = read_parquet_table(tmp_path, "h100-sxm", "moe", "bf16", "vllm")
    assert table is not None
    assert table.sizes["width"].tolist() == [7168, 1856]
    assert table.sizes["n_matrices"].tolist() == [3, 2]
    assert table.sizes["routing_exponent"].tolist() == [0, 1.2]


def test_a_kernel_of_unspoken_kind_is_found_by_its_kind(write: Writer, tmp_path: Path) -> None:
    """vLLM's fused_moe is its Triton kernel, and no other kernel is taken for it."""
    columns: dict[str, list[object]] = {
        "kernel_source": ["vllm_fused_moe", "k", "k"], "moe_dtype": ["fp8"] * 3, "num_tokens": [8] * 3,
        "hidden_size": [4096] * 3, "inter_size": [1536] * 3, "topk": [8] * 3, "num_experts": [128] * 3,
        "moe_tp_size": [1] * 3, "moe_ep_size": [1] * 3, "distribution": ["power_law_1.2"] * 3, "latency": [1.0] * 3,
    }  # fmt: skip
    write("h200_sxm/moe/vllm/1.0/moe_perf.parquet", columns)
    triton = read_parquet_table(tmp_path, "h200-sxm", "moe", "fp8-triton", "vllm")
    assert triton is not None
    assert triton.source.endswith("vllm_fused_moe")
    assert read_parquet_table(tmp_path, "h200-sxm", "moe", "fp8-marlin", "vllm") is None


def test_the_old_collector_measured_every_layer_with_a_gate(write: Writer, tmp_path: Path) -> None:
    columns: dict[str, list[object]] = {
        "kernel_source": ["vllm_fused_moe"], "moe_dtype": ["bfloat16"], "num_tokens": [8], "hidden_size": [2688],
        "inter_size": [1856], "topk": [6], "num_experts": [128], "moe_tp_size": [1], "moe_ep_size": [1],
        "distribution": ["power_law_1.2"], "latency": [1.0],
    }  # fmt: skip
    for kernel, matrices in (("vllm_fused_moe", 3.0), ("k", 2.0)):
        write("h100_sxm/moe/vllm/1.0/moe_perf.parquet", columns | {"kernel_source": [kernel]})
        table = read_parquet_table(tmp_path, "h100-sxm", "moe", "bf16", "vllm")
        assert table is not None
        assert table.sizes["n_matrices"].tolist() == [matrices]


def test_messages_are_counted_in_elements_of_two_bytes(write: Writer, tmp_path: Path) -> None:
    columns = {"kernel_source": ["NCCL"] * 2, "op_name": ["all_reduce", "alltoall"], "nccl_dtype": ["half"] * 2,
               "num_gpus": [8, 8], "message_size": [1024, 4096], "latency": [0.02, 0.03]}  # fmt: skip
    write("h100_sxm/comm/nccl/2.29/nccl_perf.parquet", columns)
    table = read_parquet_table(tmp_path, "h100-sxm", "all_to_all", "nccl")
    assert table is not None
    assert table.sizes["n_bytes"].tolist() == [8192]
    assert table.rows.tolist() == [2]


def test_what_was_not_measured_is_none(write: Writer, tmp_path: Path) -> None:
    write(TABLE, gemm_columns(flat))
    assert read_parquet_table(tmp_path, "h100-sxm", "gemm", "fp8") is None
    assert read_parquet_table(tmp_path, "b200", "gemm", "bf16") is None
    assert table_devices(tmp_path, ["b200", "h100-sxm"]) == ["h100-sxm"]


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"'gem'.*'gemm'"):
        read_parquet_table(tmp_path, "h100-sxm", "gem", "bf16")
    with pytest.raises(UnknownNameError, match=r"'fp9'.*'fp8'"):
        read_parquet_table(tmp_path, "h100-sxm", "gemm", "fp9")
    with pytest.raises(InputError, match="no kernel tables of a known device"):
        table_devices(tmp_path, ["h100-sxm"])


@pytest.mark.parametrize("cut", [0, 3, 100, -50])
def test_a_truncated_file_is_refused_with_its_name(write: Writer, tmp_path: Path, cut: int) -> None:
    path = write(TABLE, gemm_columns(flat))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"gemm_perf\.parquet: not a readable parquet file"):
        read(tmp_path)


def test_a_missing_column_is_named(write: Writer, tmp_path: Path) -> None:
    columns = gemm_columns(flat)
    del columns["k"]
    write(TABLE, columns)
    with pytest.raises(InputError, match=r"gemm_perf\.parquet: column 'k' is missing"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("latency", float("nan"), r"row 6, column 'latency': latency is nan"),
        ("latency", 0.0, r"row 6, column 'latency': latency is 0"),
        ("latency", -1.0, r"row 6, column 'latency': latency is -1"),
        ("n", 0, r"row 6, column 'n': n is 0"),
        ("m", -4, r"row 6, column 'm': m is -4"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_row_and_column(
    write: Writer, tmp_path: Path, column: str, value: float, message: str
) -> None:
    columns = gemm_columns(flat)
    columns[column][5] = value
    write(TABLE, columns)
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_text_in_a_number_column_is_refused(write: Writer, tmp_path: Path) -> None:
    columns = gemm_columns(flat)
    columns["k"] = ["many"] * len(columns["m"])
    write(TABLE, columns)
    with pytest.raises(InputError, match="column 'k' holds no numbers"):
        read(tmp_path)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / TABLE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PAR1")
    original = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr(parquet_tables.importlib, "import_module", refuse)
    with pytest.raises(UnsupportedError, match=r"needs pyarrow.*apex-sim\[measured\]"):
        read(tmp_path)


def test_the_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "aiconfigurator_core"
    (package / "systems" / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packaged_folder() == package / "systems" / "data"


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_tables, "_PACKAGE", "no_such_package_at_all")
    with pytest.raises(InputError, match="pip install aiconfigurator-core, or give a folder"):
        packaged_folder()


def test_a_kernel_faster_than_its_arithmetic_is_flagged_with_its_row(write: Writer, tmp_path: Path) -> None:
    columns = gemm_columns(flat)
    row = row_of(columns, 8192, 16384, 16384)  # 4.4 ms at the dense peak
    columns["latency"][row] = 4.0
    write(TABLE, columns)
    (flagged,) = impossible_rows(read(tmp_path), H100)
    assert flagged.row == row + 1
    assert "arithmetic alone takes 0.00445 s" in flagged.reason


def test_a_kernel_faster_than_dram_delivers_what_l2_cannot_hold_is_flagged(write: Writer, tmp_path: Path) -> None:
    columns = gemm_columns(flat)
    # m = 1, n = k = 16384: 537 MB, of which 52 MB may be in L2; the rest takes 145 us at 3.35 TB/s.
    row = row_of(columns, 1, 16384, 16384)
    columns["latency"][row] = 0.140
    write(TABLE, columns)
    (flagged,) = impossible_rows(read(tmp_path), H100)
    assert flagged.row == row + 1
    assert "traffic beyond L2 alone takes 0.000145 s" in flagged.reason


def test_a_cached_kernel_faster_than_dram_is_fine(write: Writer, tmp_path: Path) -> None:
    columns = gemm_columns(flat)
    row = row_of(columns, 1, 4096, 4096)
    columns["latency"][row] = 0.005  # 33.5 MB fit into the 52 MB of L2; DRAM would take 10 us
    write(TABLE, columns)
    assert impossible_rows(read(tmp_path), H100) == ()


@pytest.mark.parametrize("factor", [1e-3, 1e-6])
def test_a_table_in_larger_units_than_it_says_is_refused(write: Writer, tmp_path: Path, factor: float) -> None:
    columns = gemm_columns(lambda m, n, k: factor)
    write(TABLE, columns)
    with pytest.raises(
        InputError, match=r"wrongly scaled: \d+ of 2535 gemm times are shorter than 'h100-sxm' can be; row"
    ):
        impossible_rows(read(tmp_path), H100)


def test_a_table_in_microseconds_is_refused(write: Writer, tmp_path: Path) -> None:
    write(TABLE, gemm_columns(lambda m, n, k: 1e3))
    with pytest.raises(InputError, match=r"wrongly scaled: the median gemm takes .* times a roofline"):
        impossible_rows(read(tmp_path), H100)
