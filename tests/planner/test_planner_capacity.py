"""Highest rates: a queue whose limit is known, intervals that hold, and loads that have no rate."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from apex_sim.errors import InputError, UnsupportedError
from apex_sim.plan.plan import Plan
from apex_sim.plan.routing import Routing
from apex_sim.plan.shape import Shape
from apex_sim.planner.another_draw import at_rate, longer_draw, other_draws
from apex_sim.planner.capacity import Capacity, highest_rate, highest_rates
from apex_sim.planner.evaluation import capacity_per_s
from apex_sim.planner.rate_bracket import Judgement
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.study import Study, make_study, merge
from apex_sim.planner.trial import compile_of, try_plan

BASE: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "cluster": "1xh100-sxm",
    "workload": "chat",
    "load": {"n_requests": 200, "rate_per_s": 5.0},
    "slo": {"ttft_p99_s": 0.5, "tpot_p99_s": 0.03},
}


def _study(changes: dict[str, Any] | None = None) -> Study:
    return make_study(merge(BASE, changes or {}), "made-up", "made-up.toml")


def _plan(study: Study) -> Plan:
    return enumerate_space(study).feasible[0]


@cache
def _capacity() -> Capacity:
    study = _study()
    return highest_rate(study, _plan(study), n_draws=3)


def test_every_draw_keeps_the_lower_end_and_none_the_upper() -> None:
    found = _capacity()
    assert found.keeps_per_s is not None
    assert found.fails_per_s is not None
    assert found.keeps_per_s < found.fails_per_s
    for rate, keeps in ((found.keeps_per_s, True), (found.fails_per_s, False)):
        asked = [each for each in found.judgements if each.rate_per_s == rate]
        assert [each.keeps for each in sorted(asked, key=lambda each: each.draw)] == [keeps] * 3
    assert found.breaks


def test_the_first_draw_is_the_study_itself() -> None:
    found, study = _capacity(), _study()
    for judgement in found.judgements:
        if judgement.draw == 0 and not judgement.too_short:
            trial = try_plan(replace(study, workload=at_rate(study.workload, judgement.rate_per_s)), found.plan)
            if trial.stability.steady is not None:
                assert trial.keeps == judgement.keeps


def test_tighter_limits_never_allow_more() -> None:
    plan = _plan(_study())
    rates = []
    for limit in (0.02, 0.03, 0.06):
        study = _study({"slo": {"ttft_p99_s": 5.0, "tpot_p99_s": limit}})
        rates.append(highest_rate(study, plan, n_draws=1).keeps_per_s or 0.0)
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


def test_a_queue_with_equal_services_takes_one_request_for_each_service() -> None:
    """D/D/1: equal prompts of one token out, one seat, even arrivals; the highest rate is one over the service."""
    base = {key: value for key, value in BASE.items() if key != "slo"}
    data = merge(base, {"scheduler": {"max_num_seqs": 1, "async_scheduling": False}, "load": {"n_requests": 2000}})
    study = make_study(data, "made-up", "made-up.toml")
    n = study.workload.requests.n
    requests = replace(
        study.workload.requests,
        prompt_tokens=np.full(n, 1000),
        output_tokens=np.ones(n, dtype=np.int64),
        arrival_s=np.arange(n) / 5.0,
    )
    study = replace(study, workload=replace(study.workload, requests=requests))
    plan = _plan(study)
    alone = try_plan(study, plan).run.requests
    service_s = float((alone.first_token_s - alone.scheduled_s).mean())
    found = highest_rate(study, plan, n_draws=2)
    assert found.keeps_per_s is not None
    assert found.fails_per_s is not None
    # A backlog counts as growing from 2 % of arrivals on, which 2,000 arrivals show, and the bracket is 2 % wide.
    assert 0.97 < found.keeps_per_s * service_s < 1.05
    assert 0.97 < found.fails_per_s * service_s < 1.05


def test_without_limits_the_rate_is_near_the_closed_form_of_saturation() -> None:
    study = replace(_study(), slo=replace(_study().slo, limits=()))
    found = highest_rate(study, _plan(study), n_draws=2)
    assert found.keeps_per_s is not None
    assert 0.7 < found.keeps_per_s / found.estimate_per_s < 1.2


def _estimate(study: Study, *instances: tuple[Shape, int], routing: Routing | None = None) -> float:
    plan = Plan(instances, "size-bucket" if routing else "round-robin", routing)
    return capacity_per_s(study, plan, compile_of(study, plan))


def test_the_entry_that_saturates_first_under_the_shares_is_the_limit() -> None:
    """Half of the prompts have 100 tokens, half 2,000: what each instance can do is the estimate of it alone."""
    study = _study({"cluster": "3xh100-sxm", "space": {"tp": [1], "pp": [1]}})
    shape, n = _plan(study).instances[0][0], study.workload.requests.n

    def equal(prompt_tokens: list[int]) -> Study:
        tokens = np.resize(prompt_tokens, n)
        requests = replace(study.workload.requests, prompt_tokens=tokens, output_tokens=np.full(n, 100))
        return replace(study, workload=replace(study.workload, requests=requests))

    short, long, both = (_estimate(equal(tokens), (shape, 1)) for tokens in ([100], [2000], [100, 2000]))
    assert long < both < short
    pair = (shape, 1), (shape, 2)
    for shares, most in (
        (((1.0, 0.0), (0.0, 1.0)), min(short / 0.5, 2 * long / 0.5)),
        (((0.0, 1.0), (1.0, 0.0)), min(2 * short / 0.5, long / 0.5)),
        (((0.0, 1.0), (0.0, 1.0)), 2 * both),
        (((0.5, 0.5), (0.5, 0.5)), both / 0.5),
        (((0.9, 0.1), (0.9, 0.1)), both / 0.9),
    ):
        assert _estimate(equal([100, 2000]), *pair, routing=Routing((500,), shares)) == pytest.approx(most, rel=1e-3)
    assert _estimate(equal([100, 2000]), *pair) == pytest.approx(3 * both, rel=0.02)


def test_under_round_robin_the_slower_half_of_a_fleet_saturates_first() -> None:
    study = _study({"cluster": "2xh100-sxm", "space": {"tp": [1], "pp": [1]}})
    fast = _plan(study).instances[0][0]
    slow = replace(fast, scheduler=replace(fast.scheduler, max_num_seqs=4))
    alone, other = _estimate(study, (fast, 1)), _estimate(study, (slow, 1))
    assert other < 0.5 * alone
    assert _estimate(study, (fast, 1), (slow, 1)) == pytest.approx(2 * other, rel=0.1)
    aware = Plan(((fast, 1), (slow, 1)), "least-outstanding")
    assert capacity_per_s(study, aware, compile_of(study, aware)) == pytest.approx(alone + other)


def test_without_limits_the_rate_of_uneven_shares_is_near_the_closed_form_too() -> None:
    study = _study({"cluster": "2xh100-sxm", "space": {"tp": [1], "pp": [1]}})
    study = replace(study, slo=replace(study.slo, limits=()))
    shape = _plan(study).instances[0][0]
    uneven = Plan(((shape, 1), (shape, 1)), "weighted-round-robin", Routing((), ((0.95, 0.05),)))
    found = highest_rate(study, uneven, n_draws=1)
    assert found.keeps_per_s is not None
    assert 0.7 < found.keeps_per_s / found.estimate_per_s < 1.2


def test_a_limit_that_no_rate_keeps() -> None:
    study = _study({"slo": {"ttft_p99_s": 1e-4}})
    found = highest_rate(study, _plan(study), n_draws=1)
    assert (found.keeps_per_s, found.odd) == (None, ())
    assert found.breaks.startswith("ttft_p99_s is ")


def test_a_limit_on_cost_fails_below_and_that_is_reported() -> None:
    cheap = _study({"slo": {"ttft_p99_s": 2.0, "tpot_p99_s": 0.2, "usd_per_million_output_tokens": 1.0}})
    found = highest_rate(cheap, _plan(cheap), n_draws=1)
    assert found.keeps_per_s is not None
    assert found.odd
    assert any("not monotone" in note for note in found.notes)


def test_a_share_of_requests_may_be_the_limit() -> None:
    study = _study()
    most, few = (
        highest_rate(study, _plan(study), n_draws=1, share_frac=share).keeps_per_s or 0.0 for share in (0.99, 0.5)
    )
    assert most < few


def test_confidence_says_what_agreement_is_worth() -> None:
    assert "37%" in _capacity().confidence  # 0.05^(1/3)
    assert "no confidence" in replace(_capacity(), n_draws=1).confidence
    assert "no independent draws" in replace(_capacity(), independent=False).confidence


def test_runs_too_short_at_the_end_are_noted() -> None:
    found = _capacity()
    end = Judgement(found.keeps_per_s or 0.0, 0, True, "keeps every limit", too_short=True)
    assert "1 of 3 runs" in replace(found, judgements=(end,)).notes[0]


@pytest.mark.parametrize(("key", "value"), [("concurrency", 4), ("offline", True)])
def test_loads_without_a_rate_are_refused(key: str, value: object) -> None:
    data = merge({**BASE, "load": {"n_requests": 20}}, {"load": {key: value}})
    study = make_study(data, "made-up", "made-up.toml")
    with pytest.raises(UnsupportedError, match="no arrival rate"):
        highest_rate(study, _plan(study))


@pytest.mark.parametrize(
    "options", [{"n_draws": 0}, {"ratio": 1.0}, {"ratio": 3.0}, {"share_frac": 0.0}, {"share_frac": 1.5}]
)
def test_unusable_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        highest_rate(_study(), _plan(_study()), **options)


def test_a_share_needs_a_limit_on_requests() -> None:
    study = replace(_study(), slo=replace(_study().slo, limits=()))
    with pytest.raises(InputError, match="no limit that a single request can keep"):
        highest_rate(study, _plan(study), share_frac=0.9)


def test_other_draws_hold_the_same_requests_behind_other_gaps() -> None:
    workload = _study().workload
    first, second, third = other_draws(workload, 3)
    assert first is workload
    assert sorted(second.requests.prompt_tokens.tolist()) == sorted(workload.requests.prompt_tokens.tolist())
    assert second.requests.content_hash() != third.requests.content_hash()
    assert [each.requests.content_hash() for each in other_draws(workload, 3)] == [
        each.requests.content_hash() for each in (first, second, third)
    ]
    # The mean of n gaps scatters by 1 / sqrt(n) around the rate; four of that never happen.
    assert second.requests.rate_per_s == pytest.approx(5.0, rel=4 / np.sqrt(200))


def test_draws_of_even_arrivals_stay_even() -> None:
    workload = _study().workload
    even = replace(workload, requests=workload.requests.arriving(np.arange(200) / 5.0))
    for each in (*other_draws(even, 2), longer_draw(even, 2, 0)):
        assert np.diff(each.requests.arrival_s) == pytest.approx(0.2)


def test_a_longer_draw_begins_as_the_draw() -> None:
    workload = _study().workload
    longer = longer_draw(workload, 3, 1)
    assert longer.requests.n == 600
    assert longer.requests.head(200).content_hash() == workload.requests.content_hash()
    assert longer.requests.arrival_s.tolist() != longer_draw(workload, 3, 2).requests.arrival_s.tolist()


def test_parts_of_a_trace_keep_its_pace() -> None:
    trace = replace(_study().workload, seed=None, rate_per_s=5.0)
    whole, *parts = other_draws(trace, 3)
    assert whole is trace
    assert sum(part.requests.n for part in parts) == 200
    for part in parts:
        half = at_rate(part, 10.0)
        assert half.requests.arrival_s == pytest.approx(part.requests.arrival_s / 2)
    with pytest.raises(UnsupportedError, match="no more requests"):
        longer_draw(trace, 2, 0)


def test_plans_are_ordered_by_what_they_take() -> None:
    study = _study({"cluster": "2xh100-sxm", "load": {"n_requests": 60}})
    found = highest_rates(study, n_plans=2, n_draws=2)
    rates = [each.keeps_per_s or 0.0 for each in found]
    assert len(rates) == 2
    assert rates == sorted(rates, reverse=True)
