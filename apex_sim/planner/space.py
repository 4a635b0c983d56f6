"""Which plans could answer the question, and which are refused for what reason?"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations_with_replacement
from typing import Any, Final

from apex_sim.errors import InfeasiblePlanError, InputError
from apex_sim.hardware.cluster import Cluster
from apex_sim.plan.engines import why_not
from apex_sim.plan.legality import require_legal_plan, require_legal_shape
from apex_sim.plan.memory import instance_memory
from apex_sim.plan.plan import Plan
from apex_sim.plan.shape import Shape
from apex_sim.planner.alike import canonical_plan
from apex_sim.planner.shapes import Choice, default_max_model_len, shapes_of
from apex_sim.planner.study import Study
from apex_sim.truth.calibration.profile_support import require_near_load, require_same_server

__all__ = ["MAX_PLANS", "Refusal", "Space", "default_max_model_len", "enumerate_space"]

#: More plans than this are too many to look at one by one.
MAX_PLANS: Final = 200_000
#: Fleets of up to so many instances of one shape are all looked at.
_EVERY_COUNT: Final = 64
_NUMBERS: Final = re.compile(r"(?<![\w-])\d+(?:[.,]\d+)*(?!\w)")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A plan that cannot run, and why."""

    plan: Plan
    reason: str

    @property
    def rule(self) -> str:
        """The reason without its figures: what many plans are refused for."""
        return _NUMBERS.sub("N", self.reason)


@dataclass(frozen=True, slots=True)
class Space:
    """All plans of a study: those that can run, those that cannot, and those that others stand for.

    `choices` holds for each feasible plan what was chosen in each dimension; `n_alike` counts the plans that would run
    exactly as one of the feasible ones, and are left out; `contradictions` counts the shapes whose knobs exclude each
    other, which make no plans.
    """

    feasible: tuple[Plan, ...]
    infeasible: tuple[Refusal, ...]
    choices: Mapping[Plan, Choice] = field(default_factory=dict)
    n_alike: int = 0
    contradictions: Mapping[str, int] = field(default_factory=dict)

    @property
    def n_enumerated(self) -> int:
        """Plans looked at."""
        return len(self.feasible) + len(self.infeasible) + self.n_alike

    def counts(self) -> dict[str, dict[str, int]]:
        """Return how many of the feasible plans have which value in each dimension that has several, in order."""
        found: dict[str, Counter[Any]] = {}
        for choice in self.choices.values():
            for dimension, value in choice:
                found.setdefault(dimension, Counter())[value] += 1
        return {
            dimension: {str(value): counter[value] for value in sorted(counter, key=_rank)}
            for dimension, counter in found.items()
        }

    def pruned(self) -> dict[str, int]:
        """Return how many plans each rule took out, most first."""
        rules = Counter(refusal.rule for refusal in self.infeasible)
        if self.n_alike:
            rules["runs exactly as another plan"] = self.n_alike
        return dict(rules.most_common())


def _rank(value: object) -> tuple[int, float, str]:
    """Return a value's place among those of its dimension: numbers by size, then texts, then None."""
    if isinstance(value, (int, float)):
        return 0, value, ""
    return (2, 0.0, "") if value is None else (1, 0.0, str(value))


def enumerate_space(study: Study) -> Space:
    """Return every plan of the study's space, each once.

    All devices are used unless the space allows idle ones.  Degrees that do not multiply to the devices are no plans.

    Raises
    ------
    InputError : no combination of the stated degrees uses the devices, or there are more than `MAX_PLANS`.
    UnsupportedError : a plan is not the server that the study's calibration profile is of, or its load is too far from
        what was seen.
    """
    feasible, infeasible = dict[Plan, Choice](), list[Refusal]()
    seen, reasons, n_alike = set[Plan](), dict[Shape, str](), 0
    contradictions = Counter[str]()
    for plan, choice in _plans(study, contradictions):
        same = canonical_plan(plan, study)
        if same in seen:
            n_alike += 1
            continue
        seen.add(same)
        _require_room(len(seen), study)
        if study.profile:
            require_same_server(study.profile, [shape for shape, _ in plan.instances], study.model.name)
            require_near_load(study.profile, study.workload, plan.n_instances)
        reason = _refusal(study, plan, reasons)
        if reason:
            infeasible.append(Refusal(plan, reason))
        else:
            feasible[plan] = choice
    if not seen:
        _require_sense(study, contradictions)
        raise InputError(
            f"no DP x TP x PP of the stated degrees gives {study.cluster.n_devices_in_all} devices",
            where=f"study {study.name}, table [space]",
            remedy="allow more degrees in tp, pp, dp or attention_dp, or set allow_idle = true (--allow-idle)",
        )
    return Space(tuple(feasible), tuple(infeasible), _varied(feasible), n_alike, dict(contradictions))


def _require_room(n_plans: int, study: Study) -> None:
    if n_plans > MAX_PLANS:
        raise InputError(
            f"more than {MAX_PLANS:,} plans",
            where=f"study {study.name}, table [space]",
            remedy="state degrees, counts (dp) or knobs, or leave out allow_idle, cells or n_shapes",
        )


def _refusal(study: Study, plan: Plan, reasons: dict[Shape, str]) -> str:
    """Return why `plan` cannot run, empty if it can; `reasons` keeps what was found out about shapes."""
    for shape, _ in plan.instances:
        if shape not in reasons:
            reasons[shape] = _shape_refusal(study, shape)
        if reasons[shape]:
            return reasons[shape]
    try:
        require_legal_plan(study.model, study.cluster, plan)
    except InfeasiblePlanError as error:
        return error.reason
    return ""


def _shape_refusal(study: Study, shape: Shape) -> str:
    pool = study.cluster.pool(shape.device)
    try:
        require_legal_shape(study.model, pool, shape)
        instance_memory(study.model, pool.device, shape)
    except InfeasiblePlanError as error:
        return error.reason
    return why_not(study.model, shape, study.space.engine) if study.space.engine else ""


def _varied(feasible: Mapping[Plan, Choice]) -> dict[Plan, Choice]:
    """Return the choices without the dimensions in which all plans are equal."""
    values: dict[str, set[Any]] = {}
    for choice in feasible.values():
        for dimension, value in choice:
            values.setdefault(dimension, set()).add(value)
    n = len(feasible)
    named = Counter(dimension for choice in feasible.values() for dimension, _ in choice)
    several = {dimension for dimension, found in values.items() if len(found) > 1 or named[dimension] < n}
    return {plan: tuple(pair for pair in choice if pair[0] in several) for plan, choice in feasible.items()}


def _require_sense(study: Study, contradictions: Counter[str]) -> None:
    """Refuse a space in which all knobs exclude each other."""
    for problem, n in contradictions.most_common(1):
        raise InputError(
            f"all shapes contradict themselves; {n} of {contradictions.total()}: {problem}",
            where=f"study {study.name}, table [space]",
            remedy="list knobs that go together",
        )


def _plans(study: Study, contradictions: Counter[str]) -> Iterator[tuple[Plan, Choice]]:
    """Yield every plan with what was chosen in each dimension."""
    routers = study.space.routers or [study.space.router]
    listed = _listed_knobs(study)
    for plan, choice in _bare_plans(study, contradictions, routers):
        named = dict(choice)
        alone = len(plan.instances) == 1  # several shapes say themselves what they are on
        texts = [
            f"{text} {_word(named[name])}"
            for name, text in listed.items()
            if name in named and (alone or name != "device")
        ]
        yield replace(plan, note=", ".join(texts)), choice


def _listed_knobs(study: Study) -> dict[str, str]:
    """Return the dimensions that no plan's cells show and of which the study lists several, with their short names."""
    space = study.space
    lists: dict[str, Sequence[Any]] = {
        "policy": space.policies,
        "max_num_seqs": space.max_num_seqs,
        "max_num_batched_tokens": space.max_num_batched_tokens,
        "prefix_cache": space.prefix_cache,
        "n_draft_tokens": space.n_draft_tokens,
        "router": space.routers,
    }
    names = {
        "policy": "policy",
        "max_num_seqs": "seats",
        "max_num_batched_tokens": "budget",
        "prefix_cache": "prefix cache",
        "n_draft_tokens": "drafts",
        "router": "router",
    }
    found = {name: names[name] for name, values in lists.items() if len(set(values)) > 1}
    return {**found, "device": "on"} if len(study.cluster.pools) > 1 else found


def _word(value: object) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _bare_plans(study: Study, contradictions: Counter[str], routers: Sequence[str]) -> Iterator[tuple[Plan, Choice]]:
    """Yield the plans without what tells apart those of the same cells."""
    by_pool = [(pool, list(shapes_of(study, pool, contradictions))) for pool in study.cluster.pools]
    for router in dict.fromkeys(routers):
        named: Choice = (("router", router),)
        for pool, shapes in by_pool:
            alone = study.space.allow_idle or len(by_pool) == 1
            for shape, choice in shapes:
                for count in _counts(study, pool, shape) if alone else ():
                    yield Plan(((shape, count),), router), (*choice, ("dp", count), *named)
        if study.space.n_shapes > 1 or len(by_pool) > 1:
            yield from _mixed(study, by_pool, router)


def _mixed(
    study: Study, by_pool: Sequence[tuple[Cluster, Sequence[tuple[Shape, Choice]]]], router: str
) -> Iterator[tuple[Plan, Choice]]:
    """Yield the fleets of two unequal shapes, of one pool or of two; of more pools nothing is enumerated."""
    legal = [[(shape, choice) for shape, choice in shapes if not _shape_refusal(study, shape)] for _, shapes in by_pool]
    pools = [pool for pool, _ in by_pool]
    for i, j in combinations_with_replacement(range(len(pools)), 2):
        if i == j and study.space.n_shapes == 1:
            continue
        for a, (first, of_first) in enumerate(legal[i]):
            for second, of_second in legal[j][a + 1 :] if i == j else legal[j]:
                for n, m in _pair_counts(study, pools[i], first, pools[j], second):
                    plan = Plan(((first, n), (second, m)), router)
                    named = (("dp", n), *((f"second {name}", value) for name, value in of_second), ("second dp", m))
                    yield plan, (*of_first, *named, ("router", router))


def _pair_counts(study: Study, one: Cluster, first: Shape, other: Cluster, second: Shape) -> Iterator[tuple[int, int]]:
    """Yield the counts of two shapes that fill their pools, or with idle devices allowed any that fit.

    A stated `dp` is the number of instances of the whole fleet, as it is of fleets of one shape.
    """
    fills, wanted = not study.space.allow_idle, study.space.dp
    for n in range(1, one.n_devices // first.n_devices + 1):
        left = (one.n_devices - n * first.n_devices) if one is other else other.n_devices
        for m in range(1, left // second.n_devices + 1):
            full = m * second.n_devices == left and (one is other or n * first.n_devices == one.n_devices)
            if (full or not fills) and (not wanted or n + m in wanted):
                yield n, m


def _every_count(most: int) -> list[int]:
    """Return every count up to 64, and beyond in steps of 3 %."""
    found = list(range(1, min(most, _EVERY_COUNT) + 1))
    while found and found[-1] < most:
        found.append(min(most, math.ceil(found[-1] * 1.03)))
    return found


def _counts(study: Study, pool: Cluster, shape: Shape) -> list[int]:
    """Return how many instances of `shape` a plan may have."""
    most, space = pool.n_devices // shape.n_devices, study.space
    if space.allow_idle:
        wanted = space.dp or _every_count(most)
        return sorted({n for n in wanted if 1 <= n <= most})
    fills = pool.n_devices % shape.n_devices == 0 and most >= 1
    return [most] if fills and (not space.dp or most in space.dp) else []
