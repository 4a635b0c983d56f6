"""Error bars, who beats whom, and --strict, as the command line shows them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from apex_sim.cli.main import commands
from apex_sim.planner import evaluation as planner_evaluation
from apex_sim.planner.answer import answer_study
from apex_sim.planner.error_bars import beats_probability, coin_tosses
from apex_sim.planner.ranking import is_answer
from apex_sim.planner.study import load_study
from apex_sim.truth.footing import Footing
from apex_sim.truth.validated import ClassErrors, Group, Validated

FEW = ["quickstart", "--n-requests", "60", "--pp", "1", "--jobs", "1", "--no-files"]


def run(*arguments):
    return CliRunner().invoke(commands, list(arguments))


def test_a_search_states_intervals_and_who_beats_whom():
    done = run("search", *FEW, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    objective = document["study"]["objective"]
    first, *others = document["plans"]
    for plan in document["plans"]:
        bar = plan["intervals"][objective]
        assert bar["low"] < plan["metrics"][objective] < bar["high"]
        assert bar["level"] == 0.8
        parts = [bar[name] for name in ("cost_model_frac", "workload_frac", "preset_frac")]
        assert max(parts) <= bar["total_frac"] <= sum(parts) * 1.01
        assert {"inside", "outside", "kernel_frac", "checked_on"} == set(plan["standing"])
    assert first["plan"]["label"] not in first["beats"]
    for plan in others:
        if plan["beats"]:
            chance = plan["beats"][first["plan"]["label"]]
            assert chance <= 0.5
            assert plan["coin_toss_with_best"] is (0.2 < chance < 0.8)


def test_figures_that_are_only_counted_have_no_interval():
    document = json.loads(run("search", *FEW, "--json").stdout)
    assert {"n_rejected", "usd_per_h", "kv_used_max_frac"}.isdisjoint(document["plans"][0]["intervals"])


def test_a_simulation_prints_its_error_bars():
    done = run("simulate", "quickstart", "--tp", "8", "--pp", "1", "--weight-dtype", "fp8", "--no-files")
    assert done.exit_code == 0, done.output
    assert "80 % of truths lie between" in done.output
    assert "engine" in done.output


def test_two_plans_that_cannot_be_told_apart_are_called_a_coin_toss():
    study = load_study("quickstart", {"load": {"n_requests": 60}, "space": {"pp": [1], "weight_dtypes": ["fp8"]}})
    result = answer_study(study, n_jobs=1)
    best, rival = result.plans[:2]
    assert is_answer(rival)
    assert beats_probability(best, best, study.objective) == 0.5
    assert coin_tosses((best, rival), ({rival.plan.label: 0.6}, {best.plan.label: 0.4})) == (rival.plan.label,)
    assert coin_tosses((best, rival), ({rival.plan.label: 0.9}, {best.plan.label: 0.1})) == ()


def group(footing, **other):
    errors = {"pace": ClassErrors(n=9, log_sd=0.03, bias_log=0.0, cost_log_sd=0.03)}
    return Group(
        source="mine",
        preset=footing.preset,
        device=footing.device,
        family=footing.family,
        models=["m"],
        engine_versions=["1"],
        n_cases=9,
        errors=errors,
        **{"tp": [8], "n_at_once": [0.1, 100.0], "prompt_tokens": [1.0, 1e5], **other},
    )


HERE = Footing("vllm-1", "h100-sxm", "LlamaForCausalLM", "m", (8,), "", 1.0, 1.0)


def test_strict_simulation_outside_fails_with_every_reason(monkeypatch):
    known = Validated((group(HERE, tp=[4], prompt_tokens=[1.0, 2.0]),), {})
    monkeypatch.setattr(planner_evaluation, "load_validated", lambda: known)
    one = ("simulate", "quickstart", "--tp", "8", "--pp", "1", "--weight-dtype", "fp8", "--no-files")
    assert run(*one).exit_code == 0
    refused = run(*one, "--strict")
    assert refused.exit_code == 2
    assert "TP8 was not measured, only TP4" in refused.output
    assert "prompt tokens on average" in refused.output


def test_strict_search_refuses_the_plans_outside(monkeypatch):
    monkeypatch.setattr(planner_evaluation, "load_validated", lambda: Validated((group(HERE),), {}))
    document = json.loads(run("search", *FEW, "--json", "--strict").stdout)
    assert {plan["plan"]["instances"][0]["tp"] for plan in document["plans"]} == {8}
    reasons = [each["reason"] for each in document["infeasible"]]
    assert any("outside the validated range: TP4 was not measured, only TP8" in reason for reason in reasons)


def test_strict_search_without_any_plan_inside_fails(monkeypatch):
    monkeypatch.setattr(planner_evaluation, "load_validated", lambda: Validated((), {}))
    done = run("search", *FEW, "--strict")
    assert done.exit_code == 2
    assert "no measured server of engine preset vllm-1" in done.output


@pytest.mark.parametrize("command", ["search", "simulate"])
def test_help_says_what_strict_does(command):
    assert "--strict" in run(command, "--help").output
