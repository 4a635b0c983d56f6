"""What do a run's records amount to?"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from apex_sim.hardware.cluster import Cluster
from apex_sim.metrics.definitions import LATENCIES, QUANTILES, Metrics
from apex_sim.metrics.slo import Slo
from apex_sim.plan.plan import Plan
from apex_sim.record.request_records import REJECTED, RequestRecords
from apex_sim.record.run import FleetRun
from apex_sim.units import SECONDS_PER_HOUR


def summarise(run: FleetRun, cluster: Cluster, slo: Slo) -> Metrics:
    """Return every metric of `run`, pooled over all its instances; None where the run does not define it.

    References
    ----------
    docs/metrics.md gives each definition in symbols.
    """
    requests, makespan_s = run.requests, run.makespan_s
    n_output = int(requests.emitted_tokens.sum())
    n_total = n_output + int(requests.prompt_tokens[requests.finished].sum())
    usd_per_h = plan_usd_per_h(run.plan, cluster)
    usd = usd_per_h * makespan_s / SECONDS_PER_HOUR
    device_s = run.plan.n_devices * makespan_s
    busy_s = sum(stage.busy_s * stage.n_devices for instance in run.instances for stage in instance.stages)
    kept = int(slo.kept_by(requests).sum())
    return {
        **_latencies(run),
        "output_tokens_per_s": _ratio(n_output, makespan_s),
        "total_tokens_per_s": _ratio(n_total, makespan_s),
        "requests_per_s": _ratio(int(requests.finished.sum()), makespan_s),
        "goodput_per_s": _ratio(kept, makespan_s),
        "slo_attainment_frac": kept / len(requests.status),
        "makespan_s": makespan_s,
        "usd": usd,
        "usd_per_h": usd_per_h,
        "usd_per_million_output_tokens": _ratio(usd * 1e6, n_output),
        "energy_j": run.energy_j,
        "energy_per_output_token_j": _ratio(run.energy_j, n_output),
        "power_mean_w": _ratio(run.energy_j, makespan_s),
        "busy_frac": _ratio(busy_s, device_s),
        "kv_used_max_frac": _kv_used_max_frac(run),
        "n_preemptions": float(requests.n_preemptions.sum()),
        "n_finished": float(requests.finished.sum()),
        "n_rejected": float((requests.status == REJECTED).sum()),
    }


def plan_usd_per_h(plan: Plan, cluster: Cluster) -> float:
    """Return what the plan's devices cost, each at the price of its type."""
    devices = dict.fromkeys(shape.device for shape, _ in plan.instances)
    return sum(plan.n_devices_of(name) * cluster.pool(name).device.price_usd_per_h for name in devices)


def _latencies(run: FleetRun) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    for latency in LATENCIES:
        if latency == "itl":
            values["itl_mean_s"] = _defined(run.gaps.mean_s)
            values |= {f"itl_{name}_s": _defined(run.gaps.quantile_s(q)) for name, q in QUANTILES.items()}
            continue
        sample = latency_sample_s(run.requests, latency)
        values[f"{latency}_mean_s"] = float(sample.mean()) if sample.size else None
        quantiles = np.quantile(sample, list(QUANTILES.values())).tolist() if sample.size else [None] * len(QUANTILES)
        values |= {f"{latency}_{name}_s": value for name, value in zip(QUANTILES, quantiles, strict=True)}
    return values


def latency_sample_s(requests: RequestRecords, latency: str) -> NDArray[np.float64]:
    """Return "ttft", "tpot" or "e2e" of the finished requests for which it is defined."""
    column: NDArray[np.float64] = getattr(requests, f"{latency}_s")[requests.finished]
    return column[~np.isnan(column)]


def _kv_used_max_frac(run: FleetRun) -> float | None:
    shares = [
        instance.steps.most_blocks_used / instance.memory.n_blocks for instance in run.instances if len(instance.steps)
    ]
    return max(shares) if shares else None


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
