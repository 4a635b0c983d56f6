"""Blocks of a sequence with and without sliding windows, by hand and against a block-by-block count."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_sim.model.load import load_model
from apex_sim.plan.kv_layout import KvLayout, layout_of
from apex_sim.plan.memory import instance_memory
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.study import load_study


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        ("llama-3.1-70b", KvLayout(16)),
        ("gpt-oss-120b", KvLayout(16, 1, ((1, 9),), 0.5)),  # 18 full and 18 windows of 128: 127 tokens touch 9 blocks
        ("deepseek-v3", KvLayout(16)),
    ],
)
def test_layout_of_known_models(model: str, layout: KvLayout) -> None:
    assert layout_of(load_model(model), 16, frees_windows=True) == layout


def test_gemma_has_one_list_of_full_layers_and_several_of_windows() -> None:
    model = load_model("gemma-3-27b")
    windows = [layer.attention.window_tokens for layer in model.layers]  # type: ignore[union-attr]
    layout = layout_of(model, 16, frees_windows=True)
    ((lists, most_blocks),) = layout.window_lists
    assert layout.n_full_lists == 1
    assert lists == -(-sum(w is not None for w in windows) // windows.count(None))
    assert layout.list_frac == windows.count(None) / len(windows)
    assert layout.list_frac * layout.n_lists >= 1  # the last list of windows is padded
    assert most_blocks == 65  # 1,023 earlier tokens and the new one


def test_an_engine_that_frees_nothing_keeps_one_list() -> None:
    assert layout_of(load_model("gpt-oss-120b"), 16, frees_windows=False) == KvLayout(16)


@given(st.integers(1, 64), st.integers(2, 300), st.integers(1, 2000))
def test_a_window_never_touches_more_blocks_than_its_list_has(block: int, window: int, n_tokens: int) -> None:
    most = -(-(window - 1) // block) + 1
    touched = (n_tokens - 1) // block - max(0, n_tokens - window) // block + 1
    assert touched <= KvLayout(block, 0, ((1, most),)).blocks_for(n_tokens)


def test_gpt_oss_holds_twice_the_tokens_with_freed_windows() -> None:
    """Half of its layers have windows; the same pool then serves long sequences twice as long."""
    study = load_study("gpt-oss-120b")
    shape = enumerate_space(study).feasible[0].instances[0][0]
    keeping = replace(shape, preset=replace(shape.preset, frees_windows=False))
    tokens = [instance_memory(study.model, study.cluster.device, s).kv_tokens for s in (shape, keeping)]
    assert tokens[0] / tokens[1] == pytest.approx(2.0, rel=1e-3)


@given(st.integers(1, 64), st.integers(1, 3), st.integers(0, 3), st.integers(1, 20), st.integers(0, 500))
def test_a_sequence_of_the_stated_length_just_fits(block: int, full: int, lists: int, most: int, n_blocks: int) -> None:
    layout = KvLayout(block, full, ((lists, most),))
    tokens = layout.tokens_in(n_blocks)
    assert layout.blocks_for(tokens) <= n_blocks < layout.blocks_for(tokens + 1)
