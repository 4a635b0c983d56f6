"""Orca's iteration-level scheduling, decision by decision, against schedules made by hand from its rules.

Blocks hold 4 tokens, steps 64.
"""

from __future__ import annotations

from toy import Engine, end_step, flat, make_queue, put, shares, try_instance, who

from apex_sim.instance.policies.orca import schedule_orca as schedule

ENGINE = Engine("orca", max_num_seqs=3)


def test_prompts_join_decodes_whole() -> None:
    queue = make_queue(ENGINE)
    put(queue, 5, limit=3)
    end_step(schedule(queue))
    put(queue, 9, 2, 7, limit=3)
    step = schedule(queue)
    assert shares(step) == [(0, 1), (0, 9), (1, 2)]  # and there are three
    assert [entry.is_decode for entry in step] == [True, False, False]
    assert who(queue.waiting) == [2]


def test_the_longest_answer_is_reserved_and_never_grows() -> None:
    """5 + 6 tokens are 3 blocks; 8 blocks take two such requests, and the third waits though 2 blocks are free."""
    queue = make_queue(ENGINE, n_blocks=8)
    one, two, _ = put(queue, 5, 5, 5, limit=6)
    end_step(schedule(queue))
    assert (one.n_blocks, two.n_blocks, queue.pool.n_free) == (3, 3, 2)
    for _ in range(5):
        step = schedule(queue)
        assert shares(step) == [(0, 1), (1, 1)]
        end_step(step)
    assert (one.n_blocks, two.n_blocks, who(queue.waiting)) == (3, 3, [2])


def test_who_does_not_fit_holds_up_those_behind() -> None:
    queue = make_queue(ENGINE, n_blocks=8)
    put(queue, 20, 20, 1, limit=2)
    assert shares(schedule(queue)) == [(0, 20)]
    assert who(queue.waiting) == [1, 2]


def test_a_prompt_waits_for_room_in_the_step() -> None:
    queue = make_queue(ENGINE)
    put(queue, 40, 30, limit=4)
    step = schedule(queue)
    assert shares(step) == [(0, 40)]
    end_step(step)
    assert shares(schedule(queue)) == [(0, 1), (1, 30)]


def test_a_run_from_start_to_end() -> None:
    """Room for one: 3 of 4 blocks are reserved, so the second request starts when the first ends, after 4 s."""
    trial = try_instance(Engine("orca", max_model_len=16, n_blocks=4), flat(1.0), [(0.0, 4, 4, 8), (0.0, 4, 2, 8)])
    assert trial.log.times("token", 0) == [1.0, 2.0, 3.0, 4.0]
    assert trial.log.times("token", 1) == [5.0, 6.0]
