"""How much do a run's metrics owe to which requests happened to come?

Consecutive requests form blocks, since neighbours meet in the same queue.  Each block is left out in turn (a block
jackknife): the spread of a metric over the rests is what other requests of the same kind would have changed.  Blocks
are the same for every plan of a study, so that two plans are compared on the same requests.

References
----------
H. R. Künsch, "The jackknife and the bootstrap for general stationary observations", Annals of Statistics 17 (1989).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from apex_sim.metrics.definitions import QUANTILES
from apex_sim.metrics.slo import Slo
from apex_sim.record.request_records import RequestRecords
from apex_sim.record.run import FleetRun
from apex_sim.workload.load_form import LoadForm

N_BLOCKS: Final = 20

Floats = NDArray[np.float64]


def block_deviations(run: FleetRun, load: LoadForm, slo: Slo) -> dict[str, Floats]:
    """Return for each metric the log deviation that each block stands for; their squares add up to the variance.

    Metrics that requests do not sway, or too few of them to tell, are absent.  Throughput of an offline load counts as
    steady: all its requests are known.
    """
    requests = run.requests
    n = len(requests.status)
    if n < 2 * N_BLOCKS:
        return {}
    block = np.arange(n) * N_BLOCKS // n
    values: dict[str, Floats] = {}
    for latency, column in (("ttft", requests.ttft_s), ("tpot", requests.tpot_s), ("e2e", requests.e2e_s)):
        values |= _latency_logs(latency, column, requests.finished & ~np.isnan(column), block)
    for name in [name for name in values if name.startswith("tpot_")]:  # gaps are kept as a histogram without requests
        values[name.replace("tpot_", "itl_")] = values[name]
    values |= _rate_logs(requests, load, slo, block)
    return {name: _deviations(logs) for name, logs in values.items() if np.isfinite(logs).all()}


def _deviations(logs: Floats) -> Floats:
    return np.asarray(math.sqrt((N_BLOCKS - 1) / N_BLOCKS) * (logs - logs.mean()), dtype=np.float64)


def _latency_logs(
    latency: str, column: Floats, known: NDArray[np.bool_], block: NDArray[np.int64]
) -> dict[str, Floats]:
    """Return the logs of mean and quantiles without each block in turn."""
    sample, mine = column[known], block[known]
    if sample.size < 2 * N_BLOCKS or sample.min() <= 0.0:
        return {}
    order = np.argsort(sample, kind="stable")
    sample, mine = sample[order], mine[order]
    shares = np.array(list(QUANTILES.values()))
    rests = [sample[mine != index] for index in range(N_BLOCKS)]
    logs = {f"{latency}_mean_s": np.log([rest.mean() if rest.size else math.nan for rest in rests])}
    at = np.array([_sorted_quantiles(rest, shares) for rest in rests])
    return logs | {f"{latency}_{name}_s": np.log(at[:, index]) for index, name in enumerate(QUANTILES)}


def _sorted_quantiles(sample: Floats, shares: Floats) -> Floats:
    """Return linear quantiles of an ascending sample, as `numpy.quantile` does for any."""
    if not sample.size:
        return np.full(len(shares), math.nan)
    place = shares * (sample.size - 1)
    low = place.astype(np.int64)
    high = np.minimum(low + 1, sample.size - 1)
    below: Floats = sample[low]
    return below + (place - low) * (sample[high] - below)


def _rate_logs(requests: RequestRecords, load: LoadForm, slo: Slo, block: NDArray[np.int64]) -> dict[str, Floats]:
    """Return the logs of rates, costs and energy without each block in turn.

    A closed loop of C users takes (sum of E2E) / C; an open one as long as its arrivals; an offline one as its tokens.
    """
    finished = requests.finished
    weights = {
        "n": finished.astype(np.float64),
        "output": requests.emitted_tokens.astype(np.float64),
        "total": (requests.emitted_tokens + np.where(finished, requests.prompt_tokens, 0)).astype(np.float64),
        "kept": slo.kept_by(requests).astype(np.float64),
    }
    if load.kind == "closed":
        weights["time"] = np.where(finished, requests.e2e_s, 0.0)
    elif load.kind == "trace":
        weights["time"] = np.diff(requests.arrival_s, prepend=0.0)
    else:
        weights["time"] = weights["total"]
    with np.errstate(divide="ignore"):
        left = {key: np.log(w.sum() - np.bincount(block, w, N_BLOCKS)) for key, w in weights.items()}
    if load.kind == "offline":
        left["output"] = left["n"] = left["total"]
    return {
        "output_tokens_per_s": left["output"] - left["time"],
        "total_tokens_per_s": left["total"] - left["time"],
        "requests_per_s": left["n"] - left["time"],
        "goodput_per_s": left["kept"] - left["time"],
        "slo_attainment_frac": left["kept"],
        "makespan_s": left["time"],
        "usd": left["time"],
        "usd_per_million_output_tokens": left["time"] - left["output"],
        "energy_j": left["time"],
        "energy_per_output_token_j": left["time"] - left["output"],
    }
