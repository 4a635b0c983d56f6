"""What a draft is, what it holds, and which ones are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from apex_sim.errors import InfeasiblePlanError, InputError
from apex_sim.hardware.cluster import load_cluster
from apex_sim.model.load import load_model
from apex_sim.model.model import Model
from apex_sim.plan.draft import draft_bytes, draft_model_of
from apex_sim.plan.legality import require_legal_shape
from apex_sim.plan.memory import instance_memory
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import Shape, balanced_split, tensor_pipeline_stages
from apex_sim.plan.speculation import Speculation, make_speculation
from apex_sim.plan.weights import local_kv_numbers
from apex_sim.preset.load import load_preset

CLUSTER = load_cluster("8xh200-sxm")
LLAMA, DEEPSEEK = load_model("llama-3.1-70b"), load_model("deepseek-r1")
SMALL, MTP = Speculation("llama-3.2-1b", 3, (0.8, 0.7, 0.6)), Speculation("mtp", 1, (0.85,))


def shape_of(model: Model, speculation: Speculation | None, tp: int = 4, pp: int = 1) -> Shape:
    preset = load_preset("vllm-1")
    settings = resolve_settings(preset, CLUSTER.device, 8192, tp=tp, pp=pp, speculation=speculation)
    stages = tensor_pipeline_stages(balanced_split(model.n_layers, pp), tp)
    return Shape("h200-sxm", stages, Precision(model.weight_dtype), settings, preset)


def test_one_probability_stands_for_all_positions() -> None:
    assert make_speculation("mtp", 3, 0.5, "here") == Speculation("mtp", 3, (0.5, 0.5, 0.5))
    assert make_speculation(None, None, None, "here") is None


def test_expected_tokens_are_those_of_leviathan_where_all_positions_are_equal() -> None:
    """(1 - a^(k + 1)) / (1 - a), equation 1 of arXiv:2211.17192."""
    for frac, n in ((0.3, 1), (0.8, 4), (0.95, 7)):
        speculation = Speculation("mtp", n, (frac,) * n)
        assert speculation.expected_tokens == pytest.approx((1 - frac ** (n + 1)) / (1 - frac))


def test_a_draft_model_takes_its_weights_and_keys_from_the_pool() -> None:
    """Llama-3.2-1B on 4 devices: its weights, the tied table once, and 16 layers of 2 x 2 x 64 numbers a token."""
    draft = load_model("llama-3.2-1b")
    weights, kv = draft_bytes(LLAMA, shape_of(LLAMA, SMALL))
    assert weights == pytest.approx(draft.weight_bytes() / 4, rel=1e-3)
    assert kv == 16 * 2 * 2 * 64 * 2
    plain, with_draft = (instance_memory(LLAMA, CLUSTER.device, shape_of(LLAMA, which)) for which in (None, SMALL))
    per_token = plain.stages[0].kv_bytes_per_token
    expected = (plain.stages[0].kv_bytes - weights) / (per_token + kv) / 16
    assert with_draft.n_blocks == int(expected)


def test_multi_token_prediction_is_one_layer_that_shares_embedding_and_head() -> None:
    """Sharded over one device its bytes are those of `n_mtp_params`, in fp8 where the checkpoint has it."""
    draft = draft_model_of(DEEPSEEK, MTP)
    assert (draft.n_layers, draft.vocab_size) == (1, DEEPSEEK.vocab_size)
    bf16 = replace(shape_of(DEEPSEEK, MTP, tp=1), precision=Precision("bf16"))
    weights, kv = draft_bytes(DEEPSEEK, bf16)
    assert weights == pytest.approx(2 * DEEPSEEK.n_mtp_params, rel=1e-6)
    assert kv == local_kv_numbers(DEEPSEEK.layers[-1], 1) * 2


def test_speculation_switches_asynchronous_scheduling_off() -> None:
    assert shape_of(LLAMA, None).scheduler.async_scheduling
    assert not shape_of(LLAMA, SMALL).scheduler.async_scheduling


def test_plans_that_cannot_speculate_are_refused() -> None:
    require_legal_shape(LLAMA, CLUSTER, shape_of(LLAMA, SMALL))
    with pytest.raises(InfeasiblePlanError, match="PP 2 is not simulated yet; use PP 1"):
        require_legal_shape(LLAMA, CLUSTER, shape_of(LLAMA, SMALL, pp=2))
    prefill = replace(shape_of(LLAMA, SMALL), role="prefill")
    with pytest.raises(InfeasiblePlanError, match="role prefill"):
        require_legal_shape(LLAMA, CLUSTER, prefill)
    qwen = load_model("qwen2.5-72b")
    with pytest.raises(InputError, match="vocabulary"):
        draft_model_of(qwen, SMALL)
