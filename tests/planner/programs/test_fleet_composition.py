"""Is the program's fleet the best one, by brute force over all counts with a linear program for the shares?"""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
from scipy.optimize import linprog

from apex_sim.errors import InputError
from apex_sim.planner.programs.fleet_composition import best_composition, k_best
from apex_sim.planner.programs.fleet_limits import Demand, Limits, Objective
from apex_sim.planner.programs.fleet_shortage import InfeasibleFleetError, Missing, shortage_of
from apex_sim.planner.programs.shape_option import ShapeOption, dominates, undominated
from apex_sim.planner.programs.solvers import Solver

OBJECTIVES: tuple[Objective, ...] = ("usd_per_h", "power_w", "n_devices", "mean_loss")
N_RANDOM = 100
DEVICES = ("h100-sxm", "l40s")


def _random_case(seed: int) -> tuple[list[ShapeOption], Demand, Limits]:
    random = np.random.default_rng(seed)
    n_classes = int(random.integers(1, 4))
    options = [
        ShapeOption(
            f"s{s}",
            str(random.choice(DEVICES)),
            int(random.integers(1, 4)),
            float(random.integers(1, 20)),
            float(random.integers(3, 30)) * 100,
            tuple(float(rate) for rate in random.choice([0.0, 1.0, 2.5, 4.0, 7.0], n_classes)),
            tuple(float(loss) for loss in random.integers(1, 10, n_classes)),
        )
        for s in range(int(random.integers(1, 5)))
    ]
    demand = Demand(tuple(float(rate) for rate in random.uniform(0.2, 6.0, n_classes)))

    def maybe(low: float, high: float) -> float | None:
        return float(random.uniform(low, high)) if random.random() < 0.4 else None

    limits = Limits(
        devices={device: int(random.integers(1, 7)) for device in DEVICES},
        n_devices=int(random.integers(2, 12)) if random.random() < 0.3 else None,
        usd_per_h=maybe(10, 80),
        power_w=maybe(2_000, 16_000),
        mean_loss=maybe(2, 9),
        utilisation_frac=float(random.choice([0.7, 0.9, 1.0])),
        use_all_devices=bool(random.random() < 0.3),
    )
    return options, demand, limits


def _least_loss(options: list[ShapeOption], demand: Demand, limits: Limits, counts: tuple[int, ...]) -> float:
    """Return the least mean loss of the shares that these counts can carry; infinite if they cannot."""
    pairs = [(s, c) for s, option in enumerate(options) for c, k in enumerate(option.capacity_per_s) if k]
    n_classes = len(demand.rate_per_s)
    if {c for _, c in pairs} != set(range(n_classes)):
        return math.inf
    of_class = [[float(c == of) for _, c in pairs] for of in range(n_classes)]
    load = [
        [demand.rate_per_s[c] / options[s].capacity_per_s[c] * (s == of) for s, c in pairs]
        for of in range(len(options))
    ]
    found = linprog(
        [demand.parts[c] * options[s].loss_of(c) for s, c in pairs],
        A_ub=load,
        b_ub=[limits.utilisation_frac * count for count in counts],
        A_eq=of_class,
        b_eq=[1.0] * n_classes,
        bounds=(0, 1),
    )
    return float(found.fun) if found.status == 0 else math.inf


def _all_fleets(
    options: list[ShapeOption], demand: Demand, limits: Limits
) -> dict[tuple[int, ...], dict[Objective, float]]:
    """Return what every vector of counts within the limits amounts to."""
    assert limits.devices is not None
    tops = [limits.devices.get(option.device, 0) // option.n_devices for option in options]
    fleets = {}
    for counts in itertools.product(*(range(top + 1) for top in tops)):
        pairs = list(zip(options, counts, strict=True))
        held = {d: sum(o.n_devices * n for o, n in pairs if o.device == d) for d in limits.devices}
        total: dict[Objective, float] = {
            "usd_per_h": sum(o.usd_per_h * n for o, n in pairs),
            "power_w": sum(o.power_w * n for o, n in pairs),
            "n_devices": sum(held.values()),
        }
        if any(held[d] > there for d, there in limits.devices.items()):
            continue
        if limits.use_all_devices and any(held[d] != there for d, there in limits.devices.items()):
            continue
        if any((top := getattr(limits, name)) is not None and value > top for name, value in total.items()):
            continue
        total["mean_loss"] = _least_loss(options, demand, limits, counts)
        if total["mean_loss"] < math.inf and total["mean_loss"] <= (limits.mean_loss or math.inf):
            fleets[counts] = total
    return fleets


@pytest.mark.parametrize("seed", range(N_RANDOM))
def test_the_best_fleet_is_that_of_brute_force(seed: int) -> None:
    options, demand, limits = _random_case(seed)
    fleets = _all_fleets(options, demand, limits)
    for objective in OBJECTIVES:
        if not fleets:
            with pytest.raises(InfeasibleFleetError):
                best_composition(options, demand, limits, objective)
            continue
        best = best_composition(options, demand, limits, objective)
        assert best.objective == pytest.approx(min(total[objective] for total in fleets.values()), rel=1e-6)
        assert (best.status, best.gap_frac, best.bound) == ("optimal", 0.0, best.objective)
        assert best.counts in fleets
        assert getattr(best, objective) == best.objective


def test_random_cases_are_of_every_kind() -> None:
    feasible = [bool(_all_fleets(*_random_case(seed))) for seed in range(N_RANDOM)]
    assert 0.3 * N_RANDOM < sum(feasible) < 0.9 * N_RANDOM
    assert any(_random_case(seed)[2].use_all_devices and feasible[seed] for seed in range(N_RANDOM))


@pytest.mark.parametrize("seed", range(N_RANDOM // 2))
def test_shares_add_up_within_what_the_counts_carry(seed: int) -> None:
    options, demand, limits = _random_case(seed)
    if not _all_fleets(options, demand, limits):
        return
    best = best_composition(options, demand, limits)
    for row in best.shares:
        assert math.fsum(row) == pytest.approx(1.0, abs=1e-12)
    for s, option in enumerate(options):
        served = [(c, row[s]) for c, row in enumerate(best.shares) if row[s]]
        load = sum(demand.rate_per_s[c] * part / option.capacity_per_s[c] for c, part in served)
        assert load <= limits.utilisation_frac * best.counts[s] * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(N_RANDOM // 2))
def test_the_k_best_are_the_first_k_of_brute_force(seed: int) -> None:
    options, demand, limits = _random_case(seed)
    fleets = _all_fleets(options, demand, limits)
    if not fleets:
        return
    objective = OBJECTIVES[seed % 4]
    expected = sorted(total[objective] for total in fleets.values())[:7]
    found = k_best(options, demand, limits, objective, k=7)
    assert [fleet.objective for fleet in found] == pytest.approx(expected, rel=1e-6)
    assert len({fleet.counts for fleet in found}) == len(found)
    assert all(fleet.counts in fleets for fleet in found)


def test_without_limits_the_k_best_include_spare_instances() -> None:
    only = ShapeOption("only", "h100-sxm", 1, 3.0, 700.0, (2.0,))
    assert [fleet.counts for fleet in k_best([only], Demand((3.0,)), k=3)] == [(2,), (3,), (4,)]


@pytest.mark.parametrize("seed", range(N_RANDOM))
def test_leaving_out_dominated_options_changes_no_optimum(seed: int) -> None:
    options, demand, limits = _random_case(seed)
    worse = [
        ShapeOption(f"{o.name}-worse", o.device, o.n_devices, o.usd_per_h + 1, o.power_w, o.capacity_per_s, o.loss)
        for o in options
    ]
    kept = undominated([*worse, *options], use_all_devices=limits.use_all_devices)
    assert {option.name for option in kept} <= {option.name for option in options}
    for option in options:
        assert option in kept or any(dominates(o, option, same_n_devices=limits.use_all_devices) for o in kept)
    fleets, of_kept = _all_fleets(options, demand, limits), _all_fleets(kept, demand, limits)
    assert bool(fleets) == bool(of_kept)
    for objective in OBJECTIVES if fleets else ():
        least = min(total[objective] for total in fleets.values())
        assert min(total[objective] for total in of_kept.values()) == pytest.approx(least, rel=1e-9)


def test_a_smaller_shape_does_not_replace_one_that_uses_all_devices() -> None:
    small, large = (ShapeOption(f"tp{n}", "h100-sxm", n, 3.0, 700.0, (5.0,)) for n in (2, 3))
    assert undominated([large, small]) == [small]
    limits = Limits(devices={"h100-sxm": 5}, use_all_devices=True)
    assert best_composition([large, small], Demand((1.0,)), limits).counts == (1, 1)


GPU = ShapeOption("tp2", "h100-sxm", 2, 6.0, 1000.0, (4.0, 1.0), (1.0, 2.0))


@pytest.mark.parametrize(
    ("limits", "alone"),
    [
        (Limits(devices={"h100-sxm": 3}), {"devices h100-sxm": 3.0}),
        (Limits(usd_per_h=13.0), {"usd_per_h": 5.0}),
        (Limits(power_w=2500.0), {"power_w": 500.0}),
        (Limits(n_devices=1), {"n_devices": 5.0}),
        (Limits(mean_loss=1.0), {"mean_loss": 1 / 3}),
        (Limits(devices={"h100-sxm": 7}, use_all_devices=True), {"devices h100-sxm": 1.0, "idle h100-sxm": 1.0}),
    ],
)
def test_a_shortage_says_how_much_of_what_is_missing(limits: Limits, alone: dict[str, float]) -> None:
    """Four requests/s of the first class and two of the second take three instances of two devices."""
    with pytest.raises(InfeasibleFleetError) as caught:
        best_composition([GPU], Demand((4.0, 2.0)), limits)
    missing = {lack.resource: lack.amount for way in caught.value.shortage.alone for lack in way}
    assert missing == pytest.approx(alone, rel=1e-6)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.shortage) == (str(caught.value), caught.value.shortage)


def test_two_shortages_at_once_are_told_together() -> None:
    limits = Limits(devices={"h100-sxm": 4}, usd_per_h=12.0)
    with pytest.raises(InfeasibleFleetError, match=r"2 more h100-sxm and 6 more usd_per_h|6 more usd_per_h and 2 more"):
        k_best([GPU], Demand((4.0, 2.0)), limits)


def test_a_shortage_without_time_to_prove_it_says_so() -> None:
    random = np.random.default_rng(5)
    capacities = [tuple(row) for row in random.uniform(0.5, 9.0, (12, 3)).tolist()]
    options = [ShapeOption(f"s{s}", "h100-sxm", 1 + s % 4, 3.0 + s, 700.0, k) for s, k in enumerate(capacities)]
    shortage = shortage_of(options, Demand((40.0, 21.0, 9.0)), Limits(usd_per_h=5.0), Solver("HiGHS", 0.0, 0.0))
    assert (shortage.alone, shortage.together, shortage.proven) == ((), (), False)
    assert str(shortage).endswith("though not proven the least in the time given, would be unknown")


def test_enough_of_what_is_missing_is_enough() -> None:
    with pytest.raises(InfeasibleFleetError) as caught:
        best_composition([GPU], Demand((4.0, 2.0)), Limits(devices={"h100-sxm": 3}))
    assert caught.value.shortage.alone == ((Missing("devices h100-sxm", 3.0),),)
    assert best_composition([GPU], Demand((4.0, 2.0)), Limits(devices={"h100-sxm": 6})).counts == (3,)


def test_a_class_that_no_shape_serves_is_named() -> None:
    with pytest.raises(InfeasibleFleetError, match="no shape serves size class 1 within its SLOs"):
        best_composition([ShapeOption("a", "h100-sxm", 1, 1.0, 1.0, (1.0, 0.0))], Demand((1.0, 1.0)))
    with pytest.raises(InfeasibleFleetError, match="size class 0"):
        best_composition([], Demand((1.0,)))


def test_a_class_too_small_to_see_still_gets_an_instance() -> None:
    options = [
        ShapeOption("short", "l40s", 1, 1.0, 300.0, (10.0, 0.0)),
        ShapeOption("long", "h100-sxm", 1, 3.0, 700.0, (1.0, 1e3)),
    ]
    assert best_composition(options, Demand((30.0, 1e-9))).counts == (3, 1)


def test_input_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(InputError, match="two shapes have this name"):
        best_composition([GPU, GPU], Demand((1.0, 1.0)))
    with pytest.raises(InputError, match="capacities of 2 classes"):
        best_composition([GPU], Demand((1.0,)))
    with pytest.raises(InputError, match="rate above 0"):
        Demand((1.0, 0.0))
    with pytest.raises(InputError, match="all devices"):
        Limits(use_all_devices=True)
    with pytest.raises(InputError, match="losses for 1"):
        ShapeOption("a", "h100-sxm", 1, 1.0, 1.0, (1.0,), (1.0, 2.0))
    with pytest.raises(InputError, match="at least one"):
        k_best([GPU], Demand((1.0, 1.0)), k=0)
