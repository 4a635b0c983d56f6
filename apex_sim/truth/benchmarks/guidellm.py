"""What did GuideLLM measure?  A report holds one benchmark for each load.

Keys as of GuideLLM 0.4 to 0.8, src/guidellm/benchmark/schemas/generative/{report,benchmark,metrics}.py,
src/guidellm/schemas/request_stats.py and src/guidellm/scheduler/strategies.py: milliseconds where a key ends in _ms,
else seconds.  Its inter_token_latency_ms is a request's (last - first token) / (outputs - 1), our TPOT, each request
weighing as many times as it has gaps; its time_per_output_token_ms includes the first token and is not used.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from apex_sim.errors import InputError, UnsupportedError
from apex_sim.truth.benchmarks.benchmark_run import BenchmarkRun, Lengths, RequestTimes, summarise_times
from apex_sim.truth.benchmarks.fields import MILLISECOND_S, Fields


def is_guidellm(data: dict[str, Any]) -> bool:
    """Return whether the document looks like a GuideLLM report."""
    runs = data.get("benchmarks")
    return isinstance(runs, list) and all(isinstance(run, dict) and "metrics" in run for run in runs)


def read_guidellm(data: dict[str, Any], where: str) -> list[BenchmarkRun]:
    """Return the runs of a report.

    Raises
    ------
    InputError : no benchmark, a key is missing or no number, or no request succeeded.
    UnsupportedError : a load that cannot be replayed.
    """
    if not data["benchmarks"]:
        raise InputError("no benchmark in the report", where=where, remedy="give the report of a finished run")
    return [_run(Fields(run, where, f"benchmarks[{i}].")) for i, run in enumerate(data["benchmarks"])]


def _run(fields: Fields) -> BenchmarkRun:
    metrics = fields.table("metrics")
    n_requests = metrics.table("request_totals").count("successful")
    measured: dict[str, float] = {}
    for name, latency, unit_s in (
        ("time_to_first_token_ms", "ttft", MILLISECOND_S),
        ("inter_token_latency_ms", "tpot", MILLISECOND_S),
        ("request_latency", "e2e", 1.0),
    ):
        good = metrics.table(name).table("successful")
        values = {
            "mean": good.number("mean"),
            "median": good.number("median"),
            "p99": good.table("percentiles").number("p99"),
        }
        measured |= {f"{latency}_{key}_s": value * unit_s for key, value in values.items() if value}
    weighted_mean_s = measured.pop("tpot_mean_s", None)  # weighted by gaps: the mean over all gaps
    measured.pop("e2e_median_s", None)
    measured.pop("e2e_p99_s", None)
    if weighted_mean_s is not None:
        measured["itl_mean_s"] = weighted_mean_s
    rate = metrics.table("output_tokens_per_second").table("successful").number("mean")
    if rate:
        measured["output_tokens_per_s"] = rate
    times = _times(fields)
    if times is not None and len(times.ttft_s) == n_requests:
        measured |= summarise_times(times)
    else:
        times = None
    kind, concurrency, rate_per_s = _load(fields)
    return BenchmarkRun(
        where=f"{fields.where}, {fields.path.rstrip('.')}",
        tool="GuideLLM",
        model=fields.table("config").table("backend").text("model"),
        load_kind=kind,
        concurrency=concurrency,
        rate_per_s=rate_per_s,
        n_requests=n_requests,
        prompts=_lengths(metrics, "prompt_token_count"),
        outputs=_lengths(metrics, "output_token_count"),
        measured=measured,
        times=times,
        notes=("requests outside the tool's measuring window are not in its figures, and are not replayed",),
    )


def _load(fields: Fields) -> tuple[str, int | None, float | None]:
    strategy = fields.table("config").table("strategy")
    match strategy.text("type_"):
        case "synchronous":
            return "closed", 1, None
        case "concurrent":
            return "closed", strategy.count("streams"), None
        case "poisson":
            return "poisson", None, strategy.needed("rate")
        case "constant":
            return "fixed_rate", None, strategy.needed("rate")
        case "throughput" if strategy.number("max_concurrency"):
            return "closed", strategy.count("max_concurrency"), None
        case "throughput":
            return "offline", None, None
        case other:
            raise UnsupportedError(
                f"a load of type {other!r} is not replayed yet",
                where=strategy.key("type_"),
                remedy="measure with concurrent, synchronous, constant, poisson or throughput",
            )


def _lengths(metrics: Fields, name: str) -> Lengths:
    good = metrics.table(name).table("successful")
    return Lengths(good.needed("mean"), good.number("min"), good.number("max"))


def _times(fields: Fields) -> RequestTimes | None:
    """Return the requests of the report; None where it has none, or only some of their times."""
    listed = fields.table("requests").data.get("successful")
    if not isinstance(listed, list) or not listed or not all(isinstance(row, dict) for row in listed):
        return None
    keys = ("request_start_time", "prompt_tokens", "output_tokens", "time_to_first_token_ms", "request_latency")
    rows = [Fields(row, fields.where, f"{fields.path}requests.successful[{i}].") for i, row in enumerate(listed)]
    if not all(row.has(*keys) for row in rows):
        return None
    table = np.array([[row.needed(key) for key in keys] for row in rows])
    table = table[np.argsort(table[:, 0], kind="stable")]
    return RequestTimes(
        table[:, 1].astype(np.int64),
        table[:, 2].astype(np.int64),
        table[:, 3] * MILLISECOND_S,
        table[:, 4],
        table[:, 0] - table[0, 0],
    )
