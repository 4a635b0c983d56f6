"""Static batching, decision by decision, against schedules made by hand from its rules.

Blocks hold 4 tokens, steps 64.
"""

from __future__ import annotations

from toy import Engine, end_step, flat, make_queue, put, shares, try_instance, who

from apex_sim.instance.policies.static import schedule_static as schedule

ENGINE = Engine("static", max_num_seqs=3)


def test_a_batch_is_as_many_as_fit_and_nobody_joins_it() -> None:
    queue = make_queue(ENGINE)
    put(queue, 5, 9, limit=4)
    end_step(schedule(queue))
    put(queue, 3, limit=4)
    for _ in range(3):
        step = schedule(queue)
        assert shares(step) == [(0, 1), (1, 1)]
        end_step(step)
    queue.release(queue.running.pop(0))
    assert shares(schedule(queue)) == [(1, 1)]  # one has ended, there is a seat and memory, and still nobody joins
    assert len(queue.waiting) == 1
    queue.running.clear()
    assert shares(schedule(queue)) == [(0, 3)]


def test_max_num_seqs_and_reserved_memory_limit_the_batch() -> None:
    queue = make_queue(ENGINE, n_blocks=8)
    put(queue, 5, 5, 5, limit=6)
    assert shares(schedule(queue)) == [(0, 5), (1, 5)]
    assert queue.pool.n_free == 2
    queue = make_queue(ENGINE)
    put(queue, 1, 1, 1, 1, limit=1)
    assert shares(schedule(queue)) == [(0, 1), (1, 1), (2, 1)]


def test_nobody_decodes_before_all_prompts_are_computed() -> None:
    """Prompts of 40, 30 and 20 need two steps of 64 tokens, each prompt whole."""
    queue = make_queue(ENGINE)
    put(queue, 40, 30, 20, limit=4)
    for expected in ([(0, 40)], [(1, 30), (2, 20)], [(0, 1), (1, 1), (2, 1)]):
        step = schedule(queue)
        assert shares(step) == expected
        end_step(step)
    assert who(queue.running) == [0, 1, 2]


def test_a_run_of_two_batches() -> None:
    """The first batch lasts as long as its longest answer, 5 s; who came at 0.5 s starts then."""
    trial = try_instance(Engine("static", max_num_seqs=2), flat(1.0), [(0.0, 4, 2, 8), (0.0, 4, 5, 8), (0.5, 4, 2, 8)])
    assert trial.log.times("token", 0) == [1.0, 2.0]
    assert trial.log.times("token", 1) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert trial.log.times("token", 2) == [6.0, 7.0]
