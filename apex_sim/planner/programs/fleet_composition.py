"""How many instances of which shapes carry the demand at the least cost, power, number of devices or loss?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from apex_sim.errors import InputError
from apex_sim.planner.programs.fleet_limits import Demand, Limits, Objective, check_options
from apex_sim.planner.programs.fleet_program import FleetProgram, amount, write_program
from apex_sim.planner.programs.fleet_shortage import InfeasibleFleetError, refuse_unserved, shortage_of
from apex_sim.planner.programs.shape_option import ShapeOption, undominated
from apex_sim.planner.programs.solvers import Outcome, Solver, SolverError, Status, minimise, relative_gap, solver

#: By which part a load may exceed its instances before the solver's answer is refused.
LOAD_TOLERANCE_FRAC: Final = 1e-5


@dataclass(frozen=True, slots=True)
class Composition:
    """A fleet, and how close to the best one it is proven to be.

    Attributes
    ----------
    names, counts : the options, in the order in which they were given, and the instances of each.
    shares : for each size class the part of it that each option serves.
    objective : value of what was minimised.
    bound : no fleet has a smaller one; `gap_frac` is the distance, relative to the objective.
    solver, seconds, status : who solved it, for how long, and whether the bound was reached or time was up.
    usd_per_h, power_w, n_devices, mean_loss : of this fleet.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    shares: tuple[tuple[float, ...], ...]
    objective: float
    bound: float
    gap_frac: float
    solver: str
    seconds: float
    status: Status
    usd_per_h: float
    power_w: float
    n_devices: int
    mean_loss: float

    @property
    def used(self) -> tuple[str, ...]:
        """Names of the options of which the fleet holds any."""
        return tuple(name for name, count in zip(self.names, self.counts, strict=True) if count)


def best_composition(
    options: Sequence[ShapeOption],
    demand: Demand,
    limits: Limits | None = None,
    objective: Objective = "usd_per_h",
    by: Solver | None = None,
) -> Composition:
    """Return the fleet that carries the demand within the limits at the least `objective`.

    Dominated options are left out first (`undominated`).  Where devices may stay idle, instances that the loads do not
    need are handed back: no limit and no objective is the worse for it.

    Raises
    ------
    InfeasibleFleetError : there is none; says of what there is too little.
    SolverTimeOutError : time was up before any fleet was found.  One that was found comes with its gap instead.

    Examples
    --------
    >>> big = ShapeOption("big", "h100-sxm", 4, 12.0, 2800.0, (10.0, 2.0))
    >>> small = ShapeOption("small", "l40s", 1, 1.0, 350.0, (1.0, 0.0))
    >>> best = best_composition([big, small], Demand((3.0, 1.0)), Limits(usd_per_h=20.0))
    >>> best.counts, best.usd_per_h, best.status
    ((1, 0), 12.0, 'optimal')
    """
    limits, by = limits or Limits(), by or solver()
    check_options(options, demand)
    refuse_unserved(options, demand)
    kept = undominated(options, use_all_devices=limits.use_all_devices)
    program = write_program(kept, demand, limits)
    problem = program.problem
    problem += amount(program, kept, demand, objective)
    outcome = minimise(problem, by)
    if outcome.status == "infeasible":
        raise InfeasibleFleetError(shortage_of(options, demand, limits, by))
    counts, shares = _solution(program, kept, demand, limits)
    if not limits.use_all_devices:
        counts = _lean(counts, _loads(kept, demand, shares), limits)
    place = {option.name: s for s, option in enumerate(kept)}
    places = [place.get(option.name) for option in options]
    every_count = tuple(0 if s is None else counts[s] for s in places)
    every_share = tuple(tuple(0.0 if s is None else row[s] for s in places) for row in shares)
    return _composition(options, demand, every_count, every_share, objective, outcome)


def k_best(
    options: Sequence[ShapeOption],
    demand: Demand,
    limits: Limits | None = None,
    objective: Objective = "usd_per_h",
    k: int = 5,
    by: Solver | None = None,
) -> list[Composition]:
    """Return the k best fleets with different counts, best first; fewer if there are no more.

    Each vector of counts found is cut off by |n - found| >= 1 in at least one shape, written with two binaries per
    shape, so that all other vectors stay.  A count never needs to exceed what its shape could use by more than k - 1:
    beyond, k fleets with fewer of it are as good.  Dominated options stay in, as they make further fleets.
    Where the solver may stop at a gap, or had to at its time limit, the order is right within the gaps stated.

    Raises
    ------
    InfeasibleFleetError, SolverTimeOutError : as `best_composition` does.
    """
    if k < 1:
        raise InputError(f"k is {k}", where="k_best", remedy="ask for at least one fleet")
    limits, by = limits or Limits(), by or solver()
    check_options(options, demand)
    refuse_unserved(options, demand)
    program = write_program(options, demand, limits, spare=k - 1)
    problem = program.problem
    problem += amount(program, options, demand, objective)
    found: list[Composition] = []
    while len(found) < k:
        outcome = minimise(problem, by)
        if outcome.status == "infeasible":
            break
        counts, shares = _solution(program, options, demand, limits)
        lean = _lean(counts, _loads(options, demand, shares), limits)
        if not limits.use_all_devices and lean not in [other.counts for other in found]:
            counts = lean
        found.append(_composition(options, demand, counts, shares, objective, outcome))
        _cut_off(program, counts, len(found))
    if not found:
        raise InfeasibleFleetError(shortage_of(options, demand, limits, by))
    return found


def _cut_off(program: FleetProgram, counts: tuple[int, ...], cut: int) -> None:
    """Demand that at least one count differs from `counts`: lies above it (up) or below it (down)."""
    import pulp

    problem, differs = program.problem, []
    for s, (variable, count, most) in enumerate(zip(program.counts, counts, program.most, strict=True)):
        if count < most:
            up = problem.add_variable(f"up_{cut}_{s}", cat=pulp.LpBinary)
            problem += variable >= (count + 1) * up
            differs.append(up)
        if count > 0:
            down = problem.add_variable(f"down_{cut}_{s}", cat=pulp.LpBinary)
            problem += variable <= most - (most - count + 1) * down
            differs.append(down)
    problem += pulp.lpSum(differs) >= 1


def _solution(
    program: FleetProgram, options: Sequence[ShapeOption], demand: Demand, limits: Limits
) -> tuple[tuple[int, ...], tuple[tuple[float, ...], ...]]:
    """Return counts and shares freed of the solver's rounding, after a look whether they really carry the demand."""
    counts = tuple(round(variable.value()) for variable in program.counts)
    shares = []
    for c in range(len(demand.rate_per_s)):
        row = [_share(program.shares.get((s, c)), count) for s, count in enumerate(counts)]
        shares.append(tuple(part / sum(row) for part in row))
    for option, count, load in zip(options, counts, _loads(options, demand, shares), strict=True):
        if load > limits.utilisation_frac * count * (1 + LOAD_TOLERANCE_FRAC):
            raise SolverError(f"the solver loads {count} instances of {option.name!r} with {load:.9g}")
    return counts, tuple(shares)


def _share(variable: Any, count: int) -> float:
    return 0.0 if variable is None or not count else min(max(float(variable.value()), 0.0), 1.0)


def _loads(options: Sequence[ShapeOption], demand: Demand, shares: Sequence[Sequence[float]]) -> list[float]:
    """Return the load of each option, in instances that it would keep busy."""
    carried = [[rate * part for part in row] for rate, row in zip(demand.rate_per_s, shares, strict=True)]
    return [
        sum(row[s] / option.capacity_per_s[c] for c, row in enumerate(carried) if row[s])
        for s, option in enumerate(options)
    ]


def _lean(counts: tuple[int, ...], loads: Sequence[float], limits: Limits) -> tuple[int, ...]:
    """Return the fewest instances of each option that carry its load."""
    needed = [math.ceil(load / limits.utilisation_frac / (1 + LOAD_TOLERANCE_FRAC)) for load in loads]
    return tuple(min(count, need) for count, need in zip(counts, needed, strict=True))


def _composition(
    options: Sequence[ShapeOption],
    demand: Demand,
    counts: tuple[int, ...],
    shares: tuple[tuple[float, ...], ...],
    objective: Objective,
    outcome: Outcome,
) -> Composition:
    pairs = list(zip(options, counts, strict=True))
    rows = list(zip(demand.parts, shares, strict=True))
    totals: dict[Objective, float] = {
        "usd_per_h": sum(option.usd_per_h * count for option, count in pairs),
        "power_w": sum(option.power_w * count for option, count in pairs),
        "n_devices": sum(option.n_devices * count for option, count in pairs),
        "mean_loss": sum(
            part * row[s] * option.loss_of(c)
            for c, (part, row) in enumerate(rows)
            for s, option in enumerate(options)
            if row[s]
        ),
    }
    value = totals[objective]
    gap = relative_gap(value, outcome.bound)
    return Composition(
        names=tuple(option.name for option in options),
        counts=counts,
        shares=shares,
        objective=value,
        bound=value if gap == 0.0 else outcome.bound,
        gap_frac=gap,
        solver=outcome.solver,
        seconds=outcome.seconds,
        status="optimal" if gap == 0.0 else outcome.status,
        usd_per_h=totals["usd_per_h"],
        power_w=totals["power_w"],
        n_devices=int(totals["n_devices"]),
        mean_loss=totals["mean_loss"],
    )
