"""What is the cheapest single change that mends a plan?  Each one is tried in simulation, until one keeps every limit.

Changes are tried in the order of what they add to the price, then of how much they disturb: another router, other
scheduler settings, another split of the same devices, narrower numbers (whose accuracy is not judged here), more
instances; the last resort is less traffic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from apex_sim.errors import InfeasiblePlanError, InputError
from apex_sim.fleet.router import BLIND_ROUTERS, ROUTERS
from apex_sim.hardware.cluster import MAX_DEVICES, Cluster
from apex_sim.instance.policies import CACHING_POLICIES
from apex_sim.metrics.definitions import Metrics
from apex_sim.plan.plan import Plan
from apex_sim.plan.precision import Precision
from apex_sim.plan.shape import SchedulerSettings, Shape
from apex_sim.planner.capacity import highest_rate
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.study import Study
from apex_sim.planner.trial import try_decided
from apex_sim.truth.calibration.profile_support import require_same_server

#: How much a change disturbs, the least first.
KINDS: Final = ("router", "scheduler", "split", "precision", "instances", "rate")
_ACCURACY: Final = "; the accuracy of its answers is not judged"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a plan; `cluster` is what it then needs, `usd_per_h` what it adds to the price."""

    kind: str
    words: str
    plan: Plan
    cluster: Cluster
    usd_per_h: float


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of one change; `metrics` is None where it cannot run."""

    kind: str
    words: str
    usd_per_h: float
    keeps: bool
    verdict: str
    plan: Plan
    metrics: Metrics | None

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` says."""
        return {
            "kind": self.kind,
            "change": self.words,
            "added_usd_per_h": self.usd_per_h,
            "keeps": self.keeps,
            "verdict": self.verdict,
            "plan": self.plan.as_dict(),
            "metrics": dict(self.metrics) if self.metrics else None,
        }


def try_changes(study: Study, plan: Plan) -> tuple[Tried, ...]:
    """Return the changes of `plan` that were tried, the last of which keeps every limit if any does."""
    changes = sorted(changes_of(study, plan), key=lambda each: (each.usd_per_h, KINDS.index(each.kind)))
    tried = []
    for change in changes:
        tried.append(_try(study, change))
        if tried[-1].keeps:
            return tuple(tried)
    return (*tried, *_less_traffic(study, plan))


def changes_of(study: Study, plan: Plan) -> Iterator[Change]:
    """Yield every single change of `plan` that is tried, in no order, but for the rate."""
    yield from _router(study, plan)
    yield from _scheduler(study, plan)
    yield from _splits(study, plan)
    yield from _precisions(study, plan)
    yield from _instances(study, plan)


def _try(study: Study, change: Change) -> Tried:
    try:
        if study.profile:
            require_same_server(study.profile, [shape for shape, _ in change.plan.instances], study.model.name)
        trial = try_decided(replace(study, cluster=change.cluster), change.plan)
    except (InfeasiblePlanError, InputError) as error:
        verdict, keeps, metrics = f"cannot run: {error}", False, None
    else:
        verdict, keeps, metrics = trial.verdict, trial.keeps, trial.metrics
    return Tried(change.kind, change.words, change.usd_per_h, keeps, verdict, change.plan, metrics)


def _router(study: Study, plan: Plan) -> Iterator[Change]:
    """Yield routers that look at the instances, where the plan's does not."""
    if plan.n_instances > 1 and plan.router in BLIND_ROUTERS:
        for name in ROUTERS:
            if name not in BLIND_ROUTERS:
                yield Change("router", f"router {name}", replace(plan, router=name), study.cluster, 0.0)


def _scheduler(study: Study, plan: Plan) -> Iterator[Change]:
    """Yield other token budgets and seats, and the prefix cache where prompts have hashes."""
    (first, _), *_ = plan.instances
    settings = first.scheduler
    budget, seats = settings.max_num_batched_tokens, settings.max_num_seqs
    for n_tokens in (budget // 4, budget // 2, 2 * budget):
        if n_tokens >= seats:
            change = partial(replace, max_num_batched_tokens=n_tokens)
            yield _settings(study, plan, f"max_num_batched_tokens {n_tokens:,}, was {budget:,}", change)
    for n_seats in (seats // 2, 2 * seats):
        if 0 < n_seats <= budget:
            change = partial(replace, max_num_seqs=n_seats)
            yield _settings(study, plan, f"max_num_seqs {n_seats:,}, was {seats:,}", change)
    has_hashes = study.workload.requests.hash_block_tokens is not None
    if has_hashes and not settings.prefix_cache and settings.policy in CACHING_POLICIES:
        yield _settings(study, plan, "prefix cache on", lambda each: replace(each, prefix_cache=True))


def _settings(study: Study, plan: Plan, words: str, change: Callable[[SchedulerSettings], SchedulerSettings]) -> Change:
    changed = _with_shapes(plan, lambda shape: replace(shape, scheduler=change(shape.scheduler)))
    return Change("scheduler", words, changed, study.cluster, 0.0)


def _with_shapes(plan: Plan, change: Callable[[Shape], Shape]) -> Plan:
    return replace(plan, instances=tuple((change(shape), count) for shape, count in plan.instances))


def _splits(study: Study, plan: Plan) -> Iterator[Change]:
    """Yield the other splits of as many devices, with the numbers and settings of the study."""
    (first, _), *_ = plan.instances
    update: dict[str, Any] = {
        **{key: [] for key in ("tp", "pp", "dp", "layers")},
        "weight_dtypes": [first.precision.weight],
        "kv_dtypes": [first.precision.kv],
        "router": plan.router,
        "allow_idle": plan.n_devices < study.cluster.n_devices,
    }
    if study.profile:  # is of this very server
        return
    for other in enumerate_space(replace(study, space=study.space.model_copy(update=update))).feasible:
        if other.n_devices == plan.n_devices and other.label != plan.label:
            yield Change("split", f"split {other.label}", other, study.cluster, 0.0)


def _precisions(study: Study, plan: Plan) -> Iterator[Change]:
    (first, _), *_ = plan.instances
    now = first.precision
    options = [("KV cache", replace(now, kv="fp8"))] if now.kv == "bf16" else []
    if now.weight == "bf16" and "fp8" in study.cluster.device.peak_flops:
        options.append(("weights", Precision("fp8", now.kv)))
    for what, precision in options:
        changed = _with_shapes(plan, lambda shape, to=precision: replace(shape, precision=to))  # type: ignore[misc]
        yield Change("precision", f"fp8 {what}{_ACCURACY}", changed, study.cluster, 0.0)


def _instances(study: Study, plan: Plan) -> Iterator[Change]:
    """Yield one more instance, and twice as many, on a cluster with nodes for them."""
    (first, count), *others = plan.instances
    for n_more in dict.fromkeys((1, count)):
        changed = replace(plan, instances=((first, count + n_more), *others))
        if changed.n_devices <= MAX_DEVICES:
            words = f"{n_more} more instance{'s' if n_more > 1 else ''} (DP{count + n_more})"
            usd_per_h = n_more * first.n_devices * study.cluster.device.price_usd_per_h
            yield Change("instances", words, changed, _with_room(study.cluster, changed.n_devices), usd_per_h)


def _with_room(cluster: Cluster, n_devices: int) -> Cluster:
    """Return the cluster with as many nodes as `n_devices` take."""
    if n_devices <= cluster.n_devices:
        return cluster
    n_nodes = math.ceil(n_devices / cluster.n_devices_per_node)
    return replace(cluster, name=f"{n_nodes}x{cluster.n_devices_per_node}x{cluster.device.name}", n_nodes=n_nodes)


def _less_traffic(study: Study, plan: Plan) -> tuple[Tried, ...]:
    """Return at which rate the plan keeps every limit on the study's own draw, if the load has a rate that can sink."""
    if study.workload.load.kind != "trace" or not study.workload.requests.rate_per_s:
        return ()
    capacity = highest_rate(study, plan, n_draws=1)
    if capacity.keeps_per_s is None:
        verdict, keeps = f"keeps the limits at no rate: {capacity.judgements[0].verdict}", False
        return (Tried("rate", "less traffic", 0.0, keeps, verdict, plan, None),)
    words = f"{capacity.keeps_per_s:.3g} instead of {capacity.offered_per_s:.3g} requests per second"
    return (Tried("rate", words, 0.0, True, "keeps every limit", plan, None),)
