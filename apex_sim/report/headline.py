"""What is the answer in plain words?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from apex_sim.metrics.definitions import METRICS
from apex_sim.plan.plan import Plan
from apex_sim.plan.shape import Shape
from apex_sim.planner.answer import SearchResult
from apex_sim.planner.evaluation import Evaluation
from apex_sim.report.quantity import counted, metric_label, metric_text, percent

Verdict = Literal["ok", "too short", "SLO miss", "rejects", "unsteady"]

#: What the states other than "ok" mean, the worst first.
FOOTNOTES: Final[dict[Verdict, str]] = {
    "unsteady": "the backlog grows; the figures describe this run only and are no steady state",
    "rejects": "the engine refuses some requests",
    "SLO miss": "breaks a limit of the study",
    "too short": "the run is too short to tell whether the plan keeps up",
}

#: Leads below this share would be printed as "0.0 %".
_LEAST_GAP: Final = 0.0005


@dataclass(frozen=True, slots=True)
class Headline:
    """The answer in one line, and what is worth knowing about it, one sentence each."""

    answer: str
    reasons: tuple[str, ...]


def search_headline(result: SearchResult) -> Headline:
    """Return the best plan and why it is best, or why there is none."""
    study = result.study
    question = f"{study.model.name} on {study.cluster.name}"
    if result.problem:
        return Headline(f"No plan answers the question for {question}.", (f"{_capital(result.problem)}.",))
    best = result.best
    reasons = [
        f"{_capital(plan_words(best.plan))}.",
        _lead(result, best),
        _certainty(result),
        _standing(result, best),
        f"{_capital(best.why)}.",
    ]
    return Headline(f"Serve {question} with {best.plan.label}.", tuple(reason for reason in reasons if reason))


def simulation_headline(evaluation: Evaluation) -> Headline:
    """Return whether one plan serves the load, what it is and what decides its result."""
    outcome = {
        "ok": "serves this load",
        "too short": "ran for too short a time to tell whether it keeps up",
        "SLO miss": "misses a limit of the study",
        "rejects": "refuses some requests",
        "unsteady": "does not keep up with the load",
    }[verdict(evaluation)]
    reasons = (f"{_capital(plan_words(evaluation.plan))}.", f"{_capital(evaluation.why)}.")
    return Headline(f"{evaluation.plan.label} {outcome}.", reasons)


def plan_words(plan: Plan) -> str:
    """Return what a plan is, spelled out.

    Examples
    --------
    >>> from apex_sim.planner.study import load_study
    >>> from apex_sim.planner.space import enumerate_space
    >>> plans = enumerate_space(load_study("quickstart", {"load": {"n_requests": 1}})).feasible
    >>> plan_words(plans[0])
    '4 instances, each on 2 devices: tensor parallelism over 2, bf16 weights, bf16 KV cache'
    """
    return " + ".join(_shape_words(shape, count) for shape, count in plan.instances)


def _shape_words(shape: Shape, count: int) -> str:
    parts = []
    if shape.tp > 1:
        parts.append(f"tensor parallelism over {shape.tp}")
    if shape.attention_dp > 1:
        parts.append(f"attention on {shape.attention_dp} ranks with requests of their own")
    if shape.ep > 1:
        parts.append(f"experts spread over {shape.ep}")
    if shape.pp > 1:
        parts.append(f"{shape.pp} pipeline stages")
    parts += [f"{shape.precision.weight} weights", f"{shape.precision.kv} KV cache"]
    each = "" if count == 1 else "each "
    return f"{counted(count, 'instance')}, {each}on {counted(shape.n_devices, 'device')}: {', '.join(parts)}"


def _lead(result: SearchResult, best: Evaluation) -> str:
    """Return by how much the best plan leads the next one that is an answer too."""
    name = result.study.objective.name
    value = best.metrics[name]
    title = f"Its {metric_label(name)} is {metric_text(name, value)}"
    rivals = [plan for plan in result.plans[1:] if verdict(plan) in ("ok", "too short")]
    rival = rivals[0].metrics[name] if rivals else None
    if not rivals and len(result.plans) > 1:
        return f"{title}; no other plan keeps up with the load and every limit."
    if not value or not rival:
        return f"{title}."
    gap, label = abs(rival - value) / rival, rivals[0].plan.label
    if not gap:
        return f"{title}, equal to the runner-up's ({label})."
    by = percent(gap) if gap >= _LEAST_GAP else f"less than {percent(2 * _LEAST_GAP)}"
    word = "lower" if METRICS[name].better == "lower" else "higher"
    return f"{title}, {by} {word} than the runner-up's ({label}: {metric_text(name, rival)})."


def _certainty(result: SearchResult) -> str:
    """Return how sure the choice is: what the best plan cannot be told from, or how probably it beats the runner-up."""
    chances = result.beats[0] if result.beats else {}
    if tosses := result.coin_tosses:
        names = [f"{label} ({percent(chances[label])})" if label in chances else label for label in tosses[:3]]
        more = f" and {len(tosses) - 3} more" if len(tosses) > 3 else ""
        return (
            f"A coin toss: within its error bars it cannot be told from {', '.join(names)}{more}; "
            "in brackets how probably it is the better one."
        )
    rival = next(iter(chances), "")
    return f"It beats {rival} with {percent(chances[rival])} probability." if rival else ""


def envelope_sentences(evaluation: Evaluation) -> list[str]:
    """Return what the result stands on: where it was checked, or in which respects it was not."""
    standing = evaluation.standing
    if standing is None:
        return []
    if standing.inside:
        return [f"Inside the validated range (measured servers: {'; '.join(standing.checked_on)})"]
    return [f"Outside the validated range: {reason}" for reason in standing.outside]


def _standing(result: SearchResult, best: Evaluation) -> str:
    """Return whether the best plan keeps up with the load and keeps the limits, as far as the run can tell."""
    parts = []
    if best.stability.steady:
        parts.append(f"keeps up with the load at {percent(best.stability.offered_load_frac)} of its estimated capacity")
    n_limits = len(result.study.slo.limits)
    if n_limits:
        parts.append({1: "keeps the SLO", 2: "keeps both SLOs"}.get(n_limits, f"keeps all {n_limits} SLOs"))
    return f"It {' and '.join(parts)}." if parts else ""


def verdict(evaluation: Evaluation) -> Verdict:
    """Return the state of a plan in a word: whether it keeps up with the load and the limits."""
    if evaluation.stability.steady is False:
        return "unsteady"
    if evaluation.metrics["n_rejected"]:
        return "rejects"
    if evaluation.slo_violations:
        return "SLO miss"
    # A load with an offered rate, and yet no verdict: the run was too short for one.
    undecided = evaluation.stability.steady is None and evaluation.stability.offered_load_frac is not None
    return "too short" if undecided else "ok"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
