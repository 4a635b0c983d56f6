"""Are loads as even as a linear program makes them, and is what nobody serves refused?"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog

from apex_sim.planner.programs.bucket_mix import Buckets
from apex_sim.planner.programs.even_load import even_routing
from apex_sim.planner.programs.fleet_shortage import InfeasibleFleetError
from apex_sim.planner.programs.shape_option import ShapeOption


def _option(name: str, *capacity_per_s: float) -> ShapeOption:
    return ShapeOption(name, name, 1, 1.0, 100.0, capacity_per_s)


def test_one_bucket_is_shared_by_capacity() -> None:
    routing, load = even_routing([_option("a", 2.0), _option("b", 3.0)], [3, 1], Buckets((), (4.5,)))
    assert load == pytest.approx(4.5 / (3 * 2.0 + 3.0))
    assert routing.shares[0] == pytest.approx((6 / 9, 3 / 9))


@pytest.mark.parametrize("seed", range(5))
def test_largest_load_is_that_of_scipy(seed: int) -> None:
    random = np.random.default_rng(seed)
    capacities, rates, counts = random.uniform(1, 9, (3, 4)), random.uniform(1, 5, 4), random.integers(1, 4, 3)
    options = [_option(f"s{s}", *row) for s, row in enumerate(capacities.tolist())]
    routing, load = even_routing(options, counts.tolist(), Buckets((10, 20, 30), tuple(rates.tolist())))
    work = np.zeros((3, 13))
    for s in range(3):
        work[s, 4 * s : 4 * s + 4] = rates / capacities[s] / counts[s]
        work[s, 12] = -1.0
    whole = np.hstack([np.eye(4)] * 3 + [np.zeros((4, 1))])
    best = linprog([0.0] * 12 + [1.0], A_ub=work, b_ub=np.zeros(3), A_eq=whole, b_eq=np.ones(4))
    assert load == pytest.approx(best.fun, rel=1e-6)
    loads = (rates[:, None] * np.array(routing.shares) / capacities.T / counts).sum(axis=0)
    assert loads.max() == pytest.approx(best.fun, rel=1e-5)


def test_a_bucket_that_nobody_serves_is_refused() -> None:
    with pytest.raises(InfeasibleFleetError, match="size class 1"):
        even_routing([_option("a", 2.0, 0.0)], [1], Buckets((10,), (1.0, 1.0)))
