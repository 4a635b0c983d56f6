"""What did `vllm bench serve --save-result` or SGLang's `bench_serving` measure?

The second began as a copy of the first and keeps most keys: milliseconds, tokens, one object for each run, several on
lines of their own where results are appended.  Keys as of vLLM 0.13 vllm/benchmarks/serve.py (`benchmark`,
`main_async`) and SGLang 0.5.6 python/sglang/bench_serving.py (`benchmark`).
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from apex_sim.errors import InputError, UnsupportedError
from apex_sim.truth.benchmarks.benchmark_run import BenchmarkRun, Lengths, RequestTimes, summarise_times
from apex_sim.truth.benchmarks.fields import MILLISECOND_S, Fields, require_close

#: Keys by which either is known.
KEYS: Final = ("completed", "duration", "total_input_tokens", "total_output_tokens", "output_throughput")
_MILLISECONDS: Final = {
    "ttft_mean_s": ("mean_ttft_ms",),
    "ttft_median_s": ("median_ttft_ms",),
    "ttft_p99_s": ("p99_ttft_ms",),
    "tpot_mean_s": ("mean_tpot_ms",),
    "tpot_median_s": ("median_tpot_ms",),
    "tpot_p99_s": ("p99_tpot_ms",),
    "itl_mean_s": ("mean_itl_ms",),
    "itl_median_s": ("median_itl_ms",),
    "e2e_mean_s": ("mean_e2el_ms", "mean_e2e_latency_ms"),
}
_DETAILS: Final = ("input_lens", "output_lens", "ttfts", "itls")


def read_bench_serve(data: dict[str, Any], where: str) -> BenchmarkRun:
    """Return the run that one object of the file describes.

    Raises
    ------
    InputError : a key is missing or no number, figures contradict each other, or no request succeeded.
    UnsupportedError : a load that cannot be replayed.
    """
    fields = Fields(data, where)
    is_sglang = "mean_e2e_latency_ms" in data or "total_output_tokens_retokenized" in data
    n_requests = fields.count("completed")
    duration_s, n_output = fields.needed("duration"), fields.needed("total_output_tokens")
    if not duration_s > 0:
        raise InputError(f"{duration_s:g}", where=fields.key("duration"), remedy="measure again: it must be above 0")
    output_per_s = fields.needed("output_throughput")
    require_close(output_per_s, n_output / duration_s, "output_throughput", where)
    measured = {"output_tokens_per_s": output_per_s}
    for column, names in _MILLISECONDS.items():
        for name in names:
            value_ms = fields.number(name)
            if value_ms:  # 0 stands for "no such sample", as where nothing was streamed
                measured[column] = value_ms * MILLISECOND_S
    times = _times(fields) if fields.has(*_DETAILS) else None
    if times is not None:
        require_close(float(times.output_tokens.sum()), n_output, "sum of output_lens", where)
        measured |= summarise_times(times)
    load_kind, concurrency, rate_per_s, notes = _load(fields)
    return BenchmarkRun(
        where=where,
        tool="SGLang bench_serving" if is_sglang else "vllm bench serve",
        model=fields.text("model_id"),
        load_kind=load_kind,
        concurrency=concurrency,
        rate_per_s=rate_per_s,
        n_requests=n_requests,
        prompts=_lengths(fields, "input", n_requests, times and times.prompt_tokens),
        outputs=_lengths(fields, "output", n_requests, times and times.output_tokens),
        measured=measured,
        times=times,
        notes=(*notes, *_failures(fields, n_requests)),
    )


def _load(fields: Fields) -> tuple[str, int | None, float | None, list[str]]:
    """Return kind, concurrency, rate and notes of the load."""
    if fields.has("ramp_up_strategy"):
        raise UnsupportedError(
            "a rate that ramps up is not replayed yet",
            where=fields.key("ramp_up_strategy"),
            remedy="measure at one rate or concurrency",
        )
    rate, concurrency = fields.data.get("request_rate"), fields.number("max_concurrency")
    unlimited = rate is None or rate == "inf" or (isinstance(rate, float) and math.isinf(rate))
    if unlimited:
        return (
            ("offline", None, None, [])
            if concurrency is None
            else ("closed", fields.count("max_concurrency"), None, [])
        )
    rate_per_s = fields.needed("request_rate")
    if concurrency is not None and concurrency < fields.needed("completed"):
        raise UnsupportedError(
            f"a rate of {rate_per_s:g}/s together with at most {concurrency:g} requests at a time is not replayed yet",
            where=fields.key("max_concurrency"),
            remedy="measure with one of the two",
        )
    burstiness = fields.data.get("burstiness")
    if burstiness in (None, 1, 1.0):
        return "poisson", None, rate_per_s, []
    if isinstance(burstiness, float) and math.isinf(burstiness):
        return "fixed_rate", None, rate_per_s, []
    raise UnsupportedError(
        f"burstiness {burstiness!r} is not replayed yet", where=fields.key("burstiness"), remedy="measure with 1"
    )


def _lengths(fields: Fields, side: str, n_requests: int, tokens: Any) -> Lengths:
    mean_tokens = fields.needed(f"total_{side}_tokens") / n_requests
    if tokens is not None:
        return Lengths(mean_tokens, float(tokens.min()), float(tokens.max()))
    most, ratio = fields.number(f"random_{side}_len"), fields.number("random_range_ratio")
    if most and ratio is not None and fields.text("dataset_name").startswith("random"):
        # SGLang draws from [ratio x L, L]; what was counted may differ by special tokens.
        least = max(ratio * most, 1.0)
        if abs((least + most) / 2 - mean_tokens) <= 0.05 * mean_tokens:
            return Lengths(mean_tokens, least, most)
    return Lengths(mean_tokens)


def _times(fields: Fields) -> RequestTimes:
    prompts = fields.column("input_lens")
    n = prompts.size
    outputs, ttft_s = fields.column("output_lens", n), fields.column("ttfts", n)
    itls = fields.data["itls"]
    if not isinstance(itls, list) or len(itls) != n or not all(isinstance(row, list) for row in itls):
        raise InputError("not one list of gaps for each request", where=fields.key("itls"), remedy="do not edit it")
    try:
        decode_s = np.array([math.fsum(row) for row in itls])
    except (TypeError, ValueError):
        raise InputError("a gap is no number", where=fields.key("itls"), remedy="do not edit it") from None
    start_s = fields.column("start_times", n) if fields.has("start_times") else None
    kept = (outputs > 0) & (ttft_s > 0)
    if not kept.any() or not np.isfinite(decode_s).all() or (decode_s < 0).any():
        raise InputError("no request has times that can be", where=fields.where, remedy="measure again")
    return RequestTimes(
        prompts[kept].astype(np.int64),
        outputs[kept].astype(np.int64),
        ttft_s[kept],
        (ttft_s + decode_s)[kept],
        None if start_s is None else start_s[kept] - start_s[kept].min(),
    )


def _failures(fields: Fields, n_requests: int) -> list[str]:
    n_asked = fields.number("num_prompts")
    if n_asked is None or n_asked <= n_requests:
        return []
    if n_requests < 0.9 * n_asked:
        raise InputError(
            f"{n_asked - n_requests:g} of {n_asked:g} requests failed, so the load was not the stated one",
            where=fields.key("completed"),
            remedy="mend the server and measure again",
        )
    return [f"{n_asked - n_requests:g} of {n_asked:g} requests failed and are left out"]
