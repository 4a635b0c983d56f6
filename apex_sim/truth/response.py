"""By how much does each metric of a plan answer when its steps take longer?

Measured by simulating the plan again, so that queueing amplifies an error of step times as much as it does on a server.
The requests are the same (common random numbers).  That everything takes longer by a factor needs no other tables: it
is the same as requests that come closer together by that factor, on a slower clock.  Loads without arrivals need not
even be simulated for it: all their times just scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from apex_sim.cost.device_costs import DeviceCosts
from apex_sim.fleet.compiled_plan import CompiledPlan, with_preset
from apex_sim.fleet.fleet import simulate_plan
from apex_sim.hardware.cluster import Cluster
from apex_sim.metrics.definitions import Metrics
from apex_sim.metrics.slo import Slo
from apex_sim.metrics.summary import summarise
from apex_sim.model.model import Model
from apex_sim.plan.plan import Plan
from apex_sim.preset.preset import Preset
from apex_sim.record.run import FleetRun
from apex_sim.truth.metric_class import class_of
from apex_sim.workload.workload import Workload

#: How much slower, as a log: small beside what turns a steady plan into an overloaded one, large beside the grain of
#: batches.
_CHANGE_LOG: Final = 0.05
#: Loads that are longer by half than this are cut to so many first requests: what a response costs must not grow with
#: the load.
_ENOUGH_REQUESTS: Final = 200
#: By how much a metric's log grows with the clock's, where not 1; latencies, makespan and what is paid by the hour do.
_CLOCK: Final = {
    **dict.fromkeys(("output_tokens_per_s", "total_tokens_per_s", "requests_per_s", "goodput_per_s"), -1.0),
    **dict.fromkeys(("slo_attainment_frac", "power_mean_w"), 0.0),
}
#: What of device time is no kernel: an error of kernel times leaves it as it is.
_NO_KERNEL: Final = ("host", "launch")


@dataclass(frozen=True, slots=True)
class Served:
    """A plan with what it was compiled to, and what happened when it served its load."""

    model: Model
    cluster: Cluster
    workload: Workload
    cost: DeviceCosts
    slo: Slo
    compiled: CompiledPlan
    run: FleetRun


@dataclass(frozen=True, slots=True)
class Response:
    """Change of a metric's log for each change of a log: of kernels in prompt steps and in decode steps, and of all.

    `gain` is the answer when everything takes longer, the host included: 1 where latencies just scale, more where a
    queue grows, 0 for the throughput of a plan that keeps up with its arrivals.
    """

    prompt: float
    decode: float
    gain: float


def responses(served: Served) -> dict[str, Response]:
    """Return the response of each metric of `served` that has an interval and is above 0.

    The kernels of decode steps get what prompts leave of the gain, without the share of host and launches.
    """
    short, base = _shortened(served)
    slower_prompts = _under(short, _slower_prompts)
    denser = _denser(short) if short.workload.load.kind == "trace" else base
    kernel_frac = _kernel_frac(served.run)
    found = {}
    for name, value in base.items():
        after, close = slower_prompts[name], denser[name]
        if class_of(name) is None or not value or not after or not close:
            continue
        prompt = math.log(after / value) / _CHANGE_LOG
        gain = math.log(close / value) / _CHANGE_LOG + _CLOCK.get(name, 1.0)
        found[name] = Response(prompt, (gain - prompt) * kernel_frac, gain)
    return found


def _kernel_frac(run: FleetRun) -> float:
    spent = run.operators_s()
    busy_s = sum(seconds for name, seconds in spent.items() if name != "idle")
    return 1.0 - sum(spent.get(name, 0.0) for name in _NO_KERNEL) / busy_s if busy_s else 0.0


def _shortened(served: Served) -> tuple[Served, Metrics]:
    """Return `served` with the first of its requests if there are many, and its metrics."""
    requests = served.workload.requests
    if requests.n <= 1.5 * _ENOUGH_REQUESTS:
        return served, summarise(served.run, served.cluster, served.slo)
    short = replace(served, workload=replace(served.workload, requests=requests.head(_ENOUGH_REQUESTS)))
    return short, _metrics(short, served.run.plan, served.compiled, short.workload)


def _denser(served: Served) -> Metrics:
    """Return the metrics, on the slower clock, when requests come closer together."""
    requests = served.workload.requests
    workload = replace(
        served.workload, requests=requests.arriving(requests.arrival_s * math.exp(-_CHANGE_LOG)), rate_per_s=None
    )
    return _metrics(served, served.run.plan, served.compiled, workload)


def _under(served: Served, change: Callable[[Preset], Preset]) -> Metrics:
    plan, compiled = with_preset(served.run.plan, served.compiled, change)
    return _metrics(served, plan, compiled, served.workload)


def _metrics(served: Served, plan: Plan, compiled: CompiledPlan, workload: Workload) -> Metrics:
    run = simulate_plan(served.model, served.cluster, plan, workload, served.cost, compiled=compiled)
    return summarise(run, served.cluster, served.slo)


def _slower_prompts(preset: Preset) -> Preset:
    factors = preset.factors
    return replace(preset, factors=replace(factors, prompt=factors.prompt * math.exp(_CHANGE_LOG)))
