"""Why: parts that add up to what was measured, degenerate cases by hand, and changes that mend what they should."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from apex_sim.errors import InfeasiblePlanError, UnknownNameError
from apex_sim.metrics.slo import make_slo
from apex_sim.plan.plan import Plan
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.study import Study, make_study, merge
from apex_sim.planner.trial import compile_of, plan_by_label, try_plan
from apex_sim.planner.why.bottleneck import PARTS, bottleneck_of
from apex_sim.planner.why.delay import Delays, delays_of
from apex_sim.planner.why.explanation import explain
from apex_sim.planner.why.miss import misses_of, parts_of
from apex_sim.planner.why.remedy import KINDS, changes_of, try_changes

BASE: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "cluster": "2xh100-sxm",
    "workload": "chat",
    "load": {"n_requests": 120, "rate_per_s": 20.0},
    "space": {"tp": [1], "pp": [1], "dp": [2]},
}
#: Seats and blocks so few that requests wait for both, and lose their blocks.
SHORT_OF_BLOCKS = {
    "cluster": "1xh100-sxm",
    "space": {"dp": [1]},
    "load": {"n_requests": 80, "rate_per_s": 60.0},
    "scheduler": {"gpu_memory_utilization_frac": 0.285, "max_num_batched_tokens": 2048},
}


def _study(changes: dict[str, Any] | None = None) -> Study:
    return make_study(merge(BASE, changes or {}), "made-up", "made-up.toml")


def _plan(study: Study) -> Plan:
    return enumerate_space(study).feasible[0]


@cache
def _delays(case: str) -> tuple[Study, Any, Delays]:
    study = _study(
        {"plain": {}, "blocks": SHORT_OF_BLOCKS, "stages": {"space": {"tp": [1], "pp": [2], "dp": [1]}}}[case]
    )
    plan = _plan(study)
    compiled = compile_of(study, plan)
    trial = try_plan(study, plan, compiled)
    return study, trial, delays_of(study, trial, compiled)


@pytest.mark.parametrize("case", ["plain", "blocks", "stages"])
def test_parts_add_up_to_the_measured_latencies(case: str) -> None:
    _, trial, delays = _delays(case)
    requests = trial.run.requests
    for latency in ("ttft", "tpot", "e2e"):
        parts, measured = parts_of(latency, trial, delays), getattr(requests, f"{latency}_s")
        assert sum(parts.values()) == pytest.approx(measured, nan_ok=True)
    for name, seconds in {**delays.first_s, **delays.decode_s}.items():
        if not name.startswith("others"):
            assert (seconds >= 0).all(), name


def test_a_request_alone_shares_nothing() -> None:
    study = _study({"load": {"n_requests": 1}})
    explanation = explain(study, _plan(study))
    parts = explanation.parts_s["e2e"]
    assert {name for name, seconds in parts.items() if abs(seconds) > 1e-9} <= {
        "frontend",
        "queueing",
        "own_prompt",
        "own_decode",
    }
    assert explanation.keeps
    assert explanation.tried == ()


def test_blocks_that_run_out_show_as_waiting_and_preemption() -> None:
    study, trial, delays = _delays("blocks")
    assert trial.run.requests.n_preemptions.sum() > 0
    assert delays.first_s["kv_queueing"].sum() > 0
    lost = delays.decode_s["preemption_after_first"] + delays.first_s["preemption_before_first"]
    assert lost.sum() > 0
    assert (lost[trial.run.requests.n_preemptions == 0] == 0).all()
    pressure = bottleneck_of(trial, compile_of(study, trial.plan)).pressure
    assert pressure.main == "kv"
    assert pressure.n_preemptions == trial.run.requests.n_preemptions.sum()


def test_enough_blocks_cost_nobody_time() -> None:
    _, _, delays = _delays("plain")
    assert delays.first_s["kv_queueing"].sum() == 0
    assert delays.decode_s["preemption_after_first"].sum() == 0
    assert delays.decode_s["others_prompts"].sum() > 0


@pytest.mark.parametrize("case", ["plain", "blocks", "stages"])
def test_device_time_is_split_without_rest(case: str) -> None:
    study, trial, _ = _delays(case)
    found = bottleneck_of(trial, compile_of(study, trial.plan))
    assert tuple(found.split_frac) == PARTS
    assert sum(found.split_frac.values()) == pytest.approx(1.0)
    spent = trial.run.operators_s()
    assert found.split_frac["idle"] == pytest.approx(spent["idle"] / sum(spent.values()))
    assert found.bound in found.as_dict()["split_frac"]
    shares = found.pressure
    assert shares.seats_frac + shares.tokens_frac + shares.kv_frac + shares.order_frac == pytest.approx(
        shares.waiting_frac
    )


def test_prompts_in_the_cache_are_shorter_of_their_own_and_the_cache_is_worth_trying() -> None:
    """Every prompt begins alike, so that all but the first find most of theirs."""
    own_s, changes = {}, {}
    for cached in (True, False):
        study = _study({"scheduler": {"prefix_cache": cached}})
        prompts = study.workload.requests.prompt_tokens.tolist()
        hashes = tuple(tuple(range(n // 16)) for n in prompts)
        requests = replace(study.workload.requests, prefix_hashes=hashes, hash_block_tokens=16)
        study = replace(study, workload=replace(study.workload, requests=requests))
        plan = _plan(study)
        compiled = compile_of(study, plan)
        trial = try_plan(study, plan, compiled)
        delays = delays_of(study, trial, compiled)
        assert sum(delays.first_s.values()) == pytest.approx(trial.run.requests.ttft_s)
        own_s[cached] = delays.first_s["own_prompt"].mean()
        changes[cached] = [each.words for each in changes_of(study, plan)]
    assert own_s[True] < 0.7 * own_s[False]
    assert "prefix cache on" in changes[False]
    assert "prefix cache on" not in changes[True]


def test_the_readable_engine_tells_the_same() -> None:
    """Multi-level feedback is served by the reference; with one request at a time all queue orders are alike."""
    load = {"n_requests": 4, "rate_per_s": 0.2}
    orders = ("fcfs", "multi-level-feedback")
    parts = [
        explain(study, _plan(study)).parts_s["e2e"]
        for study in (_study({"load": load, "scheduler": {"queue_order": order}}) for order in orders)
    ]
    assert parts[0] == pytest.approx(parts[1])


def test_long_prompts_are_bound_by_arithmetic_and_long_outputs_by_memory() -> None:
    bounds = {}
    for name, prompt, output in (("prompts", 2000, 1), ("outputs", 8, 200)):
        study = _study()
        n = study.workload.requests.n
        requests = replace(
            study.workload.requests,
            prompt_tokens=np.full(n, prompt),
            output_tokens=np.full(n, output),
            arrival_s=np.arange(n) * 0.5,
        )
        study = replace(study, workload=replace(study.workload, requests=requests))
        plan = _plan(study)
        compiled = compile_of(study, plan)
        bounds[name] = bottleneck_of(try_plan(study, plan, compiled), compiled).bound
    assert bounds == {"prompts": "compute", "outputs": "memory"}


def test_few_seats_keep_requests_out() -> None:
    study = _study({"scheduler": {"max_num_seqs": 2}})
    plan = _plan(study)
    compiled = compile_of(study, plan)
    trial = try_plan(study, plan, compiled)
    assert bottleneck_of(trial, compiled).pressure.main == "seats"
    (miss,) = misses_of(make_slo({"ttft_p99_s": 0.5}), trial, delays_of(study, trial, compiled))
    assert miss.cause == "queueing"
    assert miss.mean_s == pytest.approx(trial.run.requests.ttft_s[trial.run.requests.ttft_s > 0.5].mean())
    assert miss.n_beyond == (trial.run.requests.ttft_s > 0.5).sum()


def test_who_misses_is_told_by_what_they_have_in_common() -> None:
    study, trial, delays = _delays("plain")
    limit = float(np.quantile(trial.run.requests.ttft_s, 0.9))
    (miss,) = misses_of(make_slo({"ttft_p99_s": limit}), trial, delays)
    assert miss.traits is not None
    prompts, beyond = trial.run.requests.prompt_tokens, trial.run.requests.ttft_s > limit
    assert miss.traits.prompt_ratio == pytest.approx(prompts[beyond].mean() / prompts.mean())
    kept = misses_of(make_slo({"ttft_p99_s": 1e3}), trial, delays)
    assert kept == ()
    (cost,) = misses_of(make_slo({"usd_per_million_output_tokens": 1e-9}), trial, delays)
    assert (cost.parts_s, cost.cause) == (None, "")
    assert study.slo.limits == ()


def test_changes_are_tried_the_cheapest_first_until_one_keeps_everything() -> None:
    study = _study({"scheduler": {"max_num_seqs": 12}, "slo": {"ttft_p99_s": 0.5}})
    tried = try_changes(study, _plan(study))
    assert [each.keeps for each in tried] == [False] * (len(tried) - 1) + [True]
    order = [(each.usd_per_h, KINDS.index(each.kind)) for each in tried]
    assert order == sorted(order)
    last = tried[-1]
    assert last.metrics is not None
    assert (last.metrics["ttft_p99_s"] or 9.0) <= 0.5


def test_seats_mend_what_seats_broke() -> None:
    study = _study({"scheduler": {"max_num_seqs": 40}, "slo": {"ttft_p99_s": 0.3}, "load": {"rate_per_s": 40.0}})
    (change,) = [each for each in changes_of(study, _plan(study)) if each.words == "max_num_seqs 80, was 40"]
    before, after = (try_plan(study, plan).metrics["ttft_p99_s"] or 0.0 for plan in (_plan(study), change.plan))
    assert after < before / 2


def test_more_instances_cost_what_their_devices_cost() -> None:
    study = _study()
    plan = _plan(study)
    more = [each for each in changes_of(study, plan) if each.kind == "instances"]
    price = study.cluster.device.price_usd_per_h
    assert [(each.plan.n_instances, each.usd_per_h) for each in more] == [(3, price), (4, 2 * price)]
    assert all(each.cluster.n_devices >= each.plan.n_devices for each in more)


def test_less_traffic_is_the_last_resort() -> None:
    """A pace that a request alone just keeps: neither seats nor instances bring it back at this rate."""
    space = {"weight_dtypes": ["fp8"], "kv_dtypes": ["fp8"], "dp": [1]}
    alone = _study({"cluster": "1xh100-sxm", "space": space, "load": {"n_requests": 1}})
    limit_s = 1.1 * explain(alone, _plan(alone)).parts_s["tpot"]["own_decode"]
    study = _study({"cluster": "1xh100-sxm", "space": space, "slo": {"tpot_p99_s": limit_s}})
    tried = explain(study, _plan(study)).tried
    kinds = [each.kind for each in tried]
    assert kinds.index("instances") < len(kinds) - 1
    assert kinds[-1] == "rate"


def test_a_label_names_a_plan_in_any_case_or_the_nearest_are_offered() -> None:
    plans = enumerate_space(_study({"space": {"tp": [], "dp": []}})).feasible
    assert plan_by_label(plans, "dp2 tp1 pp1 BF16", "here").label == "DP2 TP1 PP1 bf16"
    with pytest.raises(UnknownNameError, match="DP2 TP1 PP1 bf16"):
        plan_by_label(plans, "DP2 TP1 PP1 bf17", "here")


def test_a_plan_that_cannot_run_is_refused() -> None:
    study = _study({"model": "llama-3.1-70b"})
    refusal = enumerate_space(study).infeasible[0]
    with pytest.raises(InfeasiblePlanError):
        explain(study, refusal.plan)
