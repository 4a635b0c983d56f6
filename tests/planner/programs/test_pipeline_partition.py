"""Is the split the best one, by brute force over all contiguous splits and orders, and by dynamic programming?"""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest

from apex_sim.errors import InputError
from apex_sim.planner.programs.pipeline import Pipeline
from apex_sim.planner.programs.pipeline_partition import Partition, PipelineMemoryError, partition
from apex_sim.planner.programs.solvers import Solver, SolverTimeOutError

N_RANDOM = 120


def _random_case(seed: int) -> Pipeline:
    random = np.random.default_rng(seed)
    n_stages, n_layers = int(random.integers(1, 5)), int(random.integers(5, 10))
    rows = random.integers(1, 20, (n_stages, n_layers)).astype(float)
    if seed % 2 and n_stages > 1:
        rows[1] = rows[0]

    def maybe(n: int) -> tuple[float, ...]:
        return tuple(random.integers(0, 15, n).astype(float).tolist()) if random.random() < 0.5 else ()

    return Pipeline(
        layer_s=tuple(tuple(row) for row in rows.tolist()),
        layer_bytes=tuple(random.integers(1, 9, n_layers).astype(float).tolist()),
        budget_bytes=tuple(random.integers(6, 60, n_stages).astype(float).tolist()),
        embedding_s=maybe(n_stages),
        head_s=maybe(n_stages),
        embedding_bytes=float(random.integers(0, 6)),
        head_bytes=float(random.integers(0, 6)),
        send_s=maybe(n_stages - 1),
    )


def _stages(pipeline: Pipeline, devices: tuple[int, ...], ends: tuple[int, ...]) -> tuple[list[float], list[float]]:
    """Return time and missing memory of each stage, written out once more."""
    n = pipeline.n_stages
    times, lacks = [], []
    for s, (device, start, end) in enumerate(zip(devices, (0, *ends), (*ends, pipeline.n_layers), strict=True)):
        time_s = math.fsum(pipeline.layer_s[device][start:end])
        held = math.fsum(pipeline.layer_bytes[start:end])
        if s == 0:
            time_s += pipeline.embedding_s[device] if pipeline.embedding_s else 0.0
            held += pipeline.embedding_bytes
        if s == n - 1:
            time_s += pipeline.head_s[device] if pipeline.head_s else 0.0
            held += pipeline.head_bytes
        else:
            time_s += pipeline.send_s[s] if pipeline.send_s else 0.0
        times.append(time_s)
        lacks.append(max(0.0, held - pipeline.budget_bytes[device]))
    return times, lacks


def _splits(pipeline: Pipeline, any_order: bool) -> Iterator[tuple[list[float], list[float]]]:
    n = pipeline.n_stages
    for devices in itertools.permutations(range(n)) if any_order else [tuple(range(n))]:
        for ends in itertools.combinations(range(1, pipeline.n_layers), n - 1):
            yield _stages(pipeline, devices, ends)


def _check(pipeline: Pipeline, found: Partition) -> None:
    assert sum(found.n_layers) == pipeline.n_layers
    assert min(found.n_layers) >= 1
    assert sorted(found.devices) == list(range(pipeline.n_stages))
    ends = tuple(itertools.accumulate(found.n_layers))[:-1]
    times, lacks = _stages(pipeline, found.devices, ends)
    assert found.stage_s == pytest.approx(times)
    assert max(lacks) == 0.0


@pytest.mark.parametrize("any_order", [False, True])
@pytest.mark.parametrize("seed", range(N_RANDOM))
def test_the_best_split_is_that_of_brute_force(seed: int, any_order: bool) -> None:
    pipeline = _random_case(seed)
    splits = list(_splits(pipeline, any_order))
    fitting = [times for times, lacks in splits if not max(lacks)]
    if not fitting:
        with pytest.raises(PipelineMemoryError) as caught:
            partition(pipeline, any_order=any_order)
        assert sum(caught.value.missing_bytes) == pytest.approx(min(sum(lacks) for _, lacks in splits))
        return
    slowest, least_sum = (partition(pipeline, of, any_order=any_order) for of in ("slowest", "sum"))  # type: ignore[arg-type]
    assert slowest.slowest_s == slowest.objective == pytest.approx(min(max(times) for times in fitting))
    assert least_sum.sum_s == least_sum.objective == pytest.approx(min(sum(times) for times in fitting))
    for found in (slowest, least_sum):
        _check(pipeline, found)
        assert (found.status, found.gap_frac, found.bound) == ("optimal", 0.0, found.objective)


@pytest.mark.parametrize("seed", range(20))
def test_layers_of_microseconds_with_gigabytes_split_as_any_others(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, sizes = random.integers(90, 110, (3, 9)) * 1e-7, random.integers(1, 9, 9) * 1e9
    pipeline = Pipeline(tuple(map(tuple, rows.tolist())), tuple(sizes.tolist()), (3e10,) * 3)
    fitting = [times for times, lacks in _splits(pipeline, False) if not max(lacks)]
    assert partition(pipeline).slowest_s == pytest.approx(min(map(max, fitting)), rel=1e-9)
    assert partition(pipeline, "sum").sum_s == pytest.approx(min(map(sum, fitting)), rel=1e-9)


def test_random_cases_fit_and_do_not_fit() -> None:
    fits = [any(not max(lacks) for _, lacks in _splits(_random_case(seed), False)) for seed in range(N_RANDOM)]
    assert 0.2 * N_RANDOM < sum(fits) < 0.95 * N_RANDOM


def _least_slowest(pipeline: Pipeline) -> float:
    """Return the slowest stage of the best split in the given order, by dynamic programming over (stage, layers)."""
    n_layers = pipeline.n_layers
    best = {0: 0.0}
    for s in range(pipeline.n_stages):
        reach: dict[int, float] = {}
        for start, so_far in best.items():
            time_s, held = pipeline.extra_s(s, s), pipeline.extra_bytes(s)
            for end in range(start + 1, n_layers + 1):
                time_s += pipeline.layer_s[s][end - 1]
                held += pipeline.layer_bytes[end - 1]
                if held <= pipeline.budget_bytes[s]:
                    reach[end] = min(reach.get(end, math.inf), max(so_far, time_s))
        best = reach
    return best[n_layers]


@pytest.mark.parametrize("seed", range(6))
def test_forty_layers_over_six_stages_as_dynamic_programming_splits_them(seed: int) -> None:
    random = np.random.default_rng(seed)
    layer_s = random.uniform(0.8, 1.2, 40)
    speeds = random.uniform(0.5, 2.0, 6)
    pipeline = Pipeline(
        tuple(tuple((layer_s / speed).tolist()) for speed in speeds),
        tuple(random.uniform(0.9, 1.1, 40).tolist()),
        tuple((14.0 * speeds / speeds.mean()).tolist()),
        head_s=tuple((2.0 / speeds).tolist()),
        send_s=(0.1,) * 5,
    )
    found = partition(pipeline)
    _check(pipeline, found)
    assert found.objective == pytest.approx(_least_slowest(pipeline), rel=1e-6)


def test_the_head_takes_layers_from_the_last_stage() -> None:
    """Sixteen equal layers over four stages, a head worth two of them: 18 over 4 makes 5 at best."""
    equal = ((1.0,) * 16,) * 4
    found = partition(Pipeline(equal, (1.0,) * 16, (9.0,) * 4, head_s=(2.0,) * 4))
    assert found.slowest_s == 5.0
    assert found.n_layers[3] <= 3


def test_memory_that_is_missing_is_counted_per_stage() -> None:
    with pytest.raises(PipelineMemoryError, match="stage 1 lacks 3 bytes") as caught:
        partition(Pipeline(((1.0, 1.0),) * 2, (5.0, 8.0), (5.0, 6.0), head_bytes=1.0))
    assert caught.value.missing_bytes == (0.0, 3.0)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.missing_bytes) == (str(caught.value), caught.value.missing_bytes)


def test_a_better_order_is_found_and_named() -> None:
    """The large device must hold the two large layers, which come last."""
    rows = ((1.0,) * 4,) * 2
    pipeline = Pipeline(rows, (1.0, 1.0, 8.0, 8.0), (16.0, 2.0))
    with pytest.raises(PipelineMemoryError):
        partition(pipeline)
    found = partition(pipeline, any_order=True)
    assert (found.devices, found.n_layers) == ((1, 0), (2, 2))


def test_time_that_ran_out_is_carried() -> None:
    random = np.random.default_rng(0)
    layer_s = random.uniform(0.5, 1.5, 61)
    rows = tuple(tuple((layer_s * speed).tolist()) for speed in random.uniform(0.5, 2.0, 9))
    pipeline = Pipeline(rows, (1.0,) * 61, (12.0,) * 9)
    for limit_s in (2.0, 4.0, 8.0, 16.0, 32.0):
        with suppress(SolverTimeOutError):
            found = partition(pipeline, any_order=True, by=Solver("HiGHS", limit_s, 0.0))
            break
    assert found.status == "time-out"
    assert 0 < found.bound < found.objective
    assert found.gap_frac == pytest.approx(1 - found.bound / found.objective)
    _check(pipeline, found)


def test_pipelines_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="2 layers for 3 stages"):
        Pipeline(((1.0, 1.0),) * 3, (1.0, 1.0), (9.0,) * 3)
    with pytest.raises(InputError, match="send_s: 2 figures instead of 1"):
        Pipeline(((1.0, 1.0),) * 2, (1.0, 1.0), (9.0,) * 2, send_s=(1.0, 1.0))
    with pytest.raises(InputError, match="times are not those of 2 layers"):
        Pipeline(((1.0, 1.0), (1.0,)), (1.0, 1.0), (9.0,) * 2)
