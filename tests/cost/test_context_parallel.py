"""Attention over a context that several devices share, against figures worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from apex_sim.cost.attention_launch import decode_launch, prefill_launch, with_query_rows
from apex_sim.cost.calibrated import calibrated_costs
from apex_sim.cost.context_parallel import ContextShards
from apex_sim.cost.operators import attention_groups, head_operators, tokenwise_operators
from apex_sim.cost.roofline import Roofline
from apex_sim.cost.sizes import AttentionSizes, DecodeWork, LatentSizes, PrefillWork
from apex_sim.cost.stage_context import StageContext
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import compile_step_model
from apex_sim.errors import UnsupportedError
from apex_sim.hardware.cluster import load_cluster
from apex_sim.model.load import load_model
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import CellParallelism, Shape, cell_stages
from apex_sim.preset.load import load_preset

H100 = load_cluster("8xh100-sxm")
LINK, COST = H100.intra_node, Roofline(H100.device, routing="uniform")
FLOPS, BANDWIDTH = 989.4e12, 3.35e12


def _context(name: str, tp: int, cp: int) -> StageContext:
    model, preset = load_model(name), load_preset("vllm-1")
    settings = resolve_settings(preset, H100.device, 4096, tp=tp * cp)
    settings = replace(settings, max_num_seqs=32, max_num_batched_tokens=2048)
    stages = cell_stages((model.n_layers,), CellParallelism(tp=tp, cp=cp), CellParallelism(tp=tp * cp))
    shape = Shape("h100-sxm", stages, Precision("bf16"), settings, preset)
    return StageContext(COST, model, H100, shape, 0)


def _shards(context: StageContext) -> ContextShards:
    (group,) = attention_groups(context)
    assert isinstance(group.sizes, ContextShards)
    return group.sizes


def _gather(n_bytes: float, p: int) -> float:
    return (p - 1) * (LINK.latency_s + n_bytes / p / LINK.bytes_per_s)


def test_grouped_heads_decode_by_hand() -> None:
    """Qwen3-30B at TP4 x CP2: each device attends with the 8 query heads of its KV head to half the keys."""
    shards = _shards(_context("qwen3-30b-a3b", 4, 2))
    assert (shards.own, shards.gathered) == (AttentionSizes(4, 1, 128, "bf16"), AttentionSizes(8, 1, 128, "bf16"))
    parts = decode_launch(COST, DecodeWork(16.0, 16 * 2000.0), shards)
    keys = 16 * (1000 + 0.25)  # the first device has the odd token of every second length
    assert parts.compute_s == pytest.approx(4 * 8 * 128 * keys / FLOPS)
    own = COST.decode_attention(DecodeWork(16.0, keys), shards.gathered)
    rescaled = 16 * 8 * 128 * 4
    assert parts.memory_s == pytest.approx(float(own.memory_s) + rescaled / BANDWIDTH)
    exchanged = 2 * _gather(16 * 8 * 128 * 2, 2) + _gather(2 * 16 * 8 * 4, 2)
    assert parts.network_s == pytest.approx(exchanged)
    assert parts.kernel_s == pytest.approx(float(own.kernel_s) + rescaled / BANDWIDTH / 0.8 + exchanged)
    assert parts.n_launches == own.n_launches + 4


def test_latent_heads_decode_by_hand() -> None:
    """DeepSeek-V3 over CP8: all 128 heads attend to an eighth of the latents on each device."""
    shards = _shards(_context("deepseek-v3", 1, 8))
    assert (shards.own.n_heads, shards.gathered.n_heads) == (16, 128)
    parts = decode_launch(COST, DecodeWork(4.0, 4 * 8000.0), shards)
    keys = 4 * (1000 + 7 / 16)
    assert parts.compute_s == pytest.approx(2 * 128 * (576 + 512) * keys / FLOPS)
    exchanged = _gather(4 * 128 * 576 * 2, 8) + _gather(8 * 4 * 128 * 4, 8) + _gather(4 * 128 * 512 * 2, 8)
    assert parts.network_s == pytest.approx(exchanged)


def test_devices_together_read_a_context_once_where_tensor_parallelism_reads_it_on_each() -> None:
    """Bytes of 128k tokens of latents: eight devices of CP8 read together what one of TP8 does."""
    work = DecodeWork(1.0, 131_072.0)
    shared, tensor = _shards(_context("deepseek-v3", 1, 8)), attention_groups(_context("deepseek-v3", 8, 1))[0].sizes
    per_device = [float(decode_launch(COST, work, sizes).memory_s) for sizes in (shared, tensor)]
    assert 8 * per_device[0] == pytest.approx(per_device[1], rel=0.03)  # queries, outputs and their rescaling
    assert float(decode_launch(COST, work, shared).compute_s) == pytest.approx(
        float(decode_launch(COST, work, tensor).compute_s), rel=1e-4
    )


def test_prefill_computes_its_own_heads_and_gathers_the_past() -> None:
    work = PrefillWork(5e6, 1000.0, 5500.0, 1.0)
    latent = _shards(_context("deepseek-v3", 1, 8))
    assert isinstance(latent.own, LatentSizes)
    own = COST.latent_prefill(work, latent.own)
    parts = prefill_launch(COST, work, latent)
    assert parts.compute_s == own.compute_s
    assert parts.network_s == pytest.approx(_gather(4500 * 576 * 2, 8))
    assert prefill_launch(COST, replace(work, n_key_tokens=1000.0), latent).network_s == 0.0
    grouped = _shards(_context("qwen3-30b-a3b", 4, 2))
    parts = prefill_launch(COST, work, grouped)
    assert parts.compute_s == pytest.approx(4 * 4 * 128 * 5e6 / FLOPS)
    exchanged = 2 * _gather(1000 * 8 * 128 * 2, 2) + _gather(2 * 1000 * 8 * 4, 2)
    assert parts.network_s == pytest.approx(exchanged)


@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "deepseek-v3"])
def test_everything_but_attention_is_that_of_tensor_parallelism(name: str) -> None:
    n = np.array([64.0])
    (tp, cp), (shared, tensor) = (4, 2), (_context(name, 4, 2), _context(name, 8, 1))
    assert tp * cp == 8
    for operators in (tokenwise_operators, head_operators):
        for (one, mine), (other, theirs) in zip(operators(shared, n), operators(tensor, n), strict=True):
            assert (one, mine.n_launches) == (other, theirs.n_launches)
            assert np.array_equal(mine.kernel_s, theirs.kernel_s)


def test_one_share_is_the_context_itself() -> None:
    one = CellParallelism(tp=8, cp=1)
    assert one == CellParallelism(tp=8)
    (group,) = attention_groups(_context("qwen3-30b-a3b", 8, 1))
    assert group.sizes == AttentionSizes(4, 1, 128, "bf16")


def test_long_contexts_decode_faster_and_short_ones_slower() -> None:
    """DeepSeek-V3 in steps of 32 sequences, with fitted kernels: CP8 pays at 64k tokens, not at 256."""
    for context_tokens, is_faster in ((256, False), (65_536, True)):
        times = []
        for tp, cp in ((8, 1), (1, 8)):
            context = _context("deepseek-v3", tp, cp)
            scheduler = replace(context.shape.scheduler, max_model_len=131_072)
            shape = replace(context.shape, scheduler=scheduler)
            step_model = compile_step_model(context.model, H100, shape, calibrated_costs(H100.device))
            batch = StepBatch(step_model.windows)
            for _ in range(32):
                batch.add(context_tokens, 1, samples=True, is_decode=True)
            times.append(step_model.stages[0].price(batch).device_s)
        assert (times[1] < times[0]) == is_faster


def test_drafts_have_no_shared_context() -> None:
    shards = _shards(_context("deepseek-v3", 1, 8))
    assert with_query_rows(shards, 1) is shards
    with pytest.raises(UnsupportedError, match="several queries of a shared context"):
        with_query_rows(shards, 2)
