"""The table behind a price is the one that its form was fitted to, not just any engine's newest."""

from __future__ import annotations

from pathlib import Path

from toy_tables import Writer

from apex_sim.cost.measured.fitted_table import read_fitted_table
from apex_sim.hardware.device import load_device

H200 = load_device("h200-sxm")
COLUMNS: dict[str, list[object]] = {
    "moe_dtype": ["fp8"] * 400, "num_tokens": list(range(1, 401)), "hidden_size": [4096] * 400,
    "inter_size": [1536] * 400, "topk": [8] * 400, "num_experts": [128] * 400, "moe_tp_size": [1] * 400,
    "moe_ep_size": [1] * 400, "distribution": ["power_law_1.2"] * 400, "latency": [1.0] * 400,
}  # fmt: skip


def _source(folder: Path, precision: str, engine: str | None = None) -> str | None:
    table = read_fitted_table(folder, H200, "moe", precision, engine)
    return table.source.rpartition(" ")[2] if table else None


def test_the_fitted_table_comes_first_unless_an_engine_is_named(write: Writer, tmp_path: Path) -> None:
    """Plain fp8 experts on Hopper were fitted to TensorRT-LLM's kernel; vLLM's newest table holds an untuned one."""
    for place, kernel in (
        ("vllm/0.24.0", "untuned"),
        ("trtllm/1.3.0rc20", "moe_torch_flow_cutlass"),
        ("trtllm/9.0.0", "newer"),
    ):
        write(f"h200_sxm/moe/{place}/moe_perf.parquet", COLUMNS | {"kernel_source": [kernel] * 400})
    assert _source(tmp_path, "fp8") == "moe_torch_flow_cutlass"
    assert _source(tmp_path, "fp8", "vllm") == "untuned"
    assert _source(tmp_path, "fp8", "trtllm") == "newer"


def test_without_the_fitted_table_the_preferred_engine_counts(write: Writer, tmp_path: Path) -> None:
    write("h200_sxm/moe/vllm/0.24.0/moe_perf.parquet", COLUMNS | {"kernel_source": ["untuned"] * 400})
    assert _source(tmp_path, "fp8") == "untuned"
    assert _source(tmp_path, "bf16") is None
