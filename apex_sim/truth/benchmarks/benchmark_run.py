"""What does one benchmark run say, whichever tool measured it?  Seconds, tokens, tokens per second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from apex_sim.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class RequestTimes:
    """One row per finished request, in the order in which they were sent.

    `tpot_s` is NaN for outputs of one token; `start_s` is when the client sent each, None where the tool does not say.
    """

    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    ttft_s: NDArray[np.float64]
    e2e_s: NDArray[np.float64]
    start_s: NDArray[np.float64] | None = None

    @property
    def tpot_s(self) -> NDArray[np.float64]:
        """(E2E - TTFT) / (n_output - 1)."""
        gaps = np.where(self.output_tokens > 1, self.output_tokens - 1, 1)
        return np.where(self.output_tokens > 1, (self.e2e_s - self.ttft_s) / gaps, np.nan)


@dataclass(frozen=True, slots=True)
class Lengths:
    """What is known of the token counts of prompts or outputs: the mean, and the extremes where the tool says them."""

    mean_tokens: float
    least_tokens: float | None = None
    most_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class BenchmarkRun:
    """One load on one server, as its client saw it.

    `load_kind` is one of `apex_sim.truth.case.LOAD_KINDS`; `measured` has the names of `apex_sim.truth.case.MEASURED`.
    `model` is the name that the client used, `times` the requests one by one, where the tool kept them.
    """

    where: str
    tool: str
    model: str
    load_kind: str
    concurrency: int | None
    rate_per_s: float | None
    n_requests: int
    prompts: Lengths
    outputs: Lengths
    measured: Mapping[str, float]
    times: RequestTimes | None = None
    notes: tuple[str, ...] = ()


def summarise_times(times: RequestTimes, rows: slice = slice(None)) -> dict[str, float]:
    """Return the measured columns that the requests at `rows` amount to.

    Examples
    --------
    >>> two = RequestTimes(*(np.array(column) for column in ([8, 8], [3, 3], [1.0, 3.0], [2.0, 6.0])))
    >>> summarise_times(two)["tpot_mean_s"], summarise_times(two)["ttft_median_s"]
    (1.0, 2.0)
    """
    measured: dict[str, float] = {}
    for name, values in (("ttft", times.ttft_s[rows]), ("tpot", times.tpot_s[rows])):
        known = values[~np.isnan(values)]
        if known.size:
            measured[f"{name}_mean_s"] = float(known.mean())
            measured[f"{name}_median_s"] = float(np.median(known))
            measured[f"{name}_p99_s"] = float(np.quantile(known, 0.99))
    measured["e2e_mean_s"] = float(times.e2e_s[rows].mean())
    return measured


def require_consistent(run: BenchmarkRun) -> BenchmarkRun:
    """Return `run` if its figures can belong to one run.

    Raises
    ------
    InputError : a time or length that is not above 0, a median above the 99th percentile, an answer that ended before
        its first token.
    """
    values = {**run.measured, "mean prompt tokens": run.prompts.mean_tokens, "mean output": run.outputs.mean_tokens}
    for name, value in values.items():
        if not value > 0:
            raise InputError(f"{name} is {value:g}", where=run.where, remedy="measure again: it must be above 0")
    for latency in ("ttft", "tpot"):
        median_s, p99_s = run.measured.get(f"{latency}_median_s"), run.measured.get(f"{latency}_p99_s")
        if median_s is not None and p99_s is not None and median_s > p99_s * (1 + 1e-9):
            raise InputError(
                f"contradictory: median {latency.upper()} {median_s:g} s, above its 99th percentile {p99_s:g} s",
                where=run.where,
                remedy="give the file as the tool wrote it",
            )
    ttft_s, e2e_s = run.measured.get("ttft_mean_s"), run.measured.get("e2e_mean_s")
    if ttft_s is not None and e2e_s is not None and ttft_s > e2e_s * (1 + 1e-9):
        raise InputError(
            f"contradictory: mean TTFT {ttft_s:g} s, above the mean end-to-end latency {e2e_s:g} s",
            where=run.where,
            remedy="give the file as the tool wrote it",
        )
    return run
