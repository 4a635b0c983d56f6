"""Which plan is best, and which are not worth ranking as if they worked?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from apex_sim.metrics.definitions import METRICS, MetricDefinition, Metrics
from apex_sim.metrics.stability import Stability
from apex_sim.planner.evaluation import Evaluation

#: Metrics over which no plan of the Pareto front is beaten in all.
PARETO_METRICS: Final = (
    "ttft_mean_s",
    "tpot_mean_s",
    "output_tokens_per_s",
    "usd_per_million_output_tokens",
    "energy_per_output_token_j",
)


class Judged(Protocol):
    """What a plan is ranked by: an evaluation, or a trial without error bars."""

    @property
    def metrics(self) -> Metrics:
        """Values by metric name."""

    @property
    def stability(self) -> Stability:
        """Whether the plan kept up with the load."""

    @property
    def slo_violations(self) -> tuple[str, ...]:
        """One sentence for each limit that it breaks."""


AnyJudged = TypeVar("AnyJudged", bound=Judged)


def is_answer(evaluation: Judged) -> bool:
    """Return whether the plan keeps up with the load, keeps all SLOs and serves every request."""
    rejected = evaluation.metrics["n_rejected"]
    return evaluation.stability.steady is not False and not evaluation.slo_violations and not rejected


def rank(evaluations: Sequence[AnyJudged], objective: MetricDefinition) -> list[AnyJudged]:
    """Return the plans, best first: answers, then plans that miss an SLO or reject requests, then unsteady ones.

    Within a tier the objective decides; a plan for which it is undefined comes last; ties keep the given order.
    """
    return sorted(evaluations, key=lambda evaluation: (_tier(evaluation), _loss(evaluation, objective)))


def _tier(evaluation: Judged) -> int:
    if evaluation.stability.steady is False:
        return 2
    return 0 if is_answer(evaluation) else 1


def _loss(evaluation: Judged, objective: MetricDefinition) -> float:
    return loss_of(evaluation.metrics[objective.name], objective)


def loss_of(value: float | None, objective: MetricDefinition) -> float:
    """Return what is to be minimised: the metric, or its negative where higher is better; infinite if undefined."""
    if value is None:
        return float("inf")
    return -value if objective.better == "higher" else value


def pareto_front(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the answers that no other answer beats or equals in all of `PARETO_METRICS` and beats in one."""
    points = [
        (evaluation, [_loss(evaluation, METRICS[name]) for name in PARETO_METRICS])
        for evaluation in evaluations
        if is_answer(evaluation)
    ]
    return [
        evaluation
        for evaluation, mine in points
        if not any(all(o <= m for o, m in zip(other, mine, strict=True)) and other != mine for _, other in points)
    ]
