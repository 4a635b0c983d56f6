"""SGLang's scheduler, decision by decision, against schedules made by hand from its rules.

Pages hold 1 token unless said.  Rules: SGLang 0.5.5, sglang/srt/managers/schedule_policy.py `PrefillAdder`,
scheduler.py `get_new_batch_prefill` and `update_running_batch`, schedule_batch.py `retract_decode`.
"""

from __future__ import annotations

from collections.abc import Sequence as Row
from dataclasses import replace

import pytest
from toy import Engine, end_step, flat, make_queue, put, shares, try_instance

from apex_sim.errors import UnsupportedError
from apex_sim.instance.policies.sglang import max_new_tokens
from apex_sim.instance.policies.sglang import schedule_sglang as schedule
from apex_sim.instance.scheduler_queue import SchedulerQueue
from apex_sim.instance.sequence import Sequence
from apex_sim.preset.preset import Reservation

RULE = Reservation(0.5, 0.1, 10, 20, 30, 1000)


def queue_of(
    n_blocks: int, rule: Reservation = RULE, *, seqs: int = 8, chunk: int = 100, page: int = 1
) -> SchedulerQueue:
    engine = Engine("sglang", seqs, chunk, 512, n_blocks, page)
    queue = make_queue(engine)
    return SchedulerQueue(replace(queue.settings, reservation=rule), queue.pool)


def run(queue: SchedulerQueue, *prompts: int, limit: int = 1000) -> Row[Sequence]:
    """Prefill `prompts` and let them emit their first token."""
    sequences = put(queue, *prompts, limit=limit)
    end_step(schedule(queue))
    return sequences


def test_prompts_run_alone_and_before_all_decodes() -> None:
    queue = queue_of(1000)
    run(queue, 10)
    put(queue, 20)
    step = schedule(queue)
    assert shares(step) == [(0, 20)]
    end_step(step)
    assert shares(schedule(queue)) == [(0, 1), (0, 1)]


def test_one_long_prompt_is_chunked_at_a_time_and_decodes_wait_for_its_end() -> None:
    """Chunks of 100: 250 tokens take 100, 100 and 50; the next prompt fills the third to 100 and is cut in turn."""
    queue = queue_of(10_000)
    run(queue, 10)
    put(queue, 250, 80)
    sizes = []
    for _ in range(5):
        step = schedule(queue)
        sizes.append(shares(step))
        end_step(step)
    assert sizes == [[(0, 100)], [(0, 100)], [(0, 50), (1, 50)], [(1, 30)], [(0, 1), (0, 1), (1, 1)]]


def test_a_chunk_is_a_whole_number_of_pages() -> None:
    """With pages of 16, 90 tokens take 96 of the chunk's 100, and a page no longer fits the rest."""
    queue = queue_of(1000, page=16)
    put(queue, 90, 40)
    step = schedule(queue)
    assert shares(step) == [(0, 90)]
    end_step(step)
    assert shares(schedule(queue)) == [(1, 40)]
    queue = queue_of(1000, page=16)
    put(queue, 40, 90)
    assert shares(schedule(queue)) == [(0, 40), (1, 48)]  # 48 of 100 taken, 52 left: 3 pages


def test_a_new_prompt_asks_for_its_limit_clipped() -> None:
    """10 tokens and min(1000, 30) of output must be below what is free."""
    queue = queue_of(100)
    queue.pool.take(60)
    put(queue, 10)
    assert schedule(queue) == []
    assert queue.reserving.is_full
    queue = queue_of(100)
    queue.pool.take(59)
    put(queue, 10)
    assert shares(schedule(queue)) == [(0, 10)]


def test_the_limit_is_cut_to_what_an_empty_pool_holds() -> None:
    queue = queue_of(40)
    (sequence,) = put(queue, 10, limit=100)
    assert max_new_tokens(queue, sequence) == 28
    assert max_new_tokens(queue, put(queue, 10, limit=5)[0]) == 5


def test_running_sequences_reserve_a_share_of_what_is_left_of_their_limit() -> None:
    """One ran 10 + 1 of 10 + 21: 20 left, half of them reserved. 10 + 30 < free - 10 needs 61 free tokens, 51 + 10."""
    for n_blocks, admitted in ((60, []), (61, [(0, 10)])):
        queue = queue_of(n_blocks)
        run(queue, 10, limit=21)
        put(queue, 10)
        step = schedule(queue)
        assert shares(step) == (admitted or [(0, 1)])


def test_the_share_falls_with_decode_steps_only_and_not_below_its_least() -> None:
    """From 0.5 to 0.1 in 10 steps: 0.04 each."""
    queue = queue_of(10_000)
    run(queue, 10)
    assert queue.reserving.ratio == 0.5
    end_step(schedule(queue))
    assert queue.reserving.ratio == pytest.approx(0.46)
    run(queue, 10)
    assert queue.reserving.ratio == pytest.approx(0.46)
    for _ in range(30):
        end_step(schedule(queue))
    assert queue.reserving.ratio == 0.1
    queue.rest()
    assert queue.reserving.ratio == 0.5


def test_a_batch_of_prompts_ends_before_its_limit_but_the_first_may_exceed_it() -> None:
    queue = queue_of(10_000, replace(RULE, max_prefill_tokens=30))
    put(queue, 50, 10, 20, 9)
    assert shares(schedule(queue)) == [(0, 50)]
    assert shares(schedule(queue)) == [(1, 10)]  # 20 are left, and 20 is not below that
    assert shares(schedule(queue)) == [(2, 20), (3, 9)]


def test_a_full_batch_admits_nobody_until_a_decode_step_finds_it_smaller() -> None:
    queue = queue_of(1000, seqs=1)
    run(queue, 10)
    put(queue, 10)
    end_step(schedule(queue))
    assert queue.reserving.is_full
    queue.release(queue.running.pop())
    assert schedule(queue) == []  # nothing to decode: the engine finds out that the batch shrank, and tries again
    assert shares(schedule(queue)) == [(0, 10)]


def test_the_fewest_outputs_are_retracted_first_then_the_longest_prompt_and_wait_last() -> None:
    """10 + 12 + 12 prompt tokens in 37 of KV; outputs 2, 1 and 1: the third decode step lacks room for all."""
    queue = queue_of(37, replace(RULE, clip_tokens=0))
    first = run(queue, 10)[0]
    first.n_generated += 1  # one token further than the others
    first.n_computed += 1
    queue.grow(first, 11)
    second, third = run(queue, 12, 13)
    (late,) = put(queue, 30)
    step = schedule(queue)
    assert [entry.sequence for entry in step] == [first, second]
    assert list(queue.waiting) == [late, third]
    assert (third.n_computed, third.n_blocks, third.n_generated, third.n_preemptions) == (0, 0, 1, 1)
    # (3 outputs + 20 for each of 2) / (their limits, cut to 37 - 2 - prompt, + 1)
    assert queue.reserving.ratio == pytest.approx((3 + 40) / (25 + 23 + 1))
    assert not queue.reserving.is_full


def test_of_equal_ones_the_last_is_retracted() -> None:
    queue = queue_of(20, replace(RULE, clip_tokens=0))
    one, other = run(queue, 10, 9)
    other.prompt_tokens, other.n_computed = 10, 10
    queue.grow(other, 10)
    assert [entry.sequence for entry in schedule(queue)] == [one]
    assert list(queue.waiting) == [other]


def test_a_retracted_sequence_computes_prompt_and_output_again() -> None:
    queue = queue_of(24, replace(RULE, clip_tokens=0))
    run(queue, 12, 11)
    step = schedule(queue)  # 2 tokens lack 1
    assert shares(step) == [(1, 1)]
    end_step(step)
    queue.release(queue.running.pop())
    assert shares(schedule(queue)) == [(0, 13)]


def test_every_end_costs_one_wasted_token_when_overlapped() -> None:
    """Two tokens are asked for; the third step runs before the second is looked at. Synchronous: two steps."""
    asked = [(0.0, 4, 2, 2)]
    engine = Engine("sglang", max_num_batched_tokens=64, block_size_tokens=1)
    assert [step[0][2] for step in try_instance(engine, flat(), asked).batches] == [4, 1]
    overlapped = try_instance(replace(engine, async_scheduling=True), flat(), asked)
    assert [step[0][2] for step in overlapped.batches] == [4, 1, 1]
    assert overlapped.log.times("finished", 0) == [2.0]


def test_the_share_starts_afresh_when_the_instance_had_nothing_to_do() -> None:
    engine = Engine("sglang", max_num_batched_tokens=64, block_size_tokens=1)
    trial = try_instance(engine, flat(), [(0.0, 4, 9, 9)])
    state = trial.instance.queues[0].reserving
    assert (state.ratio, state.n_decays, state.n_seats, state.is_full) == (0.7, 0, 0, False)


def test_without_a_rule_of_reservation_the_policy_is_refused() -> None:
    queue = queue_of(10)
    with pytest.raises(UnsupportedError, match="without a rule of reservation"):
        schedule(SchedulerQueue(replace(queue.settings, reservation=None), queue.pool))
