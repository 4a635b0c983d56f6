"""Who does the jobs, and what a store saves: the same answer from everybody, nothing twice, strictness, interrupts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apex_sim.errors import InputError, OutsideEnvelopeError
from apex_sim.planner.answer import SearchResult, answer_study
from apex_sim.planner.crew import Crew, question_key
from apex_sim.planner.effort import Effort
from apex_sim.planner.job import Bench, Glimpse, Job
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.store.outcome import decode_outcome, encode_outcome
from apex_sim.planner.study import Study, load_study


def _study(**changes: Any) -> Study:
    space = {"kv_dtypes": ["bf16", "fp8"], "max_num_seqs": [64, 256], "tp": [2, 4, 8], "pp": [1, 2]}
    return load_study("quickstart", {"load": {"n_requests": 100}, "space": space, **changes})


def _figures(result: SearchResult) -> tuple[Any, ...]:
    return result.certificate, [(plan.plan.label, dict(plan.metrics)) for plan in result.plans]


def test_a_second_search_is_free_and_answers_the_same(tmp_path: Path) -> None:
    store, said = tmp_path / "store.db", list[str]()
    first = answer_study(_study(), n_jobs=1, store=store, log=said.append)
    assert {line.split()[0] for line in said} == {"evaluating", "committed"}
    keys = [line.split()[1] for line in said if line.startswith("committed")]
    assert len(keys) == len(set(keys))
    again = list[str]()
    second = answer_study(_study(), n_jobs=1, store=store, log=again.append)
    assert again == []
    assert _figures(first) == _figures(second) == _figures(answer_study(_study(), n_jobs=1))


def test_two_questions_share_what_they_have_in_common(tmp_path: Path) -> None:
    """Another objective asks for the same simulations; another load for none of them."""
    store, said = tmp_path / "store.db", list[str]()
    every = Effort(exhaustive=True)
    answer_study(_study(), n_jobs=1, store=store, effort=every)
    with Crew(_study(objective="ttft"), store=store) as crew:
        jobs = [Job(plan, None) for plan in enumerate_space(_study()).feasible]
        assert len(list(crew.perform(jobs))) == crew.n_found == len(jobs)
    assert question_key(_study()) != question_key(_study(load={"n_requests": 101}))
    one = {"tp": [4], "pp": [1], "max_num_seqs": [64]}  # one value of a knob: the label says nothing of it
    answer_study(_study(space=one), n_jobs=1, store=store, effort=every, log=said.append)
    assert not [line for line in said if line.startswith("evaluating")]


def test_processes_answer_as_this_one_does() -> None:
    assert _figures(answer_study(_study(), n_jobs=2)) == _figures(answer_study(_study(), n_jobs=1))


def test_a_glimpse_comes_back_from_the_store() -> None:
    study = _study()
    plan = enumerate_space(study).feasible[0]
    for n_requests in (0, 48):
        glimpse = Bench(study)(Job(plan, n_requests))
        assert isinstance(glimpse, Glimpse)
        assert decode_outcome(encode_outcome(glimpse), plan, "here") == glimpse


def test_a_back_end_of_ones_own_cannot_be_stored(tmp_path: Path) -> None:
    class Own:
        name = "own"
        work = staticmethod(lambda: None)

    with pytest.raises(InputError, match="Leave out the store"):
        answer_study(replace(_study(), cost=Own()), store=tmp_path / "store.db")  # type: ignore[arg-type]


def test_strict_searches_certify_what_they_answer() -> None:
    study = _study(space={"clock_frac": [0.6, 1.0], "tp": [2, 4, 8], "pp": [1, 2]}, objective="energy")
    result = answer_study(study, n_jobs=1, strict=True)
    assert result.certificate.best == result.plans[0].metrics["energy_per_output_token_j"]
    assert not [plan.plan.label for plan in result.plans if plan.standing and plan.standing.outside]
    assert any("outside the validated range" in refusal.reason for refusal in result.infeasible)
    lowered = _study(space={"clock_frac": [0.6], "tp": [4], "pp": [1]})
    with pytest.raises(OutsideEnvelopeError, match="clock"):
        answer_study(lowered, n_jobs=1, strict=True)


def test_an_interrupt_keeps_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Bench.__call__
    whole = list[Job]()

    def impatient(self: Bench, job: Job) -> Any:
        if job.n_requests is None:
            whole.append(job)
        if len(whole) == 3:
            raise KeyboardInterrupt
        return inner(self, job)

    monkeypatch.setattr(Bench, "__call__", impatient)
    result = answer_study(_study(), n_jobs=1)
    assert result.interrupted
    assert len(result.plans) == 2
    assert result.certificate.best == result.plans[0].metrics["e2e_mean_s"]
    assert result.certificate.bound is not None
    assert result.certificate.bound <= result.certificate.best
