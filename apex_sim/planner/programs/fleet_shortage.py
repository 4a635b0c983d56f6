"""Of what is there too little for any fleet, and by how much?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from apex_sim.errors import NoAnswerError
from apex_sim.planner.programs.fleet_limits import Demand, Limits
from apex_sim.planner.programs.fleet_program import write_program
from apex_sim.planner.programs.shape_option import ShapeOption
from apex_sim.planner.programs.solvers import ROW_TOLERANCE, Solver, SolverTimeOutError, minimise

#: What may be too little, in the words of `write_program`'s soft limits.
RESOURCES: Final = ("devices", "n_devices", "usd_per_h", "power_w", "mean_loss", "idle")


@dataclass(frozen=True, slots=True)
class Missing:
    """How much more of one resource it takes: "usd_per_h", "devices h100-sxm", or "idle h100-sxm" for left over."""

    resource: str
    amount: float

    def __str__(self) -> str:
        kind, _, device = self.resource.partition(" ")
        if kind == "idle":
            return f"{self.amount:.0f} {device} left idle"
        return f"{self.amount:.0f} more {device}" if device else f"{self.amount:.6g} more {kind}"


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why no fleet will do.

    Attributes
    ----------
    unserved : classes that no shape serves within its SLOs; if there are any, nothing else is asked.
    alone : for each resource of which more would do while all else stays, the least that would.
    together : the least sum of excesses, each relative to its limit, if every limit may give way.
    proven : whether the solver had the time to prove these amounts the least and to look at every resource.
    """

    unserved: tuple[int, ...]
    alone: tuple[tuple[Missing, ...], ...]
    together: tuple[Missing, ...]
    proven: bool = True

    def __str__(self) -> str:
        if self.unserved:
            return f"no shape serves size class {', '.join(map(str, self.unserved))} within its SLOs"
        ways = [" and ".join(map(str, way)) for way in self.alone or (self.together,)]
        known = "enough" if self.proven else "enough, though not proven the least in the time given,"
        return f"short of resources; {known} would be {', or '.join(way for way in ways if way) or 'unknown'}"


class InfeasibleFleetError(NoAnswerError):
    """No fleet carries the demand within the limits; `shortage` says what is missing."""

    def __init__(self, shortage: Shortage) -> None:
        self.shortage = shortage
        super().__init__(f"No fleet carries the demand within the limits: {shortage}.")

    def __reduce__(self) -> tuple[object, ...]:
        return InfeasibleFleetError, (self.shortage,)


def refuse_unserved(options: Sequence[ShapeOption], demand: Demand) -> None:
    """Raise `InfeasibleFleetError` where no option carries some class: no resource would help."""
    classes = range(len(demand.rate_per_s))
    unserved = tuple(c for c in classes if not any(option.capacity_per_s[c] for option in options))
    if unserved:
        raise InfeasibleFleetError(Shortage(unserved, (), ()))


def shortage_of(options: Sequence[ShapeOption], demand: Demand, limits: Limits, by: Solver) -> Shortage:
    """Return what an infeasible composition lacks, from programs in which limits may be exceeded at a price."""
    asked: list[tuple[str, ...]] = [(resource,) for resource in RESOURCES] + [RESOURCES]
    *alone, together = (_least_excess(options, demand, limits, by, soft) for soft in asked)
    proven = all(known for _, known in (*alone, together))
    return Shortage((), tuple(way for way, _ in alone if way), together[0], proven)


def _least_excess(
    options: Sequence[ShapeOption], demand: Demand, limits: Limits, by: Solver, soft: Collection[str]
) -> tuple[tuple[Missing, ...], bool]:
    """Return by how much the soft limits must at least be exceeded, empty if that alone is not enough; is it proven?"""
    import pulp

    program = write_program(options, demand, limits, soft=soft)
    if not program.extras:
        return (), True
    problem = program.problem
    problem += pulp.lpSum(e.variable * (e.weight if len(soft) > 1 else 1.0) for e in program.extras.values())
    try:
        status = minimise(problem, by).status
    except SolverTimeOutError:
        return (), False
    if status == "infeasible":
        return (), True
    found = [(name, float(excess.variable.value()), excess.unit) for name, excess in program.extras.items()]
    much = (Missing(name, value * unit) for name, value, unit in found if value > 10 * ROW_TOLERANCE)
    return tuple(much), status == "optimal"
