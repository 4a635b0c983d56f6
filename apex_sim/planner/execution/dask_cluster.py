"""How is work done by a Dask cluster, and what if one of its workers dies or hangs?

When a worker dies, Dask blames every item that it was given, started or not.  So an item that was lost is tried again
alone, when no other can be at fault, and with all the memory there is.  An item that takes too long ends its worker
process from inside, which Dask's nannies replace, so that both are one case.
"""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar
from uuid import uuid4

from apex_sim.errors import WorkerError
from apex_sim.planner.execution.choice import n_usable_cores
from apex_sim.planner.execution.dask_connection import connect, local_cluster, stop
from apex_sim.planner.execution.dask_worker import plugin, serve_item
from apex_sim.planner.execution.executor import item_name, require_new, require_pending
from apex_sim.planner.execution.message import Message, error_of, packed

Item = TypeVar("Item")
Result = TypeVar("Result")

#: How long a cluster may be without any worker, and how often that is looked at while there is nothing to take.
_DESERTED_S: Final = 60.0
_LOOK_S: Final = 5.0
#: How long a client may take to say goodbye.
_CLOSE_S: Final = 10.0


@dataclass(slots=True)
class _Job:
    """An item on its way; `future` is Dask's handle of it while it is there."""

    name: str
    item: bytes
    future: Any = None
    events: list[str] = field(default_factory=list)


class DaskCluster(Generic[Item, Result]):
    """Executor on the workers of a Dask cluster.

    `work` goes to each worker once, also to one that joins later or replaces another.  Whoever leaves a cluster that
    others may use leaves its workers alone: they end what they are doing, and nobody asks for it.

    Parameters
    ----------
    address : "local" starts processes of this machine; else the address of a scheduler, whose workers must have the
        same APEX-Sim and be started with nannies (Dask's default).
    n_workers : how many to start locally (None: one for each core), or to count on; None counts the cluster's threads.
    item_timeout_s : None lets an item take however long it takes.
    n_retries : how often an item that was lost is tried again; of a scheduler that runs already, one try is as many as
        its own `distributed.scheduler.allowed-failures` allows.

    Raises
    ------
    InputError : Dask is not installed, no scheduler answers, or the work cannot be sent or loaded.
    """

    def __init__(
        self,
        work: Callable[[Item], Result],
        address: str,
        n_workers: int | None = None,
        item_timeout_s: float | None = None,
        n_retries: int = 2,
    ) -> None:
        bundle = packed(work, "the work")
        self._item_timeout_s, self._n_retries = item_timeout_s, n_retries
        self._name = f"apex-sim-{uuid4().hex}"
        self._jobs: dict[int, _Job] = {}
        self._waiting: deque[int] = deque()
        self._suspects: deque[int] = deque()
        self._in_flight: set[int] = set()
        self._ended: SimpleQueue[int] = SimpleQueue()
        self._deserted_since_s: float | None = None
        self._cluster = local_cluster(n_workers or n_usable_cores()) if address == "local" else None
        self._client = connect(self._cluster or address)
        try:
            self._n_workers = n_workers or max(1, sum(self._client.nthreads().values()))
            self._client.register_plugin(plugin(self._name, bundle), name=self._name)
        except BaseException:
            self._close()
            raise

    @property
    def n_workers(self) -> int:
        """Items that are worked on at the same time, at most."""
        return self._n_workers

    @property
    def n_pending(self) -> int:
        """Items that were submitted and not taken."""
        return len(self._jobs)

    def submit(self, number: int, item: Item) -> None:
        """Hand `item` to Dask, or keep it while all workers are busy; errors as in `Executor.submit`."""
        require_new(number, self._jobs)
        name = item_name(number, item)
        self._jobs[number] = _Job(name, packed(item, name))
        self._waiting.append(number)
        self._hand_out()

    def take(self) -> tuple[int, Result]:
        """Return the next result, as `Executor.take`."""
        require_pending(self.n_pending)
        while True:
            number = self._next_ended()
            job = self._jobs[number]
            self._in_flight.discard(number)
            if job.future.status == "finished":
                break
            self._lose(number, job)
            self._hand_out()
        message: Message = pickle.loads(job.future.result())
        del self._jobs[number]
        self._hand_out()
        if message.kind != "done":
            raise error_of(message, job.name)
        return number, message.value

    def _hand_out(self) -> None:
        """Give Dask one item for each worker; one that was lost goes alone."""
        while self._suspects or self._waiting:
            alone = bool(self._suspects) or any(self._jobs[number].events for number in self._in_flight)
            if len(self._in_flight) >= (1 if alone else self._n_workers):
                return
            self._start((self._suspects or self._waiting).popleft())

    def _start(self, number: int) -> None:
        job = self._jobs[number]
        key = f"{self._name}-{number}-{len(job.events)}"
        job.future = self._client.submit(serve_item, self._name, job.item, self._item_timeout_s, key=key, pure=False)
        self._in_flight.add(number)
        job.future.add_done_callback(lambda _: self._ended.put(number))

    def _next_ended(self) -> int:
        while True:
            try:
                return self._ended.get(timeout=_LOOK_S)
            except Empty:
                self._require_workers()

    def _lose(self, number: int, job: _Job) -> None:
        """Try an item again that came to no end.

        Raises
        ------
        WorkerError : it was tried often enough, or Dask cannot run it at all.
        """
        event, again = self._what_happened(job.future)
        job.events.append(event)
        if again and len(job.events) <= self._n_retries:
            self._suspects.append(number)
            return
        del self._jobs[number]
        self._hand_out()
        raise WorkerError(job.name, job.events, remedy="look at what the cluster's workers logged")

    def _what_happened(self, future: Any) -> tuple[str, bool]:
        """Return what became of a try, and whether another one may do better."""
        if future.status != "error":
            return f"Dask gave it up ({future.status}); the scheduler may be gone", False
        error = future.exception()
        if type(error).__name__ != "KilledWorker":
            return f"Dask could not run it ({type(error).__name__}: {error})", False
        limit = "" if self._item_timeout_s is None else f", or it took longer than {self._item_timeout_s:g} s"
        return f"its worker died{limit} ({error.last_worker.address})", True

    def _require_workers(self) -> None:
        """Refuse to wait on for a cluster that is gone or has no workers.

        Raises
        ------
        WorkerError : that is so.
        """
        what = f"{self.n_pending} items"
        if self._client.status not in ("running", "connecting"):
            raise WorkerError(what, [f"the connection to Dask's scheduler is {self._client.status}"])
        if self._client.nthreads():
            self._deserted_since_s = None
            return
        self._deserted_since_s = self._deserted_since_s or time.monotonic()
        if time.monotonic() - self._deserted_since_s > _DESERTED_S:
            events = [f"the cluster has had no workers for {_DESERTED_S:g} s"]
            raise WorkerError(what, events, remedy="start workers (dask worker ADDRESS)")

    def __enter__(self) -> Self:
        """Return the executor."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drop what is pending and leave the cluster; one that was started here is stopped."""
        self._close()

    def _close(self) -> None:
        futures = [self._jobs[number].future for number in self._in_flight]
        for held in (self._jobs, self._waiting, self._suspects, self._in_flight):
            held.clear()
        if self._cluster is None:
            if self._client.status == "running":
                self._client.cancel(futures, force=True)
                self._client.unregister_worker_plugin(self._name)
            self._client.close(timeout=_CLOSE_S)
            return
        self._client.close(timeout=_CLOSE_S)
        stop(self._cluster)
