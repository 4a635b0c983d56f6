"""TensorRT-LLM's two policies, decision by decision, against schedules made by hand from their rules.

Blocks hold 4 tokens.  Rules: NVIDIA/TensorRT-LLM, cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp at cf6abc45 and
microBatchScheduler.cpp at 0a949d31.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from toy import Engine, end_step, flat, make_queue, put, shares, try_instance, who

from apex_sim.errors import InputError
from apex_sim.hardware.cluster import load_cluster
from apex_sim.instance.policies.max_utilization import schedule_max_utilization
from apex_sim.instance.policies.no_evict import schedule_no_evict
from apex_sim.instance.policies.no_evict_chunked import schedule_no_evict_chunked
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.preset.load import load_preset

NO_EVICT, MAX_UTILIZATION = Engine("no-evict", n_blocks=10), Engine("max-utilization", n_blocks=4)


def test_a_request_starts_only_if_all_its_blocks_are_free() -> None:
    """8 + 8 tokens pledge 4 of 10 blocks, and hold 2: a third request finds 2, though 6 are free."""
    queue = make_queue(NO_EVICT)
    put(queue, 8, 8, 8, limit=8)
    assert shares(schedule_no_evict(queue)) == [(0, 8), (1, 8)]
    assert queue.pool.n_free == 6
    assert who(queue.waiting) == [2]


def test_the_pledge_holds_while_blocks_are_taken_and_nobody_is_ever_evicted() -> None:
    queue = make_queue(NO_EVICT)
    sequences = put(queue, 8, 8, 8, limit=8)
    for _ in range(8):
        end_step(schedule_no_evict(queue))
    assert [sequence.n_blocks for sequence in sequences] == [4, 4, 0]
    assert [sequence.n_preemptions for sequence in sequences] == [0, 0, 0]


def test_the_first_that_does_not_fit_ends_admission() -> None:
    queue = make_queue(NO_EVICT)
    put(queue, 8, 40, 4, limit=4)
    assert shares(schedule_no_evict(queue)) == [(0, 8)]


def test_decodes_come_first_and_prompts_share_what_they_leave_of_the_budget() -> None:
    queue = make_queue(replace(NO_EVICT, n_blocks=100, max_num_batched_tokens=12))
    put(queue, 6, 6, limit=8)
    end_step(schedule_no_evict(queue))
    put(queue, 10, 1, limit=8)
    assert shares(schedule_no_evict(queue)) == [(0, 1), (1, 1), (0, 10)]
    queue = make_queue(replace(NO_EVICT, n_blocks=100, max_num_batched_tokens=12))
    put(queue, 6, 6, limit=8)
    end_step(schedule_no_evict(queue))
    put(queue, 11, 1, limit=8)
    assert shares(schedule_no_evict(queue)) == [(0, 1), (1, 1)]  # 11 exceed the rest, and 1 does not overtake


def test_a_prompt_beyond_the_budget_is_refused() -> None:
    queue = make_queue(replace(NO_EVICT, max_num_batched_tokens=12))
    put(queue, 13, 4, limit=4)
    assert shares(schedule_no_evict(queue)) == [(1, 4)]
    assert [reason for _, reason in queue.rejected] == ["prompt of 13 tokens exceeds the step budget"]


@pytest.mark.parametrize("policy", ["no-evict", "max-utilization"])
def test_the_batch_has_at_most_max_num_seqs_requests(policy: str) -> None:
    queue = make_queue(replace(NO_EVICT, policy=policy, max_num_seqs=2))
    put(queue, 1, 1, 1, limit=1)
    schedule = schedule_no_evict if policy == "no-evict" else schedule_max_utilization
    assert shares(schedule(queue)) == [(0, 1), (1, 1)]


@pytest.mark.parametrize("policy", ["no-evict", "max-utilization"])
def test_an_end_at_the_limit_wastes_no_token_and_a_stop_wastes_one(policy: str) -> None:
    engine = replace(NO_EVICT, policy=policy, async_scheduling=True)
    at_limit, stopped = (try_instance(engine, flat(), [(0.0, 4, 2, limit)]).batches for limit in (2, 9))
    assert ([step[0][2] for step in at_limit], [step[0][2] for step in stopped]) == ([4, 1], [4, 1, 1])


CHUNKED = Engine("no-evict-chunked", n_blocks=100, max_num_batched_tokens=10)


def test_a_prompt_above_the_budget_takes_several_steps_in_whole_blocks() -> None:
    """Budget 10, blocks of 4: chunks of 8, 8 and the last 3, which need no whole block."""
    queue = make_queue(CHUNKED)
    put(queue, 19, limit=4)
    steps = []
    for _ in range(4):
        step = schedule_no_evict_chunked(queue)
        steps.append(shares(step))
        end_step(step)
    assert steps == [[(0, 8)], [(0, 8)], [(0, 3)], [(0, 1)]]


def test_chunks_share_what_decodes_leave_and_the_rest_of_a_prompt_goes_first() -> None:
    queue = make_queue(CHUNKED)
    put(queue, 3, limit=4)
    end_step(schedule_no_evict_chunked(queue))
    put(queue, 11, 6, limit=4)
    step = schedule_no_evict_chunked(queue)
    assert shares(step) == [(0, 1), (0, 8)]  # of 9 tokens 8 are whole blocks, and the 1 left is none
    end_step(step)
    step = schedule_no_evict_chunked(queue)
    assert shares(step) == [(0, 1), (0, 3), (1, 6)]  # 3 + 6 of the 9 that are left


def test_a_chunked_prompt_pledges_all_its_blocks_at_its_start() -> None:
    """20 + 4 tokens pledge 6 of 8 blocks, 8 + 4 the 3 that are not there."""
    queue = make_queue(replace(CHUNKED, n_blocks=8, max_num_batched_tokens=64))
    put(queue, 20, 8, limit=4)
    assert shares(schedule_no_evict_chunked(queue)) == [(0, 20)]


def test_more_seats_than_budget_hold_buffers_but_run_no_more_than_the_budget() -> None:
    queue = make_queue(replace(CHUNKED, max_num_seqs=40, max_num_batched_tokens=4, block_size_tokens=1))
    put(queue, 1, 1, 1, 1, 1, limit=9)
    end_step(schedule_no_evict_chunked(queue))
    assert shares(schedule_no_evict_chunked(queue)) == [(0, 1), (1, 1), (2, 1), (3, 1)]


def test_max_utilization_starts_what_fits_now() -> None:
    queue = make_queue(MAX_UTILIZATION)
    put(queue, 8, 8, 1, limit=100)
    assert shares(schedule_max_utilization(queue)) == [(0, 8), (1, 8)]


def test_the_youngest_is_paused_keeps_its_place_and_nobody_starts_in_that_step() -> None:
    queue = make_queue(replace(MAX_UTILIZATION, n_blocks=6))
    put(queue, 8, 8, 8, limit=100)
    end_step(schedule_max_utilization(queue))
    (late,) = put(queue, 1, limit=100)
    step = schedule_max_utilization(queue)
    assert shares(step) == [(0, 1), (1, 1)]  # 2's blocks let both take a third one
    assert who(queue.waiting) == [2, 0]
    assert queue.waiting[1] is late
    assert (queue.waiting[0].n_computed, queue.waiting[0].n_preemptions) == (0, 1)


def test_a_request_that_finds_nobody_younger_pauses_itself() -> None:
    queue = make_queue(MAX_UTILIZATION)
    put(queue, 7, 8, limit=100)
    end_step(schedule_max_utilization(queue))
    assert shares(schedule_max_utilization(queue)) == [(0, 1)]
    assert who(queue.waiting) == [1]


def test_a_paused_request_starts_again_whole_with_its_output() -> None:
    queue = make_queue(MAX_UTILIZATION)
    put(queue, 7, 8, limit=100)
    end_step(schedule_max_utilization(queue))
    end_step(schedule_max_utilization(queue))
    queue.release(queue.running.pop())
    assert shares(schedule_max_utilization(queue)) == [(1, 9)]


def test_max_utilization_needs_a_budget_for_the_longest_request() -> None:
    device = load_cluster("1xh100-sxm").device
    with pytest.raises(InputError, match="max-utilization runs a prompt in one step"):
        resolve_settings(load_preset("trtllm"), device, 8193, policy="max-utilization")
    assert resolve_settings(load_preset("trtllm"), device, 8193).policy == "no-evict"
