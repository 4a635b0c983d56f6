"""Which solver answers, and does a solver that ran out of time say so?"""

from __future__ import annotations

import math
import pickle
from contextlib import suppress
from typing import Any

import numpy as np
import pulp
import pytest

from apex_sim.planner.programs import solvers
from apex_sim.planner.programs.fleet_composition import best_composition
from apex_sim.planner.programs.fleet_limits import Demand, Limits
from apex_sim.planner.programs.shape_option import ShapeOption
from apex_sim.planner.programs.solvers import Solver, SolverError, SolverTimeOutError, minimise, relative_gap, solver

HIDDEN = (lambda: False, solvers.BACK_ENDS["HiGHS"][1])
NAMES = ("HiGHS", "CBC")


def _market_split(n_rows: int = 5, n_columns: int = 40) -> Any:
    """Return a problem that solvers find hard: the least deviation of subset sums from half of each row."""
    random = np.random.default_rng(1)
    problem = pulp.LpProblem("split", pulp.LpMinimize)
    columns = [problem.add_variable(f"x_{j}", cat=pulp.LpBinary) for j in range(n_columns)]
    deviations = []
    for i in range(n_rows):
        weights = [int(weight) for weight in random.integers(0, 100, n_columns)]
        over, under = (problem.add_variable(f"{side}_{i}", 0) for side in ("over", "under"))
        problem += pulp.lpSum(w * x for w, x in zip(weights, columns, strict=True)) + under - over == sum(weights) // 2
        deviations += [over, under]
    problem += 1 + pulp.lpSum(deviations)
    return problem


def _knapsack(n_rows: int = 6, n_columns: int = 12) -> Any:
    random = np.random.default_rng(3)
    problem = pulp.LpProblem("cover", pulp.LpMinimize)
    columns = [problem.add_variable(f"n_{j}", 0, 50, cat=pulp.LpInteger) for j in range(n_columns)]
    problem += pulp.lpSum(int(random.integers(100, 900)) * x for x in columns)
    for _ in range(n_rows):
        problem += pulp.lpSum(int(random.integers(10, 90)) * x for x in columns) >= int(random.integers(900, 3000))
    return problem


@pytest.mark.parametrize("name", NAMES)
def test_time_that_ran_out_carries_the_solution_found_with_its_gap(name: str) -> None:
    """How much time the first solution takes depends on the machine, so the limit grows until there is one."""
    for limit_s in (0.02 * 2**n for n in range(8)):
        with suppress(SolverTimeOutError):
            outcome = minimise(_market_split(), Solver(name, limit_s, 0.0))
            break
    assert outcome.status == "time-out"
    assert outcome.objective > outcome.bound
    assert relative_gap(outcome.objective, outcome.bound) > 0.1
    assert outcome.seconds < limit_s + 5


@pytest.mark.parametrize("name", NAMES)
def test_no_time_at_all_is_an_error_that_names_the_bound(name: str) -> None:
    with pytest.raises(SolverTimeOutError, match=f"{name} found no solution within") as caught:
        minimise(_market_split(), Solver(name, 0.0, 0.0))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.bound) == (str(caught.value), caught.value.bound)


@pytest.mark.parametrize("name", NAMES)
def test_a_gap_that_was_allowed_is_carried(name: str) -> None:
    exact = minimise(_knapsack(), Solver(name, None, 0.0))
    rough = minimise(_knapsack(), Solver(name, None, 0.5))
    assert exact.status == "optimal"
    assert exact.bound == pytest.approx(exact.objective, rel=1e-6)
    assert rough.bound <= exact.objective <= rough.objective
    assert relative_gap(rough.objective, rough.bound) <= 0.5
    assert (rough.status == "optimal") == (relative_gap(rough.objective, rough.bound) == 0.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("factor", "constant"), [(1e-9, 0.0), (1e6, 0.0), (1.0, 500.0)])
def test_neither_unit_nor_constant_of_the_objective_matters(name: str, factor: float, constant: float) -> None:
    plain = minimise(_knapsack(), Solver(name, None, 0.0))
    problem = _knapsack()
    problem.setObjective(problem.objective * factor + constant)
    other = minimise(problem, Solver(name, None, 0.0))
    assert other.objective == pytest.approx(plain.objective * factor + constant, rel=1e-9)
    assert other.bound == pytest.approx(other.objective, rel=1e-6)
    rough = minimise(problem, Solver(name, None, 0.5))
    assert rough.bound <= other.objective * (1 + 1e-9)
    assert relative_gap(rough.objective, rough.bound) <= 0.5


@pytest.mark.parametrize("name", NAMES)
def test_an_infeasible_program_is_an_outcome(name: str) -> None:
    problem = _knapsack()
    problem += problem.variables()[0] >= 51
    outcome = minimise(problem, Solver(name, None, 0.0))
    assert (outcome.status, outcome.objective, outcome.bound) == ("infeasible", math.inf, math.inf)


def test_cbc_stands_in_for_highs(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    options = [
        ShapeOption(f"s{s}", "h100-sxm", 1 + s % 4, 3.0 + 2.7 * s, 700.0, tuple(random.uniform(0.5, 9.0, 3).tolist()))
        for s in range(12)
    ]
    demand, limits = Demand((40.0, 21.0, 9.0)), Limits(devices={"h100-sxm": 90})
    by_highs = best_composition(options, demand, limits)
    monkeypatch.setitem(solvers.BACK_ENDS, "HiGHS", HIDDEN)
    by_cbc = best_composition(options, demand, limits)
    assert (by_highs.solver, by_cbc.solver) == ("HiGHS", "CBC")
    assert by_cbc.objective == pytest.approx(by_highs.objective, rel=1e-6)
    assert by_cbc.bound == pytest.approx(by_highs.bound, rel=1e-6)


def test_without_any_solver_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setitem(solvers.BACK_ENDS, name, HIDDEN)
    with pytest.raises(SolverError, match=r"looked for HiGHS and CBC.*pip install highspy"):
        solver()


def test_a_solver_that_breaks_down_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvers, "_cbc_path", lambda: "no-such-cbc")
    with pytest.raises(SolverError, match="CBC failed"):
        minimise(_knapsack(), Solver("CBC", None, 0.0))


def test_the_limits_asked_for_are_those_of_the_solver() -> None:
    assert solver(2.5, 0.01) == Solver("HiGHS", 2.5, 0.01)
