"""Which solver is there for an integer program, and how good is the answer that it gave?

Programs ask for a capability: minimise within a time and a gap, and prove a bound.  HiGHS comes first (in this
process); CBC, which PuLP brings along, stands in for it.  `Outcome.solver` says which one answered.
"""

from __future__ import annotations

import importlib.util
import math
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from apex_sim.errors import ApexError, NoAnswerError

Status = Literal["optimal", "within gap", "time-out", "infeasible"]

#: A solver's own tolerance on its objective, relative to it: a smaller gap is none.
OBJECTIVE_TOLERANCE_FRAC: Final = 1e-6
#: By how much a row may be off: the default of the solvers, so programs write rows of about 1.  It must stay at that:
#: asked for 1e-9, HiGHS 1.15 has called a split of 80 layers optimal that is 0.7 % off.
ROW_TOLERANCE: Final = 1e-6


class SolverError(ApexError):
    """No solver for integer programs can be used here, or the one in use broke down."""


class SolverTimeOutError(NoAnswerError):
    """The time limit passed before the solver had any solution; `bound` is what it had proven."""

    def __init__(self, solver: str, seconds: float, bound: float) -> None:
        self.solver, self.seconds, self.bound = solver, seconds, bound
        super().__init__(
            f"{solver} found no solution within {seconds:.3g} s (none can be below {bound:.6g}). Give it more time."
        )

    def __reduce__(self) -> tuple[object, ...]:
        return SolverTimeOutError, (self.solver, self.seconds, self.bound)


@dataclass(frozen=True, slots=True)
class Solver:
    """A solver with its limits.

    Attributes
    ----------
    name : "HiGHS" or "CBC".
    time_limit_s : None = as long as it takes.
    gap_frac : it may stop once its solution is proven to lie within this part of the optimum; 0 = at the optimum.
    """

    name: str
    time_limit_s: float | None
    gap_frac: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a minimisation ended; the values stand in the variables of the program.

    Attributes
    ----------
    objective : of the best solution found; infinite where the program is infeasible.
    bound : no solution has a smaller objective.
    """

    status: Status
    objective: float
    bound: float
    solver: str
    seconds: float


def relative_gap(objective: float, bound: float) -> float:
    """Return by which part of itself `objective` may be too large; 0 within the tolerance of the solvers.

    Examples
    --------
    >>> relative_gap(10.0, 9.0), relative_gap(10.0, 9.9999999), relative_gap(0.0, -1.0)
    (0.1, 0.0, inf)
    """
    excess = objective - bound
    if excess <= OBJECTIVE_TOLERANCE_FRAC * max(abs(objective), OBJECTIVE_TOLERANCE_FRAC):
        return 0.0
    return excess / abs(objective) if objective else math.inf


def solver(time_limit_s: float | None = None, gap_frac: float = 0.0) -> Solver:
    """Return the first solver that can be used here.

    Raises
    ------
    SolverError : there is none; the message says how to get one.
    """
    for name, (available, _) in BACK_ENDS.items():
        if available():
            return Solver(name, time_limit_s, gap_frac)
    raise SolverError(
        f"no solver for integer programs is installed (looked for {' and '.join(BACK_ENDS)}). "
        "Install one with `pip install highspy`."
    )


def minimise(problem: Any, by: Solver) -> Outcome:
    """Solve a `pulp.LpProblem` that minimises; an infeasible one is an outcome, no error.

    Raises
    ------
    SolverTimeOutError : time was up before there was a first solution.
    SolverError : the solver broke down.
    """
    import pulp

    start_s = time.perf_counter()
    stated, scale = problem.objective, _scale(problem)
    problem.setObjective(stated * scale)
    try:
        bound = BACK_ENDS[by.name][1](problem, by) / scale + stated.constant
    except pulp.PulpSolverError as error:
        raise SolverError(f"{by.name} failed: {error}. Install another with `pip install highspy`.") from error
    finally:
        problem.setObjective(stated)
    seconds = time.perf_counter() - start_s
    if problem.status == pulp.LpStatusInfeasible:
        return Outcome("infeasible", math.inf, math.inf, by.name, seconds)
    if problem.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        raise SolverTimeOutError(by.name, seconds, bound)
    objective = float(pulp.value(problem.objective))
    if relative_gap(objective, bound) == 0.0:
        return Outcome("optimal", objective, min(bound, objective), by.name, seconds)
    ended = problem.sol_status == pulp.LpSolutionOptimal
    return Outcome("within gap" if ended else "time-out", objective, bound, by.name, seconds)


def _scale(problem: Any) -> float:
    """Return the power of two that lifts the largest coefficient of the objective to about a thousand.

    Solvers stop at absolute gaps of 1e-6 to 1e-5, whatever the unit: layer times in seconds would drown in that.
    """
    largest = max((abs(coefficient) for coefficient in problem.objective.values()), default=0.0)
    return 2.0 ** (10 - math.frexp(largest)[1]) if largest else 1.0


def _has_highs() -> bool:
    return importlib.util.find_spec("highspy") is not None


def _run_highs(problem: Any, by: Solver) -> float:
    import pulp

    problem.solve(
        pulp.HiGHS(
            msg=False,
            timeLimit=by.time_limit_s,
            gapRel=by.gap_frac,
            gapAbs=0.0,
        )
    )
    info = problem.solverModel.getInfo()
    if problem.isMIP():
        return float(info.mip_dual_bound)
    return float(info.objective_function_value) if problem.sol_status == pulp.LpSolutionOptimal else -math.inf


def _cbc_path() -> str:
    import pulp

    return str(pulp.PULP_CBC_CMD.pulp_cbc_path)


def _has_cbc() -> bool:
    import pulp

    return bool(pulp.COIN_CMD(path=_cbc_path(), msg=False).available())


def _run_cbc(problem: Any, by: Solver) -> float:
    import pulp

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "cbc.log"
        command = pulp.COIN_CMD(
            path=_cbc_path(),
            msg=False,
            timeLimit=by.time_limit_s,
            gapRel=by.gap_frac,
            gapAbs=0.0,
            logPath=str(log),
        )
        problem.solve(command)
        said = re.findall(r"^Lower bound:\s+(\S+)", log.read_text(encoding="utf-8"), re.MULTILINE)
    if said:  # CBC states a bound only where it differs from the objective
        return float(said[-1])
    proven = problem.sol_status == pulp.LpSolutionOptimal
    return float(pulp.value(problem.objective) - problem.objective.constant) if proven else -math.inf


#: In order of preference: (can it be used here, solve and return the bound without the objective's constant).
BACK_ENDS: Final[dict[str, tuple[Callable[[], bool], Callable[[Any, Solver], float]]]] = {
    "HiGHS": (_has_highs, _run_highs),
    "CBC": (_has_cbc, _run_cbc),
}
