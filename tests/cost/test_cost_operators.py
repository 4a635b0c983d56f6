"""Operators and collectives against figures worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_sim.cost.calibrated import calibrated_costs
from apex_sim.cost.forms.routing import expert_load
from apex_sim.cost.operators import expert_cost, head_operators, joint_operators, tokenwise_operators
from apex_sim.cost.parts import Parts
from apex_sim.cost.roofline import Roofline
from apex_sim.cost.sizes import AttentionSizes, DecodeWork, ExpertSizes, LatentSizes, PrefillWork
from apex_sim.cost.stage_context import StageContext
from apex_sim.cost.step_batch import StepBatch, attended_pairs, read_keys
from apex_sim.hardware.cluster import Cluster, load_cluster
from apex_sim.model.cells import MlaCell, MoeCell
from apex_sim.model.load import load_model
from apex_sim.model.model import Model
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import CellParallelism, Shape, Stage, balanced_split, tensor_pipeline_stages
from apex_sim.preset.load import load_preset

H100 = load_cluster("8xh100-sxm")
COST = Roofline(H100.device, routing="uniform")
BANDWIDTH = 3.35e12
BF16_FLOPS = 989.4e12


def _context(
    model: Model, tp: int, pp: int = 1, index: int = 0, weight: str = "bf16", cluster: Cluster = H100
) -> StageContext:
    preset = load_preset("vllm-1")
    scheduler = resolve_settings(preset, cluster.device, 4096, pp=pp)
    stages = tensor_pipeline_stages(balanced_split(model.n_layers, pp), tp)
    shape = Shape(cluster.device.name, stages, Precision(weight), scheduler, preset)
    return StageContext(Roofline(cluster.device, routing="uniform"), model, cluster, shape, index)


def _sums(context: StageContext, n_tokens: float) -> dict[str, Parts]:
    """Return each operator's summed parts for one token count."""
    sums: dict[str, Parts] = {}
    operators = list(tokenwise_operators(context, np.array([n_tokens])))
    n_ranks = context.shape.attention_dp
    if n_ranks > 1:
        operators += joint_operators(context, np.array([n_tokens * n_ranks]))
    for name, p in operators:
        kernel, compute, memory, network = (
            float(np.sum(x)) for x in (p.kernel_s, p.compute_s, p.memory_s, p.network_s)
        )
        mine = Parts(kernel, compute, memory, network, p.n_launches, p.gap_launches, p.basis)
        sums[name] = _add(sums[name], mine) if name in sums else mine
    return sums


def _add(a: Parts, b: Parts) -> Parts:
    return Parts(
        a.kernel_s + b.kernel_s,
        a.compute_s + b.compute_s,
        a.memory_s + b.memory_s,
        a.network_s + b.network_s,
        a.n_launches + b.n_launches,
        a.gap_launches + b.gap_launches,
        a.basis,
    )


def test_gemm_flop_and_bytes_by_hand() -> None:
    parts = COST.gemm(300.0, 1000, 2000, "bf16", "bf16")
    assert parts.compute_s == pytest.approx(2 * 300 * 1000 * 2000 / BF16_FLOPS)
    assert parts.memory_s == pytest.approx((300 * 2000 + 2000 * 1000 + 300 * 1000) * 2 / BANDWIDTH)
    assert parts.kernel_s == max(parts.compute_s / 0.7, parts.memory_s / 0.8)
    narrow = COST.gemm(300.0, 1000, 2000, "fp8", "fp8")
    assert float(narrow.compute_s) == pytest.approx(float(parts.compute_s) / 2, rel=1e-3)
    assert float(parts.memory_s) - float(narrow.memory_s) == pytest.approx((300 + 1000) * 2000 / BANDWIDTH)


def test_weight_only_formats_compute_in_bf16() -> None:
    assert COST.gemm(300.0, 10, 20, "mxfp4", "bf16").compute_s == COST.gemm(300.0, 10, 20, "bf16", "bf16").compute_s


@pytest.mark.parametrize("p", [2, 4, 8])
def test_a_ring_all_reduce_sends_twice_its_share(p: int) -> None:
    link = H100.intra_node
    n_bytes = 64e6
    group = H100.group(p)
    sent_s = float(COST.all_reduce(n_bytes, group, own="custom").network_s) - 2 * (p - 1) * link.latency_s
    assert sent_s == pytest.approx(2 * (p - 1) / p * n_bytes / 450e9)
    gathered_s = float(COST.all_gather(n_bytes, group).network_s) - (p - 1) * link.latency_s
    assert gathered_s == pytest.approx((p - 1) / p * n_bytes / 450e9)


def test_one_device_talks_to_nobody() -> None:
    for parts in (COST.all_reduce(1e6, H100.group(1), "custom"), COST.all_gather(1e6, H100.group(1))):
        assert (parts.kernel_s, parts.n_launches) == (0.0, 0.0)


def test_gemms_of_a_llama_token_are_the_models_weights() -> None:
    """2 FLOP a weight; up holds gate and up, so it is twice down; everything divides by TP."""
    model = load_model("llama-3.1-70b")
    sums = _sums(_context(model, 8), 1.0)
    gemms = {name: float(parts.compute_s) * BF16_FLOPS for name, parts in sums.items() if name.endswith("_gemm")}
    assert gemms == pytest.approx(
        {
            "qkv_gemm": 80 * 2 * 8192 * 10_240 / 8,
            "out_gemm": 80 * 2 * 8192 * 8192 / 8,
            "up_gemm": 80 * 2 * 8192 * 2 * 28_672 / 8,
            "down_gemm": 80 * 2 * 8192 * 28_672 / 8,
        }
    )
    head = dict(head_operators(_context(model, 8), np.array([1.0])))
    flop = sum(gemms.values()) + float(np.sum(head["lm_head"].compute_s)) * BF16_FLOPS
    attention_flop = 80 * 4 * 64 * 128  # to itself
    assert 8 * flop + attention_flop == pytest.approx(model.flop_per_token(1))


def test_all_reduces_of_a_llama_step() -> None:
    """Two a layer and one after the vocabulary-parallel embedding, each of tokens x hidden size x 2 bytes."""
    parts = _sums(_context(load_model("llama-3.1-70b"), 8), 100.0)["all_reduce"]
    link = H100.intra_node
    each_s = 14 * (link.latency_s + 100 * 8192 * 2 / 8 / link.bytes_per_s)
    assert parts.n_launches == 161
    assert parts.network_s == pytest.approx(161 * each_s)


def test_logits_are_gathered_over_the_whole_vocabulary() -> None:
    head = dict(head_operators(_context(load_model("llama-3.1-70b"), 8), np.array([3.0])))
    link = H100.intra_node
    assert float(np.sum(head["all_gather"].network_s)) == pytest.approx(
        7 * (link.latency_s + 3 * 128_256 * 2 / 8 / link.bytes_per_s)
    )
    assert float(np.sum(head["lm_head"].memory_s)) == pytest.approx(
        (8192 * 16_032 + 3 * (8192 + 16_032)) * 2 / BANDWIDTH
    )


def test_small_kernels_of_a_llama_layer_by_hand() -> None:
    """TP8: norms move 4 hidden vectors twice; rope reads and writes 8 query heads and 1 of keys."""
    sums = _sums(_context(load_model("llama-3.1-70b"), 8), 10.0)
    moved = {name: float(sums[name].memory_s) * BANDWIDTH for name in ("norm", "rope", "activation")}
    assert moved == pytest.approx(
        {
            "norm": 80 * 10 * 8 * 8192 * 2,
            "rope": 80 * 10 * 2 * 9 * 128 * 2,
            "activation": 80 * 10 * 3 * 3584 * 2,
        }
    )


def test_fp8_quantises_before_each_of_the_four_gemms() -> None:
    sums = _sums(_context(load_model("llama-3.1-70b"), 8, weight="fp8"), 1.0)
    assert sums["quantise"].n_launches == 80 * 4
    assert sums["quantise"].memory_s == pytest.approx(80 * 3 * (8192 + 1024 + 8192 + 3584) / BANDWIDTH)
    assert "quantise" not in _sums(_context(load_model("llama-3.1-70b"), 8), 1.0)


def test_a_moe_layer_has_a_router_and_no_dense_ffn() -> None:
    sums = _sums(_context(load_model("mixtral-8x7b"), 2), 64.0)
    assert not {"up_gemm", "down_gemm", "activation"} & set(sums)
    assert sums["moe"].compute_s == pytest.approx(32 * 2 * 64 * 2 * 3 * 4096 * 7168 / BF16_FLOPS)
    assert sums["router"].compute_s == pytest.approx(32 * 2 * 64 * 4096 * 8 / BF16_FLOPS)
    assert sums["all_reduce"].n_launches == 65


def test_gpt_oss_experts_are_narrow_and_its_attention_is_not() -> None:
    """mxfp4 experts at 4.25 bits, all 128 hit by many tokens, padded for Marlin; QKV in bf16."""
    sums = _sums(_context(load_model("gpt-oss-120b"), 1, weight="mxfp4"), 4096.0)
    rows = 4096 * 4
    moved = rows * (2 * 3072 + 3 * 2944) * 2
    expert_bytes = float(sums["moe"].memory_s) * BANDWIDTH / 36 - moved
    assert expert_bytes == pytest.approx(128 * 3 * 3072 * 2944 * 4.25 / 8, rel=1e-6)
    qkv_bytes = (2880 * 5120 + 4096 * (2880 + 5120)) * 2
    assert sums["qkv_gemm"].memory_s == pytest.approx(36 * qkv_bytes / BANDWIDTH)


def test_distinct_experts_against_random_routing() -> None:
    """T tokens that pick 8 of 128 experts; the formula's mean within four standard errors of 400 draws."""
    rng = np.random.default_rng(7)
    for n_tokens in (1, 8, 32):
        draws = [len({int(e) for _ in range(n_tokens) for e in rng.choice(128, 8, replace=False)}) for _ in range(400)]
        parts = COST.moe(float(n_tokens), ExpertSizes(128, 8, 100, 10.0, 3), "bf16", "bf16")
        rows_bytes = n_tokens * 8 * (2 * 100 + 3 * 10) * 2
        hit = (float(parts.memory_s) * BANDWIDTH - rows_bytes) / (3 * 100 * 10 * 2)
        assert abs(hit - np.mean(draws)) <= 4 * np.std(draws) / math.sqrt(400) + 1e-6


def test_shared_experts_join_the_same_all_reduce() -> None:
    model = load_model("mixtral-8x7b")
    experts = MoeCell(8, 2, 14_336, gated=True, bias=False, router_bias=False, shared_intermediate_size=2048)
    shared = replace(model.layers[0], ffn=experts)
    sums = _sums(_context(replace(model, layers=(shared,) * 32), 2), 1.0)
    assert sums["all_reduce"].n_launches == 65
    assert sums["up_gemm"].compute_s == pytest.approx(32 * 2 * 4096 * 2048 / BF16_FLOPS)


def test_stages_hand_on_hidden_state_and_residual() -> None:
    """TP4 PP4 on two nodes: each device sends its quarter; the second hand-over leaves the node."""
    cluster = load_cluster("2x8xh100-sxm")
    model = load_model("llama-3.1-70b")
    n_bytes = 2 * 100 * 8192 * 2 / 4
    for index, link in enumerate((cluster.intra_node, cluster.inter_node, cluster.intra_node)):
        sums = _sums(_context(model, 4, 4, index, cluster=cluster), 100.0)
        assert sums["send"].network_s == pytest.approx(link.latency_s + n_bytes / link.bytes_per_s)
    last = _context(model, 4, 4, 3, cluster=cluster)
    assert "send" not in _sums(last, 100.0)
    assert "embedding" not in _sums(last, 100.0)
    assert list(head_operators(_context(model, 4, 4, 0, cluster=cluster), np.array([1.0]))) == []


def _brute(past: int, chunk: int, window: int | None) -> tuple[int, int]:
    seen = [range(max(0, q - window + 1) if window else 0, q + 1) for q in range(past, past + chunk)]
    return sum(len(keys) for keys in seen), len({k for keys in seen for k in keys})


@given(st.integers(0, 60), st.integers(1, 60), st.one_of(st.none(), st.integers(1, 50)))
def test_attended_pairs_and_read_keys_against_counting(past: int, chunk: int, window: int | None) -> None:
    assert (attended_pairs(past, chunk, window), read_keys(past, chunk, window)) == _brute(past, chunk, window)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6), st.one_of(st.none(), st.integers(1, 50)), st.integers(0, 9)
)
def test_chunks_add_up_to_the_prompt(chunks: list[int], window: int | None, past: int) -> None:
    done, pairs = past, 0
    for chunk in chunks:
        pairs += attended_pairs(done, chunk, window)
        done += chunk
    assert pairs == attended_pairs(past, sum(chunks), window)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 30), st.booleans()), max_size=8))
def test_a_batch_sums_over_its_sequences(sequences: list[tuple[int, int, bool]]) -> None:
    windows = (None, 16)
    batch = StepBatch(windows)
    for past, n_new, is_decode in sequences:
        batch.add(past, 1 if is_decode else n_new, samples=is_decode, is_decode=is_decode)
    prompts = [(past, n) for past, n, is_decode in sequences if not is_decode]
    decodes = [past for past, _, is_decode in sequences if is_decode]
    assert batch.n_tokens == sum(n for _, n in prompts) + len(decodes)
    assert batch.n_sampled == batch.n_decode == len(decodes)
    for index, window in enumerate(windows):
        assert batch.prefill_pairs[index] == sum(_brute(p, n, window)[0] for p, n in prompts)
        assert batch.prefill_keys[index] == sum(_brute(p, n, window)[1] for p, n in prompts)
        assert batch.decode_keys[index] == sum(_brute(p, 1, window)[0] for p in decodes)


def test_attention_by_hand() -> None:
    """4 d FLOP a pair and head; queries and outputs in bf16, every key and value once, new ones read and written."""
    sizes = AttentionSizes(8, 1, 128, "bf16")
    prefill = COST.prefill_attention(PrefillWork(5e6, 3000.0, 3500.0, 1.0), sizes)
    assert prefill.compute_s == pytest.approx(4 * 8 * 128 * 5e6 / BF16_FLOPS)
    kv_bytes = 2 * 3500 * 128 * 2 + 2 * 3000 * 128 * (2 + 2)
    assert prefill.memory_s == pytest.approx((2 * 3000 * 8 * 128 * 2 + kv_bytes) / BANDWIDTH)
    decode = COST.decode_attention(DecodeWork(1.0, 1000.0), replace(sizes, kv_dtype="fp8"))
    new_bytes = 2 * 8 * 128 * 2 + 2 * 128 * (2 + 1)
    assert decode.memory_s == pytest.approx((2 * 1000 * 128 + new_bytes) / BANDWIDTH)


def test_latent_attention_by_hand() -> None:
    """DeepSeek-V3 with all 128 heads: decode reads 576 numbers a key once; prefill has keys of 192, values of 128."""
    sizes = LatentSizes(128, 512, 64, 128, 128, "bf16")
    decode = COST.latent_decode(DecodeWork(2.0, 1000.0), sizes)
    assert decode.memory_s == pytest.approx((1000 * 576 * 2 + 2 * 128 * (576 + 512) * 2) / BANDWIDTH)
    assert decode.compute_s == pytest.approx(2 * 128 * (576 + 512) * 1000 / BF16_FLOPS)
    prefill = COST.latent_prefill(PrefillWork(5e6, 3000.0, 3000.0, 1.0), sizes)
    assert prefill.compute_s == pytest.approx(2 * 128 * (192 + 128) * 5e6 / BF16_FLOPS)


def test_kernels_that_only_move_bytes_by_hand() -> None:
    parts = COST.elementwise(10.0, 300, 4.0, 3.0)
    assert (parts.compute_s, parts.n_launches) == (0.0, 3.0)
    assert parts.memory_s == pytest.approx(10 * 300 * 4 * 3 / BANDWIDTH)
    assert parts.kernel_s == pytest.approx(10 * 300 * 4 * 3 / BANDWIDTH / 0.8)


def test_matrices_of_a_latent_attention_token_are_the_models_weights() -> None:
    """DeepSeek-V3 at TP8: 2 FLOP a weight; down projections on every device, what belongs to heads divides."""
    model = load_model("deepseek-v3")
    cell = model.layers[0].attention
    assert isinstance(cell, MlaCell)
    sums = _sums(_context(model, 8, weight="fp8-block"), 1.0)
    names = ("query_up_gemm", "down_projection_gemm", "latent_up_gemm", "out_gemm")
    flop = {name: float(sums[name].compute_s) * 2 * BF16_FLOPS for name in names}
    assert flop["down_projection_gemm"] == pytest.approx(61 * 2 * 7168 * (1536 + 576), rel=1e-3)
    heads = flop["query_up_gemm"] + flop["latent_up_gemm"] + flop["out_gemm"]
    weights = 61 * cell.n_matmul_params(7168)
    assert 8 * heads + flop["down_projection_gemm"] == pytest.approx(2 * weights, rel=1e-3)


def test_expert_parallel_ranks_exchange_their_tokens() -> None:
    """64 ranks with 32 tokens each: 8 copies of each leave in fp8 and come back in bf16; no all-reduce is left.

    7/8 of them are meant for other nodes, after they went to the right rank of their own node.
    """
    cluster, model = load_cluster("8x8xh100-sxm"), load_model("deepseek-v3")
    one = _context(model, 1, weight="fp8-block", cluster=cluster)
    stage = Stage(0, model.n_layers, CellParallelism(attention_dp=64), CellParallelism(ep=64))
    sums = _sums(replace(one, shape=replace(one.shape, stages=(stage,))), 32.0)
    near, far = cluster.intra_node, cluster.inter_node
    n_bytes = 32 * 8 * 7168 * (1 + 4 / 128 + 2)
    both_s = 2 * (near.latency_s + 7 * far.latency_s) + n_bytes * 7 / 8 * (1 / near.bytes_per_s + 1 / far.bytes_per_s)
    assert sums["all_to_all"].network_s == pytest.approx(58 * both_s)
    assert sums["all_reduce"].network_s == 0.0
    rows = float(expert_load(64 * 32, 256, 8, 64).n_rows)
    assert sums["moe"].compute_s == pytest.approx(58 * 2 * rows * 3 * 7168 * 2048 / (2 * BF16_FLOPS), rel=1e-3)
    assert rows > 32 * 8  # the fullest rank


def test_matrices_of_a_linear_attention_token_are_the_models_weights() -> None:
    """Qwen3-Next: 36 layers without and 12 with keys and values; attention's FLOP a token, less that of its kernels."""
    model = load_model("qwen3-next-80b-a3b")
    sums = _sums(_context(model, 1), 1.0)
    flop = sum(float(sums[name].compute_s) for name in ("qkv_gemm", "out_gemm")) * BF16_FLOPS
    assert flop == pytest.approx(2 * sum(layer.attention.n_matmul_params(2048) for layer in model.layers))
    halves = _sums(_context(model, 2), 1.0)["out_gemm"].compute_s
    assert float(halves) == pytest.approx(float(sums["out_gemm"].compute_s) / 2)


@pytest.mark.parametrize(("preset", "source"), [("vllm-1", "vllm/0.24.0"), ("trtllm", "trtllm/1.3.0rc20")])
def test_the_experts_run_on_the_engines_own_kernels(preset: str, source: str) -> None:
    context = _context(load_model("mixtral-8x7b"), 2)
    shape = replace(context.shape, preset=load_preset(preset))
    cost = calibrated_costs(H100.device).of_engine(shape.preset.engine)
    context = replace(context, cost=cost, shape=shape)
    ffn = context.layers[0].ffn
    assert isinstance(ffn, MoeCell)
    assert source in expert_cost(context, ffn, np.array([64.0])).basis.source
