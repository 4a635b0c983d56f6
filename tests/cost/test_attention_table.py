"""Look-ups of attention against the back ends themselves, at sizes that are no knots."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from apex_sim.cost.attention_launch import AttentionGroup
from apex_sim.cost.basis import Basis
from apex_sim.cost.calibrated import calibrated_costs
from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.decode_table import tabulate_decode
from apex_sim.cost.operator_table import tabulate_operators
from apex_sim.cost.parts import Parts
from apex_sim.cost.power import PowerModel
from apex_sim.cost.prefill_table import tabulate_prefill
from apex_sim.cost.roofline import Roofline
from apex_sim.cost.sizes import AttentionSizes, DecodeWork, LatentSizes, PrefillWork
from apex_sim.cost.stage_context import StageContext
from apex_sim.cost.stage_tables import tabulate_stage
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_price import price_step
from apex_sim.cost.step_tables import StageTables
from apex_sim.hardware.cluster import load_cluster
from apex_sim.hardware.device import load_device
from apex_sim.model.load import load_model
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import Shape, tensor_pipeline_stages
from apex_sim.preset.load import load_preset

N_LAYERS = 7
MAX_TOKENS, MAX_SEQUENCES, MAX_CONTEXT = 8192, 256, 100_000
SIZES: dict[str, AttentionSizes | LatentSizes] = {
    "llama-8b": AttentionSizes(32, 8, 128, "bf16"),
    "llama-70b-tp8-fp8": AttentionSizes(8, 1, 128, "fp8"),
    "gpt-oss": AttentionSizes(64, 8, 64, "bf16"),
    "gpt-oss-window": AttentionSizes(64, 8, 64, "bf16", 128),
    "gemma-window": AttentionSizes(16, 8, 256, "bf16", 4096),
    "deepseek": LatentSizes(128, 512, 64, 128, 128, "bf16"),
    "deepseek-tp8": LatentSizes(16, 512, 64, 128, 128, "bf16"),
}
BACK_ENDS = [(device, fitted) for device in ("h100-sxm", "h200-sxm") for fitted in (False, True)]

Chunks = list[tuple[int, int]]


@cache
def _cost(device: str, fitted: bool) -> CostModel:
    return calibrated_costs(load_device(device)) if fitted else Roofline(load_device(device))


def _group(name: str) -> AttentionGroup:
    sizes = SIZES[name]
    return AttentionGroup(sizes, sizes.window if isinstance(sizes, AttentionSizes) else None, N_LAYERS)


@cache
def _tables(device: str, fitted: bool, name: str, max_sequences: int = MAX_SEQUENCES) -> StageTables:
    """Return the tables of a stage that computes nothing but this attention."""
    cost, group = _cost(device, fitted), _group(name)
    model, cluster, preset = load_model("llama-3.1-8b"), load_cluster(f"1x{device}"), load_preset("vllm-1")
    settings = replace(
        resolve_settings(preset, cluster.device, MAX_CONTEXT),
        max_num_batched_tokens=MAX_TOKENS,
        max_num_seqs=max_sequences,
    )
    shape = Shape(device, tensor_pipeline_stages((model.n_layers,), 1), Precision(), settings, preset)
    zero = np.zeros(MAX_TOKENS)
    nothing = tabulate_operators(
        [("none", Parts(zero, zero, zero, zero, 0.0, 0.0, Basis("toy", "none")))], MAX_TOKENS + 1
    )
    attention = (
        tabulate_prefill(cost, group, MAX_TOKENS, max_sequences, MAX_CONTEXT, cluster.device.n_sms),
        tabulate_decode(cost, group, max_sequences, MAX_CONTEXT),
    )
    context = StageContext(cost, model, cluster, shape, 0)
    return tabulate_stage(context, nothing, nothing, [attention], [0], PowerModel(0.0, 1e9, compute_w=1.0))


def _launch_s(tables: StageTables, name: str, chunks: Chunks, decodes: Chunks) -> float:
    """Return the looked-up time of one prefill or decode launch, of one layer."""
    batch = StepBatch((_group(name).window,))
    for past, n_new in chunks:
        batch.add(past, n_new, samples=False, is_decode=False)
    for past, _ in decodes:
        batch.add(past, 1, samples=True, is_decode=True)
    attention_s = np.zeros((2, 1))
    price_step(tables.numbers, tables.layout, batch.sums(), attention_s)
    return float(attention_s.sum()) / N_LAYERS


def _error(device: str, fitted: bool, name: str, chunks: Chunks) -> float:
    """Return the relative error of a look-up against the launch of exactly these (past, new) sequences."""
    cost, group = _cost(device, fitted), _group(name)
    batch = StepBatch((group.window,))
    for past, n_new in chunks:
        batch.add(past, n_new, samples=False, is_decode=False)
    pairs, n, keys = (float(x) for x in (batch.prefill_pairs[0], batch.n_prefill_tokens, batch.prefill_keys[0]))
    work = PrefillWork(pairs, n, keys, float(len(chunks)))
    if isinstance(group.sizes, AttentionSizes):
        direct = cost.prefill_attention(work, group.sizes)
    else:
        direct = cost.latent_prefill(work, group.sizes)
    return _launch_s(_tables(device, fitted, name), name, chunks, []) / float(direct.kernel_s) - 1


def _lengths(rng: np.random.Generator, low: float, high: float, n: int) -> list[int]:
    drawn: list[int] = np.round(np.exp(rng.uniform(np.log(low), np.log(high), n))).astype(int).tolist()
    return drawn


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(("device", "fitted"), BACK_ENDS)
def test_decode_between_the_knots(device: str, fitted: bool, name: str) -> None:
    """Any number of sequences, any mean context: 1 % at the median, 3 % at worst."""
    cost, group, tables = _cost(device, fitted), _group(name), _tables(device, fitted, name)
    rng = np.random.default_rng(1)
    errors = []
    for context in _lengths(rng, 2, group.window or MAX_CONTEXT, 300):
        n = int(rng.integers(1, MAX_SEQUENCES + 1))
        work = DecodeWork(float(n), float(n * context))
        sizes = group.sizes
        direct = (
            cost.decode_attention(work, sizes) if isinstance(sizes, AttentionSizes) else cost.latent_decode(work, sizes)
        )
        errors.append(_launch_s(tables, name, [], [(context - 1, 1)] * n) / float(direct.kernel_s) - 1)
    assert np.median(np.abs(errors)) <= 0.01
    assert np.abs(errors).max() <= 0.03


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(("device", "fitted"), BACK_ENDS)
def test_a_single_prompt_or_chunk(device: str, fitted: bool, name: str) -> None:
    """New prompts and chunks behind any past, by far the most frequent launches: 1 % at the median, 3 % at worst."""
    rng = np.random.default_rng(2)
    prompts: list[Chunks] = [[(0, n)] for n in _lengths(rng, 1, MAX_TOKENS, 150)]
    chunks: list[Chunks] = [[(int(rng.integers(0, 60_000)), n)] for n in _lengths(rng, 1, MAX_TOKENS, 150)]
    errors = np.abs([_error(device, fitted, name, each) for each in prompts + chunks])
    assert np.median(errors) <= 0.01
    assert errors.max() <= 0.03


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(("device", "fitted"), BACK_ENDS)
def test_equal_prompts_and_chunks(device: str, fitted: bool, name: str) -> None:
    """Up to 32 sequences, of one length and past: 1 % at the median, 3 % at worst."""
    rng = np.random.default_rng(3)
    errors = []
    for n_new, past in zip(_lengths(rng, 1, MAX_TOKENS, 300), _lengths(rng, 1, 60_000, 300), strict=True):
        n = int(rng.integers(1, max(2, min(32, MAX_TOKENS // n_new) + 1)))
        errors.append(_error(device, fitted, name, [(past if rng.random() < 0.5 else 0, n_new)] * n))
    assert np.median(np.abs(errors)) <= 0.01
    assert np.abs(errors).max() <= 0.03


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(("device", "fitted"), BACK_ENDS)
def test_many_equal_prompts(device: str, fitted: bool, name: str) -> None:
    """From 33 to 256 sequences knots are sparse, and a wave of tiles more or less falls between them."""
    rng = np.random.default_rng(4)
    errors = [
        _error(device, fitted, name, [(0, _lengths(rng, 1, MAX_TOKENS // n, 1)[0])] * n)
        for n in rng.integers(33, MAX_SEQUENCES + 1, 300).tolist()
    ]
    assert np.median(np.abs(errors)) <= 0.01
    assert np.quantile(np.abs(errors), 0.9) <= 0.05
    assert np.abs(errors).max() <= 0.1


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(("device", "fitted"), BACK_ENDS)
def test_mixed_prompts_cost_about_what_their_sums_say(device: str, fitted: bool, name: str) -> None:
    """Lognormal prompts beside a chunk behind a past, as a token budget mixes them."""
    rng = np.random.default_rng(5)
    errors = []
    for _ in range(150):
        chunks = [(int(rng.integers(0, 4000)), int(rng.integers(500, 2500)))]
        lengths = rng.lognormal(6.0, 0.8, int(rng.integers(0, 6))).clip(16, 1100).astype(int).tolist()
        errors.append(_error(device, fitted, name, chunks + [(0, n) for n in lengths]))
    assert np.median(np.abs(errors)) <= 0.01
    assert np.quantile(np.abs(errors), 0.9) <= 0.06
    assert abs(np.mean(errors)) <= 0.015


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize(("device", "fitted"), BACK_ENDS)
def test_short_chunks_behind_long_pasts(device: str, fitted: bool, name: str) -> None:
    """What prefix caching leaves of prompts: each its own past, each its own rest."""
    rng = np.random.default_rng(6)
    errors = []
    for _ in range(150):
        n = int(rng.integers(2, 30))
        pasts, chunks = _lengths(rng, 1, 8000, n), _lengths(rng, 1, 250, n)
        errors.append(_error(device, fitted, name, list(zip(pasts, chunks, strict=True))))
    assert np.median(np.abs(errors)) <= 0.06
    assert abs(np.mean(errors)) <= 0.04


def test_beyond_the_grid_the_last_cell_goes_on() -> None:
    """A context twice as long as the table's costs what it costs, within the cell's own curvature."""
    cost = _cost("h100-sxm", True)
    direct = cost.decode_attention(DecodeWork(8.0, 8.0 * 200_000), AttentionSizes(32, 8, 128, "bf16"))
    looked_up = _launch_s(_tables("h100-sxm", True, "llama-8b"), "llama-8b", [], [(199_999, 1)] * 8)
    assert looked_up == pytest.approx(float(direct.kernel_s), rel=0.02)


@pytest.mark.parametrize("name", SIZES)
def test_a_longer_context_or_another_sequence_never_costs_less_by_datasheet(name: str) -> None:
    prices = tabulate_decode(_cost("h100-sxm", False), _group(name), 64, 8192).prices_s[:, :, 0]
    assert (np.diff(prices, axis=0) > 0).all()
    assert (np.diff(prices, axis=1) > 0).all()


def test_launches_count_every_layer() -> None:
    """By datasheet one launch a layer whose start-up gap shows; a fitted kernel's time holds its gaps already."""
    group = _group("llama-8b")
    roofline, fitted = (tabulate_decode(_cost("h100-sxm", fitted), group, 4, 100) for fitted in (False, True))
    assert (roofline.n_launches, roofline.gap_launches) == (N_LAYERS, N_LAYERS)
    assert (fitted.n_launches, fitted.gap_launches) == (2 * N_LAYERS, 0.0)


def test_sizes_beyond_the_data_are_marked() -> None:
    """Decode was measured on up to 2,048 sequences and 64 query heads."""
    cost = _cost("h100-sxm", True)
    outside = tabulate_decode(cost, _group("llama-8b"), 2100, 1000).outside
    assert not outside[:2048].any()
    assert outside[2048:].all()
    wide = tabulate_decode(cost, AttentionGroup(AttentionSizes(128, 8, 128, "bf16"), None, 1), 4, 1000)
    assert wide.outside.all()
