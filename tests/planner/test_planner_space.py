"""Which plans are enumerated, counted by hand."""

from typing import Any

import pytest

from apex_sim.errors import InputError
from apex_sim.planner.space import Space, enumerate_space
from apex_sim.planner.study import make_study


def _space(cluster: str = "8xh100-sxm", model: str = "llama-3.1-8b", **space: Any) -> Space:
    data = {"model": model, "cluster": cluster, "workload": "chat", "load": {"n_requests": 3}, "space": space}
    return enumerate_space(make_study(data, "made-up", "made-up.toml"))


def _degrees(space: Space) -> set[tuple[int, int, int]]:
    plans = [*space.feasible, *(refusal.plan for refusal in space.infeasible)]
    return {(plan.n_instances, plan.instances[0][0].tp, plan.instances[0][0].pp) for plan in plans}


def test_eight_devices_have_ten_plans_for_each_precision() -> None:
    """2^3 over three degrees: C(5, 2) = 10."""
    assert _space().n_enumerated == 10
    assert _degrees(_space()) == {(2**d, 2**t, 2 ** (3 - d - t)) for d in range(4) for t in range(4 - d)}
    assert _space(weight_dtypes=["bf16", "fp8"], kv_dtypes=["bf16", "fp8"]).n_enumerated == 40


def test_a_format_that_is_stated_twice_counts_once() -> None:
    assert _space(weight_dtypes=["fp8", "fp8"], tp=[8, 8]).n_enumerated == 1


def test_idle_devices_on_request() -> None:
    """Every count that fits: 8 of one device, 4 of two in two shapes, 2 of four in three, 1 of eight in four."""
    space = _space(allow_idle=True)
    assert space.n_enumerated == 8 + 2 * 4 + 3 * 2 + 4 * 1
    assert {plan.n_devices for plan in space.feasible} == set(range(1, 9))


def test_six_devices_have_threes_as_well() -> None:
    """Ordered factorisations of 6 into three: 3 x 3 = 9; TP 3 and 6 fit no head count of Llama."""
    space = _space("6xh100-sxm")
    assert space.n_enumerated == 9
    assert {r.reason.split(" does")[0] for r in space.infeasible} == {"TP 3", "TP 6"}
    assert len(space.infeasible) == 3


def test_stated_degrees_restrict() -> None:
    assert _degrees(_space(tp=[4, 2], pp=[1, 2])) == {(2, 4, 1), (1, 4, 2), (4, 2, 1), (2, 2, 2)}
    assert _degrees(_space(dp=[8])) == {(8, 1, 1)}
    with pytest.raises(InputError, match="gives 8 devices"):
        _space(tp=[3])


def test_uneven_layers_fix_the_stages() -> None:
    space = _space(layers=[17, 15], tp=[4])
    assert [plan.label for plan in space.feasible] == ["DP1 TP4 PP2(17+15) bf16"]
    wrong = _space(layers=[17, 16], tp=[4])
    assert not wrong.feasible
    assert "do not cover the model's 32" in wrong.infeasible[0].reason
    three = _space(layers=[11, 11, 10], tp=[1], dp=[1], allow_idle=True)
    assert [plan.n_devices for plan in three.feasible] == [3]


def test_tp_may_span_two_nodes() -> None:
    space = _space("2x8xh100-sxm", "llama-3.1-70b")
    assert space.n_enumerated == 15
    assert "DP1 TP16 PP1 bf16" in [plan.label for plan in space.feasible]


def test_what_does_not_fit_is_kept_with_its_reason() -> None:
    space = _space("8xh100-sxm", "llama-3.1-70b")
    reasons = {r.plan.label: r.reason for r in space.infeasible}
    assert "131.4 GiB of weights" in reasons["DP8 TP1 PP1 bf16"]
    assert "DP1 TP8 PP1 bf16" in [plan.label for plan in space.feasible]


def test_a_checkpoints_own_precision_is_the_default() -> None:
    space = _space("1xh200-sxm", "gpt-oss-120b")
    assert [plan.label for plan in space.feasible] == ["DP1 TP1 PP1 mxfp4"]
