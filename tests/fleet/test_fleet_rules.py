"""Routers, front-end delay, refusals, the horizon, and runs that would never end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from toy import ENGINES, Engine, ask, flat, serve, toy_parts

from apex_sim.errors import InvariantError, UnknownNameError
from apex_sim.fleet.fleet import Fleet
from apex_sim.fleet.router import load_router
from apex_sim.plan.plan import Plan
from apex_sim.record.request_records import FINISHED, REJECTED, RUNNING
from apex_sim.workload.load_form import LoadForm
from apex_sim.workload.workload import Workload


@pytest.mark.parametrize("by", ENGINES)
def test_round_robin_takes_turns_whatever_is_outstanding(by: str) -> None:
    run = serve(Engine(), flat(1.0), ask(np.arange(7.0), 4, [9, 1, 1, 1, 1, 1, 1]), dp=3, by=by)
    assert run.requests.instance.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_least_outstanding_counts_what_has_not_ended_and_ties_go_to_the_first() -> None:
    """Request 0 keeps instance 0 until 9; the others last 1 s, so that instance 1 is empty again at each arrival."""
    arrivals = [0.0, 0.5, 2.0, 2.5, 10.0]
    run = serve(Engine(), flat(1.0), ask(arrivals, 4, [9, 1, 5, 1, 1]), dp=2, router="least-outstanding")
    assert run.requests.instance.tolist() == [0, 1, 1, 0, 0]


@pytest.mark.parametrize("between", [[], [1.75]], ids=["announced before the step", "announced during the step"])
def test_of_an_end_and_an_arrival_at_one_instant_the_router_sees_the_end(between: list[float]) -> None:
    """Instance 1 is done at 2 exactly, instance 0 is not: the request of that instant goes to instance 1."""
    arrivals = [0.0, 0.0, *between, 2.0]
    run = serve(
        Engine(), flat(1.0), ask(arrivals, 4, [9, 2, *(9 for _ in between), 1]), dp=2, router="least-outstanding"
    )
    assert run.requests.instance.tolist() == [0, 1, *(0 for _ in between), 1]
    assert run.requests.first_token_s[-1] == 3.0


def test_an_unknown_router_is_refused_by_name() -> None:
    with pytest.raises(UnknownNameError, match="least-outstanding"):
        load_router("least-outstandin")


@pytest.mark.parametrize("by", ENGINES)
def test_front_end_delay_is_part_of_ttft(by: str) -> None:
    engine = Engine(frontend_s=0.25, prompt_token_s=0.125)
    run = serve(engine, flat(1.0), ask([0.0, 5.0], [2, 4], 2), by=by)
    assert (run.requests.queued_s - run.requests.arrival_s).tolist() == [0.5, 0.75]
    assert run.requests.ttft_s.tolist() == [1.5, 1.75]
    assert run.requests.e2e_s.tolist() == [2.5, 2.75]


@pytest.mark.parametrize("by", ENGINES)
def test_a_long_prompt_is_overtaken_in_the_front_end(by: str) -> None:
    engine = Engine(frontend_s=0.0, prompt_token_s=0.125)
    run = serve(engine, flat(1.0), ask([0.0, 0.0], [8, 4], 1), by=by)
    assert run.requests.scheduled_s.tolist() == [1.5, 0.5]


@pytest.mark.parametrize("by", ENGINES)
def test_closed_loop_users_wait_for_the_front_end_again_each_time(by: str) -> None:
    engine = Engine(frontend_s=0.25)
    run = serve(engine, flat(1.0), ask(np.zeros(4), 4, 2), concurrency=1, by=by)
    assert run.requests.arrival_s.tolist() == [0.0, 2.25, 4.5, 6.75]
    assert run.requests.e2e_s.tolist() == [2.25] * 4


@pytest.mark.parametrize("by", ENGINES)
def test_a_prompt_that_can_never_leave_the_watermark_free_is_refused_with_its_reason(by: str) -> None:
    """100 blocks of 4 tokens, watermark 1: 397 tokens need all 100."""
    engine = Engine("prefill-first", max_num_batched_tokens=400, max_model_len=400, n_blocks=100)
    run = serve(engine, flat(1.0), ask([0.0, 0.25, 0.5], [4, 397, 4], 2), dp=1, by=by)
    assert run.requests.status.tolist() == [FINISHED, REJECTED, FINISHED]
    assert run.requests.reasons == ((1, "prompt of 397 tokens can never fit the KV cache"),)
    assert run.requests.emitted_tokens.tolist() == [2, 0, 2]
    assert np.isnan(run.requests.finish_s[1])
    assert run.requests.columns()["reason"] == ["", "prompt of 397 tokens can never fit the KV cache", ""]
    assert run.requests.columns()["status"].tolist() == ["finished", "rejected", "finished"]


@pytest.mark.parametrize("by", ENGINES)
def test_a_user_whose_request_is_refused_asks_the_next(by: str) -> None:
    engine = Engine("prefill-first", max_num_batched_tokens=400, max_model_len=400, n_blocks=100)
    run = serve(engine, flat(1.0), ask(np.zeros(4), [397, 4, 397, 4], 2), concurrency=1, by=by)
    assert run.requests.status.tolist() == [REJECTED, FINISHED, REJECTED, FINISHED]
    assert run.makespan_s == 4.0


def test_a_refused_request_no_longer_counts_for_the_router() -> None:
    engine = Engine("prefill-first", max_num_batched_tokens=400, max_model_len=400, n_blocks=100)
    requests = ask([0.0, 0.5, 1.0], [397, 4, 4], [2, 9, 1])
    run = serve(engine, flat(1.0), requests, dp=2, router="least-outstanding")
    assert run.requests.instance.tolist() == [0, 0, 1]


def test_at_the_horizon_requests_are_running_and_the_step_under_way_is_counted() -> None:
    run = serve(Engine(), flat(1.0), ask([0.0, 0.5, 9.0], 4, [2, 9, 1]), horizon_s=4.5)
    assert run.requests.status.tolist() == [FINISHED, RUNNING, RUNNING]
    assert run.requests.emitted_tokens.tolist() == [2, 3, 0]
    assert np.isnan(run.requests.arrival_s[2])  # not yet there
    assert run.makespan_s == 5.0
    assert run.instances[0].stages[0].idle_s == 0.0
    assert run.instances[0].n_blocks_held_at_end == 2
    assert run.request_seconds == 2.0 + 4.5


def test_what_happens_at_the_horizon_itself_does_not_happen() -> None:
    run = serve(Engine(), flat(1.0), ask([0.0], 4, 3), horizon_s=3.0)
    assert run.requests.status.tolist() == [RUNNING]
    assert run.makespan_s == 3.0


def test_a_horizon_behind_the_end_changes_nothing() -> None:
    run = serve(Engine(), flat(1.0), ask([0.0], 4, 3), horizon_s=1e6)
    assert run.requests.status.tolist() == [FINISHED]
    assert run.makespan_s == 3.0
    assert run.instances[0].stages[0].idle_s == 0.0


def test_preemptions_of_what_still_runs_at_the_horizon_are_counted() -> None:
    engine = Engine("unified", 6, 24, 24, n_blocks=7)
    run = serve(engine, flat(1.0), ask(np.zeros(6), 6, 10), offline=True, horizon_s=8.0)
    assert run.requests.n_preemptions[run.requests.status == RUNNING].sum() > 0


@pytest.mark.parametrize("dp", [1, 3])
def test_an_instance_without_requests_idles_for_the_whole_run(dp: int) -> None:
    run = serve(Engine(pp=2), flat(1.0), ask([0.0], 4, 3), dp=dp)
    assert [len(instance.steps) for instance in run.instances] == [3] + [0] * (dp - 1)
    for instance in run.instances[1:]:
        assert [stage.idle_s for stage in instance.stages] == [run.makespan_s] * 2
        assert [stage.idle_j for stage in instance.stages] == [10.0 * run.makespan_s] * 2


@pytest.mark.parametrize("by", ENGINES)
def test_makespan_and_energy_include_idle_time(by: str) -> None:
    """Two steps of 1 s, 10 s apart; 10 W idle, 2 J dynamic a second."""
    run = serve(Engine(), flat(1.0), ask([0.0, 10.0], 4, 1), by=by)
    assert run.makespan_s == 11.0
    assert run.energy_j == 10.0 * 11.0 + 2.0 * 2.0
    assert run.operators_s() == {
        "step": 2.0,
        "samples": 0.0,
        "launch": 0.0,
        "slowdown": 0.0,
        "host": 0.0,
        "idle": 9.0,
    }


@pytest.mark.parametrize("by", ENGINES)
def test_blocks_and_queues_of_a_v0_pipeline_are_counted_over_all_its_queues(by: str) -> None:
    engine = Engine("prefill-first", pp=2, n_blocks=40)
    run = serve(engine, flat(1.0), ask([0.0, 0.0], 4, 2), offline=True, by=by)
    assert run.instances[0].steps.column("n_blocks_used").max() == 4  # two sequences of 5 tokens
    assert run.instances[0].steps.column("n_running").max() == 2


def test_requests_that_never_end_are_an_error_not_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that gets lost on its way: the events run out, and yet it has not ended."""
    monkeypatch.setattr(Fleet, "_enqueue", lambda self, request, target: None)
    with pytest.raises(InvariantError, match=r"INV-1 broken: 2 requests never ended"):
        serve(Engine(), flat(1.0), ask([0.0, 1.0], 4, 1))


def test_requests_that_can_never_be_scheduled_are_an_error_not_a_hang() -> None:
    """A pool below the prompt, which planning refuses: v1 has no rule for it, nothing runs, nothing is scheduled."""
    with pytest.raises(InvariantError, match="INV-1 broken: 1 requests wait"):
        serve(Engine(n_blocks=2), flat(1.0), ask([0.0], 20, 1))


def test_an_error_inside_a_process_is_not_swallowed_or_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    class TwoArgumentsError(Exception):
        def __init__(self, first: str, second: str) -> None:
            super().__init__(f"{first} {second}")

    def fail(self: Fleet, request: int, now_s: float) -> None:
        raise TwoArgumentsError("as", "raised")

    monkeypatch.setattr(Fleet, "_arrive", fail)
    with pytest.raises(TwoArgumentsError, match="as raised"):
        serve(Engine(), flat(1.0), ask([0.0], 4, 1))


def test_instances_of_several_shapes_serve_behind_one_router() -> None:
    parts = [toy_parts(Engine(pp=pp), flat(1.0)) for pp in (1, 2)]
    plan = Plan(((parts[0][0], 1), (parts[1][0], 2)))
    workload = Workload("toy", ask(np.zeros(3), 4, 2), LoadForm("offline"), None, None, (), True, "none")
    fleet = Fleet(plan, workload, {shape: (memory, model) for shape, memory, model in parts}, check=True)
    fleet.run(None)
    assert [fleet._finish_s[request] for request in range(3)] == [2.0, 4.0, 4.0]


@pytest.mark.parametrize("order", [lambda row: row, lambda row: -row], ids=["given", "reversed"])
def test_offline_requests_keep_the_order_of_the_file(order: Callable[[int], int]) -> None:
    engine = Engine(max_num_seqs=1)
    outputs = sorted(range(1, 6), key=order)
    run = serve(engine, flat(1.0), ask(np.zeros(5), 4, outputs), offline=True)
    assert run.requests.finish_s.tolist() == np.cumsum(outputs).tolist()
