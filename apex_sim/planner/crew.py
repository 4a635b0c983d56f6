"""Who does the jobs of a search, and which of them have been done before?

Jobs whose outcome is in the study store are not done again.  The first of a batch is done here, and tells whether
workers are worth their start.  Each outcome is stored as soon as it is there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from apex_sim.errors import InputError
from apex_sim.planner.execution.choice import make_executor
from apex_sim.planner.execution.executor import Executor
from apex_sim.planner.execution.in_process import InProcess
from apex_sim.planner.job import Bench, Job, Outcome
from apex_sim.planner.store.key import content_key
from apex_sim.planner.store.outcome import decode_outcome, encode_outcome
from apex_sim.planner.store.study_store import StudyStore
from apex_sim.planner.store.version import code_version
from apex_sim.planner.study import Study

#: Bounds of so many plans of one shape are asked for together: each takes about a millisecond.
_BUNDLE: Final = 16

Bundle = tuple[Job, ...]


class Bundles:
    """Does bundles of jobs in a worker."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def __call__(self, bundle: Bundle) -> list[Outcome]:
        """Return what comes of each job."""
        return [self._bench(job) for job in bundle]


class Crew:
    """Does the jobs of one study.

    Parameters
    ----------
    n_jobs : worker processes; None decides by the work at hand, 1 does all of it here.
    dask : "local" or the address of a Dask scheduler.
    store : file that outcomes are kept in; None keeps none.
    item_timeout_s : a worker that takes longer for one job is replaced; None waits.
    log : told "evaluating KEY" and "committed KEY" as jobs are begun and stored.

    Raises
    ------
    InputError : the store cannot be used, or the study's own back end cannot be told from another by its content.
    """

    def __init__(
        self,
        study: Study,
        *,
        n_jobs: int | None = None,
        dask: str | None = None,
        store: Path | None = None,
        item_timeout_s: float | None = None,
        log: Callable[[str], object] | None = None,
    ) -> None:
        self.bench = Bench(study)
        self.n_found = 0
        self._stack = ExitStack()
        self._n_jobs, self._dask, self._item_timeout_s = n_jobs, dask, item_timeout_s
        self._executor: Executor[Bundle, list[Outcome]] | None = None
        self._store = None if store is None else self._stack.enter_context(StudyStore(store))
        self._question = "" if store is None else question_key(study)
        self._n_submitted = 0
        self._log = log

    def __enter__(self) -> Self:
        """Return the crew."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the workers and leave the store."""
        self._stack.__exit__(kind, error, traceback)

    def perform(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Yield what comes of each job, in any order."""
        left = []
        keys = {job: self._key(job) for job in jobs} if self._store else {}
        stored = self._store.get_many(keys.values()) if self._store else {}
        for job in jobs:
            text = stored.get(keys[job]) if keys else None
            if text is None:
                left.append(job)
                continue
            self.n_found += 1
            yield job, decode_outcome(text, job.plan, str(self._store.path if self._store else ""))
        for job, outcome in self._done(left):
            if self._store:
                self._store.put(keys[job], encode_outcome(outcome))
                self._say("committed", [job])
            yield job, outcome

    def _done(self, jobs: list[Job]) -> Iterator[tuple[Job, Outcome]]:
        if not jobs:
            return
        if self._executor is None and self._dask is None:
            started = time.process_time()
            self._say("evaluating", jobs[:1])
            yield jobs[0], self.bench(jobs[0])
            jobs = jobs[1:]
            self._engage((time.process_time() - started) * len(jobs))
        elif self._executor is None:
            self._engage(0.0)
        executor = self._executor
        if executor is None:
            for job in jobs:
                self._say("evaluating", [job])
                yield job, self.bench(job)
            return
        bundles, waiting = dict[int, Bundle](), deque(_bundles(jobs))
        while waiting or bundles:
            while waiting and len(bundles) < executor.n_workers:  # what is lost with this process is what is under way
                bundle = waiting.popleft()
                self._say("evaluating", bundle)
                bundles[self._n_submitted] = bundle
                executor.submit(self._n_submitted, bundle)
                self._n_submitted += 1
            number, outcomes = executor.take()
            yield from zip(bundles.pop(number), outcomes, strict=True)

    def _say(self, what: str, jobs: Sequence[Job]) -> None:
        if self._log:
            for job in jobs:
                self._log(f"{what} {self._key(job)}")

    def _engage(self, expected_s: float) -> None:
        """Start workers where they pay."""
        executor = make_executor(
            Bundles(self.bench),
            n_jobs=self._n_jobs,
            dask=self._dask,
            expected_s=float("inf") if self._n_jobs and self._n_jobs > 1 else expected_s,
            item_timeout_s=self._item_timeout_s,
        )
        if not isinstance(executor, InProcess):
            self._executor = self._stack.enter_context(executor)

    def _key(self, job: Job) -> str:
        return content_key(self._question, replace(job, plan=replace(job.plan, note="")))


def question_key(study: Study) -> str:
    """Return a digest of everything in a study that outcomes depend on, and of the code that makes them.

    Raises
    ------
    InputError : the caller's own back end cannot be put down.
    """
    try:
        return content_key(
            *(study.model, study.cluster, study.workload, study.preset, study.slo, study.scheduler),
            *(study.cost_model, study.kernel_tables, study.cost, study.profile, code_version()),
        )
    except TypeError as error:
        raise InputError(
            f"the study holds something that has no content to be known by ({error})",
            where=f"study {study.name}",
            remedy="leave out the store (--store), or the back end of your own",
        ) from None


def _bundles(jobs: Sequence[Job]) -> Iterator[Bundle]:
    """Yield jobs one by one, but bounds of plans of the same shapes together."""
    for (is_bound, _), group in groupby(jobs, key=lambda job: (job.n_requests == 0, _shapes(job))):
        some = list(group)
        size = _BUNDLE if is_bound else 1
        yield from (tuple(some[start : start + size]) for start in range(0, len(some), size))


def _shapes(job: Job) -> tuple[object, ...]:
    return tuple(shape for shape, _ in job.plan.instances)
