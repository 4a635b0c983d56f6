"""Cells that are spread each in their own way: who may, what a device then holds, and what the plan is called."""

from dataclasses import replace

import pytest

from apex_sim.errors import InfeasiblePlanError
from apex_sim.hardware.cluster import load_cluster
from apex_sim.model.load import load_model
from apex_sim.model.model import Model
from apex_sim.plan.legality import require_legal_shape
from apex_sim.plan.memory import activation_bytes_per_token, instance_memory, stage_kv_bytes_per_token, stage_memory
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import CellParallelism, Shape, Stage, cell_stages, tensor_pipeline_stages
from apex_sim.plan.weights import stage_weight_bytes
from apex_sim.preset.load import load_preset

H200 = load_cluster("8xh200-sxm")
LLAMA = load_model("llama-3.1-70b")
MOE = load_model("qwen3-30b-a3b")


def _shape(model: Model, attention: CellParallelism, ffn: CellParallelism, preset: str = "sglang") -> Shape:
    engine = load_preset(preset)
    settings = resolve_settings(engine, H200.device, 4096, tp=attention.n_shards, attention_dp=attention.attention_dp)
    return Shape("h200-sxm", cell_stages((model.n_layers,), attention, ffn), Precision("bf16"), settings, engine)


def _held(model: Model, shape: Shape) -> float:
    """Return the numbers on one device, all of them two bytes wide."""
    return stage_weight_bytes(model, shape.stages, 0, shape.precision) / 2


def test_equal_stages_are_what_tensor_parallelism_makes() -> None:
    cells = CellParallelism(tp=2, attention_dp=4), CellParallelism(tp=8)
    assert cell_stages((40, 40), *cells) == tensor_pipeline_stages((40, 40), 2, 4)
    assert tensor_pipeline_stages((80,), 8, ep=True)[0].ffn == CellParallelism(ep=8)


def test_a_dense_ffn_divides_over_all_attention_ranks() -> None:
    """Llama 70B at TP2 x ADP4: FFN columns over 8 devices, attention and vocabulary over 2, norms on each."""
    shape = _shape(LLAMA, CellParallelism(tp=2, attention_dp=4), CellParallelism(tp=8))
    require_legal_shape(LLAMA, H200, shape)
    ffn = 80 * 3 * 8192 * 28_672
    norms = 81 * 2 * 8192 - 8192
    rest = LLAMA.n_params - ffn - norms
    assert _held(LLAMA, shape) == ffn / 8 + rest / 2 + norms
    replicas = 4 * rest + 8 * norms + ffn  # all eight devices together
    assert 8 * _held(LLAMA, shape) == replicas


def test_joint_ranks_have_more_room_for_keys_than_instances() -> None:
    """70B in bf16 on 8 H200: one rank on each device needs 132 GiB of weights as an instance, and far less jointly."""
    joint = _shape(LLAMA, CellParallelism(attention_dp=8), CellParallelism(tp=8))
    require_legal_shape(LLAMA, H200, joint)
    memory = instance_memory(LLAMA, H200.device, joint)
    assert memory.n_blocks % 8 == 0
    alone = _shape(LLAMA, CellParallelism(), CellParallelism())
    with pytest.raises(InfeasiblePlanError, match="memory"):
        instance_memory(LLAMA, load_cluster("8xh100-sxm").device, alone)
    assert (
        stage_memory(LLAMA, H200.device, joint, 0).weight_bytes
        < stage_memory(LLAMA, H200.device, alone, 0).weight_bytes / 2
    )


def test_a_rank_of_a_joint_ffn_holds_the_tokens_of_all() -> None:
    """Input and output of the FFN for four ranks, its columns of all of them in a quarter of the width."""
    layer, hidden, width = LLAMA.layers[0], 8192, 28_672
    alone, joint = (activation_bytes_per_token(layer, hidden, 2, n_gathered=n) for n in (1, 4))
    assert alone == 2 * (3 * hidden + 3 * width / 2)
    assert joint - alone == 2 * 2 * 3 * hidden


def test_copies_of_an_ffn_hold_it_each() -> None:
    """Llama 70B at TP8 with two FFNs over four devices: twice the FFN's weights in all."""
    copied, whole = (_shape(LLAMA, CellParallelism(tp=8), ffn) for ffn in (CellParallelism(4, 2), CellParallelism(8)))
    require_legal_shape(LLAMA, H200, copied)
    assert 8 * (_held(LLAMA, copied) - _held(LLAMA, whole)) == 80 * 3 * 8192 * 28_672


@pytest.mark.parametrize(("ep", "tp"), [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_experts_are_divided_over_groups_and_then_over_columns(ep: int, tp: int) -> None:
    """Whatever the division, eight devices hold each expert once and everything else as attention at TP8 does."""
    shape = _shape(MOE, CellParallelism(tp=8), CellParallelism(tp=tp, ep=ep))
    require_legal_shape(MOE, H200, shape)
    whole = _shape(MOE, CellParallelism(tp=8), CellParallelism(tp=8))
    assert _held(MOE, shape) == _held(MOE, whole)
    experts = 48 * 128 * 3 * 2048 * 768
    ranks = _shape(MOE, CellParallelism(attention_dp=8), CellParallelism(tp=tp, ep=ep))
    assert _held(MOE, ranks) == MOE.n_params - experts + experts / 8


@pytest.mark.parametrize(
    ("attention", "ffn", "label"),
    [
        (CellParallelism(tp=2, attention_dp=4), CellParallelism(tp=8), "TP2 ADP4 PP1 bf16"),
        (CellParallelism(tp=8), CellParallelism(tp=2, ep=4), "TP8 EP4xTP2 PP1 bf16"),
        (CellParallelism(tp=4, attention_dp=2), CellParallelism(tp=4, ep=2), "TP4 ADP2 EP2xTP4 PP1 bf16"),
        (CellParallelism(tp=4, attention_dp=2), CellParallelism(ep=8), "TP4 ADP2 EP8 PP1 bf16"),
        (CellParallelism(tp=2, cp=4), CellParallelism(tp=8), "TP2 CP4 PP1 bf16"),
        (CellParallelism(tp=8), CellParallelism(tp=4, attention_dp=2), "TP8 FFN-TP4 PP1 bf16"),
    ],
)
def test_labels_tell_mappings_apart(attention: CellParallelism, ffn: CellParallelism, label: str) -> None:
    assert _shape(MOE, attention, ffn).label == label


@pytest.mark.parametrize(
    ("model", "attention", "ffn", "reason"),
    [
        (LLAMA, CellParallelism(tp=8), CellParallelism(tp=2, ep=4), "EP 4 of a model without experts"),
        (LLAMA, CellParallelism(tp=4), CellParallelism(tp=8), "the same devices, not 4 and 8"),
        (LLAMA, CellParallelism(tp=4, ep=2), CellParallelism(tp=8), "EP 2 of attention"),
        (MOE, CellParallelism(tp=8), CellParallelism(tp=4, attention_dp=2), "2 copies of the FFN in a model with"),
        (
            LLAMA,
            CellParallelism(tp=4, attention_dp=2),
            CellParallelism(tp=4, attention_dp=2),
            "copies of the FFN with attention DP: use dp",
        ),
        (LLAMA, CellParallelism(tp=4, cp=2), CellParallelism(tp=8), "CP 2 at TP 4 would divide .* 8 KV heads"),
        (LLAMA, CellParallelism(tp=8), CellParallelism(tp=4, cp=2), "CP 2 of the FFN"),
        (load_model("gpt-oss-20b"), CellParallelism(tp=1, cp=8), CellParallelism(tp=8), "CP 8 with sliding windows"),
        (load_model("qwen3-next-80b-a3b"), CellParallelism(tp=2, cp=2), CellParallelism(tp=4), "CP 2 of linear"),
        (load_model("deepseek-v3"), CellParallelism(cp=6), CellParallelism(tp=6), "TP 6 does not divide 128 heads"),
        (MOE, CellParallelism(attention_dp=6), CellParallelism(tp=2, ep=3), "EP 3 does not divide 128 experts"),
    ],
)
def test_refusals_say_why(model: Model, attention: CellParallelism, ffn: CellParallelism, reason: str) -> None:
    with pytest.raises(InfeasiblePlanError, match=reason):
        require_legal_shape(model, H200, _shape(model, attention, ffn))


def test_a_joint_ffn_must_divide_over_all_devices() -> None:
    narrow = replace(LLAMA.layers[0], ffn=replace(LLAMA.layers[0].ffn, intermediate_size=28_676))
    shape = _shape(LLAMA, CellParallelism(tp=2, attention_dp=4), CellParallelism(tp=8))
    with pytest.raises(InfeasiblePlanError, match="TP 8 does not divide the FFN width 28676"):
        require_legal_shape(replace(LLAMA, layers=(narrow,) * 80), H200, shape)


def test_stages_must_be_spread_alike() -> None:
    shape = _shape(LLAMA, CellParallelism(tp=2), CellParallelism(tp=2))
    mixed = Stage(0, 40, *(CellParallelism(tp=2),) * 2), Stage(40, 40, *(CellParallelism(tp=4),) * 2)
    with pytest.raises(InfeasiblePlanError, match="spread alike"):
        require_legal_shape(LLAMA, H200, replace(shape, stages=mixed))


@pytest.mark.parametrize(("name", "cp"), [("deepseek-v3", 2), ("deepseek-v3", 8), ("qwen3-30b-a3b", 2)])
def test_context_parallelism_shares_the_keys_that_tensor_parallelism_repeats(name: str, cp: int) -> None:
    """On eight devices: the weights of TP8, and cp times its KV tokens, but for the rounding of a block."""
    model, cluster = load_model(name), load_cluster("8xb200")
    cells = [(CellParallelism(tp=8 // c, cp=c), CellParallelism(tp=8)) for c in (1, cp)]
    shapes = (_shape(model, *each, "vllm-1") for each in cells)
    tensor, shared = (replace(one, device="b200", precision=Precision(model.weight_dtype)) for one in shapes)
    require_legal_shape(model, cluster, shared)
    assert _held(model, shared) == _held(model, tensor)
    one, many = (instance_memory(model, cluster.device, shape) for shape in (tensor, shared))
    assert many.layout.block_size_tokens == cp * one.layout.block_size_tokens
    assert many.n_blocks == one.n_blocks
    assert many.kv_tokens == cp * one.kv_tokens
    assert many.stages[0].kv_bytes_per_token * cp == one.stages[0].kv_bytes_per_token


def test_devices_that_share_a_context_hold_a_latent_once() -> None:
    """DeepSeek-V3 over CP8: 61 layers x 576 numbers in bf16, an eighth of a token's on each device."""
    model = load_model("deepseek-v3")
    shape = _shape(model, CellParallelism(cp=8), CellParallelism(ep=8), "vllm-1")
    assert 8 * stage_kv_bytes_per_token(model, shape, 0) == 61 * 576 * 2
    assert shape.label == "TP1 CP8 EP8 PP1 bf16"
    assert (shape.n_shards, shape.n_devices) == (8, 8)
