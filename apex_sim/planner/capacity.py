"""How much traffic can a plan take within the SLOs?

The arrival rate is bracketed and halved, in logs, for each of several draws of the load; then all draws are asked at
both ends.  The result is an interval: at its lower end every draw keeps all limits, at its upper end none does.  What
n of n draws do, more than 0.05^(1/n) of all draws do, with 95 % confidence: the tolerance bound of the smallest, or
largest, of n thresholds (Wilks 1941).  Parts of a trace are no independent draws, and bear no such statement.  Without
SLOs the limit is that the backlog does not grow.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from apex_sim.errors import InputError, NoAnswerError
from apex_sim.metrics.summary import plan_usd_per_h
from apex_sim.plan.plan import Plan
from apex_sim.planner.another_draw import offered_rate_per_s, other_draws
from apex_sim.planner.evaluation import capacity_per_s
from apex_sim.planner.rate_bracket import Judgement, RateBracket
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.study import Study
from apex_sim.planner.trial import compile_of

#: Ratio of the rates that a plan keeps and fails when all plans are looked at.
_COARSE: Final = 1.3


@dataclass(frozen=True, slots=True)
class Capacity:
    """Between which rates the highest that a plan can take lies.

    At `keeps_per_s` every one of `n_draws` draws keeps all limits (None: at no rate), at `fails_per_s` none does (None:
    no rate fails).  `estimate_per_s` is the closed form of saturation, `share_frac` the share of requests that had to
    be within the limits (None: the limits as they are), `offered_per_s` the study's own rate.
    """

    plan: Plan
    keeps_per_s: float | None
    fails_per_s: float | None
    offered_per_s: float
    estimate_per_s: float
    usd_per_h: float
    n_draws: int
    independent: bool
    share_frac: float | None
    judgements: tuple[Judgement, ...]

    @property
    def breaks(self) -> str:
        """What the first draw breaks just above the interval; empty where nothing fails."""
        first = [each for each in self.judgements if not each.keeps and each.rate_per_s == self.fails_per_s]
        return first[0].verdict if first else ""

    @property
    def odd(self) -> tuple[Judgement, ...]:
        """Failures below the interval: with them the rate is no threshold, and lower rates are not safe either."""
        if self.keeps_per_s is None:
            return ()
        return tuple(each for each in self.judgements if not each.keeps and each.rate_per_s < self.keeps_per_s)

    @property
    def confidence(self) -> str:
        """What the agreement of all draws says."""
        if self.n_draws == 1:
            return "one draw only: no confidence can be stated"
        if not self.independent:
            return f"the trace and {self.n_draws - 1} parts of it agree, which are no independent draws"
        return f"with 95 % confidence more than {0.05 ** (1 / self.n_draws):.0%} of all draws do the same"

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be borne in mind, one sentence each."""
        found = []
        at_ends = [each for each in self.judgements if each.rate_per_s == self.keeps_per_s and each.too_short]
        if at_ends:
            found.append(
                f"{len(at_ends)} of {self.n_draws} runs at the lower end are too short to tell whether the backlog "
                "grows: ask with more requests"
            )
        if self.odd:
            rates = sorted({each.rate_per_s for each in self.odd})
            found.append(
                f"not monotone: it also fails at {', '.join(f'{rate:.4g}' for rate in rates[:4])} per s, below the "
                f"interval ({self.odd[0].verdict})"
            )
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` says."""
        return {
            "plan": self.plan.as_dict(),
            "keeps_per_s": self.keeps_per_s,
            "fails_per_s": self.fails_per_s,
            "offered_per_s": self.offered_per_s,
            "estimate_per_s": self.estimate_per_s,
            "usd_per_h": self.usd_per_h,
            "n_draws": self.n_draws,
            "share_frac": self.share_frac,
            "breaks": self.breaks,
            "confidence": self.confidence,
            "notes": list(self.notes),
            "judgements": [
                asdict(each) for each in sorted(self.judgements, key=lambda each: (each.rate_per_s, each.draw))
            ],
        }


def highest_rate(
    study: Study, plan: Plan, *, n_draws: int = 5, ratio: float = 1.02, share_frac: float | None = None
) -> Capacity:
    """Return between which rates the highest lies at which `plan` keeps up and keeps the study's SLOs.

    Parameters
    ----------
    n_draws : draws of the load, the study's own among them; parts of a trace.
    ratio : how far apart each draw's own highest kept and lowest failing rate may be.
    share_frac : judge by the share of requests that finish within all limits instead of the limits' statistics.

    Raises
    ------
    UnsupportedError : a closed or offline load, which has no rate.
    InputError : `n_draws`, `ratio` or `share_frac` out of range, or a share without a limit on single requests.
    InfeasiblePlanError : the plan does not fit.
    """
    _check(study, n_draws, ratio, share_frac)
    offered_per_s = offered_rate_per_s(study.workload, f"study {study.name}")
    compiled, draws = compile_of(study, plan), other_draws(study.workload, n_draws)
    estimate_per_s = capacity_per_s(study, plan, compiled)
    asked = RateBracket(study, plan, compiled, draws, share_frac)
    low: float | None = None
    for draw in range(len(draws)):
        low, high = asked.bracket(draw, estimate_per_s, low)
        asked.halve(draw, low, high, ratio)
    keeps_per_s, fails_per_s = asked.ends(ratio)
    return Capacity(
        plan=plan,
        keeps_per_s=keeps_per_s,
        fails_per_s=fails_per_s,
        offered_per_s=offered_per_s,
        estimate_per_s=estimate_per_s,
        usd_per_h=plan_usd_per_h(plan, study.cluster),
        n_draws=len(draws),
        independent=study.workload.seed is not None,
        share_frac=share_frac,
        judgements=tuple(asked.found.values()),
    )


def _check(study: Study, n_draws: int, ratio: float, share_frac: float | None) -> None:
    if n_draws < 1:
        raise InputError(f"n_draws is {n_draws}", where="n_draws", remedy="give 1 or more")
    if not 1 < ratio < 2:
        raise InputError(f"ratio is {ratio}", where="ratio", remedy="give a number between 1 and 2, such as 1.02")
    if share_frac is None:
        return
    if not 0 < share_frac <= 1:
        raise InputError(f"share_frac is {share_frac}", where="share_frac", remedy="give a number above 0 and up to 1")
    if not any(name.startswith(("ttft", "tpot", "e2e")) for name, _ in study.slo.limits):
        raise InputError(
            "a share of requests, and no limit that a single request can keep",
            where=f"study {study.name}, table [slo]",
            remedy="state a limit on TTFT, TPOT or E2E, such as ttft_p99_s",
        )


def highest_rates(
    study: Study, *, n_plans: int = 3, n_draws: int = 5, share_frac: float | None = None
) -> tuple[Capacity, ...]:
    """Return the highest rates of the study's `n_plans` best plans in that respect, the highest first.

    All plans of the space are asked on one draw and coarsely, those that took the most on all draws.

    Raises
    ------
    NoAnswerError : no plan can run; else as `highest_rate`.
    """
    space = enumerate_space(study)
    if not space.feasible:
        reasons = "; ".join(f"{refusal.plan.label}: {refusal.reason}" for refusal in space.infeasible[:3])
        raise NoAnswerError(f"no plan can run {study.model.name} on {study.cluster.name} ({reasons})")
    coarse = [highest_rate(study, plan, n_draws=1, ratio=_COARSE, share_frac=share_frac) for plan in space.feasible]
    coarse.sort(key=lambda each: -(each.keeps_per_s or 0.0))
    fine = [highest_rate(study, each.plan, n_draws=n_draws, share_frac=share_frac) for each in coarse[:n_plans]]
    return tuple(sorted(fine, key=lambda each: -(each.keeps_per_s or 0.0)))
