"""What each dimension of a space adds, which plans stand for others, and what is pruned by which rule."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from apex_sim.errors import InputError, UnknownNameError
from apex_sim.plan.engines import engines_of
from apex_sim.planner.evaluation import evaluate
from apex_sim.planner.space import Space, enumerate_space
from apex_sim.planner.study import make_study


def _space(cluster: str = "4xh100-sxm", model: str = "llama-3.1-8b", **space: Any) -> Space:
    data = {"model": model, "cluster": cluster, "workload": "chat", "load": {"n_requests": 3}, "space": space}
    return enumerate_space(make_study(data, "made-up", "made-up.toml"))


ONE = {"tp": [2], "pp": [1], "dp": [2]}


def test_knobs_multiply_and_tell_plans_apart() -> None:
    space = _space(**ONE, max_num_seqs=[32, 64], max_num_batched_tokens=[512, 2048], clock_frac=[1.0, 0.6])
    assert len(space.feasible) == 8
    labels = {plan.label for plan in space.feasible}
    assert len(labels) == 8
    assert "DP2 TP2 PP1 bf16 @ 60% clock, seats 32, budget 512" in labels
    assert space.counts() == {
        "clock_frac": {"1.0": 4, "0.6": 4},
        "max_num_seqs": {"32": 4, "64": 4},
        "max_num_batched_tokens": {"512": 4, "2048": 4},
    }


def test_values_are_counted_in_their_own_order() -> None:
    """Numbers by size, whatever their order in the study; texts by the alphabet."""
    listed = {"clock_frac": [0.8, 1.0, 0.25], "weight_dtypes": ["fp8", "bf16"], "max_num_seqs": [512, 64, 128]}
    found = {name: list(counter) for name, counter in _space(tp=[2], pp=[1], **listed).counts().items()}
    assert found["clock_frac"] == ["0.25", "0.8", "1.0"]
    assert found["weights"] == ["bf16", "fp8"]
    assert found["max_num_seqs"] == ["64", "128", "512"]
    ends = _space(tp=[1], pp=[4], dp=[1], splits="ends").counts()["layers"]
    assert list(ends) == sorted(ends)


def test_knobs_that_exclude_each_other_are_counted_and_make_no_plan() -> None:
    space = _space(**ONE, max_num_seqs=[32, 1024], max_num_batched_tokens=[512])
    assert [plan.instances[0][0].scheduler.max_num_seqs for plan in space.feasible] == [32]
    assert sum(space.contradictions.values()) == 1
    with pytest.raises(
        InputError, match="all shapes contradict themselves; 1 of 1: max_num_batched_tokens 512 is below"
    ):
        _space(**ONE, max_num_seqs=[1024], max_num_batched_tokens=[512])


def test_plans_that_run_exactly_as_another_are_left_out() -> None:
    """A prefix cache without hashed prompts, a router of one instance, the place of a single stage."""
    cache = _space(**ONE, prefix_cache=[True, False])
    assert (len(cache.feasible), cache.n_alike) == (1, 1)
    routers = _space(tp=[4], pp=[1], routers=["round-robin", "least-outstanding"])
    assert (len(routers.feasible), routers.n_alike) == (1, 1)
    assert len(_space(tp=[2], pp=[1], routers=["round-robin", "least-outstanding"]).feasible) == 2
    assert routers.pruned() == {"runs exactly as another plan": 1}


def test_cells_map_experts_over_groups_and_columns() -> None:
    space = _space("4xh100-sxm", "mixtral-8x7b", cells=True, tp=[4], pp=[1], attention_dp=[1], cp=[1])
    mapped = {(s.stages[0].ffn.ep, s.stages[0].ffn.tp) for plan in space.feasible for s, _ in plan.instances}
    assert mapped == {(1, 4), (2, 2), (4, 1)}
    dense = _space(cells=True, tp=[1], attention_dp=[4], pp=[1], cp=[1])
    (plan,) = dense.feasible
    assert plan.instances[0][0].stages[0].ffn.tp == 4


def test_an_engine_keeps_what_it_can_run() -> None:
    every, own = _space(cells=True), _space(cells=True, engine="vllm")
    model = make_study({"model": "llama-3.1-8b", "cluster": "4xh100-sxm", "workload": "chat"}, "x", "x").model
    runs = [plan for plan in every.feasible if all("vllm" in engines_of(model, shape) for shape, _ in plan.instances)]
    assert 0 < len(runs) < len(every.feasible)
    assert list(own.feasible) == runs
    with pytest.raises(UnknownNameError, match="vllm"):
        _space(engine="vlm")


def test_lighter_ends_keep_all_layers() -> None:
    space = _space(tp=[1], pp=[4], dp=[1], splits="ends")
    splits = [tuple(stage.n_layers for stage in plan.instances[0][0].stages) for plan in space.feasible]
    assert len(splits) == len(set(splits)) == 9
    assert {sum(split) for split in splits} == {32}
    assert {(split[0], split[-1]) for split in splits} == {(8 - a, 8 - b) for a in range(3) for b in range(3)}


def test_two_shapes_share_a_pool_or_lie_in_two() -> None:
    own = _space(n_shapes=2, tp=[1, 2], pp=[1])
    pairs = [plan for plan in own.feasible if len(plan.instances) == 2]
    assert [[(shape.tp, n) for shape, n in plan.instances] for plan in pairs] == [[(1, 2), (2, 1)]]
    park = _space("2xh100-sxm+2xl40s", tp=[1], pp=[1])
    assert [plan.label for plan in park.feasible] == [
        "DP2 TP1 PP1 bf16 on h100-sxm + DP2 TP1 PP1 bf16 on l40s",
    ]
    idle = _space("2xh100-sxm+2xl40s", tp=[1], pp=[1], allow_idle=True)
    assert len(idle.feasible) == 2 + 2 + 2 * 2


def test_a_stated_count_is_that_of_all_instances_of_a_fleet() -> None:
    assert _counts(_space(n_shapes=2, tp=[1, 2], pp=[1], dp=[3])) == [(2, 1)]
    assert _counts(_space(n_shapes=2, tp=[1, 2], pp=[1], dp=[4])) == [(4,)]
    park = {"tp": [1], "pp": [1], "allow_idle": True}
    assert _counts(_space("2xh100-sxm+2xl40s", **park, dp=[1])) == [(1,), (1,)]
    assert _counts(_space("2xh100-sxm+2xl40s", **park, dp=[3, 4])) == [(1, 2), (2, 1), (2, 2)]
    with pytest.raises(InputError, match="gives 4 devices"):
        _space("2xh100-sxm+2xl40s", tp=[1], pp=[1], dp=[2])


def _counts(space: Space) -> list[tuple[int, ...]]:
    return [tuple(count for _, count in plan.instances) for plan in space.feasible]


def test_what_cannot_run_is_counted_by_rule() -> None:
    space = _space("4xh100-sxm", "llama-3.1-70b", weight_dtypes=["bf16", "fp8"])
    assert sum(space.pruned().values()) == len(space.infeasible)
    assert all(not any(c.isdigit() for c in rule.replace("fp8", "")) for rule in space.pruned())


def test_faster_steps_may_make_a_slower_run_so_that_no_shape_takes_out_another() -> None:
    """With the clock one per cent higher every step is faster, yet under this load the mean TTFT is longer."""
    space = {"tp": [1], "pp": [1], "max_num_batched_tokens": [512], "clock_frac": [0.97, 0.98, 0.99, 1.0]}
    load = {"n_requests": 40, "rate_per_s": 4.0, "seed": 48}
    data = {"model": "llama-3.1-8b", "cluster": "1xl40s", "workload": "chat", "load": load, "space": space}
    study = make_study(data, "made-up", "made-up.toml")
    ttft_s = [evaluate(study, plan).metrics["ttft_mean_s"] or 0.0 for plan in enumerate_space(study).feasible]
    assert len(ttft_s) == 4
    assert max(faster / slower for slower, faster in pairwise(ttft_s)) > 1.01
