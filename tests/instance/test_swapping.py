"""Preemption by swapping, decision by decision, and the reservations of one piece; blocks hold 4 tokens.

Rules: vLLM 0.6.0, vllm/core/scheduler.py `_schedule_default` and `_schedule_swapped`, vllm/core/block_manager_v1.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import Engine, end_step, make_queue, put, shares, toy_shape, who

from apex_sim.cost.operators import StageContext
from apex_sim.cost.roofline import Roofline
from apex_sim.cost.swap import swap_block_s
from apex_sim.errors import InfeasiblePlanError, InputError
from apex_sim.hardware.cluster import load_cluster
from apex_sim.instance.block_pool import BlockPool
from apex_sim.instance.contiguous_space import ContiguousSpace
from apex_sim.instance.policies.orca import schedule_orca
from apex_sim.instance.policies.prefill_first import schedule_prefill_first as schedule
from apex_sim.instance.scheduler_queue import SchedulerQueue
from apex_sim.instance.sequence import Sequence
from apex_sim.model.load import load_model
from apex_sim.plan.kv_layout import KvLayout
from apex_sim.plan.memory import instance_memory
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import Shape, tensor_pipeline_stages
from apex_sim.preset.load import load_preset
from apex_sim.units import GIB


def swapping_queue(n_blocks: int, n_host_blocks: int = 100) -> SchedulerQueue:
    settings = replace(toy_shape(Engine("prefill-first")).scheduler, preemption="swap", swap_bytes=GIB)
    return SchedulerQueue(settings, BlockPool(n_blocks, KvLayout(4), 0.0), n_host_blocks)


def crowded(n_host_blocks: int = 100) -> tuple[SchedulerQueue, list[Sequence]]:
    """Return two sequences of 8 tokens and what they generated, on all four blocks, with a third that waits."""
    queue = swapping_queue(4, n_host_blocks)
    sequences = put(queue, 7, 7)
    end_step(schedule(queue))
    assert queue.pool.n_free == 0
    sequences += put(queue, 3)
    return queue, sequences


def test_a_victim_keeps_what_it_computed() -> None:
    queue, (one, two, _) = crowded()
    assert shares(schedule(queue)) == [(0, 1)]
    assert who(queue.swapped) == [1]
    assert (two.n_computed, two.n_host_blocks, two.n_blocks, two.n_preemptions) == (7, 2, 0, 1)
    assert (queue.n_copied, queue.n_host_free, queue.pool.n_free) == (2, 98, 2)
    assert one.n_blocks == 2


def test_while_anybody_is_swapped_out_nobody_is_admitted() -> None:
    queue, (one, _, third) = crowded()
    end_step(schedule(queue))
    assert shares(schedule(queue)) == [(0, 1)]  # 2 blocks are free: enough for the third, not for 2 + 1
    queue.running.remove(one)
    queue.release(one)
    step = schedule(queue)
    assert shares(step) == [(1, 1)]
    assert step[0].is_decode
    assert queue.n_copied == 2
    assert list(queue.waiting) == [third]
    end_step(step)
    assert [entry.sequence for entry in schedule(queue)] == [third]  # prompts go first again
    assert queue.n_copied == 0


def test_first_out_is_first_in() -> None:
    queue = swapping_queue(6)
    one, *_ = put(queue, 7, 7, 7)
    end_step(schedule(queue))
    end_step(schedule(queue))  # the youngest goes, the others have 8 tokens on 2 blocks each
    end_step(schedule(queue))
    assert who(queue.swapped) == [2]
    while len(queue.swapped) < 2:
        end_step(schedule(queue))
    assert who(queue.swapped) == [2, 1]
    queue.running.remove(one)
    queue.release(one)
    assert shares(schedule(queue))[0] == (2, 1)


def test_a_full_swap_space_stops_the_engine() -> None:
    queue, _ = crowded(n_host_blocks=1)
    with pytest.raises(InfeasiblePlanError, match="swap space of 1 GiB a device is full"):
        schedule(queue)


def test_only_prefill_first_swaps() -> None:
    device = load_cluster("1xh100-sxm").device
    with pytest.raises(InputError, match="preemption by swapping with policy 'chunked'"):
        resolve_settings(load_preset("vllm-0.6"), device, 1024, policy="chunked", preemption="swap")
    with pytest.raises(InputError, match="moves nothing"):
        resolve_settings(load_preset("vllm-0.6"), device, 1024, swap_bytes=1e9)
    with pytest.raises(InputError, match="no preemption 'drop'"):
        resolve_settings(load_preset("vllm-0.6"), device, 1024, preemption="drop")


def test_what_a_copy_costs_and_the_host_holds() -> None:
    """Llama-3.1-70B at TP8: 16 tokens x 1 head x 128 x 2 bytes are 4 KiB for keys: 80 x 2 copies of 2 us, not bytes.

    A block is 80 x 2 x 4 KiB = 640 KiB on each device, so that 4 GiB hold 6,553 of them.
    """
    model, cluster, preset = load_model("llama-3.1-70b"), load_cluster("8xh100-sxm"), load_preset("vllm-0.6")
    settings = resolve_settings(preset, cluster.device, 8192, tp=8, preemption="swap")
    shape = Shape("h100-sxm", tensor_pipeline_stages((80,), 8), Precision(), settings, preset)
    context = StageContext(Roofline(cluster.device), model, cluster, shape, 0)
    assert swap_block_s(context) == pytest.approx(80 * 2 * 2e-6)
    large = replace(context, shape=replace(shape, scheduler=replace(settings, block_size_tokens=1600)))
    assert swap_block_s(large) == pytest.approx(80 * 2 * 409_600 / cluster.device.pcie_bytes_per_s)
    assert instance_memory(model, cluster.device, shape).n_host_blocks == 6553


def test_holes_keep_a_reservation_out_that_free_blocks_could_hold() -> None:
    """8 blocks hold four reservations of 2; when the first and third end, 4 are free, but no three in a row."""
    queue = make_queue(Engine("orca"), n_blocks=8)
    one, two, three, _, five = put(queue, 4, 4, 4, 4, 8, limit=4)
    end_step(schedule_orca(queue))
    for ended in (one, three):
        queue.running.remove(ended)
        queue.release(ended)
    assert queue.pool.n_free == 4
    assert shares(schedule_orca(queue)) == [(1, 1), (3, 1)]
    assert list(queue.waiting) == [five]
    queue.running.remove(two)
    queue.release(two)
    assert shares(schedule_orca(queue)) == [(3, 1), (4, 8)]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 20)), max_size=60))
def test_holes_and_reservations_fill_the_space(actions: list[tuple[int, int]]) -> None:
    """First fit against a plain array of blocks."""
    space, blocks, held = ContiguousSpace(40), [False] * 40, list[tuple[int, int]]()
    for size, which in actions:
        if which < len(held):
            place, n = held.pop(which)
            space.give_back(place, n)
            blocks[place : place + n] = [False] * n
        else:
            fits = [first for first in range(41 - size) if not any(blocks[first : first + size])]
            found = space.take(size)
            assert found == (fits[0] if fits else None)
            if found is not None:
                held.append((found, size))
                blocks[found : found + size] = [True] * size
        assert sum(n for _, n in space.holes) == blocks.count(False)
