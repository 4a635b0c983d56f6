"""What did AIPerf, the successor of GenAI-Perf, measure?

Keys as of AIPerf 0.3 to 0.6, src/aiperf/common/models/export_models.py (`JsonExportData`, `JsonMetricResult`): each
metric is an object with its unit and statistics.  Its inter_token_latency is (request latency - TTFT) / (outputs - 1)
of each request, our TPOT.
"""

from __future__ import annotations

from typing import Any, Final

from apex_sim.errors import InputError, UnsupportedError
from apex_sim.truth.benchmarks.benchmark_run import BenchmarkRun, Lengths
from apex_sim.truth.benchmarks.fields import TIME_UNITS, Fields

_STATISTICS: Final = {"mean": "avg", "median": "p50", "p99": "p99"}
_LATENCIES: Final = {"ttft": "time_to_first_token", "tpot": "inter_token_latency", "e2e": "request_latency"}


def is_aiperf(data: dict[str, Any]) -> bool:
    """Return whether the document looks like an AIPerf or GenAI-Perf export."""
    return isinstance(data.get("request_latency"), dict) and "unit" in data["request_latency"]


def read_aiperf(data: dict[str, Any], where: str) -> BenchmarkRun:
    """Return the run of an export.

    Raises
    ------
    InputError : a key is missing or no number, a metric has no unit or an unknown one, or the run was cancelled.
    UnsupportedError : a load that cannot be replayed.
    """
    fields = Fields(data, where)
    if data.get("was_cancelled"):
        raise InputError("the run was cancelled", where=fields.key("was_cancelled"), remedy="measure again")
    measured: dict[str, float] = {}
    for latency, name in _LATENCIES.items():
        metric = fields.table(name)
        for statistic, key in _STATISTICS.items():
            value = metric.number(key)
            if value and (latency != "e2e" or statistic == "mean"):
                measured[f"{latency}_{statistic}_s"] = value * _unit_s(metric)
    throughput = fields.table("output_token_throughput")
    if throughput.number("avg"):
        if not throughput.text("unit").startswith("tokens/s"):
            raise InputError(
                f"unit {throughput.text('unit')!r}", where=throughput.key("unit"), remedy="expected 'tokens/sec'"
            )
        measured["output_tokens_per_s"] = throughput.needed("avg")
    kind, concurrency, rate_per_s = _load(fields.table("input_config"))
    return BenchmarkRun(
        where=where,
        tool="AIPerf",
        model=_model(fields.table("input_config")),
        load_kind=kind,
        concurrency=concurrency,
        rate_per_s=rate_per_s,
        n_requests=fields.table("request_count").count("avg"),
        prompts=_lengths(fields.table("input_sequence_length")),
        outputs=_lengths(fields.table("output_sequence_length")),
        measured=measured,
    )


def _unit_s(metric: Fields) -> float:
    unit = metric.text("unit")
    if unit not in TIME_UNITS:
        raise InputError(
            f"unit {unit!r}" if unit else "no unit",
            where=metric.key("unit"),
            remedy=f"state one of {', '.join(TIME_UNITS)}",
        )
    return TIME_UNITS[unit]


def _lengths(metric: Fields) -> Lengths:
    return Lengths(metric.needed("avg"), metric.number("min"), metric.number("max"))


def _load(config: Fields) -> tuple[str, int | None, float | None]:
    """Return kind, concurrency and rate: of `loadgen`, or, in newer releases, of the one phase that counts."""
    load = config.table("loadgen")
    phases = [p for p in config.data.get("phases") or () if isinstance(p, dict) and not p.get("exclude_from_results")]
    if not load.data and len(phases) == 1:
        load = Fields(phases[0], config.where, f"{config.path}phases[].")
    rate_per_s = load.number("request_rate") or load.number("rate")
    if rate_per_s is None and load.has("concurrency"):
        return "closed", load.count("concurrency"), None
    if rate_per_s is None or load.has("concurrency"):
        raise UnsupportedError(
            "neither a concurrency nor a rate alone states the load",
            where=load.key("concurrency"),
            remedy="measure with --concurrency, or with --request-rate alone",
        )
    mode = load.text("request_rate_mode") or load.text("arrival_pattern") or load.text("type") or "poisson"
    if mode not in ("poisson", "constant"):
        raise UnsupportedError(
            f"arrivals of kind {mode!r} are not replayed yet", where=load.where, remedy="measure with poisson"
        )
    return ("poisson" if mode == "poisson" else "fixed_rate"), None, rate_per_s


def _model(config: Fields) -> str:
    names = config.table("endpoint").data.get("model_names")
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str):
        return names[0][:256]
    items = config.table("models").data.get("items")
    if isinstance(items, list) and len(items) == 1 and isinstance(items[0], dict):
        return str(items[0].get("name", ""))[:256]
    return ""
