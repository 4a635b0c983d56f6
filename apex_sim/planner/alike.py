"""Which plans run exactly alike, so that one of them stands for all?

A knob that nothing reaches changes nothing: a prefix cache without hashed prompts, where a single stage lies.
Simulations of two such plans are equal to the bit, so that leaving one out is safe.
"""

from __future__ import annotations

from dataclasses import replace

from apex_sim.plan.plan import Plan
from apex_sim.plan.shape import Shape
from apex_sim.planner.study import Study


def canonical_plan(plan: Plan, study: Study) -> Plan:
    """Return the plan that stands for all plans that serve the study's workload exactly as `plan` does.

    A single instance gets every request, whatever routes them.
    """
    instances = tuple((canonical_shape(shape, study), count) for shape, count in plan.instances)
    return Plan(instances, plan.router if plan.n_instances > 1 else "", plan.routing)


def canonical_shape(shape: Shape, study: Study) -> Shape:
    """Return the shape that stands for all shapes that serve the study's workload exactly as `shape` does."""
    if shape.scheduler.prefix_cache and study.workload.requests.prefix_hashes is None:
        shape = replace(shape, scheduler=replace(shape.scheduler, prefix_cache=False))
    if shape.pp == 1 and shape.placement != "packed":
        shape = replace(shape, placement="packed")
    return shape
