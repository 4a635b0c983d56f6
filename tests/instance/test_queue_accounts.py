"""Queue orders that keep account of what was served, against cases worked by hand.

Steps last 1 s and blocks hold 4 tokens.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy import Engine, ask, flat, make_queue, serve, toy_shape, who

from apex_sim.errors import InputError
from apex_sim.fleet.compiled_plan import compiled_way, why_not_compiled
from apex_sim.instance.orders import ORDERS
from apex_sim.instance.orders.fair_share import OUTPUT_WEIGHT, PROMPT_WEIGHT, FairShare
from apex_sim.instance.sequence import Sequence
from apex_sim.plan.plan import Plan
from apex_sim.plan.scheduler import ACCOUNTING_ORDERS
from apex_sim.workload.load_form import LoadForm
from apex_sim.workload.workload import Workload

ONE_SEAT = Engine("unified", max_num_seqs=1)


def test_every_order_that_is_named_exists() -> None:
    assert set(ORDERS) == set(ACCOUNTING_ORDERS)


def test_short_prompts_join_above_long_ones() -> None:
    """Levels of 256, 512 and 1,024 prompt tokens."""
    queue = make_queue(Engine(queue_order="multi-level-feedback", max_model_len=4096))
    for request, prompt in enumerate((1000, 300, 20, 400, 256)):
        queue.enqueue(Sequence(request, prompt, 10))
    queue.arrange()
    assert who(queue.waiting) == [2, 4, 1, 3, 0]


@pytest.mark.parametrize(("order", "finish_s"), [("fcfs", [16.0, 19.0]), ("multi-level-feedback", [19.0, 12.0])])
def test_a_short_prompt_passes_one_that_runs_long(order: str, finish_s: list[float]) -> None:
    """Six blocks: at 9 s the first request takes the last one, its fourth, and the second lacks its third.

    First come, first served, the second gives way until the first has ended at 16, and computes three more steps.  The
    first has 9 tokens by then, which is level 3, and the second is on level 1: the first gives way, finds four blocks
    again at 12, when the second has ended, and emits its other seven tokens.
    """
    engine = Engine("unified", n_blocks=6, queue_order=order)
    run = serve(engine, flat(1.0), ask([0.0, 7.5], [4, 8], [16, 4]))
    assert run.requests.finish_s.tolist() == finish_s


@pytest.mark.parametrize(
    ("order", "scheduled_s"), [("fcfs", [0.0, 8.0, 10.0]), ("least-attained-service", [0.0, 10.0, 8.0])]
)
def test_the_program_with_the_least_service_goes_first(order: str, scheduled_s: list[float]) -> None:
    """Program x has had 4 + 7 tokens when its second call and the first of y wait for the seat at 8 s."""
    requests = replace(ask([0.0, 1.0, 2.0], 4, [8, 2, 2]), session=("x", "x", "y"))
    run = serve(replace(ONE_SEAT, queue_order=order), flat(1.0), requests)
    assert run.requests.scheduled_s.tolist() == scheduled_s


def test_a_program_keeps_the_service_of_its_earlier_calls() -> None:
    """x is called at 0, 2 and 4 s for 2 s each: y, which has had nothing, goes before the second call."""
    requests = replace(ask([0.0, 1.0, 1.0, 1.0], 4, 2), session=("x", "x", "y", "x"))
    run = serve(replace(ONE_SEAT, queue_order="least-attained-service"), flat(1.0), requests)
    assert run.requests.scheduled_s.tolist() == [0.0, 4.0, 2.0, 6.0]


def test_two_tenants_one_of_which_floods_get_equal_service() -> None:
    """A asks 60 times for 12 tokens before B asks 20 times for 4: while both wait, neither gets ahead by one request.

    Costs are 4 + 2 x 12 = 28 and 4 + 2 x 4 = 12, so that B is served about 28 times while A is 12 times.  First come,
    first served, B would wait for 60 x 12 s.
    """
    tenants = ("A",) * 60 + ("B",) * 20
    outputs = np.where(np.array(tenants) == "A", 12, 4)
    requests = replace(ask(np.zeros(80), 4, outputs), tenant=tenants)
    run = serve(replace(ONE_SEAT, queue_order="fair-share"), flat(1.0), requests)
    served = {"A": 0.0, "B": 0.0}
    last_b_s = run.requests.finish_s[60:].max()
    for request in np.argsort(run.requests.finish_s):
        if run.requests.finish_s[request] > last_b_s:
            break
        served[tenants[request]] += PROMPT_WEIGHT * 4 + OUTPUT_WEIGHT * float(outputs[request])
        assert abs(served["A"] - served["B"]) <= 28
    assert served["B"] == 20 * 12
    assert last_b_s < 60 * 12 / 3


def test_equal_requests_of_two_tenants_take_turns_also_within_one_step() -> None:
    """Four seats: of A's six and B's two the first step takes two each, because each prompt is charged at once."""
    requests = replace(ask(np.zeros(8), 4, 4), tenant=("A",) * 6 + ("B",) * 2)
    run = serve(Engine("unified", max_num_seqs=4, queue_order="fair-share"), flat(1.0), requests)
    assert np.flatnonzero(run.requests.scheduled_s == 0.0).tolist() == [0, 1, 6, 7]


def test_a_tenant_that_comes_back_has_saved_nothing_up() -> None:
    order = FairShare()
    busy, idle = (Sequence(request, 4, 10, owner=owner) for request, owner in ((0, "busy"), (1, "idle")))
    order.arrives(busy, [])
    for _ in range(50):
        order.emits(busy)
    order.arrives(idle, [busy])
    assert order.place(idle) == (100.0, 1)
    assert order.place(busy) == (100.0, 0)


@pytest.mark.parametrize(("order", "column"), [("fair-share", "tenant"), ("least-attained-service", "session")])
def test_a_workload_that_does_not_say_who_asks_is_refused(order: str, column: str) -> None:
    with pytest.raises(InputError, match=f"column '{column}'.*no request has one.*Add a column"):
        serve(replace(ONE_SEAT, queue_order=order), flat(1.0), ask([0.0], 4, 1))


@pytest.mark.parametrize("order", ORDERS)
def test_orders_that_keep_account_run_on_the_reference(order: str) -> None:
    plan = Plan(((toy_shape(Engine(queue_order=order)), 1),))
    workload = Workload("toy", ask([0.0], 4, 1), LoadForm("trace"), None, None, (), True, "none")
    assert compiled_way(plan, workload) is None
    assert why_not_compiled(plan) == f"queue order {order}"
    assert not why_not_compiled(Plan(((toy_shape(Engine()), 1),)))
