"""Which input, if it were another by a tenth, would change the choice?

Each of the leading plans is simulated again with one input multiplied and divided by the same factor, on the same
requests (common random numbers), and the plans are ranked anew.  The elasticity is that of the objective of the plan
which is best as things are: d ln objective / d ln input, from both sides.  A choice may change although the elasticity
is small, where plans lie close together or a limit is near.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from apex_sim.errors import InfeasiblePlanError, InputError
from apex_sim.plan.plan import Plan
from apex_sim.planner.changed_input import ChangedInput, Leader, elasticity, inputs_of, lead
from apex_sim.planner.ranking import rank
from apex_sim.planner.study import Study
from apex_sim.planner.trial import Trial


@dataclass(frozen=True, slots=True)
class Choice:
    """What is best among the leaders under one change, and what it then reaches.

    `plan` is empty where no leader runs.  `keeps` says whether it keeps every limit, `lost` which leaders cannot run.
    """

    factor: float
    plan: str
    objective: float | None
    keeps: bool
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What one input decides.

    `best` is the choice as things are; `elasticity` is that of its objective, None where it is undefined on one side.
    """

    input: str
    best: str
    keeps: bool
    elasticity: float | None
    down: Choice
    up: Choice

    @property
    def flips(self) -> bool:
        """Whether another plan becomes best, or the best starts or stops to keep every limit."""
        return any(each.plan != self.best or each.keeps != self.keeps for each in (self.down, self.up))

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` says."""
        return {**asdict(self), "flips": self.flips}


def sensitivities(
    study: Study,
    leaders: Sequence[Plan],
    *,
    factor: float = 1.1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Sensitivity, ...]:
    """Return what each input of `study` decides between `leaders`; those that change the choice come first.

    Parameters
    ----------
    factor : what inputs are multiplied with, and divided by.
    progress : told after each input, with how many there are.

    Raises
    ------
    InputError : no leaders, or a factor that is not above 1.
    InfeasiblePlanError : a leader cannot run as things are.
    """
    if not leaders:
        raise InputError("no plan to compare", where=f"study {study.name}", remedy="give at least one plan")
    if not factor > 1:
        raise InputError(f"a factor of {factor}", where="factor", remedy="give a number above 1, such as 1.1")
    ready = [lead(study, plan) for plan in leaders]
    best = _best(study, [(each, each.trial) for each in ready])
    inputs = inputs_of(study)
    found = []
    for number, (name, change) in enumerate(inputs.items(), start=1):
        found.append(_sensitivity(study, ready, best, name, change, factor))
        if progress:
            progress(number, len(inputs))
    return tuple(sorted(found, key=lambda each: (not each.flips, -abs(each.elasticity or 0.0))))


def _best(study: Study, trials: Sequence[tuple[Leader, Trial]]) -> tuple[Leader, Trial]:
    """Return the leader that is best, with its trial."""
    first = rank([trial for _, trial in trials], study.objective)[0]
    return next((leader, trial) for leader, trial in trials if trial is first)


def _sensitivity(
    study: Study,
    leaders: Sequence[Leader],
    best: tuple[Leader, Trial],
    name: str,
    change: ChangedInput,
    factor: float,
) -> Sensitivity:
    leader, trial = best
    choices, own = [], []
    for each in (1 / factor, factor):
        trials, lost = _all(leaders, change, each)
        choices.append(_choice(study, trials, lost, each))
        own.append(next((then.metrics[study.objective.name] for one, then in trials if one is leader), None))
    answer = elasticity(own[1], own[0], factor)
    return Sensitivity(name, leader.plan.label, trial.keeps, answer, choices[0], choices[1])


def _all(
    leaders: Sequence[Leader], change: ChangedInput, factor: float
) -> tuple[list[tuple[Leader, Trial]], tuple[str, ...]]:
    """Return what each leader does under a change, and which of them cannot run."""
    trials, lost = [], []
    for leader in leaders:
        try:
            trials.append((leader, change(leader, factor)))
        except InfeasiblePlanError as error:
            lost.append(f"{leader.plan.label}: {error.reason}")
    return trials, tuple(lost)


def _choice(study: Study, trials: Sequence[tuple[Leader, Trial]], lost: tuple[str, ...], factor: float) -> Choice:
    if not trials:
        return Choice(factor, "", None, False, lost)
    leader, trial = _best(study, trials)
    return Choice(factor, leader.plan.label, trial.metrics[study.objective.name], trial.keeps, lost)
