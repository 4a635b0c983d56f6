"""Routers that keep shares: exactly, blindly, and the same in both engines."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import Engine, ToyCost, ask, flat, toy_parts

from apex_sim.errors import InputError, UnknownNameError
from apex_sim.fleet.compiled_plan import compiled_way
from apex_sim.fleet.fleet import Fleet
from apex_sim.fleet.router import ROUTERS, make_router
from apex_sim.fleet.static_fleet import is_static, serve_statically
from apex_sim.plan.plan import Plan
from apex_sim.plan.routing import Routing, routing_by_capacity
from apex_sim.record.run import FleetRun
from apex_sim.workload.load_form import LoadForm
from apex_sim.workload.workload import Workload

PARTS = [toy_parts(Engine(pp=pp), flat(1.0)) for pp in (1, 2, 3)]
SHAPES = [shape for shape, _, _ in PARTS]
COMPILED = {shape: (memory, model) for shape, memory, model in PARTS}
COUNTS = (2, 1, 3)


def plan_of(router: str, routing: Routing | None, counts: tuple[int, ...] = COUNTS) -> Plan:
    return Plan(tuple(zip(SHAPES, counts, strict=False)), router, routing)


def shares_of(weights: list[int]) -> tuple[float, ...]:
    return tuple(weight / sum(weights) for weight in weights)


WEIGHTS = st.lists(st.integers(0, 20), min_size=2, max_size=9).filter(lambda weights: sum(weights) > 0)


@given(WEIGHTS, st.integers(1, 300))
def test_each_entry_has_its_share_of_every_prefix_within_one_request(weights: list[int], n: int) -> None:
    shares = shares_of(weights)
    route = make_router(Plan(tuple((SHAPES[0], 1) for _ in weights), "weighted-round-robin", Routing((), (shares,))))
    given_to = np.zeros(len(weights))
    for n_routed in range(1, n + 1):
        given_to[route(5, [])] += 1
        assert np.abs(given_to - np.array(shares) * n_routed).max() <= 1.0 + 1e-9
    assert given_to[np.array(weights) == 0].sum() == 0


@given(WEIGHTS, st.lists(st.integers(1, 60), max_size=200))
def test_each_bucket_keeps_its_own_shares(weights: list[int], prompts: list[int]) -> None:
    rows = shares_of(weights), shares_of(weights[::-1])
    plan = Plan(tuple((SHAPES[0], 1) for _ in weights), "size-bucket", Routing((30,), rows))
    route, given_to = make_router(plan), np.zeros((2, len(weights)))
    for prompt in prompts:
        bucket = int(prompt > 30)
        given_to[bucket, route(prompt, [])] += 1
        assert np.abs(given_to[bucket] - np.array(rows[bucket]) * given_to[bucket].sum()).max() <= 1.0 + 1e-9


def test_instances_of_an_entry_take_turns_and_equal_shares_are_a_round_robin() -> None:
    route = make_router(plan_of("weighted-round-robin", Routing((), ((0.5, 0.0, 0.5),))))
    assert [route(1, []) for _ in range(8)] == [0, 3, 1, 4, 0, 5, 1, 3]
    thirds = make_router(plan_of("weighted-round-robin", Routing((), ((1 / 3, 1 / 3, 1 / 3),)), (1, 1, 1)))
    plain = make_router(plan_of("round-robin", None, (1, 1, 1)))
    assert [thirds(1, []) for _ in range(99)] == [plain(1, []) for _ in range(99)]


def test_a_turn_goes_on_across_buckets() -> None:
    route = make_router(plan_of("size-bucket", Routing((4,), ((1.0, 0.0, 0.0), (0.5, 0.5, 0.0)))))
    assert [route(prompt, []) for prompt in (4, 5, 3, 6, 9)] == [0, 1, 0, 2, 1]


def test_two_runs_of_a_plan_do_not_share_a_turn() -> None:
    plan = plan_of("weighted-round-robin", Routing((), ((0.2, 0.3, 0.5),)))
    first, second = make_router(plan), make_router(plan)
    taken = [first(1, []) for _ in range(20)]
    assert [second(1, []) for _ in range(20)] == taken


ROUTINGS = {
    "round-robin": None,
    "least-outstanding": None,
    "weighted-round-robin": Routing((), ((0.5, 0.2, 0.3),)),
    "size-bucket": Routing((8, 20), ((0.6, 0.4, 0.0), (0.1, 0.1, 0.8), (0.0, 1.0, 0.0))),
}


@pytest.mark.parametrize("concurrency", [None, 9])
@pytest.mark.parametrize("router", ROUTERS)
def test_kernel_and_reference_agree_on_a_plan_of_several_shapes(router: str, concurrency: int | None) -> None:
    parts = [toy_parts(Engine(pp=pp, frontend_s=0.125), flat(1.0)) for pp in (1, 2, 3)]
    compiled = {shape: (memory, model) for shape, memory, model in parts}
    plan = Plan(tuple((shape, n) for (shape, _, _), n in zip(parts, COUNTS, strict=True)), router, ROUTINGS[router])
    rng = np.random.default_rng(3)
    arrivals_s = np.cumsum(rng.exponential(0.4, 80))
    requests = ask(arrivals_s if concurrency is None else np.zeros(80), rng.integers(1, 40, 80), rng.integers(1, 9, 80))
    load = LoadForm("trace", None) if concurrency is None else LoadForm("closed", concurrency)
    workload = Workload("toy", requests, load, None, None, (), True, "none")
    cost: Any = ToyCost()
    serve = compiled_way(plan, workload)
    assert serve is not None
    fast = serve(plan, workload, compiled, cost)
    assert (serve is serve_statically) == (router != "least-outstanding" and concurrency is None)
    fleet = Fleet(plan, workload, compiled, check=True)
    fleet.run(None)
    slow = fleet.result(cost)
    assert_same(fast, slow)
    assert len(set(slow.requests.instance.tolist())) == plan.n_instances


def assert_same(fast: FleetRun, slow: FleetRun) -> None:
    for name in ("instance", "arrival_s", "queued_s", "scheduled_s", "first_token_s", "finish_s"):
        assert getattr(fast.requests, name).tolist() == getattr(slow.requests, name).tolist(), name
    assert fast.makespan_s == slow.makespan_s


def test_weighted_routers_are_blind_so_that_each_instance_runs_alone() -> None:
    workload = Workload("toy", ask([0.0], 4, 1), LoadForm("trace", None), None, None, (), True, "none")
    static = {router: is_static(plan_of(router, ROUTINGS[router]), workload) for router in ROUTERS}
    assert static == dict.fromkeys(ROUTERS, True) | {"least-outstanding": False}


@pytest.mark.parametrize(
    ("router", "routing", "words"),
    [
        ("weighted-round-robin", None, "without a routing"),
        ("size-bucket", None, "without a routing"),
        ("weighted-round-robin", Routing((8,), ((1.0, 0.0, 0.0),) * 2), "has one bucket, and the routing 2"),
        ("size-bucket", Routing((), ((0.5, 0.5),)), "2 shares for 3 entries"),
        ("round-robin", Routing((), ((0.5, 0.5, 0.0),)), "keeps no shares"),
        ("least-outstanding", Routing((), ((0.5, 0.5, 0.0),)), "keeps no shares"),
    ],
)
def test_shares_that_do_not_fit_the_plan_are_refused(router: str, routing: Routing | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_router(plan_of(router, routing))


def test_a_share_for_no_instances_is_refused() -> None:
    with pytest.raises(InputError, match="without instances"):
        make_router(plan_of("weighted-round-robin", Routing((), ((0.5, 0.25, 0.25),)), (1, 0, 1)))


@pytest.mark.parametrize(
    ("buckets", "shares", "words"),
    [
        ((), ((0.5, 0.4),), r"add up to 0\.9"),
        ((), ((1.5, -0.5),), "from 0 to 1"),
        ((), ((float("nan"), 1.0),), "add up to nan"),
        ((), ((0.5, 0.5), (0.5, 0.5)), "2 rows of shares for 1 buckets"),
        ((8, 8), ((0.5, 0.5),) * 3, "do not ascend"),
        ((9, 8), ((0.5, 0.5),) * 3, "do not ascend"),
        ((0,), ((0.5, 0.5),) * 2, "do not ascend"),
    ],
)
def test_a_routing_that_is_none_is_refused(buckets: Any, shares: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Routing(buckets, shares)


def test_capacities_make_shares() -> None:
    assert routing_by_capacity([6.0, 0.0, 2.0]) == Routing((), ((0.75, 0.0, 0.25),))
    for bad in ([0.0, 0.0], [-1.0, 2.0], [], [float("inf"), 1.0]):
        with pytest.raises(InputError, match="capacities_per_s"):
            routing_by_capacity(bad)


def test_an_unknown_router_offers_the_nearest_names() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'weighted-round-robin'"):
        make_router(plan_of("weighted-roundrobin", None))


def test_a_plan_says_its_shares() -> None:
    document = json.loads(json.dumps(plan_of("size-bucket", ROUTINGS["size-bucket"]).as_dict()))
    assert document["routing"] == {
        "bucket_tokens": [8, 20],
        "shares": [[0.6, 0.4, 0.0], [0.1, 0.1, 0.8], [0.0, 1.0, 0.0]],
    }
    assert plan_of("round-robin", None).as_dict()["routing"] is None
