"""Which requests break a limit, through what, and what have they in common?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from apex_sim.metrics.definitions import LATENCIES
from apex_sim.metrics.slo import Slo
from apex_sim.planner.trial import Trial
from apex_sim.planner.why.delay import Delays
from apex_sim.record.request_records import RequestRecords

#: What a part of a latency is called in sentences.
PART_WORDS: Final = {
    "frontend": "the front end",
    "kv_queueing": "waiting for KV blocks",
    "queueing": "waiting to be scheduled",
    "own_prompt": "their own prompts",
    "others_before_first": "work of others beside their prompts",
    "preemption_before_first": "preemption before the first token",
    "own_decode": "their own decoding",
    "others_prompts": "prompts of others",
    "others_sequences": "sequences of others",
    "preemption_after_first": "preemption after the first token",
}
#: From which ratio to the others on a trait is worth a sentence, and which instance's share over its part of all.
_NOTABLE: Final = 1.5
#: The pace of arrivals before a request is taken over so many mean gaps.
_PACE_GAPS: Final = 20


@dataclass(frozen=True, slots=True)
class Traits:
    """Means of the requests beyond a limit over those of all finished requests.

    `pace_ratio` compares how fast requests arrived just before them; `instance` is the one that most of them were on,
    with its share of them over its share of all requests.
    """

    prompt_ratio: float
    output_ratio: float
    pace_ratio: float
    preempted_frac: float
    instance: int
    instance_ratio: float

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is notable."""
        found = []
        for ratio, text in (
            (self.prompt_ratio, "prompts are {:.1f} times as long as usual"),
            (self.output_ratio, "outputs are {:.1f} times as long as usual"),
            (self.pace_ratio, "they came in bursts, {:.1f} times as dense as usual"),
            (self.instance_ratio, f"instance {self.instance} has {{:.1f}} times its share of them"),
        ):
            if ratio >= _NOTABLE:
                found.append(text.format(ratio))
        if self.prompt_ratio <= 1 / _NOTABLE:
            found.append(f"prompts are short, {self.prompt_ratio:.2f} of the usual")
        if self.output_ratio <= 1 / _NOTABLE:
            found.append(f"outputs are short, {self.output_ratio:.2f} of the usual")
        if self.preempted_frac:
            found.append(f"{self.preempted_frac:.0%} of them were preempted")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Miss:
    """One limit that a run breaks.

    `n_beyond` of `n_finished` requests lie beyond the limit; `parts_s` are means over them, which add up to `mean_s`
    (TPOT: seconds for each token after the first).  Limits on other things than single requests, gaps between tokens
    among them, have no parts.
    """

    metric: str
    limit: float
    value: float | None
    sentence: str
    n_beyond: int = 0
    n_finished: int = 0
    mean_s: float | None = None
    parts_s: Mapping[str, float] | None = None
    traits: Traits | None = None

    @property
    def cause(self) -> str:
        """The largest part; empty where there are no parts."""
        return max(self.parts_s, key=lambda name: self.parts_s[name]) if self.parts_s else ""  # type: ignore[index]

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` says."""
        traits = {**asdict(self.traits), "sentences": self.traits.sentences} if self.traits else None
        return {
            "metric": self.metric,
            "limit": self.limit,
            "value": self.value,
            "sentence": self.sentence,
            "n_beyond": self.n_beyond,
            "n_finished": self.n_finished,
            "mean_s": self.mean_s,
            "parts_s": dict(self.parts_s) if self.parts_s else None,
            "cause": self.cause,
            "traits": traits,
        }


def misses_of(slo: Slo, trial: Trial, delays: Delays) -> tuple[Miss, ...]:
    """Return every limit of `slo` that `trial` breaks, with its requests."""
    found = []
    for name, limit in slo.limits:
        (sentence, *_) = Slo(((name, limit),)).violations(trial.metrics) or [""]
        if not sentence:
            continue
        latency, value = name.split("_", maxsplit=1)[0], trial.metrics[name]
        beyond = _beyond(trial.run.requests, latency, limit)
        if latency not in LATENCIES or latency == "itl" or not beyond.any():
            found.append(Miss(name, limit, value, sentence))
            continue
        parts = {part: float(seconds[beyond].mean()) for part, seconds in parts_of(latency, trial, delays).items()}
        found.append(
            Miss(
                name,
                limit,
                value,
                sentence,
                int(beyond.sum()),
                int(trial.run.requests.finished.sum()),
                sum(parts.values()),
                parts,
                _traits(trial, beyond),
            )
        )
    return tuple(found)


def parts_of(latency: str, trial: Trial, delays: Delays) -> dict[str, NDArray[np.float64]]:
    """Return the parts of "ttft", "tpot" or "e2e" of each request; they add up to it."""
    if latency == "ttft":
        return dict(delays.first_s)
    if latency == "e2e":
        return {**delays.first_s, **delays.decode_s}
    gaps = np.where(trial.run.requests.output_tokens > 1, trial.run.requests.output_tokens - 1.0, np.nan)
    return {name: seconds / gaps for name, seconds in delays.decode_s.items()}


def _beyond(requests: RequestRecords, latency: str, limit: float) -> NDArray[np.bool_]:
    if latency not in LATENCIES or latency == "itl":
        return np.zeros(len(requests.status), dtype=np.bool_)
    column: NDArray[np.float64] = getattr(requests, f"{latency}_s")
    mask: NDArray[np.bool_] = requests.finished & (column > limit)
    return mask


def _traits(trial: Trial, beyond: NDArray[np.bool_]) -> Traits:
    requests = trial.run.requests
    of_all = requests.finished

    def ratio(column: NDArray[Any]) -> float:
        usual = float(column[of_all].mean())
        return float(column[beyond].mean()) / usual if usual else 1.0

    held = np.bincount(requests.instance[of_all], minlength=trial.plan.n_instances)
    missed = np.bincount(requests.instance[beyond], minlength=trial.plan.n_instances)
    most = int(missed.argmax())
    return Traits(
        ratio(requests.prompt_tokens),
        ratio(requests.output_tokens),
        ratio(_pace(requests.arrival_s)),
        float((requests.n_preemptions[beyond] > 0).mean()),
        most,
        float(missed[most] / missed.sum() / (held[most] / held.sum())),
    )


def _pace(arrival_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many requests arrived in the time of `_PACE_GAPS` mean gaps up to each arrival; 1 without a pace."""
    order = np.sort(arrival_s)
    window_s = _PACE_GAPS * float(order[-1] - order[0]) / max(len(order) - 1, 1)
    if not window_s > 0:
        return np.ones(len(arrival_s))
    since = np.searchsorted(order, arrival_s - window_s, side="left")
    pace: NDArray[np.float64] = (np.searchsorted(order, arrival_s, side="right") - since).astype(np.float64)
    return pace
