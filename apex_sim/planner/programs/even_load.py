"""With which shares are all instances of a fleet loaded as evenly as the buckets allow?

A program that minimises price leaves the shares wherever its solver ended: one shape full, another half empty.  With
the counts n_s given, rates r_c and capacities k_sc, the shares y_sc that make the largest load least solve

    minimise u  where  sum_s y_sc = 1  for each bucket,  sum_c (r_c / k_sc) y_sc <= u n_s  for each shape
"""

from __future__ import annotations

from collections.abc import Sequence

from apex_sim.plan.routing import Routing
from apex_sim.planner.programs.bucket_mix import Buckets
from apex_sim.planner.programs.fleet_limits import Demand, check_options
from apex_sim.planner.programs.fleet_shortage import refuse_unserved
from apex_sim.planner.programs.shape_option import ShapeOption
from apex_sim.planner.programs.solvers import Solver, minimise, solver


def even_routing(
    options: Sequence[ShapeOption], counts: Sequence[int], buckets: Buckets, by: Solver | None = None
) -> tuple[Routing, float]:
    """Return the shares of `options`, of which there are `counts`, each 1 or more, and the largest load of an instance.

    Raises
    ------
    InfeasibleFleetError : none of the options serves some bucket.
    SolverError : the solver broke down.

    Examples
    --------
    >>> small = ShapeOption("small", "l40s", 1, 1.0, 350.0, (4.0, 0.0))
    >>> large = ShapeOption("large", "h100-sxm", 1, 3.0, 700.0, (8.0, 2.0))
    >>> routing, load = even_routing([small, large], [1, 1], Buckets((1024,), (4.0, 1.0)))
    >>> [round(share, 3) for share in routing.shares[0]], round(load, 3)
    ([0.667, 0.333], 0.667)
    """
    import pulp

    demand = Demand(buckets.rate_per_s)
    check_options(options, demand)
    refuse_unserved(options, demand)
    problem = pulp.LpProblem("even_load", pulp.LpMinimize)
    load = problem.add_variable("load", lowBound=0)
    shares = {
        (s, c): problem.add_variable(f"share_{s}_{c}", lowBound=0, upBound=1)
        for s, option in enumerate(options)
        for c, capacity in enumerate(option.capacity_per_s)
        if capacity
    }
    for c in range(len(buckets.rate_per_s)):
        problem += pulp.lpSum(y for (_, of), y in shares.items() if of == c) == 1
    for s, (option, count) in enumerate(zip(options, counts, strict=True)):
        mine = [(c, y) for (of, c), y in shares.items() if of == s]
        carried = pulp.lpSum(buckets.rate_per_s[c] / option.capacity_per_s[c] / count * y for c, y in mine)
        problem += carried <= load
    problem += load
    outcome = minimise(problem, by or solver())
    rows = []
    for c in range(len(buckets.rate_per_s)):
        row = [max(float(shares[s, c].value()), 0.0) if (s, c) in shares else 0.0 for s in range(len(options))]
        rows.append(tuple(part / sum(row) for part in row))
    return Routing(buckets.bucket_tokens, tuple(rows)), outcome.objective
