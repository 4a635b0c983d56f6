"""Which fleet is best, when only the shapes that matter are simulated?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from apex_sim.errors import InputError, NoAnswerError
from apex_sim.planner.programs.fleet_composition import Composition, best_composition
from apex_sim.planner.programs.fleet_limits import Demand, Limits, Objective
from apex_sim.planner.programs.fleet_shortage import InfeasibleFleetError
from apex_sim.planner.programs.shape_option import ShapeOption
from apex_sim.planner.programs.solvers import Solver, relative_gap, solver


@dataclass(frozen=True, slots=True)
class SimulatedComposition:
    """A fleet of simulated shapes, and what no fleet can beat.

    Attributes
    ----------
    best : the fleet.  Its counts and shares stand in the order of the options; all that it uses is simulated.
    bound : the largest bound proven on the way, so that no fleet, simulated or not, has a smaller objective.
    gap_frac : distance of the fleet to `bound`, relative to its objective.
    optimistic_bound : that of the first program, before anything was simulated.
    options : as the last program saw them, in the order given: simulated where `simulated` names them.
    simulated : names, in the order in which they were simulated.
    """

    best: Composition
    bound: float
    gap_frac: float
    optimistic_bound: float
    options: tuple[ShapeOption, ...]
    simulated: tuple[str, ...]


def compose(
    optimistic: Sequence[ShapeOption],
    simulate: Callable[[str], ShapeOption],
    demand: Demand,
    limits: Limits | None = None,
    objective: Objective = "usd_per_h",
    *,
    most_simulations: int | None = None,
    by: Solver | None = None,
) -> SimulatedComposition:
    """Return the best fleet of simulated shapes, simulating only the shapes that some optimum on the way uses.

    Solve with what is known; simulate the shapes that the optimum uses and put what came out in place of the optimistic
    figures; repeat until the optimum uses simulated shapes only.  Each round simulates at least one more shape.

    Every program on the way bounds the true one from below.  Proof: take a fleet that is feasible in truth, with its
    shares.  Where a shape still has optimistic figures, its capacities are no smaller than in truth, so its load is no
    larger, and its loss, price and power are no larger; the other shapes have their true figures.  So the fleet keeps
    every limit in the program too and its objective there is no larger than in truth.  The least over all fleets in the
    program, and whatever the solver proves to lie below that, is therefore no larger than the true least.  At the end
    the optimum uses true figures only, so its objective is also true: with exact programs it is the true optimum.

    Parameters
    ----------
    optimistic : shapes with capacities that are never too small, and losses, prices and powers never too large.
    simulate : name to the same shape with true figures; called once for a shape.
    most_simulations : after so many, settle for the best fleet of the shapes simulated by then, with its gap.

    Raises
    ------
    InputError : a simulated figure is better than its optimistic one, so nothing would be a bound.
    InfeasibleFleetError : no fleet will do.
    NoAnswerError : `most_simulations` was too small for a fleet of simulated shapes.
    """
    limits, by = limits or Limits(), by or solver()
    options, simulated, bounds = list(optimistic), list[str](), list[float]()
    place = {option.name: s for s, option in enumerate(options)}
    while True:
        best = best_composition(options, demand, limits, objective, by)
        bounds.append(best.bound)
        open_names = [name for name in best.used if name not in simulated]
        left = len(open_names) if most_simulations is None else most_simulations - len(simulated)
        if not open_names or left <= 0:
            break
        for name in open_names[:left]:
            options[place[name]] = _checked(options[place[name]], simulate(name))
            simulated.append(name)
    if open_names:
        best = _of_simulated(options, simulated, demand, limits, objective, by)
    bound = min(max(bounds), best.objective)
    gap = relative_gap(best.objective, bound)
    return SimulatedComposition(best, bound, gap, bounds[0], tuple(options), tuple(simulated))


def _of_simulated(
    options: Sequence[ShapeOption],
    simulated: Sequence[str],
    demand: Demand,
    limits: Limits,
    objective: Objective,
    by: Solver,
) -> Composition:
    """Return the best fleet of the simulated shapes; the others may carry nothing."""
    nothing = tuple(0.0 for _ in demand.rate_per_s)
    closed = [o if o.name in simulated else _with_capacity(o, nothing) for o in options]
    try:
        return best_composition(closed, demand, limits, objective, by)
    except InfeasibleFleetError as error:
        raise NoAnswerError(
            f"The {len(simulated)} shapes simulated make no fleet ({error.shortage}). Allow more simulations."
        ) from error


def _with_capacity(option: ShapeOption, capacity_per_s: tuple[float, ...]) -> ShapeOption:
    return ShapeOption(
        option.name, option.device, option.n_devices, option.usd_per_h, option.power_w, capacity_per_s, option.loss
    )


def _checked(optimistic: ShapeOption, true: ShapeOption) -> ShapeOption:
    """Return `true` if the optimistic figures really were: as good or better in everything."""
    same = (true.name, true.device, true.n_devices) == (optimistic.name, optimistic.device, optimistic.n_devices)
    if not same or len(true.capacity_per_s) != len(optimistic.capacity_per_s):
        raise InputError("simulation returned another shape", where=f"shape {optimistic.name!r}")
    better = [name for name in ("usd_per_h", "power_w") if getattr(true, name) < getattr(optimistic, name)]
    for c, (capacity, most) in enumerate(zip(true.capacity_per_s, optimistic.capacity_per_s, strict=True)):
        better += [f"capacity_per_s of class {c}"] if capacity > most else []
        better += [f"loss of class {c}"] if capacity and true.loss_of(c) < optimistic.loss_of(c) else []
    if better:
        raise InputError(
            f"simulated better than its optimistic figure: {', '.join(better)}",
            where=f"shape {optimistic.name!r}",
            remedy="give optimistic figures that no simulation can beat, or nothing that follows is a bound",
        )
    return true
