"""Why does one plan of a study do as it does?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from apex_sim.metrics.definitions import Metrics
from apex_sim.plan.plan import Plan
from apex_sim.planner.study import Study
from apex_sim.planner.trial import compile_of, try_plan
from apex_sim.planner.why.bottleneck import Bottleneck, bottleneck_of
from apex_sim.planner.why.delay import delays_of
from apex_sim.planner.why.miss import Miss, misses_of, parts_of
from apex_sim.planner.why.remedy import Tried, try_changes


@dataclass(frozen=True, slots=True)
class Explanation:
    """What bounds a plan, what it misses through what, and what mends it.

    `parts_s` holds the mean parts of "ttft", "tpot" and "e2e" over all finished requests; `tried` is empty where there
    is nothing to mend.
    """

    plan: Plan
    metrics: Metrics
    keeps: bool
    verdict: str
    steady: bool | None
    bottleneck: Bottleneck
    parts_s: Mapping[str, Mapping[str, float]]
    misses: tuple[Miss, ...]
    tried: tuple[Tried, ...]

    @property
    def remedy(self) -> Tried | None:
        """The cheapest change that keeps every limit; None if none does, or none is needed."""
        return self.tried[-1] if self.tried and self.tried[-1].keeps else None

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` says."""
        return {
            "plan": self.plan.as_dict(),
            "metrics": dict(self.metrics),
            "keeps": self.keeps,
            "verdict": self.verdict,
            "steady": self.steady,
            "bottleneck": self.bottleneck.as_dict(),
            "parts_s": {latency: dict(parts) for latency, parts in self.parts_s.items()},
            "misses": [miss.as_dict() for miss in self.misses],
            "tried": [each.as_dict() for each in self.tried],
            "remedy": self.remedy.words if self.remedy else None,
        }


def explain(study: Study, plan: Plan) -> Explanation:
    """Return why `plan` does as it does on the study's workload, and what would mend it.

    Raises
    ------
    InfeasiblePlanError : the plan cannot run.
    """
    compiled = compile_of(study, plan)
    trial = try_plan(study, plan, compiled)
    delays, finished = delays_of(study, trial, compiled), trial.run.requests.finished
    return Explanation(
        plan=plan,
        metrics=trial.metrics,
        keeps=trial.keeps,
        verdict=trial.verdict,
        steady=trial.stability.steady,
        bottleneck=bottleneck_of(trial, compiled),
        parts_s={
            latency: {
                part: float(np.nanmean(seconds[finished]))
                for part, seconds in parts_of(latency, trial, delays).items()
                if np.isfinite(seconds[finished]).any()
            }
            for latency in ("ttft", "tpot", "e2e")
        },
        misses=misses_of(study.slo, trial, delays),
        tried=() if trial.keeps else try_changes(study, plan),
    )
