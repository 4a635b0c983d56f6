"""How is work done by processes of this machine, and what if one of them dies or hangs?"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from apex_sim.errors import WorkerError
from apex_sim.planner.execution.executor import item_name, require_new, require_pending
from apex_sim.planner.execution.message import Message, error_of, packed
from apex_sim.planner.execution.worker_process import START_S, WorkerProcess

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Windows notices Ctrl-C only between two waits.
_WAIT_S: Final = 0.5


@dataclass(slots=True)
class _Job:
    """An item on its way: what became of earlier tries, and at last a worker's answer."""

    name: str
    item: bytes
    events: list[str] = field(default_factory=list)
    answer: Message | None = None


class Processes(Generic[Item, Result]):
    """Executor with worker processes, which start when there is something for them to do.

    Each worker is sent `work` once, then item after item.  A worker that dies, and one that takes longer than
    `item_timeout_s` (None: however long it takes), is replaced, and its item tried again up to `n_retries` times; other
    workers do not notice.
    """

    def __init__(
        self,
        work: Callable[[Item], Result],
        n_workers: int,
        item_timeout_s: float | None = None,
        n_retries: int = 2,
    ) -> None:
        self._work = packed(work, "the work")
        self._n_workers, self._item_timeout_s, self._n_retries = n_workers, item_timeout_s, n_retries
        self._jobs: dict[int, _Job] = {}
        self._waiting: deque[int] = deque()
        self._finished: deque[int] = deque()
        self._workers: dict[WorkerProcess, int | None] = {}

    @property
    def n_workers(self) -> int:
        """Items that are worked on at the same time, at most."""
        return self._n_workers

    @property
    def n_pending(self) -> int:
        """Items that were submitted and not taken."""
        return len(self._jobs)

    def submit(self, number: int, item: Item) -> None:
        """Hand `item` to a worker that is free, or keep it until one is; errors as in `Executor.submit`."""
        require_new(number, self._jobs)
        name = item_name(number, item)
        self._jobs[number] = _Job(name, packed(item, name))
        self._waiting.append(number)
        self._hand_out()

    def take(self) -> tuple[int, Result]:
        """Return the next result, as `Executor.take`."""
        require_pending(self.n_pending)
        while not self._finished:
            self._watch()
        number = self._finished.popleft()
        job = self._jobs.pop(number)
        if job.answer is None:
            raise WorkerError(
                job.name, job.events, remedy="run with fewer jobs for more memory, or one job to see it fail here"
            )
        if job.answer.kind != "done":
            raise error_of(job.answer, job.name)
        return number, job.answer.value

    def _hand_out(self) -> None:
        """Give waiting items to workers that are free, and start workers while there may be more."""
        while self._waiting:
            free = [worker for worker, number in self._workers.items() if number is None]
            if not free and len(self._workers) >= self._n_workers:
                return
            worker = free[0] if free else WorkerProcess()
            self._workers[worker] = self._waiting.popleft()
            if worker.is_up:
                self._give(worker)

    def _give(self, worker: WorkerProcess) -> None:
        """Send a worker that is up the item which it was chosen for."""
        number = self._workers[worker]
        if number is not None and not worker.tell(self._jobs[number].item, self._item_timeout_s):
            self._lose(worker, worker.lost())

    def _watch(self) -> None:
        """Wait a little for what workers say; replace those that are gone or overdue."""
        overdue_in_s = min(self._deadline_s(worker) for worker in self._workers) - time.monotonic()
        heard = wait([worker.connection for worker in self._workers], max(0.0, min(overdue_in_s, _WAIT_S)))
        for worker in list(self._workers):
            if worker.connection in heard:
                self._hear(worker)
            elif time.monotonic() > self._deadline_s(worker):
                limit_s = self._item_timeout_s if worker.is_up else START_S
                worker.stop()
                doing = "took longer than" if worker.is_up else "its worker did not start within"
                self._lose(worker, f"{doing} {limit_s:g} s")
        self._hand_out()

    def _deadline_s(self, worker: WorkerProcess) -> float:
        """Return when `worker` is overdue; never while it has nothing to do."""
        return float("inf") if self._workers[worker] is None else worker.deadline_s

    def _hear(self, worker: WorkerProcess) -> None:
        message, number = worker.hear(), self._workers[worker]
        if message is None:
            self._lose(worker, worker.lost())
        elif message.kind == "unusable":
            raise error_of(message, "the work cannot be loaded by a worker process")
        elif message.kind == "up":
            worker.is_up = True
            if worker.tell(self._work, None):
                self._give(worker)
            else:
                self._lose(worker, worker.lost())
        elif number is not None:
            self._jobs[number].answer = message
            self._finished.append(number)
            self._workers[worker] = None

    def _lose(self, worker: WorkerProcess, event: str) -> None:
        """Forget a worker, and let another try its item, ahead of others, if it may be tried again."""
        number = self._workers.pop(worker)
        if number is None:
            return
        job = self._jobs[number]
        job.events.append(event)
        if len(job.events) > self._n_retries:
            self._finished.append(number)
        else:
            self._waiting.appendleft(number)

    def __enter__(self) -> Self:
        """Return the executor."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drop what is pending and stop all workers at once."""
        for worker in self._workers:
            worker.stop()
        for held in (self._workers, self._jobs, self._waiting, self._finished):
            held.clear()
