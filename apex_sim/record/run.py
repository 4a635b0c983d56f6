"""What came out of one simulation: the request rows, and what each instance did."""

from __future__ import annotations

from dataclasses import dataclass

from apex_sim.cost.meter import OperatorShare
from apex_sim.plan.memory import Memory
from apex_sim.plan.plan import Plan
from apex_sim.plan.shape import Shape
from apex_sim.record.latency_histogram import LatencyHistogram
from apex_sim.record.request_records import RequestRecords
from apex_sim.record.step_records import StepRecords


@dataclass(frozen=True, slots=True)
class StageRun:
    """One pipeline stage over the run; times are seconds of each of its devices, energy is of all of them.

    `operators_s` holds exposed times (kernels by operator, launch, host); with `idle_s` they add up to the makespan.
    `shares` splits the kernels by what their prices rest on.
    """

    operators_s: dict[str, float]
    idle_s: float
    busy_s: float
    n_steps: int
    n_devices: int
    dynamic_j: float
    idle_j: float
    shares: tuple[OperatorShare, ...] = ()

    @property
    def energy_j(self) -> float:
        """All energy of the stage's devices."""
        return self.dynamic_j + self.idle_j


@dataclass(frozen=True, slots=True)
class InstanceRun:
    """One instance over the run."""

    shape: Shape
    memory: Memory
    stages: tuple[StageRun, ...]
    steps: StepRecords
    n_blocks_held_at_end: int

    @property
    def energy_j(self) -> float:
        """All energy of the instance's devices."""
        return sum(stage.energy_j for stage in self.stages)


@dataclass(frozen=True, slots=True)
class FleetRun:
    """One plan on one workload.

    `engine` is "compiled" or "reference"; `makespan_s` runs from t=0 to the last event; `request_seconds` is the
    integral of the number of requests in the system, kept while the run lasted.
    """

    plan: Plan
    requests: RequestRecords
    instances: tuple[InstanceRun, ...]
    gaps: LatencyHistogram
    makespan_s: float
    request_seconds: float
    cost_name: str
    provenance: str
    engine: str = "reference"

    @property
    def energy_j(self) -> float:
        """All energy of the plan's devices."""
        return sum(instance.energy_j for instance in self.instances)

    @property
    def mean_users(self) -> float:
        """Mean number of requests in an instance's part of the system while the run lasted, waiting ones included."""
        return self.request_seconds / self.makespan_s / len(self.instances)

    def operators_s(self) -> dict[str, float]:
        """Return exposed device-seconds by operator, host and idle over all devices of the plan."""
        total: dict[str, float] = {}
        for instance in self.instances:
            for stage in instance.stages:
                for name, seconds in (*stage.operators_s.items(), ("idle", stage.idle_s)):
                    total[name] = total.get(name, 0.0) + seconds * stage.n_devices
        return total
