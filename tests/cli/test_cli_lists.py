"""`models`, `hardware` and `workloads`: the figures that they state, as tables and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from apex_sim.cli.main import commands


def run(*arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(commands, list(arguments))
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def run_json(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("models", {"llama-3.1-70b", "gpt-oss-120b", "mixtral-8x7b"}),
        ("hardware", {"h100-sxm", "l40s", "hgx-h100-2-nodes"}),
        ("workloads", {"chat", "summarization", "creation", "offline-batch"}),
    ],
)
def test_list_as_json_is_an_array_of_named_objects(family: str, names: set[str]) -> None:
    entries = run_json(family, "list")
    assert isinstance(entries, list)
    assert names <= {entry["name"] for entry in entries}


@pytest.mark.parametrize("family", ["models", "hardware", "workloads"])
def test_a_list_fits_into_80_columns(family: str) -> None:
    lines = run(family, "list").splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)


def test_a_model_has_the_sizes_that_one_can_work_out_by_hand() -> None:
    model = run_json("models", "show", "meta-llama/Llama-3.1-70B-Instruct")
    assert model["schema_version"] == 1
    assert model["name"] == "llama-3.1-70b"
    assert model["n_params"] == 70_553_706_496  # the checkpoint's own index
    assert model["kv_bytes_per_token"] == {"bf16": 2 * 80 * 8 * 128 * 2, "fp8": 2 * 80 * 8 * 128}
    assert model["max_context_tokens"] == 131_072
    assert [group["n_layers"] for group in model["layer_groups"]] == [80]
    assert model["source"].startswith("https://huggingface.co/")


def test_a_model_with_windows_and_experts_says_so() -> None:
    text = run("models", "show", "gpt-oss-20b")
    assert "window 128" in text
    assert "4 of 32 experts" in text
    assert "20,914,757,184" in text


def test_every_figure_of_a_device_has_unit_kind_and_source() -> None:
    device = run_json("hardware", "show", "h100-sxm")
    assert device["type"] == "device"
    figures = device["figures"]
    assert figures["memory_bytes_per_s"]["value"] == 3.35e12
    units = {"memory_bytes": "B", "memory_bytes_per_s": "B/s", "max_w": "W", "clock_hz": "Hz", "n_sms": ""}
    units |= {"price_usd_per_h": "USD/h", "peak_flops.bf16": "FLOP/s"}
    assert {key: figures[key]["unit"] for key in units} == units
    for figure in figures.values():
        assert figure["kind"] in ("datasheet", "measured", "fitted", "assumed")
        assert figure["source"]


def test_a_cluster_shows_its_links_and_its_device() -> None:
    cluster = run_json("hardware", "show", "2x8xh100-sxm")
    assert (cluster["n_nodes"], cluster["n_devices_per_node"], cluster["n_devices"]) == (2, 8, 16)
    assert cluster["figures"]["inter_node.bytes_per_s"]["value"] == 50e9
    assert cluster["figures"]["device.max_w"]["value"] == 700
    assert "inter_node.bytes_per_s" not in run_json("hardware", "show", "8xh100-sxm")["figures"]
    assert run_json("hardware", "show", "hgx-h100-2-nodes")["n_devices"] == 16


def test_a_park_shows_each_of_its_pools() -> None:
    park = run_json("hardware", "show", "8xh100-sxm+2x8xl40s")
    assert (park["name"], park["n_devices"]) == ("8xh100-sxm+2x8xl40s", 8)
    assert [(pool["name"], pool["n_devices"]) for pool in park["pools"]] == [("8xh100-sxm", 8), ("2x8xl40s", 16)]
    assert park["figures"]["h100-sxm.intra_node.bytes_per_s"]["value"] == 450e9
    assert park["figures"]["l40s.inter_node.bytes_per_s"]["value"] == 50e9
    assert "pools" not in run_json("hardware", "show", "8xh100-sxm")
    assert "1 node of 8 h100-sxm, 2 nodes of 8 l40s" in run("hardware", "show", "8xh100-sxm+2x8xl40s")


def test_a_device_file_of_ones_own_is_shown(tmp_path: Path) -> None:
    import apex_sim as package

    catalogue = Path(package.__file__).parents[1] / "hardware_profiles" / "devices" / "l40s.toml"
    mine = tmp_path / "mine.toml"
    mine.write_text(catalogue.read_text())
    assert run_json("hardware", "show", str(mine))["name"] == "mine"


def test_a_table_of_figures_gives_the_source_of_each() -> None:
    text = run("hardware", "show", "l40s")
    assert "44.31 GiB" in text
    assert "864 GB/s" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_trace_shows_its_statistics(tmp_path: Path) -> None:
    trace = tmp_path / "mine.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0,100,10\n1,200,30\n4,600,20\n")
    shown = run_json("workloads", "show", str(trace))
    assert shown["n_requests"] == 3
    assert shown["statistics"]["prompt_tokens_mean"] == 300
    assert shown["statistics"]["output_tokens_total"] == 60
    assert shown["statistics"]["rate_per_s"] == 0.5
    assert shown["load"]["kind"] == "trace"
    assert run_json("workloads", "show", str(trace), "--rate", "4")["statistics"]["duration_s"] == 0.5
    assert run_json("workloads", "show", str(trace), "--n-requests", "2")["n_requests"] == 2


def test_a_closed_loop_has_no_rate() -> None:
    shown = run_json("workloads", "show", "chat", "--concurrency", "8")
    assert shown["load"] == {"kind": "closed", "rate_per_s": None, "concurrency": 8, "n_warmup": 0}
    assert "8 users, closed loop" in run("workloads", "show", "chat", "--concurrency", "8")
