"""Sarathi-Serve's stall-free batching, decision by decision, against schedules made by hand from its rules.

Blocks hold 4 tokens, steps 8; one hundredth of the blocks stays free at admission.
"""

from __future__ import annotations

from toy import Engine, end_step, flat, make_queue, put, shares, try_instance, who

from apex_sim.instance.policies.sarathi import schedule_sarathi as schedule

ENGINE = Engine("sarathi", max_num_seqs=4, max_num_batched_tokens=8, n_blocks=100)


def test_prompts_share_a_step_and_take_all_their_blocks_at_admission() -> None:
    queue = make_queue(ENGINE)
    _, long, _ = put(queue, 3, 20, 2)
    step = schedule(queue)
    assert shares(step) == [(0, 3), (1, 5)]
    assert [entry.samples for entry in step] == [True, False]
    assert long.n_blocks == 5
    assert who(queue.waiting) == [2]


def test_decodes_never_wait_for_a_prompt() -> None:
    """The older request's prompt of 20 tokens gets 5, 7 and 7, then 1 beside the other's decodes and a newcomer."""
    queue = make_queue(ENGINE)
    put(queue, 3, 20, 9)
    end_step(schedule(queue))
    for past in (5, 12):
        step = schedule(queue)
        assert shares(step) == [(0, 1), (1, 7)]
        assert step[1].past == past
        end_step(step)
    last = schedule(queue)
    assert shares(last) == [(0, 1), (1, 1), (2, 6)]
    assert [entry.is_decode for entry in last] == [True, False, False]
    end_step(last)
    assert shares(schedule(queue)) == [(0, 1), (1, 1), (2, 3)]


def test_running_sequences_stand_in_order_of_arrival() -> None:
    """An older prompt is served before a younger one, whoever was admitted first."""
    queue = make_queue(ENGINE)
    older, younger = put(queue, 12, 12)
    queue.waiting.clear()
    for sequence in (older, younger):
        queue.grow(sequence, 12)
        sequence.n_computed = 6
    queue.running = [younger, older]
    assert shares(schedule(queue)) == [(0, 6), (1, 2)]


def test_a_decode_without_a_free_block_takes_the_youngest_prompts() -> None:
    """6 blocks: the decode holds 2, the unfinished prompt 4; it is freed as a whole, waits first and starts anew."""
    queue = make_queue(Engine("sarathi", max_num_batched_tokens=8, watermark_frac=0.0), n_blocks=6)
    old, young = put(queue, 7, 16)
    end_step(schedule(queue))
    assert (old.n_blocks, young.n_blocks, queue.pool.n_free) == (2, 4, 0)
    late = put(queue, 4)[0]
    step = schedule(queue)  # 4 blocks are free again, and the victim, who stands first, is admitted at once
    assert shares(step) == [(0, 1), (1, 7)]
    assert (step[1].past, young.n_preemptions) == (0, 1)
    assert list(queue.waiting) == [late]


def test_a_decode_goes_itself_if_only_older_ones_are_left() -> None:
    """The older prompt is passed over by then: it holds its blocks, and the younger decode leaves."""
    queue = make_queue(Engine("sarathi", max_num_batched_tokens=8, watermark_frac=0.0), n_blocks=5)
    older, younger = put(queue, 12, 7)
    queue.waiting.clear()
    queue.grow(older, 12)
    queue.grow(younger, 8)
    older.n_computed, younger.n_computed, younger.n_generated = 4, 8, 2
    queue.running = [older, younger]
    assert shares(schedule(queue)) == [(0, 8)]
    assert list(queue.waiting) == [younger]
    assert younger.n_preemptions == 1


def test_the_watermark_stays_free_at_admission_and_a_prompt_above_it_is_refused() -> None:
    queue = make_queue(Engine("sarathi", watermark_frac=0.2), n_blocks=10)
    _, second, giant = put(queue, 24, 12, 40)
    assert shares(schedule(queue)) == [(0, 24)]  # 4 blocks are left, 3 of them for the next would leave 1
    queue.release(queue.running.pop())
    assert shares(schedule(queue)) == [(1, 12)]
    assert [sequence for sequence, _ in queue.rejected] == [giant]
    assert queue.running == [second]


def test_a_run_from_start_to_end() -> None:
    """Steps of 1 s: 3 + 5, then 1 + 7 twice, 1 + 1; the second request's tokens leave at 4 and 5 s."""
    trial = try_instance(ENGINE, flat(1.0), [(0.0, 3, 4, 4), (0.0, 20, 2, 2)])
    assert trial.log.times("token", 0) == [1.0, 2.0, 3.0, 4.0]
    assert trial.log.times("token", 1) == [4.0, 5.0]
    assert trial.batches[1] == [(0, 3, 1), (1, 5, 7)]
