"""What happens when the instances of a plan do not depend on each other?  Each runs its whole trace, compiled.

That is so when one instance serves alone, or when the router looks at requests only, whatever the instances do, and
arrivals are known.
"""

from __future__ import annotations

import numpy as np

from apex_sim.cost.device_costs import CostOrigin
from apex_sim.cost.step_model import StepModel
from apex_sim.errors import InvariantError
from apex_sim.fleet.queue_rank import queue_ranks
from apex_sim.fleet.router import BLIND_ROUTERS, make_router
from apex_sim.instance.compiled_instance import Asked, serve_compiled
from apex_sim.instance.served import Served
from apex_sim.plan.memory import Memory
from apex_sim.plan.plan import Plan
from apex_sim.plan.shape import Shape
from apex_sim.record.latency_histogram import LatencyHistogram
from apex_sim.record.request_records import RequestRecords
from apex_sim.record.run import FleetRun, InstanceRun, StageRun
from apex_sim.workload.workload import Workload


def is_static(plan: Plan, workload: Workload) -> bool:
    """Whether no instance depends on another, as in closed loops over several and under routers that look at them."""
    n_instances = sum(count for _, count in plan.instances)
    return n_instances == 1 or (plan.router in BLIND_ROUTERS and workload.load.concurrency is None)


def serve_statically(
    plan: Plan, workload: Workload, compiled: dict[Shape, tuple[Memory, StepModel]], cost: CostOrigin
) -> FleetRun:
    """Serve `workload` to the end.

    Raises
    ------
    InvariantError : INV-1, if requests can never end.
    """
    shapes, prompts = plan.expand(), workload.requests.prompt_tokens.tolist()
    route, idle = make_router(plan), [0] * len(shapes)
    turn = np.array([route(prompt_tokens, idle) for prompt_tokens in prompts], dtype=np.int64)
    served = []
    for index, shape in enumerate(shapes):
        memory, step_model = compiled[shape]
        served.append(serve_compiled(shape, step_model, memory, asked_of(workload, shape, turn == index, index)))
    return fleet_run(plan, workload, compiled, cost, served, turn)


def fleet_run(
    plan: Plan,
    workload: Workload,
    compiled: dict[Shape, tuple[Memory, StepModel]],
    cost: CostOrigin,
    served: list[Served],
    turn: np.ndarray,
) -> FleetRun:
    """Return the records of a fleet whose instance `turn[i]` served request i, each its requests in order."""
    shapes = plan.expand()
    requests, reasons = _merge(served, turn)
    left_s = np.where(np.isnan(requests["finish_s"]), requests["last_s"], requests["finish_s"])
    makespan_s = max(max(each.end_s, *each.free_s) for each in served)
    gaps = LatencyHistogram()
    for each in served:
        gaps.merge(each.gaps)
    columns = workload.requests
    records = RequestRecords(
        arrival_s=requests["arrival_s"].copy(),
        queued_s=requests["queued_s"].copy(),
        scheduled_s=requests["scheduled_s"].copy(),
        first_token_s=requests["first_s"].copy(),
        finish_s=requests["finish_s"].copy(),
        prompt_tokens=columns.prompt_tokens,
        output_tokens=columns.output_tokens,
        emitted_tokens=requests["generated"].copy(),
        n_preemptions=requests["preemptions"].copy(),
        cached_tokens=requests["cached"].copy(),
        instance=turn,
        status=requests["status"].astype(np.int8),
        reasons=tuple(sorted(reasons.items(), key=lambda item: (left_s[item[0]], item[0]))),
    )
    return FleetRun(
        plan=plan,
        requests=records,
        instances=tuple(
            _instance_run(shape, compiled[shape][0], each, makespan_s)
            for shape, each in zip(shapes, served, strict=True)
        ),
        gaps=gaps,
        makespan_s=makespan_s,
        request_seconds=_request_seconds(requests["arrival_s"], left_s),
        cost_name=cost.name,
        provenance=cost.provenance,
        engine="compiled",
    )


def asked_of(workload: Workload, shape: Shape, mine: np.ndarray, place: int = 0) -> Asked:
    """Return the requests of `workload` that the mask `mine` gives to the instance at `place`."""
    columns, load, rows = workload.requests, workload.load, np.flatnonzero(mine)
    caches = shape.scheduler.prefix_cache and columns.prefix_hashes is not None
    prompts, limits = columns.prompt_tokens[mine], columns.max_output_tokens[mine]
    room = shape.scheduler.max_model_len - prompts
    arrival_s = columns.arrival_s[mine] if load.kind == "trace" else np.zeros(len(rows))
    return Asked(
        arrival_s,
        prompts,
        columns.output_tokens[mine],
        np.where(limits > 0, np.minimum(limits, room), room),
        queue_ranks(workload, shape.scheduler)[mine],
        load.concurrency,
        columns.hash_block_tokens if caches else None,
        [columns.full_blocks(row) for row in rows.tolist()] if caches else (),
        rows,
        workload.seed or 0,
        place,
    )


def _merge(served: list[Served], turn: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """Return the requests of all instances in the workload's order, and why some were rejected."""
    requests = np.zeros(len(turn), dtype=served[0].requests.dtype)
    reasons: dict[int, str] = {}
    for index, each in enumerate(served):
        mine = np.flatnonzero(turn == index)
        requests[mine] = each.requests
        reasons |= {int(mine[request]): reason for request, reason in each.reasons.items()}
    return requests, reasons


def _request_seconds(arrival_s: np.ndarray, left_s: np.ndarray) -> float:
    """Return the integral of the number of requests in the system, event by event."""
    if np.isnan(left_s).any():
        raise InvariantError(1, "a request never left")
    times = np.concatenate([arrival_s, left_s])
    change = np.concatenate([np.ones(len(arrival_s)), -np.ones(len(left_s))])
    order = np.argsort(times, kind="stable")
    inside = np.cumsum(change[order])[:-1]
    return float((inside * np.diff(times[order])).sum())


def _instance_run(shape: Shape, memory: Memory, served: Served, makespan_s: float) -> InstanceRun:
    shares = [meter.shares() for meter in served.meters]
    stages = tuple(
        StageRun(
            operators_s=meter.operators_s(of_stage),
            idle_s=idle_s + makespan_s - free_s,
            busy_s=meter.busy_s,
            n_steps=meter.n_steps,
            n_devices=stage.n_devices,
            dynamic_j=meter.dynamic_j * stage.n_devices,
            idle_j=meter.idle_w * makespan_s * stage.n_devices,
            shares=tuple(of_stage),
        )
        for stage, meter, of_stage, idle_s, free_s in zip(
            shape.stages, served.meters, shares, served.idle_s, served.free_s, strict=True
        )
    )
    return InstanceRun(shape, memory, stages, served.steps, served.n_blocks_held)
