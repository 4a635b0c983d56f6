"""Does simulating only what the optimum uses find the true optimum, below which no bound is broken?"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from apex_sim.errors import InputError, NoAnswerError
from apex_sim.planner.programs.fleet_columns import compose
from apex_sim.planner.programs.fleet_composition import best_composition
from apex_sim.planner.programs.fleet_limits import Demand, Limits, Objective
from apex_sim.planner.programs.fleet_shortage import InfeasibleFleetError
from apex_sim.planner.programs.shape_option import ShapeOption

OBJECTIVES: tuple[Objective, ...] = ("usd_per_h", "power_w", "n_devices", "mean_loss")
LIMITS = Limits(devices={"h100-sxm": 40, "l40s": 20})


def _case(seed: int, n_options: int = 12) -> tuple[list[ShapeOption], dict[str, ShapeOption], Demand]:
    """Return optimistic options, the true ones by name, and a demand."""
    random = np.random.default_rng(seed)
    options, true = [], {}
    for s in range(n_options):
        optimistic = ShapeOption(
            f"s{s}",
            str(random.choice(["h100-sxm", "l40s"])),
            int(random.integers(1, 5)),
            float(random.uniform(1, 12)),
            float(random.uniform(300, 2800)),
            tuple(random.uniform(1.0, 8.0, 2).tolist()),
            tuple(random.uniform(1.0, 4.0, 2).tolist()),
        )
        assert isinstance(optimistic.loss, tuple)
        capacity = tuple(k * random.choice([0.0, 0.5, 0.8, 1.0]) for k in optimistic.capacity_per_s)
        loss = tuple(x * random.uniform(1.0, 1.5) for x in optimistic.loss)
        power_w = optimistic.power_w * random.uniform(1.0, 1.2)
        options.append(optimistic)
        true[optimistic.name] = replace(optimistic, capacity_per_s=capacity, loss=loss, power_w=power_w)
    return options, true, Demand(tuple(random.uniform(2.0, 12.0, 2).tolist()))


@pytest.mark.parametrize("seed", range(40))
def test_the_fleet_is_the_true_optimum_and_every_bound_holds(seed: int) -> None:
    options, true, demand = _case(seed)
    objective = OBJECTIVES[seed % 4]
    calls: list[str] = []

    def simulate(name: str) -> ShapeOption:
        calls.append(name)
        return true[name]

    expected = best_composition(list(true.values()), demand, LIMITS, objective)
    found = compose(options, simulate, demand, LIMITS, objective)
    assert found.best.objective == pytest.approx(expected.objective, rel=1e-6)
    assert found.optimistic_bound <= expected.objective * (1 + 1e-9)
    assert found.bound == pytest.approx(expected.objective, rel=1e-6)
    assert found.gap_frac == 0.0
    assert set(found.best.used) <= set(found.simulated)
    assert tuple(calls) == found.simulated
    assert len(set(calls)) == len(calls)
    assert [option for option in found.options if option.name in calls] == [
        true[o.name] for o in options if o.name in calls
    ]


def test_most_shapes_are_never_simulated() -> None:
    n_simulated = [len(compose(o, t.__getitem__, d, LIMITS).simulated) for o, t, d in map(_case, range(40))]
    assert 1 <= np.mean(n_simulated) < 8


@pytest.mark.parametrize("seed", range(12))
def test_a_budget_of_simulations_leaves_a_gap_that_holds(seed: int) -> None:
    options, true, demand = _case(seed)
    expected = best_composition(list(true.values()), demand, LIMITS)
    n_found = 0
    for most in range(1, 8):
        with suppress(NoAnswerError):
            found = compose(options, true.__getitem__, demand, LIMITS, most_simulations=most)
            assert len(found.simulated) <= most
            assert found.bound <= expected.objective * (1 + 1e-9) <= found.best.objective * (1 + 2e-9)
            assert found.gap_frac == pytest.approx(max(0.0, 1 - found.bound / found.best.objective), abs=1e-6)
            n_found += 1
    assert n_found


def test_simulated_shapes_that_make_no_fleet_ask_for_more() -> None:
    cheap, dear = (
        ShapeOption(name, "h100-sxm", 1, usd, 700.0, (9.0,)) for name, usd in [("cheap", 2.0), ("dear", 3.0)]
    )
    true = {"cheap": replace(cheap, capacity_per_s=(0.0,)), "dear": dear}
    with pytest.raises(NoAnswerError, match=r"The 1 shapes simulated make no fleet .* Allow more simulations"):
        compose([cheap, dear], true.__getitem__, Demand((9.0,)), most_simulations=1)


def test_a_budget_that_is_too_small_can_leave_a_gap() -> None:
    """The cheap shape disappoints; the dear one is as good as hoped but was only the second to be simulated."""
    cheap, dear = (
        ShapeOption(name, "h100-sxm", 1, usd, 700.0, (10.0,)) for name, usd in [("cheap", 2.0), ("dear", 3.0)]
    )
    true = {"cheap": replace(cheap, capacity_per_s=(5.0,)), "dear": dear}
    assert compose([cheap, dear], true.__getitem__, Demand((10.0,))).best.counts == (0, 1)
    found = compose([cheap, dear], true.__getitem__, Demand((10.0,)), most_simulations=1)
    assert (found.best.counts, found.best.objective) == ((2, 0), 4.0)
    assert (found.optimistic_bound, found.bound, found.gap_frac) == (2.0, 3.0, 0.25)


def test_a_fleet_that_only_hope_could_carry_is_infeasible() -> None:
    only = ShapeOption("only", "h100-sxm", 1, 2.0, 700.0, (10.0,))
    with pytest.raises(InfeasibleFleetError, match="1 more h100-sxm"):
        compose(
            [only], lambda _: replace(only, capacity_per_s=(5.0,)), Demand((10.0,)), Limits(devices={"h100-sxm": 1})
        )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"capacity_per_s": (11.0,)}, "capacity_per_s of class 0"),
        ({"loss": 0.5}, "loss of class 0"),
        ({"usd_per_h": 1.0}, "usd_per_h"),
        ({"power_w": 600.0}, "power_w"),
        ({"device": "l40s"}, "another shape"),
    ],
)
def test_a_simulation_that_beats_its_bound_is_refused(change: dict[str, object], what: str) -> None:
    only = ShapeOption("only", "h100-sxm", 1, 2.0, 700.0, (10.0,), 1.0)
    with pytest.raises(InputError, match=what):
        compose([only], lambda _: replace(only, **change), Demand((10.0,)))  # type: ignore[arg-type]
