"""Attention DP and expert parallelism in plans: who may have them, what they hold, and what they are called."""

from dataclasses import replace

import pytest

from apex_sim.cost.calibrated import calibrated_costs
from apex_sim.cost.step_model import compile_step_model
from apex_sim.errors import InfeasiblePlanError
from apex_sim.hardware.cluster import load_cluster
from apex_sim.metrics.capacity import instance_capacity_per_s
from apex_sim.model.load import load_model
from apex_sim.plan.legality import require_legal_shape
from apex_sim.plan.memory import instance_memory, stage_kv_bytes_per_token
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import Shape, balanced_split, tensor_pipeline_stages
from apex_sim.plan.weights import stage_weight_bytes
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.study import make_study
from apex_sim.preset.load import load_preset

H200 = load_cluster("8xh200-sxm")


def _shape(model: str, tp: int, attention_dp: int, ep: bool, pp: int = 1, preset: str = "vllm-1") -> Shape:
    loaded, engine = load_model(model), load_preset(preset)
    settings = resolve_settings(engine, H200.device, 4096, tp=tp, pp=pp, attention_dp=attention_dp)
    stages = tensor_pipeline_stages(balanced_split(loaded.n_layers, pp), tp, attention_dp, ep=ep)
    return Shape("h200-sxm", stages, Precision(loaded.weight_dtype), settings, engine)


@pytest.mark.parametrize(
    ("model", "tp", "attention_dp", "ep", "pp", "preset", "reason"),
    [
        ("llama-3.1-8b", 1, 2, True, 1, "vllm-1", "EP 2 of a model without experts"),
        ("llama-3.1-8b", 2, 1, True, 1, "vllm-1", "EP 2 of a model without experts"),
        ("gpt-oss-20b", 1, 2, True, 1, "vllm-0.6", "vllm-0.6 has no attention DP"),
        ("gpt-oss-20b", 1, 2, True, 2, "vllm-1", "attention DP 2 with PP 2 is not simulated yet: use PP 1"),
        ("gpt-oss-20b", 1, 3, True, 1, "vllm-1", "EP 3 does not divide 32 experts"),
        ("mixtral-8x7b", 1, 6, False, 1, "vllm-1", "TP 6 does not divide the FFN width 14336"),
    ],
)  # fmt: skip
def test_refusals_say_why(model: str, tp: int, attention_dp: int, ep: bool, pp: int, preset: str, reason: str) -> None:
    with pytest.raises(InfeasiblePlanError, match=reason):
        require_legal_shape(load_model(model), H200, _shape(model, tp, attention_dp, ep, pp, preset))


def test_research_policies_were_published_without_ranks() -> None:
    shape = _shape("gpt-oss-20b", 1, 2, True)
    sarathi = replace(shape, scheduler=replace(shape.scheduler, policy="sarathi"))
    with pytest.raises(InfeasiblePlanError, match="attention DP 2 under policy sarathi"):
        require_legal_shape(load_model("gpt-oss-20b"), H200, sarathi)


@pytest.mark.parametrize("ep", [True, False])
def test_deepseek_r1_fits_on_eight_h200_with_attention_on_each(ep: bool) -> None:
    """As SGLang's and vLLM's recipes run it: 8 copies of attention, 256 experts over 8 devices, KV of its own each.

    61 layers x 576 latent numbers in bf16 are 70,272 bytes a token; TP 8 stores every token on all eight devices.
    """
    model, ranked, sharded = (
        load_model("deepseek-r1"),
        _shape("deepseek-r1", 1, 8, ep),
        _shape("deepseek-r1", 8, 1, False),
    )
    require_legal_shape(model, H200, ranked)
    memory, whole = instance_memory(model, H200.device, ranked), instance_memory(model, H200.device, sharded)
    assert stage_kv_bytes_per_token(model, ranked, 0) == 61 * 576 * 2
    assert memory.n_blocks % 8 == 0
    assert memory.kv_tokens > 3 * whole.kv_tokens
    weights = stage_weight_bytes(model, ranked.stages, 0, ranked.precision)
    assert weights > stage_weight_bytes(model, sharded.stages, 0, sharded.precision)


def test_labels_name_ranks_and_experts_only_where_there_are_several() -> None:
    assert _shape("deepseek-r1", 1, 8, True).label == "TP1 ADP8 EP8 PP1 fp8-block"
    assert _shape("deepseek-r1", 4, 2, False).label == "TP4 ADP2 PP1 fp8-block"
    assert _shape("deepseek-r1", 8, 1, True).label == "TP8 EP8 PP1 fp8-block"
    assert _shape("deepseek-r1", 8, 1, False).label == "TP8 PP1 fp8-block"


def test_sglang_shares_its_chunk_among_the_ranks_and_reserves_less() -> None:
    """8,192 tokens of a chunk over 8 ranks; conservativeness 0.3 of 0.7."""
    alone, ranked = (_shape("deepseek-r1", 8 // n, n, n > 1, preset="sglang").scheduler for n in (1, 8))
    assert (alone.max_num_batched_tokens, ranked.max_num_batched_tokens) == (8192, 1024)
    assert alone.reservation is not None
    assert ranked.reservation is not None
    assert ranked.reservation.first_ratio == pytest.approx(0.3 * alone.reservation.first_ratio)


def test_the_space_multiplies_ranks_into_the_devices() -> None:
    study = {"model": "gpt-oss-20b", "cluster": "4xh100-sxm", "workload": "chat"}
    space = enumerate_space(make_study(study | {"space": {"attention_dp": [1, 2, 4], "pp": [1]}}, "ranks", "here"))
    labels = {plan.label for plan in (*space.feasible, *(refusal.plan for refusal in space.infeasible))}
    found = {label.removesuffix(" PP1 mxfp4") for label in labels}
    assert found == {
        *("DP1 TP4", "DP2 TP2", "DP4 TP1"),
        *("DP1 TP2 ADP2 EP4", "DP2 TP1 ADP2 EP2", "DP1 TP1 ADP4 EP4"),
    }
    sharded = make_study(study | {"space": {"attention_dp": [2], "tp": [2], "ep": False}}, "ranks", "here")
    assert {plan.label for plan in enumerate_space(sharded).feasible} == {"DP1 TP2 ADP2 PP1 mxfp4"}


def test_the_estimated_capacity_counts_all_ranks() -> None:
    """Four ranks of gpt-oss-20b serve between one and four times what a lone device does."""
    model = load_model("gpt-oss-20b")
    cluster = load_cluster("4xh200-sxm")
    capacity = []
    for n in (1, 4):
        shape = _shape("gpt-oss-20b", 1, n, n > 1)
        step_model = compile_step_model(model, cluster, shape, calibrated_costs(cluster.device))
        memory = instance_memory(model, cluster.device, shape)
        capacity.append(instance_capacity_per_s(step_model, memory, 500.0, 200.0))
    assert 1.5 * capacity[0] < capacity[1] < 4.0 * capacity[0]
