"""What happens when a plan serves a workload?  Arrivals, router and instances as SimPy processes on one clock."""

from __future__ import annotations

import math

import numpy as np
import simpy

from apex_sim.cost.device_costs import CostOrigin, DeviceCosts, origin_of
from apex_sim.errors import InputError, InvariantError
from apex_sim.fleet.acceptance import may_serve, owners_of, require_lengths
from apex_sim.fleet.compiled_plan import CompiledPlan, compile_plan, compiled_way
from apex_sim.fleet.invariants import check_run
from apex_sim.fleet.queue_rank import queue_ranks
from apex_sim.fleet.router import make_router
from apex_sim.hardware.cluster import Cluster
from apex_sim.instance.clock import ARRIVALS, Process, Turn, start_process, wait_until
from apex_sim.instance.reference import OrderMaker, Policy, ReferenceInstance
from apex_sim.instance.sequence import Sequence
from apex_sim.model.model import Model
from apex_sim.plan.legality import require_legal_plan
from apex_sim.plan.plan import Plan
from apex_sim.record.latency_histogram import LatencyHistogram
from apex_sim.record.request_records import FINISHED, REJECTED, RUNNING, RequestRecords
from apex_sim.record.run import FleetRun, InstanceRun, StageRun
from apex_sim.workload.workload import Workload


def simulate_plan(
    model: Model,
    cluster: Cluster,
    plan: Plan,
    workload: Workload,
    cost: DeviceCosts,
    *,
    horizon_s: float | None = None,
    check: bool = False,
    reference: bool = False,
    compiled: CompiledPlan | None = None,
    policy: Policy | None = None,
    order: OrderMaker | None = None,
) -> FleetRun:
    """Serve `workload` with `plan` and return what happened.

    Parameters
    ----------
    cost : the back end, or by device type the back end of each.
    horizon_s : stop the clock there if the run is not over; by default it lasts until every request has ended.
    check : assert the numbered invariants.
    reference : run the readable engine, step by step; otherwise the compiled one where it can (see
        `compiled_way`), which decides the same and is some thousand times faster.
    compiled : what `compile_plan` returned for these, where the caller has it already.
    policy, order : a batching policy and a queue order of your own, instead of the plan's; the reference runs them.

    Raises
    ------
    InfeasiblePlanError : the plan is illegal or does not fit.
    InputError : a request is longer than an instance accepts, the queue order needs to know what no request says, the
        router and the plan's shares do not fit, or `horizon_s` is not above 0.
    InvariantError : with `check`, an invariant does not hold; always, if requests can never end.
    """
    if horizon_s is not None and not horizon_s > 0:
        raise InputError(f"horizon_s is {horizon_s}", where="horizon_s", remedy="give seconds above 0, or None")
    require_legal_plan(model, cluster, plan)
    make_router(plan)  # a bad routing is refused before tables are made
    for entry, (shape, _) in enumerate(plan.instances):
        require_lengths(workload.requests, shape.scheduler, may_serve(plan, workload.requests, entry))
        owners_of(workload.requests, shape.scheduler)
    compiled = compiled or compile_plan(model, cluster, plan, cost)
    needs_reference = reference or horizon_s is not None or policy is not None or order is not None
    serve = None if needs_reference else compiled_way(plan, workload)
    if serve:
        result = serve(plan, workload, compiled, origin_of(cost, plan))
    else:
        fleet = Fleet(plan, workload, compiled, check=check, policy=policy, order=order)
        fleet.run(horizon_s)
        result = fleet.result(origin_of(cost, plan))
    if check:
        check_run(result)
    return result


class Fleet:
    """The processes of one run; also the listener that its instances report to."""

    def __init__(
        self,
        plan: Plan,
        workload: Workload,
        compiled: CompiledPlan,
        *,
        check: bool = False,
        policy: Policy | None = None,
        order: OrderMaker | None = None,
    ) -> None:
        self._plan = plan
        self._workload = workload
        self._columns = workload.requests
        self._prompts: list[int] = self._columns.prompt_tokens.tolist()
        self._outputs: list[int] = self._columns.output_tokens.tolist()
        self._env = simpy.Environment()
        self._route = make_router(plan)
        self._shapes = plan.expand()
        self._memories = [compiled[shape][0] for shape in self._shapes]
        self._instances = [
            ReferenceInstance(
                self._env,
                shape,
                compiled[shape][1],
                compiled[shape][0],
                self,
                policy,
                order=order,
                unit_tokens=self._columns.hash_block_tokens,
                check=check,
                place=place,
                seed=workload.seed or 0,
            )
            for place, shape in enumerate(self._shapes)
        ]
        self._ranks = {shape: queue_ranks(workload, shape.scheduler) for shape in set(self._shapes)}
        self._owners = {shape: owners_of(self._columns, shape.scheduler) for shape in set(self._shapes)}
        n = self._columns.n
        self._outstanding = [0] * len(self._instances)
        self._next = 0
        self._n_in_system = 0
        self._request_seconds = 0.0
        self._last_change_s = 0.0
        self._arrival_s = [math.nan] * n
        self._queued_s = [math.nan] * n
        self._scheduled_s = [math.nan] * n
        self._first_s = [math.nan] * n
        self._finish_s = [math.nan] * n
        self._emitted = [0] * n
        self._preemptions = [0] * n
        self._cached = [0] * n
        self._instance = [-1] * n
        self._status = [RUNNING] * n
        self._reasons: list[tuple[int, str]] = []

    def run(self, horizon_s: float | None) -> None:
        """Run to the horizon, or until nothing is left to do; a step under way at the horizon is counted to its end.

        Raises
        ------
        InvariantError : nothing is left to do and requests have not ended (INV-1).
        """
        stop_s = math.inf if horizon_s is None else horizon_s
        start_process(self._env, self._arrivals())
        while self._env.peek() < stop_s:
            self._env.step()
        over = self._env.peek() == math.inf
        if over and (lost := self._status.count(RUNNING)):
            raise InvariantError(1, f"{lost} requests never ended")
        for sequence in (each for instance in self._instances for each in instance.unfinished()):
            self._preemptions[sequence.request] = sequence.n_preemptions
        device_s = max(max(instance.pipeline.free_s) for instance in self._instances)
        self._count_in_system(0, max(self._env.now if over else stop_s, self._last_change_s, device_s))

    def _arrivals(self) -> Process:
        load = self._workload.load
        first = self._columns.n if load.concurrency is None else load.concurrency
        self._next = min(first, self._columns.n)
        arrivals_s = self._columns.arrival_s.tolist() if load.kind == "trace" else [0.0] * self._next
        for request, arrival_s in enumerate(arrivals_s):
            if request == 0 or arrival_s > self._env.now:
                yield from wait_until(self._env, arrival_s)
                yield Turn(self._env, ARRIVALS)
            self._arrive(request, arrival_s)

    def _arrive(self, request: int, now_s: float) -> None:
        self._arrival_s[request] = now_s
        self._count_in_system(+1, now_s)
        target = self._route(self._prompts[request], self._outstanding)
        self._outstanding[target] += 1
        self._instance[request] = target
        host = self._shapes[target].preset.host
        delay_s = host.frontend_s + host.prompt_token_s * self._prompts[request]
        self._env.timeout(delay_s).callbacks.append(lambda _: self._await_turn(request, target))

    def _await_turn(self, request: int, target: int) -> None:
        """Let batches that end at this instant end first."""
        Turn(self._env, ARRIVALS).callbacks.append(lambda _: self._enqueue(request, target))

    def _enqueue(self, request: int, target: int) -> None:
        self._queued_s[request] = self._env.now
        prompt = self._prompts[request]
        shape = self._shapes[target]
        room = shape.scheduler.max_model_len - prompt
        limit = int(self._columns.max_output_tokens[request])
        self._instances[target].submit(
            request,
            prompt,
            min(limit, room) if limit else room,
            self._columns.full_blocks(request),
            float(self._ranks[shape][request]),
            owners[request] if (owners := self._owners[shape]) else "",
        )

    def _count_in_system(self, change: int, now_s: float) -> None:
        self._request_seconds += self._n_in_system * (now_s - self._last_change_s)
        self._last_change_s = now_s
        self._n_in_system += change

    def scheduled(self, request: int, now_s: float) -> None:
        """Take note that the request was first picked for a step."""
        if math.isnan(self._scheduled_s[request]):
            self._scheduled_s[request] = now_s

    def token(self, request: int, now_s: float) -> bool:
        """Take in one output token; return whether it is the request's last."""
        self._emitted[request] += 1
        if self._emitted[request] == 1:
            self._first_s[request] = now_s
        return self._emitted[request] == self._outputs[request]

    def finished(self, sequence: Sequence, now_s: float) -> None:
        """Take note of the end of a request."""
        self._finish_s[sequence.request] = now_s
        self._leave(sequence, FINISHED, now_s)

    def rejected(self, sequence: Sequence, reason: str, now_s: float) -> None:
        """Take note that the engine refuses a request."""
        self._reasons.append((sequence.request, reason))
        self._leave(sequence, REJECTED, now_s)

    def _leave(self, sequence: Sequence, status: int, now_s: float) -> None:
        request = sequence.request
        self._status[request] = status
        self._preemptions[request] = sequence.n_preemptions
        self._cached[request] = sequence.n_cached_tokens
        self._outstanding[self._instance[request]] -= 1
        self._count_in_system(-1, now_s)
        if self._workload.load.kind == "closed" and self._next < self._columns.n:
            self._next += 1
            self._arrive(self._next - 1, now_s)

    def result(self, cost: CostOrigin) -> FleetRun:
        """Return the records of the run."""
        makespan_s = self._last_change_s
        gaps = LatencyHistogram()
        for instance in self._instances:
            gaps.merge(instance.gaps)
        return FleetRun(
            plan=self._plan,
            requests=self._request_records(),
            instances=tuple(self._instance_run(index, makespan_s) for index in range(len(self._instances))),
            gaps=gaps,
            makespan_s=makespan_s,
            request_seconds=self._request_seconds,
            cost_name=cost.name,
            provenance=cost.provenance,
        )

    def _request_records(self) -> RequestRecords:
        return RequestRecords(
            arrival_s=np.array(self._arrival_s),
            queued_s=np.array(self._queued_s),
            scheduled_s=np.array(self._scheduled_s),
            first_token_s=np.array(self._first_s),
            finish_s=np.array(self._finish_s),
            prompt_tokens=self._columns.prompt_tokens,
            output_tokens=self._columns.output_tokens,
            emitted_tokens=np.array(self._emitted, dtype=np.int64),
            n_preemptions=np.array(self._preemptions, dtype=np.int64),
            cached_tokens=np.array(self._cached, dtype=np.int64),
            instance=np.array(self._instance, dtype=np.int64),
            status=np.array(self._status, dtype=np.int8),
            reasons=tuple(self._reasons),
        )

    def _instance_run(self, index: int, makespan_s: float) -> InstanceRun:
        instance, shape = self._instances[index], self._shapes[index]
        stages = []
        for number, meter in enumerate(instance.pipeline.meters):
            n_devices = shape.stages[number].n_devices
            tail_s = makespan_s - instance.pipeline.free_s[number]
            stages.append(
                StageRun(
                    operators_s=meter.operators_s(),
                    idle_s=instance.pipeline.idle_s[number] + tail_s,
                    busy_s=meter.busy_s,
                    n_steps=meter.n_steps,
                    n_devices=n_devices,
                    dynamic_j=meter.dynamic_j * n_devices,
                    idle_j=meter.idle_w * makespan_s * n_devices,
                    shares=tuple(meter.shares()),
                )
            )
        held = sum(queue.pool.n_used for queue in instance.queues)
        return InstanceRun(shape, self._memories[index], tuple(stages), instance.steps, held)
