"""Estimated capacity and the verdict on steadiness, against simulations at known multiples of a simulated capacity."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from apex_sim.fleet.compiled_plan import compile_plan
from apex_sim.metrics.capacity import instance_capacity_per_s, workload_capacity_per_s
from apex_sim.metrics.stability import Stability, judge_stability
from apex_sim.planner.evaluation import cost_model_of, run_plan
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.study import Study, make_study
from apex_sim.preset.research import RESEARCH_POLICIES
from apex_sim.record.run import FleetRun
from apex_sim.workload.load_form import LoadForm
from apex_sim.workload.requests import make_requests
from apex_sim.workload.workload import Workload

PROMPT_TOKENS, OUTPUT_TOKENS = 300.0, 50.0


def _workload(n: int, rate_per_s: float | None, seed: int, load: LoadForm, low_tokens: int = 1) -> Workload:
    """Return lognormal lengths of the means above, arriving as a Poisson process, or all at t=0."""
    rng = np.random.default_rng(seed)
    prompt = rng.lognormal(np.log(PROMPT_TOKENS) - 0.32, 0.8, n).clip(low_tokens, 3000).astype(int)
    output = rng.lognormal(np.log(OUTPUT_TOKENS) - 0.18, 0.6, n).clip(1, 500).astype(int)
    arrivals = np.zeros(n) if rate_per_s is None else np.cumsum(rng.exponential(1 / rate_per_s, n))
    requests = make_requests(arrivals - arrivals[0], prompt, output)
    return Workload("made-up", requests, load, rate_per_s, seed, (), False, "made up")


@cache
def _study(preset: str, pp: int, max_num_seqs: int = 32) -> Study:
    data = {
        "model": "llama-3.1-8b",
        "cluster": f"{pp}xh100-sxm",
        "workload": "chat",
        "load": {"n_requests": 1},
        "space": {"preset": preset, "tp": [1], "pp": [pp]},
        "scheduler": {"max_model_len": 4096, "max_num_seqs": max_num_seqs},
    }
    return make_study(data, "made-up", "made-up")


def _simulate(study: Study, workload: Workload) -> FleetRun:
    loaded = replace(study, workload=workload)
    return run_plan(loaded, enumerate_space(loaded).feasible[0])[0]


def _estimate_per_s(study: Study) -> float:
    plan = enumerate_space(study).feasible[0]
    memory, step_model = compile_plan(study.model, study.cluster, plan, cost_model_of(study))[plan.instances[0][0]]
    return instance_capacity_per_s(step_model, memory, PROMPT_TOKENS, OUTPUT_TOKENS)


@cache
def _saturated_per_s(key: tuple[str, int, int]) -> float:
    """Return what a plan finishes per second while twice as many ask as it can hold, over three draws of lengths."""
    study, users = _study(*key), LoadForm("closed", concurrency=2 * key[2] * key[1])
    rates = []
    for seed in range(100, 103):
        finish_s = np.sort(_simulate(study, _workload(500, None, seed, users)).requests.finish_s)
        rates.append(250 / (finish_s[400] - finish_s[150]))
    return float(np.mean(rates))


@pytest.mark.parametrize(
    ("key", "low", "high"),
    [
        (("vllm-1", 1, 32), 0.8, 1.25),
        (("vllm-1", 1, 64), 0.8, 1.25),
        (("vllm-0.6", 1, 32), 0.8, 1.25),
        (("vllm-0.6", 1, 64), 0.8, 1.25),
        (("vllm-0.6", 2, 16), 0.8, 1.6),
        (("vllm-1", 2, 32), 0.8, 2.4),
    ],
)
def test_the_estimate_is_near_a_simulated_saturation(key: tuple[str, int, int], low: float, high: float) -> None:
    """Two stages serve less than the estimate, because their batches are unequal."""
    assert low <= _estimate_per_s(_study(*key)) / _saturated_per_s(key) <= high


@pytest.mark.parametrize("policy", RESEARCH_POLICIES)
def test_the_estimate_follows_reserved_memory_and_batches_that_nobody_joins(policy: str) -> None:
    """Static batching serves less than half of what Orca does; an estimate blind to that would be far off."""
    study = _study("vllm-0.6", 1)
    study = replace(study, scheduler=study.scheduler.model_copy(update={"policy": policy}))
    workload = _workload(1280, None, 1, LoadForm("closed", concurrency=64))
    plan = enumerate_space(study).feasible[0]
    memory, step_model = compile_plan(study.model, study.cluster, plan, cost_model_of(study))[plan.instances[0][0]]
    served_per_s = workload.requests.n / _simulate(study, workload).makespan_s
    assert 0.9 <= workload_capacity_per_s(step_model, memory, workload.requests) / served_per_s <= 1.1


@pytest.mark.parametrize("budget_tokens", [16, 64, 256])
def test_the_estimate_counts_every_chunk_of_a_prompt_longer_than_a_step(budget_tokens: int) -> None:
    """SGLang cuts prompts into chunks of the budget, each a step of its own."""
    study = _study("sglang", 1, 8)
    changes = {"max_num_batched_tokens": budget_tokens, "block_size_tokens": 16}
    study = replace(study, scheduler=study.scheduler.model_copy(update=changes))
    workload = _workload(200, None, 1, LoadForm("closed", concurrency=64))
    plan = enumerate_space(study).feasible[0]
    memory, step_model = compile_plan(study.model, study.cluster, plan, cost_model_of(study))[plan.instances[0][0]]
    served_per_s = workload.requests.n / _simulate(study, workload).makespan_s
    assert 0.8 <= workload_capacity_per_s(step_model, memory, workload.requests) / served_per_s <= 1.25


@pytest.mark.parametrize(("prompt_tokens", "output_tokens"), [(4000.0, 1.0), (4000.0, 1.3), (1.0, 3000.0), (17.3, 9.1)])
@pytest.mark.parametrize("preset", ["vllm-0.6", "vllm-1"])
def test_extreme_lengths_stay_within_the_step_budget(preset: str, prompt_tokens: float, output_tokens: float) -> None:
    study = _study(preset, 1, 4)
    plan = enumerate_space(study).feasible[0]
    memory, step_model = compile_plan(study.model, study.cluster, plan, cost_model_of(study))[plan.instances[0][0]]
    assert 0 < instance_capacity_per_s(step_model, memory, prompt_tokens, output_tokens) < 1e4


def _verdict(key: tuple[str, int, int], load: float, n: int, seed: int) -> Stability:
    study, rate_per_s = _study(*key), load * _saturated_per_s(key)
    workload = _workload(n, rate_per_s, seed, LoadForm("trace"))
    return judge_stability(_simulate(study, workload), workload, _estimate_per_s(study))


_KEYS = [("vllm-1", 1, 32), ("vllm-0.6", 1, 32), ("vllm-1", 2, 32)]


@pytest.mark.parametrize("key", _KEYS)
def test_half_the_capacity_is_steady(key: tuple[str, int, int]) -> None:
    verdicts = [_verdict(key, 0.5, 400, seed) for seed in range(4)]
    assert [v.steady for v in verdicts] == [True] * 4
    assert max(abs(v.backlog_growth_frac or 0.0) for v in verdicts) < 0.02


@pytest.mark.parametrize("key", _KEYS)
def test_nine_tenths_of_the_capacity_are_rarely_called_unsteady(key: tuple[str, int, int]) -> None:
    """Rate and lengths of 500 draws vary by 6 %: now and then such a run in fact offers more than the capacity."""
    assert [_verdict(key, 0.9, 500, seed).steady for seed in range(6)].count(False) <= 1


@pytest.mark.parametrize("key", _KEYS)
def test_one_and_a_half_capacities_are_unsteady(key: tuple[str, int, int]) -> None:
    """The share that piles up is 1 - 1/1.5 in a fluid queue.

    Two stages serve about a tenth more than in saturation from a common start, which leaves their batches unequal.
    """
    for seed in range(2):
        verdict = _verdict(key, 1.5, 400, seed)
        assert verdict.steady is False
        assert verdict.backlog_growth_frac is not None
        assert verdict.backlog_growth_frac == pytest.approx(1 / 3, abs=0.12 if key[1] == 1 else 0.16)
        assert verdict.backlog_growth == pytest.approx(verdict.backlog_growth_frac * 300, rel=0.25)
        assert verdict.reason.startswith("backlog grows by")


def test_a_flood_is_unsteady_by_its_backlog_even_if_the_estimate_is_far_too_high() -> None:
    """Everything arrives within a second or so, and waits for many times as long."""
    study, workload = _study("vllm-1", 1, 8), _workload(150, 150.0, 0, LoadForm("trace"))
    verdict = judge_stability(_simulate(study, workload), workload, 1e6)
    assert (verdict.steady, verdict.reason.split(" by ")[0]) == (False, "backlog grows")


@pytest.mark.parametrize("load", [LoadForm("closed", concurrency=4), LoadForm("offline")])
def test_loads_without_a_rate_have_no_verdict(load: LoadForm) -> None:
    study, workload = _study("vllm-1", 1), _workload(20, None, 0, load)
    verdict = judge_stability(_simulate(study, workload), workload, 1.0)
    assert (verdict.steady, verdict.offered_load_frac) == (None, None)


@pytest.mark.parametrize(("capacity_per_s", "steady"), [(1e6, None), (1e-6, False)])
def test_a_few_arrivals_tell_nothing_unless_they_pass_the_estimate(capacity_per_s: float, steady: bool | None) -> None:
    study, workload = _study("vllm-1", 1), _workload(19, 2.0, 0, LoadForm("trace"))
    assert judge_stability(_simulate(study, workload), workload, capacity_per_s).steady is steady


def test_requests_that_take_as_long_as_the_run_tell_nothing() -> None:
    study, workload = _study("vllm-1", 1), _workload(60, 500.0, 0, LoadForm("trace"))
    verdict = judge_stability(_simulate(study, workload), workload, 1e6)
    assert verdict.steady is None
    assert verdict.reason.startswith("too short to tell: 60 arrivals")


def test_refused_requests_are_no_backlog() -> None:
    """One prompt in ten exceeds what the engine takes at once; the rest are served at a low load."""
    study = _study("vllm-1", 1)
    workload = _workload(300, 2.0, 0, LoadForm("trace"))
    run = _simulate(study, workload)
    requests = run.requests
    status = requests.status.copy()
    status[::10] = 1
    hidden = np.where(status == 1, np.nan, 1.0)
    object.__setattr__(requests, "status", status)
    for name in ("scheduled_s", "first_token_s", "finish_s"):
        object.__setattr__(requests, name, getattr(requests, name) * hidden)
    assert judge_stability(run, workload, 50.0).steady is True
