"""What happens when the instances of a plan depend on each other?  Each runs, compiled, as far as the others allow.

A router that looks at the instances, or a closed loop over several, decides at some time where a request goes; the
request reaches a scheduler no earlier than the shortest time before the queue after that.  So far every instance may
run ahead of what is known, and by that much the fleet's clock moves on: the window of conservative parallel simulation.

References
----------
Chandy and Misra, Distributed simulation: a case study in design and verification of distributed programs, IEEE
Transactions on Software Engineering SE-5 (1979), 440-452: the look-ahead.
"""

from __future__ import annotations

import math

import numpy as np

from apex_sim.cost.device_costs import CostOrigin
from apex_sim.cost.step_model import StepModel
from apex_sim.fleet.router import make_router
from apex_sim.fleet.static_fleet import fleet_run
from apex_sim.instance.driven_instance import DrivenInstance
from apex_sim.plan.memory import Memory
from apex_sim.plan.plan import Plan
from apex_sim.plan.shape import Shape
from apex_sim.record.run import FleetRun
from apex_sim.workload.workload import Workload

#: Ranks at one instant, as in `apex_sim.instance.clock`: ends, arrivals, decisions.
_ENDS, _ARRIVALS, _DECISIONS = 0, 1, 2


def look_ahead_s(plan: Plan, workload: Workload) -> float:
    """Return the shortest time between a request's arrival and its scheduler."""
    shortest = int(workload.requests.prompt_tokens.min(initial=0 if workload.requests.n == 0 else 1 << 60))
    hosts = [shape.preset.host for shape, _ in plan.instances]
    return min(host.frontend_s + host.prompt_token_s * shortest for host in hosts)


def may_depend(plan: Plan, workload: Workload) -> bool:
    """Whether dependent instances can run compiled: they can look ahead, and need nothing that only the reference has.

    That is, here: orders other than first come, first served, a limit to who may wait, and prefixes.
    """
    hashed = workload.requests.hash_block_tokens is not None
    for shape, _ in plan.instances:
        settings = shape.scheduler
        if settings.sorts_queue or settings.max_num_waiting is not None or (settings.prefix_cache and hashed):
            return False
    return look_ahead_s(plan, workload) > 0


def serve_dependently(
    plan: Plan, workload: Workload, compiled: dict[Shape, tuple[Memory, StepModel]], cost: CostOrigin
) -> FleetRun:
    """Serve `workload` to the end; `look_ahead_s` must be above 0.

    Raises
    ------
    InvariantError : INV-1, if requests can never end.
    """
    fleet = _Fleet(plan, workload, compiled)
    fleet.run()
    served = [instance.result() for instance in fleet.instances]
    return fleet_run(plan, workload, compiled, cost, served, np.array(fleet.turn, dtype=np.int64))


class _Fleet:
    """Instances, the router, and who is next to arrive."""

    def __init__(self, plan: Plan, workload: Workload, compiled: dict[Shape, tuple[Memory, StepModel]]) -> None:
        columns, load = workload.requests, workload.load
        self._n = columns.n
        self._prompts, self._outputs = columns.prompt_tokens.tolist(), columns.output_tokens.tolist()
        self._limits = columns.max_output_tokens.tolist()
        self._is_closed = load.concurrency is not None
        first = min(self._n, load.concurrency or self._n)
        #: Arrivals that are known; in a closed loop those of the start.
        self._arrivals_s = columns.arrival_s.tolist() if load.kind == "trace" else [0.0] * first
        self._look_ahead_s = look_ahead_s(plan, workload)
        self._route = make_router(plan)
        self._shapes = plan.expand()
        self.instances = [
            DrivenInstance(shape, compiled[shape][1], compiled[shape][0], self._n, workload.seed or 0, place)
            for place, shape in enumerate(self._shapes)
        ]
        self._outstanding = [0] * len(self.instances)
        self.turn: list[int] = []

    def run(self) -> None:
        """Move all instances on, window by window, until every request has left."""
        self._arrive_until(0.0)
        while len(self.turn) < self._n:
            until_s = self._sure_until_s()
            events = [
                (time_s, _DECISIONS if rejected else _ENDS, place)
                for place, instance in enumerate(self.instances)
                for time_s, rejected, _ in instance.run_until(until_s)
            ]
            for time_s, rank, place in sorted(events):
                self._arrive_until(time_s, rank)
                self._outstanding[place] -= 1
                if self._is_closed and len(self.turn) < self._n:
                    self._arrive(time_s)
            self._arrive_until(math.nextafter(until_s, 0.0))
        for instance in self.instances:
            instance.run_until(math.inf)

    def _sure_until_s(self) -> float:
        """Return before when no request can reach a scheduler that was not routed yet."""
        n_known = len(self._arrivals_s)
        if len(self.turn) < n_known:
            return self._arrivals_s[len(self.turn)] + self._look_ahead_s
        return min(instance.quiet_until_s for instance in self.instances) + self._look_ahead_s

    def _arrive_until(self, time_s: float, rank: int = _DECISIONS) -> None:
        """Route the known arrivals up to `time_s`, those at that time only if `rank` comes after arrivals."""
        while len(self.turn) < len(self._arrivals_s):
            arrival_s = self._arrivals_s[len(self.turn)]
            if arrival_s > time_s or (arrival_s == time_s and rank < _ARRIVALS):
                return
            self._arrive(arrival_s)

    def _arrive(self, now_s: float) -> None:
        number = len(self.turn)
        place = self._route(self._prompts[number], self._outstanding)
        self.turn.append(place)
        self._outstanding[place] += 1
        prompt, limit, shape = self._prompts[number], self._limits[number], self._shapes[place]
        room, host = shape.scheduler.max_model_len - prompt, shape.preset.host
        queued_s = now_s + (host.frontend_s + host.prompt_token_s * prompt)
        self.instances[place].submit(
            number, prompt, self._outputs[number], min(limit, room) if limit else room, now_s, queued_s
        )
