"""How far can the best plan found be from the best possible?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from apex_sim.metrics.definitions import MetricDefinition
from apex_sim.planner.strategy import Strategy


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a search has shown about the best plan of its space.

    Parameters
    ----------
    best : the objective of the best plan found; None without an answer.
    bound : what no plan of the space can beat; None where nothing is known.
    gap_frac : how much better than `best` a plan could be at most, as a share of `best`.
    proven : whether the bound is called proven: of percentiles only where every plan was simulated.
    n_enumerated, n_infeasible : plans looked at, and those that cannot run or run exactly as another.
    n_pruned : plans not simulated whole because their bounds show that they cannot be better than the best, or break a
        limit.
    n_open : plans neither simulated whole nor pruned; the gap is theirs.
    n_glimpsed : plans simulated on the first requests.
    sampling_frac : half-width of the best's 80 % interval that comes of the workload's chance alone; None if unknown.
    """

    objective: str
    best: float | None
    n_enumerated: int
    n_pruned: int
    n_simulated: int
    bound: float | None = None
    gap_frac: float | None = None
    proven: bool = True
    n_infeasible: int = 0
    n_open: int = 0
    n_glimpsed: int = 0
    sampling_frac: float | None = None


def certify(
    strategy: Strategy, objective: MetricDefinition, n_enumerated: int, sampling_frac: float | None
) -> Certificate:
    """Return what the search has shown."""
    n_plans, sign = len(strategy.plans), -1.0 if objective.better == "higher" else 1.0
    best = strategy.best_loss
    left = [strategy.bound_loss(i) for i in range(n_plans) if i not in strategy.evaluations]
    least = min([best, *left])
    is_known = math.isfinite(least)
    n_open = len(strategy.open_plans())
    n_whole = len(strategy.evaluations)
    n_refused = len(strategy.refusals)
    return Certificate(
        objective=objective.name,
        best=sign * best if math.isfinite(best) else None,
        n_enumerated=n_enumerated,
        n_pruned=n_plans - n_whole - n_refused - n_open,
        n_simulated=n_whole,
        bound=sign * least if is_known else None,
        gap_frac=gap_frac(best, least),
        proven=is_mean(objective) or n_whole + n_refused == n_plans,
        n_infeasible=n_enumerated - n_plans + n_refused,
        n_open=n_open,
        n_glimpsed=sum(glimpse.n_requests > 0 for glimpse in strategy.glimpses.values()),
        sampling_frac=sampling_frac,
    )


def gap_frac(best_loss: float, bound_loss: float) -> float | None:
    """Return how much better than the best the bound is, as a share of the best; None where either is missing.

    Examples
    --------
    >>> gap_frac(2.0, 1.5), gap_frac(-4.0, -5.0)
    (0.25, 0.25)
    """
    if not (math.isfinite(best_loss) and math.isfinite(bound_loss)):
        return None
    return (best_loss - bound_loss) / abs(best_loss) if best_loss else 0.0


def is_mean(objective: MetricDefinition) -> bool:
    """Whether the objective is a mean, a ratio of sums or a rate, whose bounds are proven."""
    return objective.name.endswith("_mean_s") or not objective.name.startswith(("ttft", "tpot", "itl", "e2e"))
