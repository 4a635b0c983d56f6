"""The prefix cache by hand: what is found, what is forgotten first, and what admission counts."""

from dataclasses import replace

import pytest
from toy import Engine, end_step, make_queue, shares

from apex_sim.errors import InputError
from apex_sim.instance.block_pool import BlockPool
from apex_sim.instance.policies.unified import schedule_unified
from apex_sim.instance.prefix_cache import PrefixCache, prefix_cache_of
from apex_sim.instance.scheduler_queue import SchedulerQueue
from apex_sim.instance.sequence import Sequence
from apex_sim.plan.kv_layout import KvLayout
from apex_sim.plan.memory import Memory

UNIT, BLOCK = 8, 4


def caching_queue(n_blocks: int, budget: int = 64) -> SchedulerQueue:
    """Return a queue whose pool caches units of two blocks."""
    queue = make_queue(Engine("unified", max_num_batched_tokens=budget, block_size_tokens=BLOCK), n_blocks)
    cache = PrefixCache(n_blocks, UNIT, UNIT // BLOCK)
    queue.pool = BlockPool(n_blocks, KvLayout(BLOCK), 0.0, cache)
    return queue


def enter(queue: SchedulerQueue, request: int, prompt: int, *units: int) -> Sequence:
    sequence = Sequence(request, prompt, 100, units=units)
    queue.waiting.append(sequence)
    return sequence


def leave(queue: SchedulerQueue, sequence: Sequence) -> None:
    queue.running.remove(sequence)
    queue.release(sequence)


def test_a_second_request_finds_what_the_first_computes_in_the_same_step() -> None:
    """Blocks are found from the moment when they are scheduled: 16 of 20 tokens are there, 4 remain."""
    queue = caching_queue(100)
    enter(queue, 0, 20, 1, 2)
    second = enter(queue, 1, 20, 1, 2)
    assert shares(schedule_unified(queue)) == [(0, 20), (1, 4)]
    assert second.n_cached_tokens == 16
    assert queue.pool.n_used == 5 + 1  # two units are held by both, and counted once


def test_the_last_token_is_computed_even_if_all_is_cached() -> None:
    queue = caching_queue(100)
    enter(queue, 0, 16, 1, 2)
    enter(queue, 1, 16, 1, 2)
    assert shares(schedule_unified(queue)) == [(0, 16), (1, 8)]


def test_a_hit_ends_at_the_first_unit_that_is_missing() -> None:
    queue = caching_queue(100)
    enter(queue, 0, 25, 1, 2, 3)
    enter(queue, 1, 25, 1, 7, 3)
    assert shares(schedule_unified(queue)) == [(0, 25), (1, 17)]


def test_what_nobody_holds_stays_until_it_is_needed_and_its_end_goes_first() -> None:
    """Ten blocks: a prompt of two units and one block leaves; six blocks of a stranger push out its second unit."""
    queue = caching_queue(10)
    first = enter(queue, 0, 17, 1, 2)
    end_step(schedule_unified(queue))
    leave(queue, first)
    assert queue.pool.n_free == 10
    stranger = enter(queue, 1, 27)  # seven blocks: five never used, the single one, and one of unit 2
    end_step(schedule_unified(queue))
    assert stranger.n_cached_tokens == 0
    third = enter(queue, 2, 12, 1)
    schedule_unified(queue)
    assert third.n_cached_tokens == 8


def test_idle_units_that_are_hit_are_no_longer_free() -> None:
    """Admission needs the missing blocks and those of hit units that nobody holds."""
    queue = caching_queue(5)
    first = enter(queue, 0, 17, 1, 2)
    end_step(schedule_unified(queue))
    leave(queue, first)
    second = enter(queue, 1, 20, 1, 2)
    assert queue.cached_tokens(second) == 16
    assert not queue.admit(second, 16, 24)  # two blocks more than the one that is free beside the hits
    assert (queue.pool.n_free, second.n_blocks, second.held) == (5, 0, [])
    assert queue.admit(second, 16, 20)
    assert queue.pool.n_free == 0


def test_a_preempted_sequence_finds_its_own_blocks_again() -> None:
    queue = caching_queue(100)
    sequence = enter(queue, 0, 20, 1, 2)
    end_step(schedule_unified(queue))
    queue.preempt(queue.running.pop())
    queue.waiting.appendleft(sequence)
    assert shares(schedule_unified(queue)) == [(0, 5)]  # its fifth token behind the units is the generated one
    assert sequence.n_cached_tokens == 0  # what the first admission found


def test_two_copies_of_a_unit_are_one_in_the_cache() -> None:
    """Both miss and compute; the copy of the second is its own and goes as bare blocks."""
    cache = PrefixCache(10, UNIT, 2)
    one, other = (Sequence(index, 9, 10, units=(5,)) for index in range(2))
    for sequence in (one, other):
        sequence.n_computed = 8
        sequence.n_blocks = 2
        cache.take(2)
    cache.remember(one)
    cache.remember(other)
    assert (one.held, other.held) == ([5], [])
    assert cache.release(other) == 2
    assert cache.find(other) == 1


def test_units_that_are_no_whole_blocks_are_refused() -> None:
    settings = make_queue(Engine()).settings
    wants = replace(settings, prefix_cache=True)
    assert prefix_cache_of(settings, Memory((), KvLayout(16), 10), 512) is None
    assert prefix_cache_of(wants, Memory((), KvLayout(16), 10), None) is None
    for layout in (KvLayout(24), KvLayout(16, 1, ((1, 9),))):
        with pytest.raises(InputError, match="cannot be cached"):
            prefix_cache_of(wants, Memory((), layout, 10), 512)
