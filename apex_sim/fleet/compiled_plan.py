"""What is a plan compiled to, and which engine serves it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from apex_sim.cost.device_costs import DeviceCosts, cost_on
from apex_sim.cost.preset_change import change_preset
from apex_sim.cost.step_model import StepModel, compile_step_model
from apex_sim.fleet.dependent_fleet import may_depend, serve_dependently
from apex_sim.fleet.static_fleet import is_static, serve_statically
from apex_sim.hardware.cluster import Cluster
from apex_sim.instance.kernel.policies import COMPILED_POLICIES
from apex_sim.model.model import Model
from apex_sim.plan.memory import Memory, instance_memory
from apex_sim.plan.plan import Plan
from apex_sim.plan.scheduler import ACCOUNTING_ORDERS
from apex_sim.plan.shape import Shape
from apex_sim.preset.preset import Preset
from apex_sim.record.run import FleetRun
from apex_sim.workload.workload import Workload

#: Memory and step model of each shape of a plan.
CompiledPlan = dict[Shape, tuple[Memory, StepModel]]


def compile_plan(model: Model, cluster: Cluster, plan: Plan, cost: DeviceCosts) -> CompiledPlan:
    """Return memory and step model of each shape of `plan`.

    Raises
    ------
    InfeasiblePlanError : a shape does not fit.
    InputError : `cost` is of one device type, and the plan on several.
    UnknownNameError : the cluster or `cost` lacks a shape's device.
    """
    compiled: CompiledPlan = {}
    for shape, _ in plan.instances:
        pool, back_end = cluster.pool(shape.device), cost_on(cost, shape.device, plan)
        memory = instance_memory(model, pool.device, shape)
        compiled[shape] = memory, compile_step_model(model, pool, shape, back_end)
    return compiled


def with_preset(
    plan: Plan, compiled: Mapping[Shape, tuple[Memory, StepModel]], change: Callable[[Preset], Preset]
) -> tuple[Plan, CompiledPlan]:
    """Return `plan` and what it compiles to, each shape under `change` of its preset; no kernel is priced again."""
    shapes = {shape: replace(shape, preset=change(shape.preset)) for shape in compiled}
    changed = {
        shapes[shape]: (memory, change_preset(step_model, shapes[shape].preset))
        for shape, (memory, step_model) in compiled.items()
    }
    return replace(plan, instances=tuple((shapes[shape], count) for shape, count in plan.instances)), changed


def why_not_compiled(plan: Plan) -> str:
    """Return what of `plan`'s schedulers the compiled engine lacks, so that the reference runs; empty if nothing."""
    for shape, _ in plan.instances:
        if shape.scheduler.policy not in COMPILED_POLICIES:
            return f"policy {shape.scheduler.policy}"
        if shape.scheduler.queue_order in ACCOUNTING_ORDERS:
            return f"queue order {shape.scheduler.queue_order}"
    return ""


def compiled_way(plan: Plan, workload: Workload) -> Callable[..., FleetRun] | None:
    """Return how the compiled engine serves `workload` with `plan`; None if it lacks a policy or cannot look ahead."""
    if why_not_compiled(plan):
        return None
    if is_static(plan, workload):
        return serve_statically
    return serve_dependently if may_depend(plan, workload) else None


def why_reference(plan: Plan, workload: Workload) -> str:
    """Return why the compiled engine cannot serve `workload` with `plan`; empty if it can."""
    lacks = why_not_compiled(plan)
    if lacks or compiled_way(plan, workload):
        return lacks
    return "way to look ahead over instances that depend on each other like these"
