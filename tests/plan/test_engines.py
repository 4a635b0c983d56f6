"""Which engine can spread which cells: what their manuals say."""

from dataclasses import replace

import pytest

from apex_sim.errors import UnknownNameError
from apex_sim.hardware.cluster import load_cluster
from apex_sim.model.load import load_model
from apex_sim.plan.engines import engines_of, why_not
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import CellParallelism, Shape, cell_stages
from apex_sim.preset.load import load_preset

ALL = ("vllm", "sglang", "trtllm")


def _shape(layers: tuple[int, ...], attention: CellParallelism, ffn: CellParallelism) -> Shape:
    preset = load_preset("vllm-1")
    settings = resolve_settings(preset, load_cluster("8xh200-sxm").device, 4096)
    return Shape("h200-sxm", cell_stages(layers, attention, ffn), Precision(), settings, preset)


@pytest.mark.parametrize(
    ("model", "attention", "ffn", "engines"),
    [
        ("llama-3.1-70b", CellParallelism(tp=8), CellParallelism(tp=8), ALL),
        ("llama-3.1-70b", CellParallelism(tp=2, attention_dp=4), CellParallelism(tp=8), ("sglang",)),
        ("qwen3-32b", CellParallelism(attention_dp=8), CellParallelism(tp=8), ("sglang",)),
        ("gemma-2-27b", CellParallelism(attention_dp=8), CellParallelism(tp=8), ()),
        ("deepseek-r1", CellParallelism(attention_dp=8), CellParallelism(ep=8), ALL),
        ("deepseek-r1", CellParallelism(attention_dp=8), CellParallelism(tp=8), ALL),
        ("deepseek-r1", CellParallelism(tp=4, attention_dp=2), CellParallelism(ep=8), ("vllm", "sglang")),
        ("qwen3-30b-a3b", CellParallelism(tp=8), CellParallelism(tp=2, ep=4), ("sglang", "trtllm")),
        ("qwen3-30b-a3b", CellParallelism(tp=8), CellParallelism(ep=8), ALL),
        ("deepseek-r1", CellParallelism(cp=8), CellParallelism(ep=8), ("vllm", "sglang")),
        ("qwen3-30b-a3b", CellParallelism(tp=4, cp=2), CellParallelism(tp=8), ("vllm",)),
        ("llama-3.1-70b", CellParallelism(tp=4, cp=2), CellParallelism(tp=8), ()),
        ("llama-3.1-70b", CellParallelism(tp=8), CellParallelism(tp=4, attention_dp=2), ()),
    ],
)
def test_engines_of(model: str, attention: CellParallelism, ffn: CellParallelism, engines: tuple[str, ...]) -> None:
    loaded = load_model(model)
    shape = _shape((loaded.n_layers,), attention, ffn)
    assert engines_of(loaded, shape) == engines
    assert {engine for engine in ALL if why_not(loaded, shape, engine)} == set(ALL) - set(engines)


def test_every_engine_takes_uneven_stages() -> None:
    shape = _shape((41, 39), CellParallelism(tp=4), CellParallelism(tp=4))
    assert engines_of(load_model("llama-3.1-70b"), shape) == ALL


def test_helix_shares_contexts_of_decode_instances() -> None:
    model = load_model("deepseek-r1")
    shape = _shape((61,), CellParallelism(cp=8), CellParallelism(tp=8))
    assert "decode instances only" in why_not(model, shape, "trtllm")
    assert why_not(model, replace(shape, role="decode"), "trtllm") == ""


def test_reasons_name_what_is_missing() -> None:
    shape = _shape((42,), CellParallelism(attention_dp=8), CellParallelism(tp=8))
    assert "Gemma2ForCausalLM" in why_not(load_model("gemma-2-9b"), shape, "sglang")
    assert "independent instances" in why_not(load_model("gemma-2-9b"), shape, "vllm")
    assert "whole on each rank" in why_not(load_model("gemma-2-9b"), shape, "trtllm")


def test_an_unknown_engine_is_an_error() -> None:
    shape = _shape((80,), CellParallelism(tp=8), CellParallelism(tp=8))
    with pytest.raises(UnknownNameError, match="vllm"):
        why_not(load_model("llama-3.1-70b"), shape, "vlm")
