"""Rows of AIConfigurator's sample become measured cases; what they cannot say is counted, not guessed."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from apex_sim.truth.cases import read_cases

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "silicon_cases.py"))
Row = dict[str, str]


def row(**changes: str) -> Row:
    """Return a row of a dump of InferenceX: gpt-oss-120b on H200, TP2, 16 users."""
    plain = {
        "id": "2026_04_06_gpt_oss_120b_h200_sxm_vllm_fp4_agg_1024x1024_c16_tp2_ep1_1",
        "silicon_data_source": "source_file=2026-04-06.csv; silicon_concurrency=16; measured=2026-03-27T00:00:00.000Z; "
        "wip=False; image=vllm/vllm-openai:v0.18.0",
        "backend": "vllm",
        "backend_version": "0.18.0",
        "model_path": "openai/gpt-oss-120b",
        "system": "h200_sxm",
        "precision": "fp4",
        "mode": "agg",
        "isl": "1024",
        "osl": "1024",
        "gemm_quant_mode": "nvfp4",
        "moe_quant_mode": "nvfp4",
        "batch_size": "16",
        "tp_size": "2",
        "pp_size": "1",
        "attention_dp_size": "1",
        "moe_tp_size": "2",
        "moe_ep_size": "1",
        "silicon_ttft_ms": "88.1",
        "silicon_tpot_ms": "7.4",
    }
    return plain | changes


def convert(*rows: Row) -> tuple[list[Row], dict[str, int]]:
    cases, dropped = SCRIPT["convert"](list(rows))
    return cases, dict(dropped)


def only(*rows: Row) -> Row:
    cases, dropped = convert(*rows)
    assert (len(cases), dropped) == (1, {})
    return cases[0]


def test_a_row_of_the_dumps() -> None:
    case = only(row())
    expected: dict[str, Any] = {
        "source": "silicon_inferencex",
        "model": "gpt-oss-120b",
        "device": "h200-sxm",
        "tp": "2",
        "ep": "1",
        "n_devices": "2",
        "weight_dtype": "mxfp4",
        "length_low_frac": "0.8",
        "concurrency": "16",
        "n_requests": "160",
        "max_num_seqs": "16",
        "max_num_batched_tokens": "8192",
        "ttft_mean_s": "0.0881",
        "tpot_mean_s": "0.0074",
    }
    assert {name: case[name] for name in expected} == expected


def test_users_are_the_stated_concurrency_and_products_are_undone() -> None:
    moe = {"model_path": "deepseek-ai/DeepSeek-R1", "backend": "trtllm", "backend_version": "1.1.0rc2.post2"}
    text = "source_file=2026-04-06.csv; silicon_concurrency=128; measured=2025-12-27T00:00:00.000Z"
    sizes = {"tp_size": "1", "attention_dp_size": "64", "moe_tp_size": "8", "moe_ep_size": "8", "batch_size": "2"}
    case = only(
        row(id="a_c2_tp8_ep8_1", silicon_data_source=text, precision="fp8", gemm_quant_mode="fp8", **moe, **sizes)
    )
    assert (case["tp"], case["ep"], case["attention_dp"], case["concurrency"]) == ("8", "8", "1", "128")
    assert case["weight_dtype"] == "fp8-block"
    assert case["max_num_seqs"] == "16"  # of each rank


def test_repeats_and_what_cannot_be_said_are_counted() -> None:
    again = row(id="x_tp2_ep1_2", silicon_data_source="source_file=2026-03-25.csv; silicon_concurrency=16")
    cases, dropped = convert(
        row(), again, row(mode="disagg"), row(silicon_data_source="source_file=2026-03-25.csv"), row(tp_size="2")
    )
    assert len(cases) == 1
    assert cases[0]["case_id"] == row()["id"]  # its text names the image
    assert dropped == {"the same measurement as another row": 2, "disaggregated": 1, "no concurrency": 1}


def test_rows_that_may_have_speculated_are_flagged() -> None:
    model = {"model_path": "deepseek-ai/DeepSeek-R1", "backend": "sglang", "backend_version": "0.5.9"}
    slow, fast = row(id="a_tp2_ep1_1", **model), row(id="b_tp2_ep1_2", silicon_tpot_ms="4.0", **model)
    flags = {case["case_id"]: case.get("speculation", "") for case in convert(slow, fast)[0]}
    assert flags == {"a_tp2_ep1_1": "", "b_tp2_ep1_2": "unstated"}
    dense = [case | {"model_path": "openai/gpt-oss-120b"} for case in (slow, fast)]
    assert not any(case.get("speculation") for case in convert(*dense)[0])


def test_the_file_is_read_as_measured_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import csv

    sample, cases = tmp_path / "sample.csv", tmp_path / "cases.csv"
    with sample.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row()))
        writer.writeheader()
        writer.writerow(row())
    monkeypatch.setattr("sys.argv", ["silicon_cases.py", str(sample), str(cases)])
    SCRIPT["main"]()
    read = read_cases(cases).cases
    assert [case.measured for case in read] == [{"ttft_mean_s": 0.0881, "tpot_mean_s": 0.0074}]
