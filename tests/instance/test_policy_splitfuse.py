"""Dynamic SplitFuse, decision by decision, against schedules made by hand from its rules.

Blocks hold 4 tokens, steps 8.
"""

from __future__ import annotations

from toy import Engine, end_step, flat, make_queue, put, shares, try_instance, who

from apex_sim.instance.policies.splitfuse import schedule_splitfuse as schedule

ENGINE = Engine("splitfuse", max_num_seqs=4, max_num_batched_tokens=8)


def test_every_step_is_filled_and_one_prompt_is_cut() -> None:
    queue = make_queue(ENGINE)
    _, long, _ = put(queue, 3, 20, 2)
    first = schedule(queue)
    assert shares(first) == [(0, 3), (1, 5)]
    assert long.n_blocks == 2  # blocks of what is computed, not of the prompt
    end_step(first)
    for _ in range(2):
        step = schedule(queue)
        assert shares(step) == [(0, 1), (1, 7)]
        end_step(step)
    last = schedule(queue)  # one token is left of the cut prompt: it goes with the single tokens, and first
    assert shares(last) == [(1, 1), (0, 1), (2, 2)]
    assert [entry.is_decode for entry in last] == [False, True, False]
    end_step(last)
    assert shares(schedule(queue)) == [(1, 1), (0, 1), (2, 1)]


def test_a_prompt_starts_only_if_the_free_blocks_hold_the_whole_of_it_and_holds_up_those_behind() -> None:
    queue = make_queue(ENGINE, n_blocks=5)
    put(queue, 6, 16, 1)
    step = schedule(queue)
    assert shares(step) == [(0, 6)]  # 3 blocks are free, the next prompt needs 4
    assert who(queue.waiting) == [1, 2]


def test_a_cut_prompt_that_no_longer_fits_holds_up_all_prompts() -> None:
    """4 blocks: the decode's second one leaves a free block, and the prompt's other half needs two."""
    queue = make_queue(ENGINE, n_blocks=4)
    decode, cut = put(queue, 4, 12)
    queue.waiting.clear()
    queue.grow(decode, 4)
    queue.grow(cut, 4)
    decode.n_computed, decode.n_generated, cut.n_computed = 4, 1, 4
    queue.running = [cut, decode]
    late = put(queue, 1)[0]
    assert shares(schedule(queue)) == [(0, 1)]
    assert (who(queue.running), list(queue.waiting)) == ([1, 0], [late])


def test_a_decode_without_a_block_is_left_out_and_goes_first_next_time() -> None:
    queue = make_queue(ENGINE, n_blocks=3)
    full, roomy = put(queue, 4, 6)
    queue.waiting.clear()
    for sequence in (roomy, full):
        queue.grow(sequence, sequence.prompt_tokens)
        sequence.n_computed, sequence.n_generated = sequence.prompt_tokens, 1
        queue.running.append(sequence)
    assert shares(schedule(queue)) == [(1, 1)]  # the other's next token begins a block
    assert who(queue.running) == [0, 1]
    assert (full.n_preemptions, roomy.n_preemptions) == (0, 0)


def test_if_nothing_can_run_all_start_over_with_what_they_have() -> None:
    queue = make_queue(ENGINE, n_blocks=2)
    put(queue, 4, 4)
    end_step(schedule(queue))
    late = put(queue, 1)[0]
    assert schedule(queue) == []
    assert (queue.running, queue.pool.n_free) == ([], 2)
    assert who(queue.waiting)[:2] == [0, 1]
    assert queue.waiting[2] is late
    step = schedule(queue)
    assert shares(step) == [(0, 5)]  # prompt and token; no block is left for the next
    assert step[0].samples


def test_a_run_in_a_pool_that_deadlocks() -> None:
    """Two prompts of 4 fill both blocks in the first second; then one after the other starts over and ends."""
    trial = try_instance(
        Engine("splitfuse", max_num_batched_tokens=8, max_model_len=8, n_blocks=2),
        flat(1.0),
        [(0.0, 4, 3, 3), (0.0, 4, 3, 3)],
    )
    assert trial.log.times("token", 0) == [1.0, 2.0, 3.0]
    assert trial.log.times("token", 1) == [1.0, 4.0, 5.0]
