"""Which metrics err alike, so that a served check of one says something about another?"""

from __future__ import annotations

from typing import Final

#: Classes of metrics, in the order of reports.  Measured servers state few statistics; those of one class share errors.
METRIC_CLASSES: Final = ("ttft", "ttft_tail", "pace", "pace_tail", "e2e", "throughput", "energy")

_TAILS: Final = ("p90", "p95", "p99")
_THROUGHPUT: Final = (
    "output_tokens_per_s",
    "total_tokens_per_s",
    "requests_per_s",
    "goodput_per_s",
    "slo_attainment_frac",
    "makespan_s",
    "usd",
    "usd_per_million_output_tokens",
)
_ENERGY: Final = ("energy_j", "energy_per_output_token_j", "power_mean_w")


def class_of(name: str) -> str | None:
    """Return the class of metric `name`; None for what is counted or known, and has no interval.

    Examples
    --------
    >>> class_of("ttft_p95_s"), class_of("itl_mean_s"), class_of("n_rejected")
    ('ttft_tail', 'pace', None)
    """
    if name in _THROUGHPUT:
        return "throughput"
    if name in _ENERGY:
        return "energy"
    latency, _, statistic = name.removesuffix("_s").partition("_")
    if latency not in ("ttft", "tpot", "itl", "e2e"):
        return None
    if latency == "e2e":
        return "e2e"
    base = "ttft" if latency == "ttft" else "pace"
    return f"{base}_tail" if statistic in _TAILS else base
