"""By how much does each metric of a plan answer when its steps take longer?

Measured by simulating the plan again with prompts, decodes or the host five per cent slower, so that queueing amplifies
an error of step times as much as it does on a server.  The requests are the same (common random numbers).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.preset_change import change_preset
from apex_sim.fleet.compiled_plan import CompiledPlan
from apex_sim.fleet.fleet import simulate_plan
from apex_sim.hardware.cluster import Cluster
from apex_sim.metrics.definitions import Metrics
from apex_sim.metrics.slo import Slo
from apex_sim.metrics.summary import summarise
from apex_sim.model.model import Model
from apex_sim.plan.plan import Plan
from apex_sim.plan.shape import Shape
from apex_sim.preset.preset import HostOverhead, Preset
from apex_sim.record.run import FleetRun
from apex_sim.truth.metric_class import metric_class
from apex_sim.workload.workload import Workload

#: How much slower, as a log: small beside what turns a steady plan into an overloaded one, large beside the grain of
#: batches.
_CHANGE_LOG: Final = 0.05
#: Longer loads are cut to their first requests: what a response costs must not grow with the load.
MAX_REQUESTS: Final = 1000


@dataclass(frozen=True, slots=True)
class Served:
    """A plan with what it was compiled to, and what happened when it served its load."""

    model: Model
    cluster: Cluster
    workload: Workload
    cost: CostModel
    slo: Slo
    compiled: CompiledPlan
    run: FleetRun


@dataclass(frozen=True, slots=True)
class Response:
    """Change of a metric's log for each change of the log of prompt steps, decode steps and host time."""

    prompt: float
    decode: float
    host: float

    @property
    def gain(self) -> float:
        """The answer when all three are slower together: 1 where latencies just scale, more where a queue grows."""
        return self.prompt + self.decode + self.host


def responses(served: Served) -> dict[str, Response]:
    """Return the response of each metric of `served` that has an interval and is above 0."""
    short, base = _shortened(served)
    changes: tuple[Callable[[Preset], Preset], ...] = (_slower_prompts, _slower_decodes, _slower_host)
    after = [_metrics_under(short, change) for change in changes]
    found = {}
    for name, value in base.items():
        values = [metrics[name] for metrics in after]
        if metric_class(name) is None or not value or not all(values):
            continue
        found[name] = Response(*(math.log(changed / value) / _CHANGE_LOG for changed in values if changed))
    return found


def _shortened(served: Served) -> tuple[Served, Metrics]:
    """Return `served` with at most `MAX_REQUESTS` of its requests, and its metrics."""
    requests = served.workload.requests
    if requests.n <= MAX_REQUESTS:
        return served, summarise(served.run, served.cluster, served.slo)
    short = replace(served, workload=replace(served.workload, requests=requests.head(MAX_REQUESTS)))
    return short, _metrics_under(short, lambda preset: preset)


def _metrics_under(served: Served, change: Callable[[Preset], Preset]) -> Metrics:
    shapes = {shape: replace(shape, preset=change(shape.preset)) for shape in served.compiled}
    compiled = {
        shapes[shape]: (memory, change_preset(step_model, shapes[shape].preset))
        for shape, (memory, step_model) in served.compiled.items()
    }
    plan = _with_shapes(served.run.plan, shapes)
    run = simulate_plan(served.model, served.cluster, plan, served.workload, served.cost, compiled=compiled)
    return summarise(run, served.cluster, served.slo)


def _with_shapes(plan: Plan, shapes: Mapping[Shape, Shape]) -> Plan:
    return replace(plan, instances=tuple((shapes[shape], count) for shape, count in plan.instances))


def _slower_prompts(preset: Preset) -> Preset:
    factors = preset.factors
    return replace(preset, factors=replace(factors, prompt=factors.prompt * math.exp(_CHANGE_LOG)))


def _slower_decodes(preset: Preset) -> Preset:
    factors = preset.factors
    return replace(preset, factors=replace(factors, decode=factors.decode * math.exp(_CHANGE_LOG)))


def _slower_host(preset: Preset) -> Preset:
    times: dict[str, Any] = {
        field.name: value * math.exp(_CHANGE_LOG)
        for field in fields(HostOverhead)
        if isinstance(value := getattr(preset.host, field.name), float)
    }
    return replace(preset, host=replace(preset.host, **times))
