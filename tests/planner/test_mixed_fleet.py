"""Cheapest mixes against all fleets of a small park, and what the mix rests on: buckets, columns, costs per pool."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest

from apex_sim.errors import InputError, NoAnswerError, UnsupportedError
from apex_sim.hardware.cluster import load_cluster
from apex_sim.plan.plan import Plan
from apex_sim.plan.routing import Routing
from apex_sim.planner.bucket_capacity import bucket_workload, columns_of
from apex_sim.planner.mixed_fleet import CheapestMix, cheapest_mix
from apex_sim.planner.programs.bucket_mix import buckets_of
from apex_sim.planner.programs.even_load import even_routing
from apex_sim.planner.programs.fleet_shortage import InfeasibleFleetError
from apex_sim.planner.study import Study, make_study, merge
from apex_sim.planner.trial import compile_of, try_decided, try_plan

BASE: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "cluster": "4xl4+3xa10+1xa100-sxm-80gb",
    "workload": "chat",
    "load": {"n_requests": 300, "rate_per_s": 2.5},
    "slo": {"tpot_mean_s": 0.12},
    "space": {"tp": [1], "pp": [1]},
}


def _study(changes: dict[str, Any] | None = None) -> Study:
    return make_study(merge(BASE, changes or {}), "made-up", "made-up.toml")


@cache
def _mix() -> CheapestMix:
    return cheapest_mix(_study(), n_buckets=3, n_bucket_requests=100)


def test_buckets_hold_their_own_requests_at_their_own_rate() -> None:
    workload = _study().workload
    buckets = buckets_of(workload.requests, 3)
    for bucket, (low, high) in enumerate([(0, buckets.bucket_tokens[0]), (*buckets.bucket_tokens,)]):
        load = bucket_workload(workload, buckets, bucket, 150)
        tokens = load.requests.prompt_tokens
        assert load.requests.n == 150
        assert tokens.min() > low
        assert tokens.max() <= high
        assert load.rate_per_s == pytest.approx(2.5 / 3, rel=0.2)
        pairs = list(zip(tokens.tolist(), load.requests.output_tokens.tolist(), strict=True))
        own = zip(workload.requests.prompt_tokens.tolist(), workload.requests.output_tokens.tolist(), strict=True)
        assert set(pairs) <= set(own)


def test_stated_counts_are_refused() -> None:
    with pytest.raises(InputError, match=r"space\.dp"):
        cheapest_mix(_study({"space": {"dp": [2]}}))


def test_the_mix_keeps_the_limits_and_nothing_can_be_spared() -> None:
    found, study = _mix(), _study()
    assert try_decided(study, found.best.plan).keeps
    usd_per_h = {pool.device.name: pool.device.price_usd_per_h for pool in study.cluster.pools}
    assert found.best.usd_per_h == pytest.approx(sum(usd_per_h[name] * n for name, n in found.best.devices.items()))
    for device, single in found.singles.items():
        assert single is None or single.devices.keys() == {device}
        assert single is None or found.best.usd_per_h <= single.usd_per_h


def test_no_fleet_of_the_park_is_cheaper() -> None:
    """Simulate every count of every type behind the same shares that the planner would give it."""
    found, study = _mix(), _study()
    kept_usd_per_h = []
    for counts in product(range(5), range(4), range(2)):
        held = [(column, n) for column, n in zip(found.columns, counts, strict=True) if n]
        usd_per_h = sum(column.option.usd_per_h * n for column, n in held)
        if not held or usd_per_h > found.best.usd_per_h + 1e-9:
            continue
        routing, _ = even_routing([column.option for column, _ in held], [n for _, n in held], found.buckets)
        plan = Plan(tuple((column.shape, n) for column, n in held), "size-bucket", routing)
        if try_decided(study, plan).keeps:
            kept_usd_per_h.append(usd_per_h)
    assert min(kept_usd_per_h) == pytest.approx(found.best.usd_per_h)


def test_a_column_keeps_less_than_it_fails() -> None:
    for column in _mix().columns:
        pairs = zip(column.option.capacity_per_s, column.ceiling_per_s, strict=True)
        assert all(0 < kept < failed <= 1.0501 * kept for kept, failed in pairs)


def test_a_small_device_takes_the_buckets_that_fit_its_memory() -> None:
    """One A10 cannot hold the KV of 64k tokens of this model, but that of short requests."""
    study = _study({"cluster": "1xa10+1xa100-sxm-80gb"})
    prompts = study.workload.requests.prompt_tokens.copy()
    prompts[:50] = 64_000
    requests = replace(study.workload.requests, prompt_tokens=prompts)
    long = replace(study, workload=replace(study.workload, requests=requests))
    buckets = buckets_of(requests, 2, by="powers of two")
    small, large = columns_of(long, buckets, 50, 1.5)
    assert (small.option.device, large.option.device) == ("a10", "a100-sxm-80gb")
    assert small.option.capacity_per_s[0] > 0
    assert small.option.capacity_per_s[1] == small.ceiling_per_s[1] == 0
    assert all(large.option.capacity_per_s)
    assert small.shape.scheduler.max_model_len < 64_000 < large.shape.scheduler.max_model_len


def test_a_limit_that_nothing_keeps_is_no_answer() -> None:
    with pytest.raises(InfeasibleFleetError, match="no shape serves size class"):
        cheapest_mix(_study({"slo": {"tpot_mean_s": 0.001}}), n_buckets=2, n_bucket_requests=50)


def test_too_small_a_park_is_no_answer() -> None:
    with pytest.raises(NoAnswerError):
        cheapest_mix(_study({"cluster": "1xl4", "load": {"rate_per_s": 50.0}}), n_buckets=2, n_bucket_requests=50)


def test_a_closed_load_has_no_rate() -> None:
    study = _study()
    closed = make_study(BASE | {"load": {"n_requests": 50, "concurrency": 4}}, "made-up", "made-up.toml")
    assert study.workload.rate_per_s
    with pytest.raises(UnsupportedError, match="no arrival rate"):
        cheapest_mix(closed)


def test_each_pool_of_a_park_is_priced_by_its_own_device() -> None:
    park, column = _study(), _mix().columns[-1]
    plan = Plan(((column.shape, 1),))
    alone = replace(park, cluster=load_cluster("1xa100-sxm-80gb"))
    assert compile_of(park, plan)[column.shape][0] == compile_of(alone, plan)[column.shape][0]
    in_park, by_itself = try_plan(park, plan).run.requests.finish_s, try_plan(alone, plan).run.requests.finish_s
    assert np.array_equal(in_park, by_itself)


def test_a_request_that_the_shares_send_elsewhere_may_be_longer_than_an_instance_accepts() -> None:
    study, columns = _study(), _mix().columns
    longest = int(study.workload.requests.prompt_tokens.max())
    short, long = columns[0].shape, columns[-1].shape
    short = replace(short, scheduler=replace(short.scheduler, max_model_len=longest))
    split = Plan(((short, 1), (long, 1)), "size-bucket", Routing((50,), ((1.0, 0.0), (0.0, 1.0))))
    assert try_plan(study, split).metrics["n_finished"] == study.workload.requests.n
    shared = replace(split, routing=Routing((50,), ((1.0, 0.0), (0.5, 0.5))))
    with pytest.raises(InputError, match="max_model_len is"):
        try_plan(study, shared)
