"""What cells of one stage cost when each is spread in its own way, against figures worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from apex_sim.cost.forms.routing import expert_load
from apex_sim.cost.operators import joint_operators, tokenwise_operators
from apex_sim.cost.roofline import Roofline
from apex_sim.cost.stage_context import StageContext
from apex_sim.hardware.cluster import Cluster, load_cluster
from apex_sim.model.load import load_model
from apex_sim.model.model import Model
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import CellParallelism, Shape, cell_stages
from apex_sim.preset.load import load_preset

H100 = load_cluster("8xh100-sxm")
LINK = H100.intra_node
FLOPS, BANDWIDTH = 989.4e12, 3.35e12
LLAMA = load_model("llama-3.1-70b")
MOE = load_model("qwen3-30b-a3b")
N = np.array([100.0])


def _context(
    model: Model, attention: CellParallelism, ffn: CellParallelism, cluster: Cluster = H100, weight: str = "bf16"
) -> StageContext:
    preset = load_preset("vllm-1")
    settings = resolve_settings(preset, cluster.device, 4096)
    stages = cell_stages((model.n_layers,), attention, ffn)
    shape = Shape(cluster.device.name, stages, Precision(weight), settings, preset)
    return StageContext(Roofline(cluster.device, routing="uniform"), model, cluster, shape, 0)


def _summed(operators: object, part: str) -> dict[str, float]:
    sums: dict[str, float] = {}
    for name, parts in operators:  # type: ignore[attr-defined]
        sums[name] = sums.get(name, 0.0) + float(np.sum(getattr(parts, part)))
    return sums


def test_the_ranks_of_a_dense_model_multiply_all_their_tokens_with_parts_of_the_ffn() -> None:
    """TP2 x ADP4: up and down on the tokens of four ranks, an eighth of the columns each."""
    context = _context(LLAMA, CellParallelism(tp=2, attention_dp=4), CellParallelism(tp=8))
    joint = _summed(joint_operators(context, 4 * N), "compute_s")
    own = _summed(tokenwise_operators(context, N), "compute_s")
    assert not {"up_gemm", "down_gemm", "activation"} & set(own)
    assert joint["up_gemm"] == pytest.approx(80 * 2 * 400 * 8192 * 2 * 28_672 / 8 / FLOPS)
    assert joint["down_gemm"] == pytest.approx(80 * 2 * 400 * 8192 * 28_672 / 8 / FLOPS)
    moved = _summed(joint_operators(context, 4 * N), "memory_s")
    assert moved["down_gemm"] * BANDWIDTH == pytest.approx(80 * 2 * (400 * (8192 + 3584) + 8192 * 3584))


def test_joint_ffns_compute_what_instances_do_and_read_weights_once() -> None:
    """Over all devices of ADP8: the FLOP of eight instances with N tokens each, the weights' bytes of one."""
    joint = _context(LLAMA, CellParallelism(attention_dp=8), CellParallelism(tp=8))
    alone = _context(LLAMA, CellParallelism(), CellParallelism())
    for name in ("up_gemm", "down_gemm"):
        together, own = (
            _summed(joint_operators(joint, 8 * N), "compute_s"),
            _summed(tokenwise_operators(alone, N), "compute_s"),
        )
        assert 8 * together[name] == pytest.approx(8 * own[name])
    together, own = (
        _summed(joint_operators(joint, 8 * N), "memory_s"),
        _summed(tokenwise_operators(alone, N), "memory_s"),
    )
    inputs = 80 * 100 * 8192 * 2 * 7  # each device reads the tokens of the seven other ranks as well
    weights = 80 * 28_672 * 8192 * 2
    assert (together["down_gemm"] - own["down_gemm"]) * BANDWIDTH == pytest.approx(inputs - weights * 7 / 8)


def test_collectives_of_a_joint_ffn_by_hand() -> None:
    """All eight devices gather 400 tokens before and scatter them after; pairs reduce attention and gather halves."""
    context = _context(LLAMA, CellParallelism(tp=2, attention_dp=4), CellParallelism(tp=8))
    hidden = 8192 * 2
    gathered = 7 * (LINK.latency_s + 400 * hidden / 8 / LINK.bytes_per_s)
    assert _summed(joint_operators(context, 4 * N), "network_s")["all_gather"] == pytest.approx(80 * 2 * gathered)
    own = _summed(tokenwise_operators(context, N), "network_s")
    half = LINK.latency_s + 100 * hidden / 2 / LINK.bytes_per_s
    assert own["all_reduce"] == pytest.approx(81 * 2 * half)  # after the embedding and each attention
    assert own["all_gather"] == pytest.approx(80 * half)


def test_copies_of_an_ffn_share_the_tokens_by_hand() -> None:
    """TP8 with two FFNs over four devices: 101 tokens are 51 for one of them; as many FLOP as over eight."""
    context = _context(LLAMA, CellParallelism(tp=8), CellParallelism(tp=4, attention_dp=2))
    n = np.array([101.0])
    assert _summed(tokenwise_operators(context, n), "compute_s")["down_gemm"] == pytest.approx(
        80 * 2 * 51 * 8192 * 28_672 / 4 / FLOPS
    )
    network = _summed(tokenwise_operators(context, n), "network_s")
    hidden = 8192 * 2
    wide = 7 * (LINK.latency_s + 101 * hidden / 8 / LINK.bytes_per_s)
    narrow = 3 * (LINK.latency_s + 51 * hidden / 4 / LINK.bytes_per_s)
    assert network["all_gather"] == pytest.approx(80 * 2 * (wide + narrow))
    assert network["all_reduce"] == pytest.approx(2 * wide)  # after the embedding
    whole = _context(LLAMA, CellParallelism(tp=8), CellParallelism(tp=8))
    even = np.array([100.0])
    flop = [_summed(tokenwise_operators(one, even), "compute_s")["up_gemm"] for one in (context, whole)]
    assert flop[0] == pytest.approx(flop[1])


@pytest.mark.parametrize(("ep", "tp"), [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_experts_in_groups_by_hand(ep: int, tp: int) -> None:
    """128 experts of 768 columns: the fullest group's rows, on a part of the columns of each."""
    context = _context(MOE, CellParallelism(tp=8), CellParallelism(tp=tp, ep=ep))
    rows = float(expert_load(100, 128, 8, ep).n_rows)
    flop = 48 * 2 * rows * 3 * 2048 * 768 / tp
    assert _summed(tokenwise_operators(context, N), "compute_s")["moe"] == pytest.approx(flop / FLOPS)
    network = _summed(tokenwise_operators(context, N), "network_s")
    whole = _summed(tokenwise_operators(_context(MOE, CellParallelism(tp=8), CellParallelism(tp=8)), N), "network_s")
    assert network == whole  # one all-reduce over all devices adds up parts and experts


def test_groups_of_experts_gather_where_whole_experts_exchange() -> None:
    """ADP8: EP8 sends copies; EP4 x TP2 gathers all tokens on all devices, as TP8 does."""
    exchange, hybrid, sharded = (
        _context(MOE, CellParallelism(attention_dp=8), CellParallelism(tp=tp, ep=8 // tp)) for tp in (1, 2, 8)
    )
    assert "all_to_all" in _summed(tokenwise_operators(exchange, N), "network_s")
    assert "all_gather" not in _summed(joint_operators(exchange, 8 * N), "network_s")
    assert "all_to_all" not in _summed(tokenwise_operators(hybrid, N), "network_s")
    gathered = [_summed(joint_operators(context, 8 * N), "network_s")["all_gather"] for context in (hybrid, sharded)]
    assert (
        gathered[0]
        == gathered[1]
        == pytest.approx(48 * 2 * 7 * (LINK.latency_s + 800 * 2048 * 2 / 8 / LINK.bytes_per_s))
    )


def test_dense_layers_beside_experts_follow_attention() -> None:
    """DeepSeek-V3's first three layers at ADP8: whole on each rank, on its own tokens."""
    model = load_model("deepseek-v3")
    context = _context(model, CellParallelism(attention_dp=8), CellParallelism(tp=8), weight="fp8-block")
    dense = replace(model, layers=model.layers[:1] * 3 + model.layers[-1:] * 58)
    assert dense == model
    own = _summed(tokenwise_operators(context, N), "compute_s")["down_gemm"]
    assert own == pytest.approx(2 * 100 * 7168 * (3 * 18_432 + 58 * 2048) / 2 / FLOPS, rel=1e-3)
    assert set(_summed(joint_operators(context, 8 * N), "compute_s")) == {"moe", "all_gather"}


def test_all_reduces_over_two_nodes_add_what_leaves_the_node() -> None:
    """TP16 on 2 x 8: a ring of 8 inside, then an eighth of the buffer to the other node and back."""
    cluster = load_cluster("2x8xh100-sxm")
    context = _context(LLAMA, CellParallelism(tp=16), CellParallelism(tp=16), cluster)
    n_bytes, far = 100 * 8192 * 2, cluster.inter_node
    inside = 14 * (LINK.latency_s + n_bytes / 8 / LINK.bytes_per_s)
    between = 2 * far.latency_s + n_bytes / 8 / far.bytes_per_s
    assert _summed(tokenwise_operators(context, N), "network_s")["all_reduce"] == pytest.approx(
        161 * (inside + between)
    )
    sharded = _summed(tokenwise_operators(context, N), "compute_s")["out_gemm"]
    assert sharded == pytest.approx(80 * 2 * 100 * 8192 * 8192 / 16 / FLOPS)
