"""Bounds: no simulation beats them, floors against hand and brute force, and what was seen is what happens."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apex_sim.cost.decode_table import DecodeTable
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import StepModel, knots
from apex_sim.errors import InputError
from apex_sim.fleet.compiled_plan import compile_plan
from apex_sim.fleet.fleet import simulate_plan
from apex_sim.metrics.definitions import METRICS
from apex_sim.plan.plan import Plan
from apex_sim.planner.bounds import floors
from apex_sim.planner.bounds.floors import stage_floors, token_knots
from apex_sim.planner.bounds.seen import certain_until_s, has_prefixes, head_of, seen_in
from apex_sim.planner.bounds.solo import shared_prefix_tokens, solo_times
from apex_sim.planner.evaluation import Evaluation, costs_of
from apex_sim.planner.job import Bench, Glimpse, Job
from apex_sim.planner.ranking import loss_of
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.study import Study, make_study, merge

_N = 24
_BASE: dict[str, Any] = {
    "model": "llama-3.2-1b",
    "cluster": "4xh100-sxm",
    "workload": "chat",
    "load": {"n_requests": _N, "rate_per_s": 20.0, "seed": 1},
    "space": {"allow_idle": True},
}


def _study(changes: dict[str, Any] | None = None) -> Study:
    return make_study(merge(_BASE, changes or {}), "made-up", "made-up.toml")


def _beaten(study: Study, plan: Plan) -> list[str]:
    """Return which bounds of `plan` its simulation beats, before and after runs of its first requests."""
    bench = Bench(study)
    whole = bench(Job(plan, None))
    if not isinstance(whole, Evaluation) or whole.metrics["n_rejected"]:
        return []
    found = []
    for n_requests in (0, _N // 3, 2 * _N // 3) if has_prefixes(study.workload) else (0,):
        glimpse = bench(Job(plan, n_requests))
        assert isinstance(glimpse, Glimpse)
        assert glimpse.bounds
        for name, bound in glimpse.bounds.items():
            value = whole.metrics[name]
            if value is not None and loss_of(value, METRICS[name]) < loss_of(bound, METRICS[name]):
                found.append(f"{plan.label} after {n_requests}: {name} is {value!r}, bound {bound!r}")
    return found


_LOADS = st.one_of(
    st.builds(lambda rate: {"rate_per_s": rate}, st.floats(0.5, 200.0)),
    st.builds(lambda users: {"concurrency": users}, st.integers(1, 30)),
    st.just({"offline": True}),
)
#: Model, and what makes its plans special.
_SPACES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("llama-3.2-1b", {"pp": [1, 2, 4], "splits": "ends", "kv_dtypes": ["bf16", "fp8"]}),
    ("llama-3.1-8b", {"weight_dtypes": ["bf16", "fp8", "w4a16"], "cp": [1, 2]}),
    ("gpt-oss-20b", {"cells": True}),
    ("mixtral-8x7b", {"tp": [1, 2], "attention_dp": [1, 2], "cells": True}),
    ("deepseek-v2-lite", {"attention_dp": [1, 2, 4], "pp": [1, 2]}),
    ("gemma-3-12b", {"pp": [1, 2]}),
)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    case=st.sampled_from(_SPACES),
    preset=st.sampled_from(["vllm-1", "vllm-1", "vllm-0.6", "sglang", "trtllm"]),
    load=_LOADS,
    seed=st.integers(0, 1000),
    clock_frac=st.sampled_from([1.0, 1.0, 0.6]),
    seats=st.sampled_from([1, 3, 16, 256]),
    budget=st.sampled_from([64, 512, 8192]),
    router=st.sampled_from(["round-robin", "least-outstanding"]),
    imbalance=st.sampled_from([0.0, 0.0, 1.0]),
    number=st.integers(0, 10_000),
)
def test_no_simulation_beats_a_bound(
    case: tuple[str, dict[str, Any]], preset: str, load: dict[str, Any], seed: int, clock_frac: float, seats: int,
    budget: int, router: str, imbalance: float, number: int,
) -> None:  # fmt: skip
    model, space = case
    knob = {"max_num_seqs": seats, "expert_imbalance": imbalance}
    knob |= {"max_num_batched_tokens": max(budget, seats)} if preset == "vllm-1" else {}
    changes = {
        "model": model,
        "workload": "creation" if seed % 2 else "chat",
        "space": {**space, "preset": preset, "clock_frac": [clock_frac], "router": router},
        "scheduler": knob,
    }
    data = {**merge(_BASE, changes), "load": {"n_requests": _N, "seed": seed, **load}}
    try:
        study = make_study(data, "made-up", "made-up.toml")
        plans = enumerate_space(study).feasible
    except InputError:
        return
    if plans:
        assert _beaten(study, plans[number % len(plans)]) == []


@pytest.mark.parametrize(("draft", "acceptance"), [("llama-3.2-1b", 1.0), ("llama-3.2-1b", 0.6)])
@pytest.mark.parametrize("load", [{"rate_per_s": 20.0}, {"concurrency": 6}])
def test_no_speculation_beats_a_bound(draft: str, acceptance: float, load: dict[str, Any]) -> None:
    scheduler = {"draft": draft, "n_draft_tokens": 3, "acceptance_frac": acceptance, "max_num_seqs": 16}
    changes = {"model": "llama-3.1-8b", "space": {"pp": [1], "n_draft_tokens": [0, 1, 3]}, "scheduler": scheduler}
    study = make_study({**merge(_BASE, changes), "load": {"n_requests": _N, **load}}, "made-up", "made-up.toml")
    assert [text for plan in enumerate_space(study).feasible[::4] for text in _beaten(study, plan)] == []


def test_a_prefix_cache_does_not_beat_a_bound(tmp_path: Path) -> None:
    study = _of_shared_prompts(tmp_path)
    plans = enumerate_space(study).feasible
    assert {plan.instances[0][0].scheduler.prefix_cache for plan in plans} == {True, False}
    assert [text for plan in plans for text in _beaten(study, plan)] == []


def test_no_mixed_fleet_beats_a_bound() -> None:
    study = _study({"cluster": "2xh100-sxm+2xl40s", "space": {"pp": [1], "routers": ["least-outstanding"]}})
    mixed = [plan for plan in enumerate_space(study).feasible if len(plan.instances) == 2]
    assert len(mixed) >= 4
    assert [text for plan in mixed for text in _beaten(study, plan)] == []


def _of_shared_prompts(folder: Path) -> Study:
    """Return a study of prompts of one to three full blocks of one text, and a block of their own."""
    rows = []
    for i in range(_N):
        hashes = [*range(1 + i % 3), 100 + i]
        tokens = 512 * len(hashes) - 17
        rows.append({"timestamp": 40 * i, "input_length": tokens, "output_length": 9, "hash_ids": hashes})
    path = folder / "shared.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    space = {"tp": [1, 2], "pp": [1], "prefix_cache": [True, False], "max_num_seqs": [4, 64]}
    return _study({"workload": str(path), "load": {"seed": None}, "space": space})


# --- floors -----------------------------------------------------------------------------------------------------------


def test_shared_prefixes_by_hand(tmp_path: Path) -> None:
    requests = _of_shared_prompts(tmp_path).workload.requests
    assert shared_prefix_tokens(requests)[:4].tolist() == [512, 1024, 1536, 512]


@pytest.mark.parametrize("most", [7, 1024, 1025, 2048, 16384, 32768, 40000])
def test_token_knots_are_those_of_the_table(most: int) -> None:
    of_table = knots(most)[1:]
    assert token_knots(len(of_table)).tolist() == of_table.tolist()


def test_lines_are_the_lower_hull_by_hand() -> None:
    lines = floors._lower_lines(np.array([1.0, 2.0, 4.0]), np.array([3.0, 3.0, 7.0]))
    assert sorted(lines) == [(0.0, 1.5), (3.0, 0.0)]
    lines = floors._lower_lines(np.array([1.0, 2.0, 4.0]), np.array([2.0, 3.0, 7.0]))
    assert sorted(lines) == [(0.0, 1.5), (1.0, 1.0), (2.0, 0.0)]


def test_the_decode_floor_by_hand() -> None:
    """One sequence takes 1, 2, 5 at 1, 2, 4 keys; two take 2, 1.5, 4 at as many each: 4 keys are best read by two."""
    kernel_s = np.array([[1.0, 2.0, 5.0], [2.0, 1.5, 4.0]])
    prices_s = np.stack([kernel_s, 0 * kernel_s, 0 * kernel_s], axis=-1)
    table = DecodeTable(np.array([1.0, 2.0, 4.0]), prices_s, kernel_s > 9.0, 1.0, 1.0, None)  # type: ignore[arg-type]
    floor = floors._decode_floor(table, 6)
    assert floor[0] == floor[1] == 1.0
    assert floor[2] == pytest.approx(1.5)
    assert floor[4] == pytest.approx(1.5)
    assert floor[4] <= floor[5] == floor[6]
    assert floors._key_s(table) == pytest.approx(1.5 / 4.0)


@cache
def _step_model(model: str) -> StepModel:
    study = _study({"model": model, "space": {"tp": [2], "pp": [1], "dp": [1]}})
    plan = enumerate_space(study).feasible[0]
    compiled = compile_plan(study.model, study.cluster, plan, costs_of(study))
    return compiled[plan.instances[0][0]][1]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    model=st.sampled_from(["llama-3.2-1b", "gemma-3-12b", "gpt-oss-20b"]),
    prompts=st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 1500)), max_size=4),
    decodes=st.lists(st.integers(1, 6000), max_size=40),
)
def test_floors_are_below_the_price_of_every_step(
    model: str, prompts: list[tuple[int, int]], decodes: list[int]
) -> None:
    step_model = _step_model(model)
    batch = StepBatch(step_model.windows)
    for past, chunk in prompts:
        batch.add(past, chunk, 1, is_decode=False)
    for past in decodes:
        batch.add(past, 1, 1, is_decode=True)
    if not batch.n_tokens:
        return
    stage = step_model.stages[0]
    device_s = stage.price(batch).device_s
    floor = stage_floors(stage, 8000)
    pairs = dict(zip(step_model.windows, batch.prefill_pairs, strict=True))
    pairs_s = sum(floor.pair_s[window] * pairs[window] for window in floor.pair_s)
    keys = dict(zip(step_model.windows, batch.decode_keys, strict=True))
    keys_s = sum(floor.key_s[window] * keys[window] for window in floor.key_s)
    step_s = max(a + b * batch.n_tokens for a, b in floor.step_lines)
    assert step_s + pairs_s + keys_s + floor.sampled_s * batch.n_sampled <= device_s * (1 + 1e-12)
    if prompts:
        assert max(a + b * batch.n_tokens for a, b in floor.prompt_lines) + pairs_s <= device_s * (1 + 1e-12)
    for past in decodes:
        decode_s = sum(keys_s[past + 1] for keys_s in floor.decode_keys_s.values())
        assert floor.decode_step_s + decode_s <= device_s * (1 + 1e-12)


# --- what was seen ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [{"rate_per_s": 40.0}, {"rate_per_s": 2.0}, {"concurrency": 5}])
@pytest.mark.parametrize("router", ["round-robin", "least-outstanding"])
def test_what_was_seen_is_what_happens(load: dict[str, Any], router: str) -> None:
    space = {"space": {"tp": [1], "pp": [1], "dp": [2], "router": router}}
    study = make_study({**merge(_BASE, space), "load": {"n_requests": _N, **load}}, "made-up", "made-up.toml")
    plan = enumerate_space(study).feasible[0]
    whole = simulate_plan(study.model, study.cluster, plan, study.workload, costs_of(study)).requests
    n = 2 * _N // 3
    head = head_of(study.workload, n)
    run = simulate_plan(study.model, study.cluster, plan, head, costs_of(study)).requests
    until_s = certain_until_s(run, study.workload)
    ended = run.finish_s < until_s
    assert ended.any()
    assert np.array_equal(run.finish_s[ended], whole.finish_s[:n][ended])
    assert np.array_equal(run.first_token_s[ended], whole.first_token_s[:n][ended])
    seen = seen_in(run, study.workload)
    assert np.all(seen.ttft_s <= whole.ttft_s)
    assert np.all(seen.ttft_s + seen.decode_s <= whole.e2e_s)
    assert np.all(seen.ttft_s[n:] == 0.0)


def test_until_when_a_run_of_the_first_is_the_whole_by_hand() -> None:
    study = _study()
    plan = enumerate_space(study).feasible[0]
    run = simulate_plan(study.model, study.cluster, plan, head_of(study.workload, 7), costs_of(study)).requests
    assert certain_until_s(run, study.workload) == study.workload.requests.arrival_s[7]
    closed = make_study({**_BASE, "load": {"n_requests": _N, "concurrency": 4}}, "made-up", "made-up.toml")
    run = simulate_plan(closed.model, closed.cluster, plan, head_of(closed.workload, 7), costs_of(closed)).requests
    assert certain_until_s(run, closed.workload) == np.sort(run.finish_s)[3]


def test_more_requests_seen_bind_no_less() -> None:
    study = _study()
    plan, bench = enumerate_space(study).feasible[0], Bench(study)
    glimpses = [bench(Job(plan, n)) for n in (0, 8, 16, 23)]
    bounds = [each.bounds["e2e_mean_s"] for each in glimpses if isinstance(each, Glimpse)]
    assert len(bounds) == 4
    assert bounds == sorted(bounds)
    assert bounds[0] < bounds[-1]


def test_solo_times_are_those_of_a_request_alone_at_most() -> None:
    study = _study({"load": {"rate_per_s": 0.02}})
    plan = enumerate_space(study).feasible[0]
    compiled = compile_plan(study.model, study.cluster, plan, costs_of(study))
    requests = study.workload.requests
    solo = solo_times(compiled[plan.instances[0][0]][1], requests, shared_prefix_tokens(requests))
    run = simulate_plan(study.model, study.cluster, plan, study.workload, costs_of(study)).requests
    assert np.all(solo.ttft_s <= run.ttft_s)
    assert np.all(solo.ttft_s + solo.decode_s <= run.e2e_s)
    assert float((solo.ttft_s + solo.decode_s).mean()) > 0.8 * float(run.e2e_s.mean())
