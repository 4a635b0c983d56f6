"""Can this shape run at all, memory aside?  Each refusal has a reason for the user."""

from __future__ import annotations

from apex_sim.errors import InfeasiblePlanError
from apex_sim.hardware.cluster import Cluster
from apex_sim.model.attention import AttentionCell, LinearAttentionCell, MlaCell
from apex_sim.model.cells import FfnCell
from apex_sim.model.model import Layer, Model
from apex_sim.plan.draft import draft_model_of
from apex_sim.plan.plan import Plan
from apex_sim.plan.precision import PEAK_OF_ACTIVATION
from apex_sim.plan.shape import CellParallelism, Shape


def require_legal_shape(model: Model, cluster: Cluster, shape: Shape) -> None:
    """Check that `shape` can hold `model` on `cluster`.

    Raises
    ------
    InfeasiblePlanError : the first rule that it breaks.
    """
    n_layers = sum(stage.n_layers for stage in shape.stages)
    if n_layers != model.n_layers or any(stage.n_layers < 1 for stage in shape.stages):
        split = "+".join(str(stage.n_layers) for stage in shape.stages)
        raise InfeasiblePlanError(f"stages of {split} layers do not cover the model's {model.n_layers}")
    for stage in shape.stages:
        _require_supported(stage.attention)
        _require_supported(stage.ffn)
        if stage.attention.n_devices != stage.ffn.n_devices:
            raise InfeasiblePlanError("attention and FFN of a stage must use the same devices")
    for layer, _ in model.layer_groups():
        _require_divisible(layer, shape.tp)
    _require_states(model, shape)
    _require_speculation(model, shape)
    _require_placeable(cluster, shape)
    _require_precision(cluster, shape)


def require_legal_plan(model: Model, cluster: Cluster, plan: Plan) -> None:
    """Check every shape of `plan`, and that the cluster has the devices.

    Raises
    ------
    InfeasiblePlanError : the first rule that it breaks.
    """
    for shape, _ in plan.instances:
        require_legal_shape(model, cluster, shape)
    if plan.n_devices > cluster.n_devices:
        raise InfeasiblePlanError(f"needs {plan.n_devices} devices, {cluster.name} has {cluster.n_devices}")


def _require_supported(cell: CellParallelism) -> None:
    for name, degree in (("attention DP", cell.attention_dp), ("CP", cell.cp), ("EP", cell.ep)):
        if degree != 1:
            raise InfeasiblePlanError(f"{name} {degree} is not simulated yet")


def _require_divisible(layer: Layer, tp: int) -> None:
    match layer.attention:
        case AttentionCell() as cell:
            if cell.n_q_heads % tp:
                raise InfeasiblePlanError(f"TP {tp} does not divide {cell.n_q_heads} query heads")
            if cell.n_kv_heads % tp and tp % cell.n_kv_heads:
                raise InfeasiblePlanError(f"TP {tp} neither divides nor is a multiple of {cell.n_kv_heads} KV heads")
        case MlaCell() as cell:
            if cell.n_heads % tp:
                raise InfeasiblePlanError(f"TP {tp} does not divide {cell.n_heads} heads")
        case LinearAttentionCell() as cell:
            if cell.n_k_heads % tp or cell.n_v_heads % tp:
                raise InfeasiblePlanError(
                    f"TP {tp} does not divide {cell.n_k_heads} key and {cell.n_v_heads} value heads of linear attention"
                )
    widths = [layer.ffn.intermediate_size]
    if not isinstance(layer.ffn, FfnCell):
        widths.append(layer.ffn.shared_intermediate_size)
    for width in widths:
        if width % tp:
            raise InfeasiblePlanError(f"TP {tp} does not divide the FFN width {width}")


def _require_states(model: Model, shape: Shape) -> None:
    """Check that the engine can hold the states of linear attention beside keys and values."""
    if not model.state_numbers_per_sequence:
        return
    if not shape.preset.frees_windows:
        raise InfeasiblePlanError(f"{shape.preset.name} has one kind of KV block, linear attention needs its own")
    if model.attention_classes() != (None,):
        raise InfeasiblePlanError("linear attention is simulated beside full attention only")
    keeps_kv = [layer.attention.kv_numbers_per_token > 0 for layer in model.layers]
    for stage in shape.stages:
        n_full = sum(keeps_kv[stage.first_layer : stage.first_layer + stage.n_layers])
        if n_full * model.n_layers != sum(keeps_kv) * stage.n_layers:
            raise InfeasiblePlanError(f"PP {shape.pp} shares out full and linear attention unevenly")


def _require_speculation(model: Model, shape: Shape) -> None:
    """Check that a draft can work beside the model."""
    speculation = shape.scheduler.speculation
    if speculation is None:
        return
    if shape.pp > 1:
        raise InfeasiblePlanError(f"speculation with PP {shape.pp} is not simulated yet; use PP 1")
    if shape.role != "mixed":
        raise InfeasiblePlanError(f"speculation with role {shape.role} is not simulated yet; use role mixed")
    draft = draft_model_of(model, speculation)
    for layer, _ in draft.layer_groups():
        _require_divisible(layer, shape.tp)
    if draft.max_context_tokens < shape.scheduler.max_model_len:
        raise InfeasiblePlanError(
            f"draft {draft.name} has a context of {draft.max_context_tokens} tokens, below max_model_len "
            f"{shape.scheduler.max_model_len}"
        )


def _require_placeable(cluster: Cluster, shape: Shape) -> None:
    per_node = cluster.n_devices_per_node
    if shape.tp > per_node:
        raise InfeasiblePlanError(f"TP {shape.tp} spans nodes of {per_node} devices")
    if per_node % shape.tp:
        raise InfeasiblePlanError(f"TP groups of {shape.tp} would straddle nodes of {per_node} devices")
    if shape.n_devices > cluster.n_devices:
        raise InfeasiblePlanError(
            f"an instance needs {shape.n_devices} devices, {cluster.name} has {cluster.n_devices}"
        )


def _require_precision(cluster: Cluster, shape: Shape) -> None:
    activation = PEAK_OF_ACTIVATION[shape.precision.activation]
    if activation not in cluster.device.peak_flops:
        raise InfeasiblePlanError(
            f"{shape.precision.weight} weights need {activation} matrix units, which {cluster.device.name} lacks"
        )
