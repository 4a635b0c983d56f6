"""Along which properties of a server may errors differ, and how large are they for each value of them?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from apex_sim.truth.case import MEASURED, Case
from apex_sim.truth.error_summary import pooled_statistics, summarise_metric
from apex_sim.truth.replay import Replay

AXES: Final = ("source", "engine", "device", "family", "plan", "load")

#: What users ask for -> the columns that may say it, the first one that was measured is taken.  Closed loops are judged
#: by the median TTFT, because their mean is that of the opening burst.
QUANTITIES: Final[Mapping[str, tuple[str, ...]]] = {
    "ttft": ("ttft_median_s", "ttft_mean_s"),
    "tpot": ("tpot_median_s", "itl_mean_s", "tpot_mean_s"),
    "e2e": ("e2e_mean_s",),
    "throughput": ("output_tokens_per_s",),
}

#: Upper ends of the classes of load, in requests at once; each is four times the one before.
_AT_ONCE: Final = (1, 4, 16, 64, 256)


@dataclass(frozen=True, slots=True)
class AxisStatistics:
    """Errors of one metric among the cases with one value of an axis, as fractions; sources weigh equally.

    `metric` is a measured column, or one of `QUANTITIES`, which takes of each case the column that it has.  `n` counts
    cases of `n_sources`; the other fields are the means over sources of each source's figure, as in `ErrorStatistics`.
    """

    axis: str
    value: str
    metric: str
    n: int
    n_sources: int
    median_abs_frac: float
    p90_abs_frac: float
    bias_frac: float
    noise_frac: float | None


def axis_values(case: Case, replay: Replay) -> dict[str, str]:
    """Return the place of a case on each of `AXES`."""
    deployment = case.deployment
    return {
        "source": case.source,
        "engine": f"{deployment.engine} {deployment.engine_version}",
        "device": replay.cluster.device.name,
        "family": family_of(replay.model.architecture),
        "plan": layout_label(replay),
        "load": load_level(case, replay),
    }


def family_of(architecture: str) -> str:
    """Return the model family that Hugging Face's name of an architecture stands for.

    Examples
    --------
    >>> family_of("GptOssForCausalLM"), family_of("DeepseekV3ForCausalLM")
    ('GptOss', 'DeepseekV3')
    """
    return architecture.partition("For")[0].removesuffix("LMHeadModel") or architecture


def layout_label(replay: Replay) -> str:
    """Return TP, and what else of PP, DP, EP and attention DP is above 1, such as "TP4 DP2"."""
    shape, n_instances = replay.plan.instances[0]
    degrees = {"PP": shape.pp, "DP": n_instances, "EP": shape.ep, "ADP": shape.attention_dp}
    return " ".join([f"TP{shape.tp}", *(f"{name}{degree}" for name, degree in degrees.items() if degree > 1)])


def load_level(case: Case, replay: Replay) -> str:
    """Return the class of requests that were served at once: a closed loop's users, else by Little's law.

    An open load has rate x mean E2E requests in the system (Little, Operations Research 9(3), 1961, p. 383-387), both
    as measured; without a measured E2E its class is not known.
    """
    load = replay.workload.load
    at_once = float(load.concurrency) if load.concurrency is not None else None
    if at_once is None and load.kind == "offline":
        return "offline"
    if at_once is None and replay.workload.rate_per_s is not None and "e2e_mean_s" in case.measured:
        at_once = replay.workload.rate_per_s * case.measured["e2e_mean_s"]
    return "not known" if at_once is None else at_once_class(at_once)


def at_once_class(n_at_once: float) -> str:
    """Return the class of a mean number of requests at once; its upper end belongs to it.

    Examples
    --------
    >>> at_once_class(0.3), at_once_class(16), at_once_class(257)
    ('0 to 1 at once', '4 to 16 at once', 'over 256 at once')
    """
    below = 0
    for upper in _AT_ONCE:
        if n_at_once <= upper:
            return f"{below} to {upper} at once"
        below = upper
    return f"over {below} at once"


def with_quantities(values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return `values` by metric with those of `QUANTITIES` beside them, None and absent ones passed over."""
    chosen = {name: quantity_column(name, values) for name in QUANTITIES}
    return {**values, **{name: values[column] for name, column in chosen.items() if column}}


def quantity_column(quantity: str, values: Mapping[str, float | None]) -> str | None:
    """Return which column says `quantity` among those that have a value, None if none does."""
    return next((name for name in QUANTITIES[quantity] if values.get(name) is not None), None)


def summarise_axes(
    places: Sequence[Mapping[str, str]],
    sources: Sequence[str],
    errors: Sequence[Mapping[str, float | None]],
    noise: Sequence[Mapping[str, float]],
) -> tuple[AxisStatistics, ...]:
    """Return the statistics of each metric for each value of each axis, values in natural order.

    Parameters
    ----------
    places, sources, errors, noise : of each case that was replayed: its `axis_values`, its source, and its errors and
        noise floors by metric.
    """
    errors = [with_quantities(one) for one in errors]
    noise = [{**floors, **_quantity_noise(floors, one)} for floors, one in zip(noise, errors, strict=True)]
    found = []
    for axis in AXES:
        members: dict[str, list[int]] = {}
        for index, place in enumerate(places):
            members.setdefault(place[axis], []).append(index)
        for value, mine in sorted(members.items(), key=lambda item: _natural(item[0])):
            for metric in (*QUANTITIES, *MEASURED):
                rows = summarise_metric(
                    metric, [sources[i] for i in mine], [errors[i] for i in mine], [noise[i] for i in mine]
                )
                if rows:
                    pooled = pooled_statistics(metric, rows)
                    found.append(
                        AxisStatistics(
                            axis=axis,
                            value=value,
                            metric=metric,
                            n=pooled.n,
                            n_sources=len(rows),
                            median_abs_frac=pooled.median_abs_frac,
                            p90_abs_frac=pooled.p90_abs_frac,
                            bias_frac=pooled.bias_frac,
                            noise_frac=pooled.noise_frac,
                        )
                    )
    return tuple(found)


def _quantity_noise(floors: Mapping[str, float], errors: Mapping[str, float | None]) -> dict[str, float]:
    columns = {name: quantity_column(name, errors) for name in QUANTITIES}
    return {name: floors[column] for name, column in columns.items() if column and column in floors}


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Order numbers inside texts by their value, so that TP8 comes before TP16 and texts without one last."""
    parts = re.split(r"(\d+)", text)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]
