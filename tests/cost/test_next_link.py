"""Which link joins a stage to the next: packed instances fill a node first, spread ones leave it after each stage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from apex_sim.cost.roofline import Roofline
from apex_sim.cost.stage_context import StageContext
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import compile_step_model
from apex_sim.hardware.cluster import Cluster, load_cluster
from apex_sim.model.load import load_model
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import Placement, Shape, tensor_pipeline_stages
from apex_sim.preset.load import load_preset

MODEL = load_model("llama-3.1-8b")


def shape_of(cluster: Cluster, tp: int, pp: int, placement: Placement) -> Shape:
    preset = load_preset("vllm-1")
    settings = resolve_settings(preset, cluster.device, 2048, tp=tp, pp=pp, max_num_batched_tokens=2048)
    stages = tensor_pipeline_stages((MODEL.n_layers // pp,) * pp, tp)
    return Shape(cluster.device.name, stages, Precision(), settings, preset, placement=placement)


def crossings(cluster: Cluster, tp: int, pp: int, placement: Placement) -> list[bool]:
    """Return for each link between stages whether it leaves the node."""
    shape = shape_of(cluster, tp, pp, placement)
    contexts = [StageContext(Roofline(cluster.device), MODEL, cluster, shape, index) for index in range(pp - 1)]
    return [context.next_link.name != cluster.intra_node.name for context in contexts]


@pytest.mark.parametrize(
    ("tp", "pp", "packed"),
    [(4, 2, [False]), (2, 4, [False] * 3), (4, 4, [False, True, False]), (2, 8, [False] * 3 + [True] + [False] * 3)],
)
def test_packed_stages_leave_a_full_node_and_spread_stages_each_node(tp: int, pp: int, packed: list[bool]) -> None:
    cluster = load_cluster("8x8xh100-sxm")
    assert crossings(cluster, tp, pp, "packed") == packed
    assert crossings(cluster, tp, pp, "spread") == [True] * (pp - 1)


def test_the_devices_of_a_stage_share_the_links_of_their_node() -> None:
    cluster = load_cluster("2x8xh100-sxm")
    shared = replace(cluster, inter_node=replace(cluster.inter_node, n_per_node=2))
    shape = shape_of(shared, 4, 2, "spread")
    link = StageContext(Roofline(shared.device), MODEL, shared, shape, 0).next_link
    assert link.bytes_per_s == shared.inter_node.bytes_per_s / 2


def test_only_the_send_of_a_step_grows() -> None:
    cluster, cost = load_cluster("2x8xh100-sxm"), Roofline(load_cluster("2x8xh100-sxm").device)
    packed, spread = (
        compile_step_model(MODEL, cluster, shape_of(cluster, 4, 2, placement), cost).stages
        for placement in ("packed", "spread")
    )
    for name, near_s, far_s in zip(
        packed[0].tokens.names, packed[0].tokens.kernel_s, spread[0].tokens.kernel_s, strict=True
    ):
        assert (far_s[1:] > near_s[1:]).all() if name == "send" else (far_s == near_s).all(), name
    assert "send" in packed[0].tokens.names
    batch = StepBatch((None,))
    batch.add(0, 1000, samples=True, is_decode=False)
    assert spread[0].price(batch).device_s > packed[0].price(batch).device_s
    assert spread[1].price(batch) == packed[1].price(batch)
