"""Can this shape run at all, memory aside?  Each refusal has a reason for the user."""

from __future__ import annotations

from apex_sim.errors import InfeasiblePlanError
from apex_sim.hardware.cluster import Cluster
from apex_sim.hardware.device import MIN_CLOCK_FRAC
from apex_sim.model.attention import AttentionCell, LinearAttentionCell, MlaCell
from apex_sim.model.cells import FfnCell, MoeCell
from apex_sim.model.model import Layer, Model
from apex_sim.plan.draft import draft_model_of, draft_shape_of
from apex_sim.plan.plan import Plan
from apex_sim.plan.precision import PEAK_OF_ACTIVATION
from apex_sim.plan.shape import Shape, Stage
from apex_sim.preset.research import RESEARCH_POLICIES


def require_legal_shape(model: Model, cluster: Cluster, shape: Shape) -> None:
    """Check that `shape` can hold `model` on `cluster`.

    Raises
    ------
    InfeasiblePlanError : the first rule that it breaks.
    UnknownNameError : no pool has the shape's device.
    """
    n_layers = sum(stage.n_layers for stage in shape.stages)
    if n_layers != model.n_layers or any(stage.n_layers < 1 for stage in shape.stages):
        split = "+".join(str(stage.n_layers) for stage in shape.stages)
        raise InfeasiblePlanError(f"stages of {split} layers do not cover the model's {model.n_layers}")
    for stage in shape.stages:
        _require_cells(stage)
    if len({(stage.attention, stage.ffn) for stage in shape.stages}) > 1:
        raise InfeasiblePlanError("the cells of all stages must be spread alike")
    _require_ranks(model, shape)
    for layer, _ in model.layer_groups():
        _require_divisible(layer, shape, model.is_dense)
        if shape.cp > 1:
            _require_shareable(layer, shape)
    _require_states(model, shape)
    _require_speculation(model, shape)
    _require_clock(shape)
    pool = cluster.pool(shape.device)
    _require_placeable(pool, shape)
    if shape.placement == "spread":
        _require_apart(pool, shape)
    _require_precision(pool, shape)


def require_legal_plan(model: Model, cluster: Cluster, plan: Plan) -> None:
    """Check every shape of `plan`, and that each pool of the cluster has the devices.

    Raises
    ------
    InfeasiblePlanError : the first rule that it breaks.
    UnknownNameError : no pool has a shape's device.
    """
    for shape, _ in plan.instances:
        require_legal_shape(model, cluster, shape)
    for pool in cluster.pools:
        n_devices = plan.n_devices_of(pool.device.name)
        if n_devices > pool.n_devices:
            raise InfeasiblePlanError(f"needs {n_devices} devices, {pool.name} has {pool.n_devices}")


def _require_cells(stage: Stage) -> None:
    """Check that the cells of `stage` are spread in a way that is simulated."""
    attention, ffn = stage.attention, stage.ffn
    if ffn.cp != 1:
        raise InfeasiblePlanError(f"CP {ffn.cp} of the FFN; only attention has a context")
    if attention.n_devices != ffn.n_devices:
        raise InfeasiblePlanError(
            f"attention and FFN of a stage must use the same devices, not {attention.n_devices} and {ffn.n_devices}"
        )
    if attention.ep != 1:
        raise InfeasiblePlanError(f"EP {attention.ep} of attention; only experts are spread so")
    if min(ffn.attention_dp, attention.attention_dp) > 1:
        raise InfeasiblePlanError(f"{ffn.attention_dp} copies of the FFN with attention DP: use dp")


def _require_ranks(model: Model, shape: Shape) -> None:
    """Check that attention ranks and experts can be spread as the shape says, by an engine that does so."""
    ranks, policy = f"attention DP {shape.attention_dp}", shape.scheduler.policy
    if model.is_dense and shape.ep > 1:
        raise InfeasiblePlanError(f"EP {shape.ep} of a model without experts: set ep = false")
    n_copies = shape.stages[0].ffn.attention_dp
    if n_copies > 1 and not model.is_dense:
        raise InfeasiblePlanError(f"{n_copies} copies of the FFN in a model with experts are not simulated yet")
    if shape.attention_dp == 1:
        return
    if shape.preset.ranks is None:
        raise InfeasiblePlanError(f"{shape.preset.name} has no attention DP")
    if policy in RESEARCH_POLICIES:
        raise InfeasiblePlanError(f"{ranks} under policy {policy}, which was published without it")
    if shape.pp > 1:
        raise InfeasiblePlanError(f"{ranks} with PP {shape.pp} is not simulated yet: use PP 1")


def _require_divisible(layer: Layer, shape: Shape, is_dense: bool) -> None:
    tp, dense_tp = shape.n_shards, shape.stages[0].dense_tp(is_dense)
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
    match layer.ffn:
        case FfnCell() as ffn:
            _require_width(ffn.intermediate_size, dense_tp)
        case MoeCell() as moe:
            _require_width(moe.shared_intermediate_size, dense_tp)
            _require_width(moe.intermediate_size, shape.stages[0].ffn.tp)
            if moe.n_experts % shape.ep:
                raise InfeasiblePlanError(f"EP {shape.ep} does not divide {moe.n_experts} experts")


def _require_shareable(layer: Layer, shape: Shape) -> None:
    """Check that several devices can share a sequence's keys, as vLLM's decode context parallelism does.

    It spreads tokens over devices that would hold the same KV heads otherwise (vllm/config/model.py,
    verify_with_parallel_config: its size is at most TP over the KV heads), and leaves no window.
    """
    cell, context = layer.attention, f"CP {shape.cp}"
    if isinstance(cell, LinearAttentionCell):
        raise InfeasiblePlanError(f"{context} of linear attention, whose state has no tokens to share")
    if cell.window_tokens is not None:
        raise InfeasiblePlanError(f"{context} with sliding windows is not simulated yet")
    if isinstance(cell, AttentionCell) and shape.tp % cell.n_kv_heads:
        raise InfeasiblePlanError(
            f"{context} at TP {shape.tp} would divide the tokens of {cell.n_kv_heads} KV heads that TP has not divided "
            "yet: use a TP that is a multiple of them"
        )


def _require_width(width: int, tp: int) -> None:
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
    if shape.cp > 1:
        raise InfeasiblePlanError(f"speculation with CP {shape.cp} is not simulated yet; use CP 1")
    if shape.role != "mixed":
        raise InfeasiblePlanError(f"speculation with role {shape.role} is not simulated yet; use role mixed")
    draft = draft_model_of(model, speculation)
    for layer, _ in draft.layer_groups():
        _require_divisible(layer, draft_shape_of(draft, shape), draft.is_dense)
    if draft.max_context_tokens < shape.scheduler.max_model_len:
        raise InfeasiblePlanError(
            f"draft {draft.name} has a context of {draft.max_context_tokens} tokens, below max_model_len "
            f"{shape.scheduler.max_model_len}"
        )


def _require_clock(shape: Shape) -> None:
    if not MIN_CLOCK_FRAC <= shape.clock_frac <= 1.0:
        raise InfeasiblePlanError(
            f"a clock of {shape.clock_frac:g} is not modelled: use {MIN_CLOCK_FRAC:g} to 1 of the highest"
        )


def _require_placeable(cluster: Cluster, shape: Shape) -> None:
    """Check that groups fill nodes evenly: several in a node, or one over whole nodes, which is slow, but runs."""
    per_node, group, stage = cluster.n_devices_per_node, shape.n_shards, shape.stages[0].n_devices
    if group % per_node and per_node % group:
        raise InfeasiblePlanError(f"TP groups of {group} would straddle nodes of {per_node} devices")
    ffn = shape.stages[0].ffn
    for name, n in (("CP", shape.cp), ("FFN", ffn.tp if ffn.attention_dp > 1 else 1)):
        if n % per_node and per_node % n:
            raise InfeasiblePlanError(f"{name} groups of {n} would straddle nodes of {per_node} devices")
    if shape.attention_dp > 1 and stage % per_node and per_node % stage:
        raise InfeasiblePlanError(f"{stage} devices of attention ranks would fill nodes of {per_node} unevenly")
    if shape.n_devices > cluster.n_devices:
        raise InfeasiblePlanError(
            f"an instance needs {shape.n_devices} devices, {cluster.name} has {cluster.n_devices}"
        )


def _require_apart(cluster: Cluster, shape: Shape) -> None:
    """Check that each stage can lie in a node of its own, and that packed stages would not do so anyway."""
    per_node, n_devices = cluster.n_devices_per_node, max(stage.n_devices for stage in shape.stages)
    if shape.pp == 1:
        raise InfeasiblePlanError("a single stage cannot be spread over nodes: use placement packed")
    if shape.pp > cluster.n_nodes:
        raise InfeasiblePlanError(f"{shape.pp} stages in nodes of their own, and {cluster.name} has {cluster.n_nodes}")
    if n_devices > per_node:
        raise InfeasiblePlanError(f"stages of {n_devices} devices do not fit into nodes of {per_node}")
    if n_devices == per_node:
        raise InfeasiblePlanError(f"stages of {n_devices} devices fill nodes of {per_node}: packed is the same")


def _require_precision(cluster: Cluster, shape: Shape) -> None:
    activation = PEAK_OF_ACTIVATION[shape.precision.activation]
    if activation not in cluster.device.peak_flops:
        raise InfeasiblePlanError(
            f"{shape.precision.weight} weights need {activation} matrix units, which {cluster.device.name} lacks"
        )
