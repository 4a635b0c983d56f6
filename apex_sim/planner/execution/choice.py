"""Which executor is worth its start?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from apex_sim.errors import InputError
from apex_sim.planner.execution.executor import Executor
from apex_sim.planner.execution.in_process import InProcess

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Worker processes import the package anew; shorter work is done before they are up.
WORKER_START_S: Final = 3.0


def make_executor(
    work: Callable[[Item], Result],
    *,
    n_jobs: int | None = None,
    dask: str | None = None,
    expected_s: float,
    item_timeout_s: float | None = None,
    n_retries: int = 2,
) -> Executor[Item, Result]:
    """Return who should do `work`; results do not depend on it.

    Parameters
    ----------
    n_jobs : items at the same time; None takes every core, or every worker of a cluster that is there already.
    dask : "local" or the address of a Dask scheduler ("tcp://host:8786"); None uses this machine without Dask.
    expected_s : CPU time of all the work in one process; workers that would save less than their start takes are not
        started, however many are allowed.  Infinity starts them in any case; so does `dask`, which names them.
    item_timeout_s, n_retries : as of the executors; work in this process is neither stopped nor tried again.

    Raises
    ------
    InputError : `n_jobs` is below 1; with `dask`, its package is missing or no scheduler answers; the work cannot be
        sent to workers.

    Examples
    --------
    >>> make_executor(abs, n_jobs=8, expected_s=0.5).n_workers
    1
    """
    if n_jobs is not None and n_jobs < 1:
        raise InputError(f"{n_jobs} jobs", where="n_jobs", remedy="give a whole number from 1, or leave it out")
    if dask is not None:
        from apex_sim.planner.execution.dask_cluster import DaskCluster

        return DaskCluster(work, dask, n_jobs, item_timeout_s, n_retries)
    if n_jobs == 1 or expected_s <= WORKER_START_S:
        return InProcess(work)
    jobs = n_jobs or n_usable_cores()
    if expected_s * (1 - 1 / jobs) <= WORKER_START_S:
        return InProcess(work)
    from apex_sim.planner.execution.processes import Processes

    return Processes(work, jobs, item_timeout_s, n_retries)


def n_usable_cores() -> int:
    """Return how many cores this process may use, by affinity and by the limits of its container."""
    from joblib.externals.loky import cpu_count

    return int(cpu_count())
