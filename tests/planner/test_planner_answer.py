"""Ranking, Pareto front and answers: tiers, brute force, one process against two, and questions without an answer."""

from dataclasses import fields, replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_sim.errors import InfeasiblePlanError, InputError, NoAnswerError, UnsupportedError
from apex_sim.metrics.definitions import METRICS
from apex_sim.metrics.stability import Stability
from apex_sim.planner.answer import SearchResult, answer_study
from apex_sim.planner.evaluation import CURVE_SHARES, Evaluation, cost_model_of
from apex_sim.planner.ranking import PARETO_METRICS, is_answer, pareto_front, rank
from apex_sim.planner.simulation import simulate_study
from apex_sim.planner.study import Study, make_study, merge

BASE: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "cluster": "2xh100-sxm",
    "workload": "chat",
    "load": {"n_requests": 25, "rate_per_s": 2.0},
    "space": {"weight_dtypes": ["bf16", "fp8"]},
}


def _study(changes: dict[str, Any] | None = None) -> Study:
    return make_study(merge(BASE, changes or {}), "made-up", "made-up.toml")


@cache
def _result() -> SearchResult:
    return answer_study(_study(), n_jobs=1, check=True)


def _made_up(values: dict[str, float | None], steady: bool | None = True, violations: int = 0) -> Evaluation:
    """Return an evaluation with these metrics instead of its own."""
    first = _result().plans[0]
    metrics = {**first.metrics, **values}
    return replace(
        first, metrics=metrics, stability=Stability(steady, "made up"), slo_violations=("too slow",) * violations
    )


def test_tiers_come_before_the_objective() -> None:
    answers = [_made_up({"ttft_mean_s": 9.0}), _made_up({"ttft_mean_s": 8.0}, steady=None)]
    missing = [_made_up({"ttft_mean_s": 2.0}, violations=1), _made_up({"ttft_mean_s": 1.0, "n_rejected": 1.0})]
    unsteady = [
        _made_up({"ttft_mean_s": 0.5}, steady=False),
        _made_up({"ttft_mean_s": 0.1}, steady=False, violations=2),
    ]
    ranked = rank([*unsteady, *missing, *answers], METRICS["ttft_mean_s"])
    assert [e.metrics["ttft_mean_s"] for e in ranked] == [8.0, 9.0, 1.0, 2.0, 0.1, 0.5]
    assert [is_answer(e) for e in ranked] == [True, True, False, False, False, False]


def test_higher_is_better_where_it_is_and_undefined_comes_last() -> None:
    plans = [_made_up({"output_tokens_per_s": value}) for value in (None, 1.0, 3.0, 2.0)]
    ranked = rank(plans, METRICS["output_tokens_per_s"])
    assert [e.metrics["output_tokens_per_s"] for e in ranked] == [3.0, 2.0, 1.0, None]


def test_ties_keep_the_given_order() -> None:
    plans = [_made_up({"ttft_mean_s": 1.0, "usd": float(i)}) for i in range(4)]
    assert [e.metrics["usd"] for e in rank(plans, METRICS["ttft_mean_s"])] == [0.0, 1.0, 2.0, 3.0]


_POINT = st.tuples(*[st.one_of(st.none(), st.integers(1, 3)) for _ in PARETO_METRICS])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(_POINT, st.sampled_from([True, None, False])), max_size=8))
def test_the_pareto_front_against_brute_force(points: list[tuple[tuple[int | None, ...], bool | None]]) -> None:
    plans = [_made_up(dict(zip(PARETO_METRICS, point, strict=True)), steady) for point, steady in points]
    front = pareto_front(plans)
    worst, n = 99, len(PARETO_METRICS)
    signs = [-1 if METRICS[name].better == "higher" else 1 for name in PARETO_METRICS]

    def losses(point: tuple[int | None, ...]) -> list[int]:
        return [worst if value is None else sign * value for sign, value in zip(signs, point, strict=True)]

    for plan, (point, steady) in zip(plans, points, strict=True):
        mine = losses(point)
        rivals = [losses(other) for other, ok in points if ok is not False]
        beaten = any(all(r[i] <= mine[i] for i in range(n)) and any(r[i] < mine[i] for i in range(n)) for r in rivals)
        assert (steady is not False and not beaten) == any(plan is kept for kept in front)


def test_a_search_ranks_every_plan_that_can_run() -> None:
    result = _result()
    assert len(result.plans) == 6  # DP2, TP2 and PP2, in bf16 and fp8
    values = [e.metrics["e2e_mean_s"] for e in result.plans]
    assert values == sorted(values, key=lambda value: value or 0.0)
    assert (result.certificate.n_enumerated, result.certificate.n_simulated, result.certificate.best) == (
        6,
        6,
        values[0],
    )
    assert result.best is result.plans[0]
    assert result.problem == ""
    assert {id(e) for e in result.pareto} <= {id(e) for e in result.plans}


def test_breakdown_fills_the_held_device_time_and_curves_are_monotone() -> None:
    for evaluation in _result().plans:
        makespan_s = evaluation.metrics["makespan_s"]
        assert makespan_s is not None
        assert sum(evaluation.breakdown_s.values()) == pytest.approx(2 * makespan_s)
        for curve in evaluation.curves_s.values():
            assert len(curve) == len(CURVE_SHARES)
            assert list(curve) == sorted(curve)
        assert evaluation.curves_s["ttft"][100] == pytest.approx(evaluation.metrics["ttft_median_s"])


def test_two_processes_answer_as_one() -> None:
    told: list[tuple[int, int]] = []
    two = answer_study(_study(), n_jobs=2, progress=lambda done, total: told.append((done, total)))
    for mine, theirs in zip(_result().plans, two.plans, strict=True):
        for field in fields(Evaluation):
            if field.name != "cpu_s":
                assert getattr(mine, field.name) == getattr(theirs, field.name), field.name
    assert told == [(i, 6) for i in range(1, 7)]
    assert two.certificate == _result().certificate
    assert two.provenance == _result().provenance


def test_an_overloaded_study_says_so() -> None:
    changes = {
        "cluster": "1xh100-sxm",
        "load": {"n_requests": 150, "rate_per_s": 100.0},
        "space": {"weight_dtypes": ["bf16"]},
        "scheduler": {"max_num_seqs": 8},
    }
    result = answer_study(_study(changes), n_jobs=1)
    assert result.plans[0].stability.steady is False
    assert "backlog grows by" in result.plans[0].why
    assert "no plan is steady" in result.problem
    assert result.pareto == ()
    assert result.certificate.best is None
    with pytest.raises(NoAnswerError, match="backlog grows") as caught:
        _ = result.best
    assert caught.value.exit_code == 1


def test_a_missed_slo_is_a_problem_with_its_figures() -> None:
    result = answer_study(_study({"slo": {"tpot_p99_s": 1e-4}, "space": {"tp": [2]}}), n_jobs=1)
    assert "tpot_p99_s is" in result.problem
    assert "above 0.0001" in result.problem
    assert result.plans[0].metrics["goodput_per_s"] == 0


def test_a_model_that_does_not_fit_is_a_problem_with_reasons() -> None:
    result = answer_study(_study({"model": "llama-3.1-405b"}), n_jobs=1)
    assert (result.plans, result.certificate.best) == ((), None)
    assert result.problem.startswith("no plan can run llama-3.1-405b on 2xh100-sxm (DP2 TP1 PP1 bf16: memory:")


def test_a_request_above_the_stated_max_model_len_is_refused() -> None:
    with pytest.raises(InputError, match="max_model_len is 64"):
        answer_study(_study({"scheduler": {"max_model_len": 64}}), n_jobs=1)


def test_a_simulation_takes_one_plan() -> None:
    one = {"space": {"weight_dtypes": ["fp8"], "tp": [2]}}
    simulation = simulate_study(_study(one), check=True)
    assert simulation.evaluation.plan.label == "DP1 TP2 PP1 fp8"
    ranked = next(e for e in _result().plans if e.plan.label == "DP1 TP2 PP1 fp8")
    assert simulation.evaluation.metrics == ranked.metrics
    assert simulation.run.requests.finished.all()
    with pytest.raises(InputError, match="6 plans"):
        simulate_study(_study())
    with pytest.raises(InfeasiblePlanError, match="memory: stage 1 of 1"):
        simulate_study(_study({"model": "llama-3.1-405b", **one}))


def test_provenance_names_a_research_policy_and_what_predicts_lengths() -> None:
    """A policy that the preset's engine lacks is marked as such, and an exact predictor is called one."""
    changes = {
        "space": {"weight_dtypes": ["bf16"], "tp": [2]},
        "scheduler": {"policy": "sarathi", "queue_order": "shortest-predicted-first"},
    }
    simulation = simulate_study(_study(changes), check=True)
    assumed = simulation.provenance.assumed
    assert any("research policy sarathi on the figures of vllm-1, whose engine lacks it" in text for text in assumed)
    assert "predicted output lengths: an exact predictor, which no server has" in assumed
    assert simulation.evaluation.engine == "compiled"
    reference = simulate_study(_study(changes), check=True, reference=True)
    assert reference.evaluation.metrics["e2e_mean_s"] == pytest.approx(simulation.evaluation.metrics["e2e_mean_s"])
    changes["scheduler"]["prediction_log_sd"] = 0.5  # type: ignore[assignment]
    guessed = simulate_study(_study(changes)).provenance.assumed
    assert "predicted output lengths: log-normal error of spread 0.5" in guessed


def test_provenance_names_what_is_assumed() -> None:
    provenance = _result().provenance
    assert (provenance.preset, provenance.cost_model, provenance.seed) == ("vllm-1", "calibrated", 0)
    assert any("buffers" in text for text in provenance.assumed)
    assert any("price_usd_per_h" in text for text in provenance.assumed)


@pytest.mark.parametrize(
    ("cluster", "cost_model", "used"),
    [
        ("1xh100-sxm", None, "calibrated"),
        ("1xh100-sxm", "roofline", "roofline"),
        ("1xa10", None, "roofline"),
        ("1xb300", None, "calibrated"),
    ],
)
def test_the_best_back_end_is_used_unless_one_is_named(cluster: str, cost_model: str | None, used: str) -> None:
    study = _study({"cluster": cluster, "cost_model": cost_model})
    cost = cost_model_of(study)
    assert cost.name == used
    marks = {"1xa10": "not calibrated", "1xb300": "prediction"}
    assert marks.get(cluster, "") in cost.provenance


def test_a_device_without_fits_cannot_be_calibrated() -> None:
    with pytest.raises(UnsupportedError, match=r"no kernel times were fitted for a10.*Use the cost model 'roofline'"):
        answer_study(_study({"cluster": "1xa10", "cost_model": "calibrated"}), n_jobs=1)


def test_evaluations_name_their_back_end() -> None:
    assert {e.cost_name for e in _result().plans} == {"calibrated"}
    assert {e.provenance for e in _result().plans} == {cost_model_of(_study()).provenance}
