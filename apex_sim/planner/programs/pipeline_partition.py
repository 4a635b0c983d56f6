"""Which layers go to which stage of a pipeline whose layers and devices are uneven?

With c_sj = 1 where layer j lies in stage s or an earlier one (0 before the first stage, 1 in the last), stage s holds
layer j if z_sj = c_sj - c_(s-1)j is 1.  Stages are contiguous because c_sj >= c_s(j+1), and none is empty.  Where the
order of the devices is free, a_sd = 1 says that stage s is on a device of kind d, and w_sdj <= a_sd with
sum_d w_sdj = z_sj, that it holds layer j there.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

from apex_sim.errors import NoAnswerError
from apex_sim.planner.programs.pipeline import Pipeline
from apex_sim.planner.programs.solvers import Outcome, Solver, Status, minimise, relative_gap, solver

#: "slowest" is what limits throughput; "sum" is the time of one pass through all stages.
PartitionObjective = Literal["slowest", "sum"]


@dataclass(frozen=True, slots=True)
class Partition:
    """A split, and how close to the best it is proven to be.

    Attributes
    ----------
    n_layers : of each stage, first stage first.
    devices : which device of the pipeline each stage is on; 0, 1, 2, ... unless the order was free.
    stage_s : time of each stage; `slowest_s` and `sum_s` are their largest and their sum.
    bound : no split has a smaller objective; `gap_frac` is the distance, relative to the objective.
    """

    n_layers: tuple[int, ...]
    devices: tuple[int, ...]
    stage_s: tuple[float, ...]
    objective: float
    bound: float
    gap_frac: float
    solver: str
    seconds: float
    status: Status

    @property
    def slowest_s(self) -> float:
        """Time of the slowest stage."""
        return max(self.stage_s)

    @property
    def sum_s(self) -> float:
        """Time of all stages, one after the other."""
        return sum(self.stage_s)


class PipelineMemoryError(NoAnswerError):
    """No split fits; `missing_bytes` says for each stage what it lacks in the split that lacks least in all."""

    def __init__(self, missing_bytes: tuple[float, ...]) -> None:
        self.missing_bytes = missing_bytes
        lacks = [f"stage {s} lacks {missing:.6g} bytes" for s, missing in enumerate(missing_bytes) if missing]
        super().__init__(f"No split of the layers fits: even where least is missing, {' and '.join(lacks)}.")

    def __reduce__(self) -> tuple[object, ...]:
        return PipelineMemoryError, (self.missing_bytes,)


def partition(
    pipeline: Pipeline,
    objective: PartitionObjective = "slowest",
    *,
    any_order: bool = False,
    by: Solver | None = None,
) -> Partition:
    """Return the split into contiguous stages with the fastest slowest stage, or the least sum.

    Parameters
    ----------
    any_order : the devices may be put in any order; else stage s is on device s.

    Raises
    ------
    PipelineMemoryError : no split fits; says which stage lacks how many bytes.
    SolverTimeOutError : time was up before any split was found.  One that was found comes with its gap instead.

    Examples
    --------
    >>> fast, slow = (1.0,) * 6, (2.0,) * 6
    >>> best = partition(Pipeline((fast, slow), (1.0,) * 6, (9.0, 9.0)))
    >>> best.n_layers, best.slowest_s, best.status
    ((4, 2), 4.0, 'optimal')
    """
    by = by or solver()
    program = _program(pipeline, any_order, soft=False)
    problem = program.problem
    problem += program.slowest_s if objective == "slowest" else program.sum_s
    outcome = minimise(problem, by)
    if outcome.status == "infeasible":
        raise PipelineMemoryError(_missing_bytes(pipeline, any_order, by))
    return _partition(pipeline, program, objective, outcome)


@dataclass(frozen=True, slots=True)
class _Program:
    """The program: `on` maps (stage, kind) to a_sd (or 1), `held` lists per stage the expressions z_sj."""

    problem: Any
    kinds: list[list[int]]
    on: dict[tuple[int, int], Any]
    held: list[list[Any]]
    slowest_s: Any
    sum_s: Any
    missing: list[Any]


def _kinds(pipeline: Pipeline) -> list[list[int]]:
    """Return the devices, those that are alike together: exchanging them makes no other order."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for d, row in enumerate(pipeline.layer_s):
        edge = (pipeline.embedding_s[d : d + 1], pipeline.head_s[d : d + 1])
        alike.setdefault((row, pipeline.budget_bytes[d], edge), []).append(d)
    return list(alike.values())


def _program(pipeline: Pipeline, any_order: bool, soft: bool) -> _Program:
    """Return the program; `soft` lets each stage exceed its memory by what `missing` says."""
    import pulp

    problem = pulp.LpProblem("pipeline", pulp.LpMinimize)
    stages = range(pipeline.n_stages)
    kinds = _kinds(pipeline) if any_order else [[d] for d in stages]
    held = _contiguous(problem, pipeline)
    on: dict[tuple[int, int], Any] = {(s, s): 1 for s in stages}
    if any_order and len(kinds) > 1:
        on = {(s, d): problem.add_variable(f"a_{s}_{d}", cat=pulp.LpBinary) for s in stages for d in range(len(kinds))}
        for s in stages:
            problem += pulp.lpSum(on[s, d] for d in range(len(kinds))) == 1
        for d, devices in enumerate(kinds):
            problem += pulp.lpSum(on[s, d] for s in stages) == len(devices)
    elif any_order:
        on = {(s, 0): 1 for s in stages}
    scale_s, scale_bytes = _mean_stage_s(pipeline), max(pipeline.budget_bytes)
    sizes = [size / scale_bytes for size in pipeline.layer_bytes]
    slowest = problem.add_variable("slowest", 0)
    missing = [problem.add_variable(f"missing_{s}", 0) if soft else 0 for s in stages]
    times = []
    for s in stages:
        here = {d: a for (stage, d), a in on.items() if stage == s}
        parts = _layers_by_kind(problem, s, held[s], here)
        device = {d: kinds[d][0] for d in here}
        time_s = pulp.lpSum(t * w for d in here for t, w in zip(pipeline.layer_s[device[d]], parts[d], strict=True))
        time_s += pulp.lpSum(pipeline.extra_s(s, device[d]) * a for d, a in here.items())
        problem += slowest >= time_s * (1 / scale_s)
        times.append(time_s)
        for d, a in here.items():
            room = (pipeline.budget_bytes[device[d]] - pipeline.extra_bytes(s)) / scale_bytes * a
            problem += pulp.lpSum(b * w for b, w in zip(sizes, parts[d], strict=True)) <= room + missing[s]
    return _Program(problem, kinds, on, held, slowest * scale_s, pulp.lpSum(times), missing)


def _mean_stage_s(pipeline: Pipeline) -> float:
    """Return about what a stage takes: rows in this unit make a solver's absolute tolerances relative ones."""
    return sum(map(sum, pipeline.layer_s)) / pipeline.n_stages**2 or 1.0


def _contiguous(problem: Any, pipeline: Pipeline) -> list[list[Any]]:
    """Return per stage the expressions that are 1 for its layers; every stage holds at least one."""
    import pulp

    n, layers = pipeline.n_stages, range(pipeline.n_layers)
    upto: list[list[Any]] = [[0 for _ in layers]]
    for s in range(n - 1):
        # Each earlier stage holds a layer, and so does each later one.
        fixed = dict.fromkeys(range(s + 1), 1) | dict.fromkeys(layers[pipeline.n_layers - (n - 1 - s) :], 0)
        row = [fixed[j] if j in fixed else problem.add_variable(f"c_{s}_{j}", cat=pulp.LpBinary) for j in layers]
        upto.append(row)
    upto.append([1 for _ in layers])
    for before, after in itertools.pairwise(upto):
        for j in layers:
            _at_most(problem, before[j], after[j])
            if j:
                _at_most(problem, after[j], after[j - 1])
        problem += pulp.lpSum(after[j] - before[j] for j in layers) >= 1
    return [[after[j] - before[j] for j in layers] for before, after in itertools.pairwise(upto)]


def _at_most(problem: Any, less: Any, more: Any) -> None:
    """Add less <= more between two variables; the numbers 0 and 1 stand where it holds anyway."""
    if not (isinstance(less, int) or isinstance(more, int)):
        problem += less <= more


def _layers_by_kind(problem: Any, stage: int, held: list[Any], here: dict[int, Any]) -> dict[int, list[Any]]:
    """Return per kind of device the parts of the stage's layers that lie on it: all, where there is one kind."""
    import pulp

    if len(here) == 1:
        return dict.fromkeys(here, held)
    parts = {d: [problem.add_variable(f"w_{stage}_{d}_{j}", 0, 1) for j in range(len(held))] for d in here}
    for j, z in enumerate(held):
        problem += pulp.lpSum(parts[d][j] for d in here) == z
        for d, a in here.items():
            problem += parts[d][j] <= a
    return parts


def _missing_bytes(pipeline: Pipeline, any_order: bool, by: Solver) -> tuple[float, ...]:
    """Return what each stage lacks in the split that lacks the least in all."""
    import pulp

    program = _program(pipeline, any_order, soft=True)
    problem = program.problem
    problem += pulp.lpSum(program.missing)
    minimise(problem, by)
    devices, n_layers = _solution(program)
    lacks, start = [], 0
    for s, (device, n) in enumerate(zip(devices, n_layers, strict=True)):
        needed = sum(pipeline.layer_bytes[start : start + n]) + pipeline.extra_bytes(s)
        lacks.append(max(0.0, needed - pipeline.budget_bytes[device]))
        start += n
    return tuple(lacks)


def _solution(program: _Program) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the device of each stage and how many layers it holds."""
    import pulp

    left = [list(devices) for devices in program.kinds]
    chosen = [d for (_, d), a in sorted(program.on.items(), key=lambda item: item[0]) if round(pulp.value(a))]
    n_layers = tuple(round(sum(pulp.value(z) for z in row)) for row in program.held)
    return tuple(left[d].pop(0) for d in chosen), n_layers


def _partition(pipeline: Pipeline, program: _Program, objective: PartitionObjective, outcome: Outcome) -> Partition:
    devices, n_layers = _solution(program)
    stage_s = pipeline.stage_s(n_layers, devices)
    value = max(stage_s) if objective == "slowest" else sum(stage_s)
    gap = relative_gap(value, outcome.bound)
    return Partition(
        n_layers=n_layers,
        devices=devices,
        stage_s=stage_s,
        objective=value,
        bound=value if gap == 0.0 else outcome.bound,
        gap_frac=gap,
        solver=outcome.solver,
        seconds=outcome.seconds,
        status="optimal" if gap == 0.0 else outcome.status,
    )
