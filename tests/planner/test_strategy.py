"""The search: as good as simulating every plan, its certificate by hand, and the same way every time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from apex_sim.metrics.definitions import METRICS
from apex_sim.planner.answer import answer_study
from apex_sim.planner.certificate import Certificate, certify, gap_frac, is_mean
from apex_sim.planner.effort import WHOLE_FRAC, Effort
from apex_sim.planner.evaluation import Evaluation
from apex_sim.planner.job import Bench, Glimpse, Job, Outcome
from apex_sim.planner.ranking import is_answer, loss_of
from apex_sim.planner.space import Refusal, Space, enumerate_space
from apex_sim.planner.strategy import SMALL, Strategy
from apex_sim.planner.study import Study, make_study, merge

_BASE: dict[str, Any] = {
    "model": "llama-3.2-1b",
    "cluster": "4xh100-sxm",
    "workload": "chat",
    "load": {"n_requests": 80, "rate_per_s": 60.0},
    "objective": "e2e",
    "space": {"pp": [1]},
}
#: One dimension decides each: the clock, seats, a fleet of two device types, splits that spare the ends, the cells.
_PLANTED: dict[str, dict[str, Any]] = {
    "lower clock": {
        "objective": "energy",
        "space": {"clock_frac": [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], "kv_dtypes": ["bf16", "fp8"]},
    },
    "seats": {
        "objective": "tpot",
        "load": {"rate_per_s": 200.0},
        "space": {"max_num_seqs": [2, 4, 8, 16, 64, 256], "max_num_batched_tokens": [512, 8192]},
    },
    "mixed fleet": {
        "cluster": "2xh100-sxm+2xl40s",
        "load": {"rate_per_s": 100.0},
        "space": {"allow_idle": True, "max_num_seqs": [64, 256], "routers": ["round-robin", "least-outstanding"]},
    },
    "uneven stages": {
        "objective": "throughput",
        "load": {"rate_per_s": None, "offline": True},
        "space": {"tp": [1], "pp": [2, 4], "splits": "ends", "max_num_seqs": [32, 256]},
    },
    "short run": {  # the best plan is offered 1.1 times its estimated capacity, and through before a backlog grows
        "model": "llama-3.1-8b",
        "cluster": "2xh100-sxm",
        "workload": "summarization",
        "objective": "tpot",
        "load": {"n_requests": 100, "rate_per_s": 15.0, "seed": 1},
        "space": {
            "max_num_seqs": [8, 16, 32, 256],
            "max_num_batched_tokens": [256, 512, 2048, 8192],
            "kv_dtypes": ["bf16", "fp8"],
        },
    },
    "several nodes": {  # the first requests leave four instances half empty, and flatter those with two
        "cluster": "4x2xl4",
        "workload": "summarization",
        "objective": "throughput",
        "load": {"n_requests": 200, "rate_per_s": None, "offline": True},
        "space": {
            "pp": [1, 2, 4],
            "placement": ["packed", "spread"],
            "max_num_seqs": [32, 256],
            "max_num_batched_tokens": [1024, 8192],
        },
    },
}


def _study(changes: dict[str, Any] | None = None) -> Study:
    data = merge(_BASE, changes or {})
    if data["load"].get("offline"):
        data["load"] = {key: value for key, value in data["load"].items() if key != "rate_per_s"}
    return make_study(data, "made-up", "made-up.toml")


class _Planted:
    """A study whose jobs are done once."""

    def __init__(self, kind: str) -> None:
        self.study = _study(_PLANTED[kind])
        self.space = enumerate_space(self.study)
        self._bench, self._outcomes = Bench(self.study), dict[Job, Outcome]()

    def done(self, job: Job) -> Outcome:
        if job not in self._outcomes:
            self._outcomes[job] = self._bench(job)
        return self._outcomes[job]

    def search(self, effort: Effort, backwards: bool = False) -> tuple[Strategy, list[tuple[Job, ...]]]:
        strategy, asked = Strategy(self.study, self.space, effort), []
        while jobs := strategy.ask():
            asked.append(tuple(jobs))
            outcomes = [(job, self.done(job)) for job in jobs]
            strategy.tell(outcomes[::-1] if backwards else outcomes)
        return strategy, asked

    def certificate(self, effort: Effort) -> Certificate:
        return certify(self.search(effort)[0], self.study.objective, self.space.n_enumerated, None)

    def optimum(self) -> float:
        """Return the least loss of all plans."""
        whole = [self.done(Job(plan, None)) for plan in self.space.feasible]
        answers = [each for each in whole if isinstance(each, Evaluation) and is_answer(each)]
        return min(loss_of(each.metrics[self.study.objective.name], self.study.objective) for each in answers)


@cache
def _planted(kind: str) -> _Planted:
    return _Planted(kind)


@pytest.mark.parametrize("kind", _PLANTED)
def test_the_search_finds_what_simulating_every_plan_finds(kind: str) -> None:
    planted = _planted(kind)
    objective, n_plans = planted.study.objective, len(planted.space.feasible)
    assert n_plans > SMALL
    found, optimum = planted.certificate(Effort()), planted.optimum()
    assert found.best is not None
    assert found.bound is not None
    assert loss_of(found.best, objective) <= optimum + 0.01 * abs(optimum)
    assert loss_of(found.bound, objective) <= optimum
    assert found.n_simulated <= max(8, WHOLE_FRAC * n_plans)
    assert found.n_simulated + found.n_pruned + found.n_open == n_plans


@pytest.mark.parametrize("kind", ["mixed fleet", "uneven stages"])
def test_no_gap_proves_that_the_best_is_the_best(kind: str) -> None:
    planted = _planted(kind)
    found = planted.certificate(Effort(gap_frac=0.0))
    assert (found.gap_frac, found.n_open) == (0.0, 0)
    assert found.best is not None
    assert loss_of(found.best, planted.study.objective) == planted.optimum()
    assert planted.certificate(Effort(exhaustive=True)).best == found.best


def test_a_gap_that_is_asked_for_is_proven() -> None:
    found = _planted("mixed fleet").certificate(Effort(gap_frac=0.03))
    assert found.gap_frac is not None
    assert 0.0 <= found.gap_frac <= 0.03


def test_open_plans_are_always_those_that_sorting_all_anew_gives() -> None:
    planted = _planted("mixed fleet")
    strategy = Strategy(planted.study, planted.space, Effort(gap_frac=0.0))
    n_rounds = 0
    while jobs := strategy.ask():
        strategy.tell([(job, planted.done(job)) for job in jobs])
        done = {*strategy.evaluations, *strategy.refusals}
        losses = sorted((strategy.bound_loss(i), i) for i in range(len(strategy.plans)) if i not in done)
        assert strategy.open_plans() == [i for loss, i in losses if loss < strategy.best_loss]
        n_rounds += 1
    assert n_rounds > 3


@pytest.mark.parametrize("kind", ["mixed fleet", "uneven stages"])
def test_a_search_takes_the_same_way_every_time(kind: str) -> None:
    planted = _planted(kind)
    _, asked = planted.search(Effort())
    assert planted.search(Effort())[1] == asked
    assert planted.search(Effort(), backwards=True)[1] == asked
    jobs = [job for batch in asked for job in batch]
    assert len(set(jobs)) == len(jobs)


def test_the_answer_does_not_depend_on_how_many_work_on_it() -> None:
    study = _study(merge(_PLANTED["seats"], {"load": {"n_requests": 60}, "space": {"tp": [1, 2]}}))
    alone, together = (answer_study(study, n_jobs=n) for n in (1, 2))
    assert len(enumerate_space(study).feasible) == SMALL
    assert alone.certificate == together.certificate
    assert [each.plan for each in alone.plans] == [each.plan for each in together.plans]
    assert [each.metrics for each in alone.plans] == [each.metrics for each in together.plans]


@pytest.mark.parametrize(
    ("load", "n_first"),
    [({"rate_per_s": 9.0}, 48), ({"concurrency": 20}, 60), ({"concurrency": 90}, 120), ({"offline": True}, 48)],
)
def test_first_requests_of_a_closed_loop_hold_several_waves(load: dict[str, Any], n_first: int) -> None:
    data = merge(_BASE, {"space": {"max_num_seqs": list(range(1, 11))}})
    study = make_study({**data, "load": {"n_requests": 200, **load}}, "made-up", "made-up.toml")
    space = enumerate_space(study)
    strategy = Strategy(study, space, Effort())
    bounds = [(job, Glimpse(job.plan, 0, {"e2e_mean_s": 1.0}, {}, (), None, 0.0)) for job in strategy.ask()]
    assert len(bounds) == len(space.feasible) > SMALL
    strategy.tell(bounds)
    assert {job.n_requests for job in strategy.ask()} == {n_first}


# --- the certificate by hand ------------------------------------------------------------------------------------------


@cache
def _evaluation() -> tuple[Study, Space, Evaluation]:
    study = _study({"space": {"max_num_seqs": list(range(1, 11))}, "load": {"n_requests": 60, "rate_per_s": 1.0}})
    space = enumerate_space(study)
    evaluation = Bench(study)(Job(space.feasible[0], None))
    assert isinstance(evaluation, Evaluation)
    return study, space, evaluation


def _told(objective: str, simulated: Mapping[int, float], bounds: Mapping[int, float], rest: float) -> Strategy:
    """Return a search that knows plans' values and bounds by number, and `rest` as the bound of all others."""
    study, space, evaluation = _evaluation()
    study = replace(study, objective=METRICS[objective])
    strategy = Strategy(study, space, Effort())
    outcomes: list[tuple[Job, Outcome]] = []
    for i, plan in enumerate(space.feasible):
        glimpse = Glimpse(plan, 0, {objective: bounds.get(i, rest)}, {}, (), None, 0.0)
        outcomes.append((Job(plan, 0), glimpse))
        if i in simulated:
            metrics = {**evaluation.metrics, objective: simulated[i]}
            outcomes.append((Job(plan, None), replace(evaluation, plan=plan, metrics=metrics)))
    strategy.tell(outcomes)
    return strategy


@pytest.mark.parametrize(
    ("objective", "simulated", "bounds", "rest"),
    [
        ("e2e_mean_s", {0: 2.0, 1: 3.0}, {2: 1.5, 3: 1.9}, 2.5),
        ("output_tokens_per_s", {0: 4.0, 1: 3.0}, {2: 5.0, 3: 4.5}, 3.5),
    ],
)
def test_the_certificate_by_hand(
    objective: str, simulated: dict[int, float], bounds: dict[int, float], rest: float
) -> None:
    strategy = _told(objective, simulated, bounds, rest)
    n_plans = len(strategy.plans)
    assert n_plans > SMALL
    found = certify(strategy, METRICS[objective], n_plans + 7, 0.1)
    assert (found.best, found.bound, found.gap_frac) == (simulated[0], bounds[2], 0.25)
    assert (found.n_simulated, found.n_open, found.n_pruned) == (2, 2, n_plans - 4)
    assert (found.n_enumerated, found.n_infeasible, found.sampling_frac) == (n_plans + 7, 7, 0.1)
    assert strategy.open_plans() == [2, 3]
    assert strategy.open_plans(gap_frac=0.2) == [2]
    assert strategy.open_plans(gap_frac=0.25) == []


def test_plans_that_cannot_answer_leave_no_gap() -> None:
    """The plan with the best bound turns out to be refused, the next breaks a limit for certain."""
    strategy = _told("e2e_mean_s", {0: 2.0}, {1: 1.0, 2: 1.2, 3: 1.8}, 2.5)
    one, two = strategy.plans[1], strategy.plans[2]
    breaking = Glimpse(two, 0, {"e2e_mean_s": 1.2}, {}, ("ttft_mean_s is at least 9, 5 is the limit",), None, 0.0)
    strategy.tell([(Job(one, None), Refusal(one, "too little memory")), (Job(two, 0), breaking)])
    found = certify(strategy, METRICS["e2e_mean_s"], len(strategy.plans), None)
    assert (found.best, found.bound, found.n_open, found.n_infeasible) == (2.0, 1.8, 1, 1)
    assert found.gap_frac == pytest.approx(0.1)
    assert found.n_simulated + found.n_pruned + found.n_open + found.n_infeasible == len(strategy.plans)


def test_without_an_answer_there_is_a_bound_but_no_gap() -> None:
    found = certify(_told("e2e_mean_s", {}, {4: 1.0}, 2.0), METRICS["e2e_mean_s"], 40, None)
    assert (found.best, found.bound, found.gap_frac, found.n_simulated) == (None, 1.0, None, 0)


def test_gaps_by_hand() -> None:
    assert gap_frac(2.0, 2.0) == 0.0
    assert gap_frac(0.0, 0.0) == 0.0
    assert gap_frac(float("inf"), 1.0) is None
    assert gap_frac(1.0, float("-inf")) is None


@pytest.mark.parametrize(
    ("name", "proven"), [("ttft_mean_s", True), ("ttft_p99_s", False), ("usd_per_million_output_tokens", True)]
)
def test_only_means_and_ratios_are_called_proven(name: str, proven: bool) -> None:
    assert is_mean(METRICS[name]) is proven
