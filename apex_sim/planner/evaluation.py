"""How does one plan do on the study's workload?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from apex_sim.cost.calibrated import best_cost_model, calibrated_costs
from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.device_costs import DeviceCosts
from apex_sim.cost.roofline import Roofline
from apex_sim.errors import InputError
from apex_sim.fleet.compiled_plan import CompiledPlan, compile_plan, why_reference
from apex_sim.fleet.fleet import simulate_plan
from apex_sim.fleet.router import BLIND_ROUTERS, make_router
from apex_sim.hardware.device import Device
from apex_sim.instance.reference import OrderMaker, Policy
from apex_sim.metrics.capacity import workload_capacity_per_s
from apex_sim.metrics.cost_basis import CostShare, cost_shares
from apex_sim.metrics.definitions import Metrics
from apex_sim.metrics.stability import Stability, judge_stability
from apex_sim.metrics.summary import latency_sample_s, summarise
from apex_sim.plan.plan import Plan
from apex_sim.plan.shape import Shape
from apex_sim.planner.study import Study
from apex_sim.record.run import FleetRun
from apex_sim.truth.calibration.profile_support import require_near_users
from apex_sim.truth.envelope import Standing, standing_of
from apex_sim.truth.error_bar import Interval, Spread, intervals_of, spread_of
from apex_sim.truth.footing import footing_of
from apex_sim.truth.response import Served
from apex_sim.truth.validated import load_validated
from apex_sim.workload.requests import Requests

#: Cumulative shares at which latency curves are kept for plots.
CURVE_SHARES = tuple(np.linspace(0.0, 1.0, 201).tolist())


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One simulated plan.

    `curves_s` holds quantiles of TTFT, TPOT and E2E at `CURVE_SHARES`, `breakdown_s` exposed device-seconds by operator
    with "host", "launch" and "idle", `memory` the terms of the tightest device, in bytes,
    `engine_reason` what the compiled engine lacks where the reference had to serve.  `intervals` are the error bars by
    metric, made from `spread`; there are none where the reference served, which is too slow to be asked again.
    """

    plan: Plan
    metrics: Metrics
    stability: Stability
    slo_violations: tuple[str, ...]
    breakdown_s: dict[str, float]
    memory: dict[str, float]
    curves_s: dict[str, tuple[float, ...]]
    n_steps: int
    cpu_s: float
    cost_name: str
    provenance: str
    cost_shares: tuple[CostShare, ...] = ()
    engine: str = "reference"
    engine_reason: str = ""
    standing: Standing | None = None
    spread: Spread | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def engine_note(self) -> str:
        """Why the slow engine served; empty if it did not."""
        if self.engine != "reference":
            return ""
        why = f", some thousand times slower than the compiled one, which has no {self.engine_reason}"
        return f"Engine: the readable reference{why if self.engine_reason else ', as asked'}"

    @property
    def why(self) -> str:
        """What decides this plan's result, in one sentence."""
        devices_s = sum(self.breakdown_s.values())
        spent = {name: s / devices_s for name, s in self.breakdown_s.items() if name != "idle"}
        leaders = sorted(spent, key=lambda name: -spent[name])[:3]
        shares = ", ".join(f"{name} {spent[name]:.0%}" for name in leaders)
        idle = self.breakdown_s.get("idle", 0.0) / devices_s
        parts = [f"of device time: {shares}, idle {idle:.0%}"]
        if self.stability.steady is not True:
            parts.insert(0, self.stability.reason)
        parts += self.slo_violations
        return "; ".join(parts)


def cost_model_of(study: Study) -> CostModel:
    """Return the cost back end that the study names, or the best that there is for its first pool's device.

    Raises
    ------
    UnsupportedError : the study names the calibrated back end and no kernel of the device was fitted.
    InputError : it names the measured back end, and neither a folder nor the package with tables is there.
    """
    return study.cost or _back_end(study.cost_model, study.cluster.device, study.kernel_tables)


def costs_of(study: Study) -> DeviceCosts:
    """Return the cost back end of each device type of the study's cluster.

    Raises
    ------
    InputError : the study has a back end of the caller's own, which prices one device type, and several pools.
    UnsupportedError : as in `cost_model_of`.
    """
    pools = study.cluster.pools
    if len(pools) == 1:
        return cost_model_of(study)
    if study.cost:
        raise InputError(
            f"one cost back end of your own for {len(pools)} device types",
            where=f"study {study.name}, cluster {study.cluster.name}",
            remedy="ask for one pool at a time, or hand `compile_plan` and `simulate_plan` one for each device",
        )
    return {pool.device.name: _back_end(study.cost_model, pool.device, study.kernel_tables) for pool in pools}


def cost_name_of(study: Study) -> str:
    """Return the names of the study's cost back ends; errors as in `costs_of`."""
    costs = costs_of(study)
    back_ends = costs.values() if isinstance(costs, Mapping) else (costs,)
    return "+".join(dict.fromkeys(cost.name for cost in back_ends))


@lru_cache(maxsize=16)
def _back_end(name: str | None, device: Device, kernel_tables: Path | None) -> CostModel:
    match name:
        case "roofline":
            return Roofline(device)
        case "calibrated":
            return calibrated_costs(device)
        case "measured":
            from apex_sim.cost.measured.measured_costs import MeasuredCosts
            from apex_sim.cost.measured.parquet_tables import packaged_folder

            return MeasuredCosts(device, kernel_tables or packaged_folder(), best_cost_model(device))
        case _:
            return best_cost_model(device)


def run_plan(
    study: Study,
    plan: Plan,
    *,
    check: bool = False,
    reference: bool = False,
    policy: Policy | None = None,
    order: OrderMaker | None = None,
    compiled: CompiledPlan | None = None,
) -> tuple[FleetRun, CompiledPlan]:
    """Simulate `plan`, one of the study's space, on its workload; return what happened and what it was compiled to.

    `policy`, `order`, `compiled` and errors as in `apex_sim.fleet.fleet.simulate_plan`.

    Raises
    ------
    UnsupportedError : the study's calibration profile was fitted to far fewer or more requests at a time.
    """
    cost = costs_of(study)
    compiled = compiled or compile_plan(study.model, study.cluster, plan, cost)
    run = simulate_plan(
        study.model,
        study.cluster,
        plan,
        study.workload,
        cost,
        check=check,
        reference=reference,
        compiled=compiled,
        policy=policy,
        order=order,
    )
    if study.profile and study.workload.load.concurrency is None:
        require_near_users(study.profile, run.mean_users)
    return run, compiled


def evaluate(
    study: Study,
    plan: Plan,
    *,
    check: bool = False,
    reference: bool = False,
    bars: bool = True,
    compiled: CompiledPlan | None = None,
) -> Evaluation:
    """Simulate `plan` and boil the run down to what ranking and reports need; without `bars` no error bars are made."""
    started = time.process_time()
    run, compiled = run_plan(study, plan, check=check, reference=reference, compiled=compiled)
    return summarise_run(study, run, compiled, time.process_time() - started, bars=bars)


def summarise_run(
    study: Study, run: FleetRun, compiled: CompiledPlan, cpu_s: float, *, bars: bool = True
) -> Evaluation:
    """Boil `run` down to what ranking and reports need."""
    metrics, shares, validated = summarise(run, study.cluster, study.slo), cost_shares(run), load_validated()
    spread = _spread(study, run, compiled) if bars else None
    return Evaluation(
        plan=run.plan,
        metrics=metrics,
        stability=judge_stability(run, study.workload, capacity_per_s(study, run.plan, compiled)),
        slo_violations=tuple(study.slo.violations(metrics)),
        breakdown_s=run.operators_s(),
        memory=min((i.memory for i in run.instances), key=lambda memory: memory.kv_tokens).as_dict(),
        curves_s={name: _curve(run, name) for name in ("ttft", "tpot", "e2e")},
        n_steps=sum(instance.steps.n_steps for instance in run.instances),
        cpu_s=cpu_s,
        cost_name=run.cost_name,
        provenance=run.provenance,
        cost_shares=shares,
        engine=run.engine,
        engine_reason=why_reference(run.plan, study.workload) if run.engine == "reference" else "",
        standing=standing_of(footing_of(study.model, study.workload, run), shares, validated),
        spread=spread,
        intervals=intervals_of(metrics, spread, validated) if spread else {},
    )


def _spread(study: Study, run: FleetRun, compiled: CompiledPlan) -> Spread | None:
    if run.engine == "reference":
        return None
    cost = costs_of(study)
    return spread_of(Served(study.model, study.cluster, study.workload, cost, study.slo, compiled, run))


def capacity_per_s(study: Study, plan: Plan, compiled: CompiledPlan) -> float:
    """Return the estimated capacity of all instances of `plan`, in requests per second.

    Behind a router that does not look at loads it is the rate at which the first entry cannot serve its own.
    """
    requests = study.workload.requests
    if len(plan.instances) == 1 or plan.router not in BLIND_ROUTERS:
        return sum(_entry_capacity_per_s(shape, count, compiled, requests) for shape, count in plan.instances)
    route = make_router(plan)
    served_by = np.array([route(tokens, []) for tokens in requests.prompt_tokens.tolist()])
    entries = np.repeat(np.arange(len(plan.instances)), [count for _, count in plan.instances])[served_by]
    rows = [np.flatnonzero(entries == entry) for entry in range(len(plan.instances))]
    return min(
        _entry_capacity_per_s(shape, count, compiled, requests.take(mine)) * requests.n / len(mine)
        for (shape, count), mine in zip(plan.instances, rows, strict=True)
        if len(mine)
    )


def _entry_capacity_per_s(shape: Shape, count: int, compiled: CompiledPlan, requests: Requests) -> float:
    memory, step_model = compiled[shape]
    return count * workload_capacity_per_s(step_model, memory, requests)


def _curve(run: FleetRun, latency: str) -> tuple[float, ...]:
    sample = latency_sample_s(run.requests, latency)
    return tuple(np.quantile(sample, CURVE_SHARES).tolist()) if sample.size else ()
