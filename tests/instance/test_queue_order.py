"""Sorted queues and the cap on who may wait, against cases worked by hand.

Rules of vLLM 0.12.0: vllm/v1/core/sched/request_queue.py `PriorityRequestQueue`, and the victim's choice in
vllm/v1/core/sched/scheduler.py `schedule`.  Blocks hold 4 tokens.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy import ENGINES, Engine, ask, end_step, flat, make_queue, serve, shares, toy_parts, who

from apex_sim.fleet.queue_rank import queue_ranks
from apex_sim.instance.policies.sarathi import schedule_sarathi
from apex_sim.instance.policies.unified import schedule_unified
from apex_sim.instance.scheduler_queue import SchedulerQueue
from apex_sim.instance.sequence import Sequence
from apex_sim.record.request_records import FINISHED, REJECTED
from apex_sim.workload.load_form import LoadForm
from apex_sim.workload.requests import make_requests
from apex_sim.workload.workload import Workload

ENGINE = Engine("unified", max_num_seqs=4, max_num_batched_tokens=64, queue_order="priority")


def enqueue(queue: SchedulerQueue, *asked: tuple[float, int]) -> list[Sequence]:
    """Let sequences of these (rank, prompt tokens) arrive, numbered from 0."""
    sequences = [Sequence(index, prompt, 100, rank=rank) for index, (rank, prompt) in enumerate(asked)]
    for sequence in sequences:
        queue.enqueue(sequence)
    return sequences


def test_lower_ranks_go_first_and_equal_ones_in_order_of_arrival() -> None:
    queue = make_queue(ENGINE)
    enqueue(queue, (2, 1), (0, 2), (1, 3), (0, 4), (1, 5))
    assert shares(schedule_unified(queue)) == [(1, 2), (3, 4), (2, 3), (4, 5)]
    assert who(queue.waiting) == [0]


def test_first_come_first_served_ignores_ranks() -> None:
    queue = make_queue(replace(ENGINE, queue_order="fcfs"))
    enqueue(queue, (2, 1), (0, 2))
    assert shares(schedule_unified(queue)) == [(0, 1), (1, 2)]


def test_whoever_waits_preempts_nobody() -> None:
    queue = make_queue(replace(ENGINE, max_num_seqs=1))
    enqueue(queue, (5, 3))
    end_step(schedule_unified(queue))
    enqueue(queue, (0, 3))
    assert shares(schedule_unified(queue)) == [(0, 1)]
    assert len(queue.waiting) == 1


def test_the_victim_stands_last_in_the_order_though_it_is_scheduled_already() -> None:
    """Three prompts of 4 fill 3 blocks; then the first of rank 2, scheduled first, gives way to the second.

    Its token goes back to the budget and its place in the loop with it, so that the third is not passed over.
    """
    queue = make_queue(replace(ENGINE, max_num_batched_tokens=12), n_blocks=4)
    first, second, third = enqueue(queue, (2, 4), (0, 4), (1, 4))
    end_step(schedule_unified(queue))
    queue.running = [first, second, third]
    step = schedule_unified(queue)  # one block is free: the first takes it and gives both back
    assert shares(step) == [(1, 1), (2, 1)]
    assert (first.n_preemptions, first.n_pending, first.n_computed, first.n_blocks) == (1, 0, 0, 0)
    assert (who(queue.running), who(queue.waiting), queue.pool.n_free) == ([1, 2], [0], 0)


def test_the_victim_returns_to_its_place_in_the_queue_not_to_the_front() -> None:
    queue = make_queue(ENGINE, n_blocks=2)
    one, two = enqueue(queue, (1, 4), (3, 4))
    end_step(schedule_unified(queue))
    late = Sequence(2, 4, 100, rank=2)
    queue.enqueue(late)
    assert shares(schedule_unified(queue)) == [(0, 1)]
    assert list(queue.waiting) == [late, two]
    assert one.n_blocks == 2


def test_sarathi_serves_and_spares_by_rank() -> None:
    """Both decodes need a third block of which there is none: the older goes, because its rank is higher."""
    queue = make_queue(Engine("sarathi", watermark_frac=0.0, queue_order="priority"), n_blocks=2)
    enqueue(queue, (7, 4), (3, 4))
    end_step(schedule_sarathi(queue))
    assert shares(schedule_sarathi(queue)) == [(1, 1)]
    assert who(queue.waiting) == [0]


@pytest.mark.parametrize("by", ENGINES)
def test_shortest_predicted_first_with_an_exact_predictor_is_shortest_job_first(by: str) -> None:
    """One seat, steps of 1 s, prompts of one step: jobs of 5, 3, 1 and 2 s end at 5 (it was first), 6, 8 and 11."""
    engine = Engine("orca", max_num_seqs=1, queue_order="shortest-predicted-first")
    run = serve(engine, flat(1.0), ask([0.0, 0.5, 0.5, 0.5], 4, [5, 3, 1, 2]), by=by)
    assert run.requests.finish_s.tolist() == [5.0, 11.0, 6.0, 8.0]


def test_ranks_are_priorities_or_predictions_or_nothing() -> None:
    requests = make_requests([0.0, 1.0], [4, 4], [7, 9], priority=[3, -1])
    workload = Workload("toy", requests, LoadForm("trace"), None, None, (), True, "none")
    settings = toy_parts(ENGINE, flat())[0].scheduler
    assert queue_ranks(workload, settings).tolist() == [3.0, -1.0]
    assert queue_ranks(workload, replace(settings, queue_order="fcfs")).tolist() == [0.0, 0.0]
    guess = replace(settings, queue_order="shortest-predicted-first")
    assert queue_ranks(workload, guess).tolist() == [7.0, 9.0]
    assert (queue_ranks(workload, replace(guess, prediction_log_sd=0.5)) != [7.0, 9.0]).all()


@pytest.mark.parametrize("by", ENGINES)
def test_more_than_may_wait_are_refused_with_the_reason(by: str) -> None:
    """One seat and two places to wait: of five at 0.5 s, the last three find both taken."""
    engine = Engine("unified", max_num_seqs=1, max_num_waiting=2)
    run = serve(engine, flat(1.0), ask([0.0, 0.5, 0.5, 0.5, 0.5, 0.5], 4, 2), by=by)
    assert run.requests.status.tolist() == [FINISHED] * 3 + [REJECTED] * 3
    assert run.requests.reasons == tuple((request, "2 requests wait already") for request in (3, 4, 5))
    assert np.isnan(run.requests.scheduled_s[3:]).all()


@pytest.mark.parametrize("by", ENGINES)
def test_a_closed_loop_goes_on_after_a_refusal(by: str) -> None:
    """Three users, one seat, one place, 0.25 s before the queue.

    At 0.25 s the first waits, two are refused and ask again; at 0.5 s the first has its seat, the fourth waits, the
    fifth is refused, and so is its next question at 0.75 s.
    """
    engine = Engine("unified", max_num_seqs=1, max_num_waiting=1, frontend_s=0.25)
    run = serve(engine, flat(1.0), ask(np.zeros(6), 4, 2), concurrency=3, by=by)
    assert run.requests.status.tolist() == [FINISHED, REJECTED, REJECTED, FINISHED, REJECTED, REJECTED]


@pytest.mark.parametrize("by", ENGINES)
def test_the_cap_counts_all_queues_of_the_instance(by: str) -> None:
    """Of two at the start one waits, in the first queue; of three at 0.5 s one does, in the second."""
    engine = Engine("prefill-first", pp=2, max_num_seqs=1, max_num_waiting=1)
    run = serve(engine, flat(1.0), ask([0.0, 0.0, 0.5, 0.5, 0.5], 4, 8), by=by)
    assert run.requests.status.tolist() == [FINISHED, REJECTED, FINISHED, REJECTED, REJECTED]
