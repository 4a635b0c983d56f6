"""How is the choice of a fleet written as an integer program?

Over shapes s and size classes c, with rates r_c, parts w_c = r_c / sum r, capacities k_sc and utilisation u:

    integers  n_s >= 0      instances of shape s
    fractions y_sc >= 0     part of class c that shape s serves; only where k_sc > 0

    sum_s y_sc = 1                           for each class: all of it is carried
    sum_c (r_c / k_sc) y_sc <= u n_s         for each shape: load in instances
    y_sc <= n_s                              implied by integers, tightens the bound, keeps small classes honest
    sum_s usd_s n_s <= budget, and likewise watts, devices of each type and of all, sum_sc w_c loss_sc y_sc

A soft limit gets a variable for how far it is exceeded, which `fleet_shortage` makes as small as it can.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from apex_sim.planner.programs.fleet_limits import Demand, Limits, Objective, most_needed
from apex_sim.planner.programs.shape_option import ShapeOption


@dataclass(frozen=True, slots=True)
class Excess:
    """By how much a soft limit is exceeded: `variable` times `unit`; `weight` makes it relative to the limit."""

    variable: Any
    unit: float
    weight: float


@dataclass(frozen=True, slots=True)
class FleetProgram:
    """The program with its variables.

    Attributes
    ----------
    counts : one integer variable per option.
    most : the largest value of each.
    shares : (option, class) to the part of the class that the option serves.
    extras : soft limit (such as "usd_per_h", or "devices h100-sxm") to its excess.
    """

    problem: Any
    counts: list[Any]
    most: list[int]
    shares: dict[tuple[int, int], Any]
    extras: dict[str, Excess]


def write_program(
    options: Sequence[ShapeOption],
    demand: Demand,
    limits: Limits,
    *,
    spare: int = 0,
    soft: Collection[str] = (),
) -> FleetProgram:
    """Return the program without an objective.

    Parameters
    ----------
    spare : instances of each shape beyond what could be needed, for those who look for more than one fleet.
    soft : limits that may be exceeded: names of `Limits`, or "idle" for devices left over where all are to be used.
    """
    import pulp

    problem = pulp.LpProblem("fleet", pulp.LpMinimize)
    most = [_most(option, demand, limits, spare, "devices" in soft, "n_devices" in soft) for option in options]
    counts = [problem.add_variable(f"n_{s}", 0, top, cat=pulp.LpInteger) for s, top in enumerate(most)]
    shares = {
        (s, c): problem.add_variable(f"y_{s}_{c}", 0, 1)
        for s, option in enumerate(options)
        for c, capacity in enumerate(option.capacity_per_s)
        if capacity > 0 and most[s] > 0
    }
    program = FleetProgram(problem, counts, most, shares, {})
    for c in range(len(demand.rate_per_s)):
        problem += pulp.lpSum(y for (_, of), y in shares.items() if of == c) == 1
    for s, option in enumerate(options):
        mine = [(c, shares[s, c]) for c in range(len(demand.rate_per_s)) if (s, c) in shares]
        load = pulp.lpSum(demand.rate_per_s[c] / option.capacity_per_s[c] * y for c, y in mine)
        problem += load <= limits.utilisation_frac * counts[s]
        for _, y in mine:
            problem += y <= counts[s]
    _limit(program, options, demand, limits, soft)
    return program


def amount(program: FleetProgram, options: Sequence[ShapeOption], demand: Demand, of: Objective) -> Any:
    """Return the linear expression of what an objective or a limit counts."""
    import pulp

    if of == "mean_loss":
        parts = demand.parts
        return pulp.lpSum(parts[c] * options[s].loss_of(c) * y for (s, c), y in program.shares.items())
    pairs = zip(options, program.counts, strict=True)
    return pulp.lpSum(getattr(option, of) * count for option, count in pairs)


def _most(option: ShapeOption, demand: Demand, limits: Limits, spare: int, more_of_type: bool, more: bool) -> int:
    """Return the largest count worth trying.

    Beyond `most_needed + spare`, `spare` + 1 fleets with fewer of this shape are as good and hold no more of anything.
    """
    there = None if limits.devices is None else limits.devices.get(option.device, 0)
    needed = most_needed(option, demand, limits) + spare
    if limits.use_all_devices:
        whole = -(-(there or 0) // option.n_devices)
        return needed + whole if more_of_type else (there or 0) // option.n_devices
    tops = [needed]
    if there is not None and not more_of_type:
        tops.append(there // option.n_devices)
    if limits.n_devices is not None and not more:
        tops.append(limits.n_devices // option.n_devices)
    return max(0, min(tops))


def _limit(
    program: FleetProgram, options: Sequence[ShapeOption], demand: Demand, limits: Limits, soft: Collection[str]
) -> None:
    """Add the rows of the limits, with their excess where they are soft."""
    import pulp

    problem = program.problem
    scales: tuple[Objective, ...] = ("usd_per_h", "power_w", "n_devices", "mean_loss")
    for name in scales:
        limit = getattr(limits, name)
        if limit is not None:
            unit = limit or 1.0  # rows about 1, so that the solver's absolute tolerance is a relative one
            excess = _excess(program, name, unit, 1.0) if name in soft else 0
            problem += amount(program, options, demand, name) * (1 / unit) <= limit / unit + excess
    devices = sorted({option.device for option in options} | set(limits.devices or ()))
    for device in devices if limits.devices is not None else ():
        there = (limits.devices or {}).get(device, 0)
        pairs = zip(options, program.counts, strict=True)
        held = pulp.lpSum(option.n_devices * count for option, count in pairs if option.device == device)
        weight = 1 / there if there else 1.0
        more = _excess(program, f"devices {device}", 1.0, weight) if "devices" in soft else 0
        if not limits.use_all_devices:
            problem += held <= there + more
        else:
            idle = _excess(program, f"idle {device}", 1.0, weight) if "idle" in soft else 0
            problem += held + idle == there + more


def _excess(program: FleetProgram, name: str, unit: float, weight: float) -> Any:
    variable = program.problem.add_variable(f"more_{len(program.extras)}", 0)
    program.extras[name] = Excess(variable, unit, weight)
    return variable
