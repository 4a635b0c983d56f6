"""How is work done without workers?  Here, when its result is asked for."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Generic, Self, TypeVar

from apex_sim.planner.execution.executor import item_name, require_new, require_pending

Item = TypeVar("Item")
Result = TypeVar("Result")


class InProcess(Generic[Item, Result]):
    """Executor that does each item in this process when `take` asks for it, in the order in which they came.

    Examples
    --------
    >>> with InProcess(abs) as executor:
    ...     executor.submit(0, -3)
    ...     executor.take()
    (0, 3)
    """

    def __init__(self, work: Callable[[Item], Result]) -> None:
        self._work = work
        self._waiting: dict[int, Item] = {}

    @property
    def n_workers(self) -> int:
        """One: this process."""
        return 1

    @property
    def n_pending(self) -> int:
        """Items that were submitted and not taken."""
        return len(self._waiting)

    def submit(self, number: int, item: Item) -> None:
        """Keep `item` until it is asked for."""
        require_new(number, self._waiting)
        self._waiting[number] = item

    def take(self) -> tuple[int, Result]:
        """Do the oldest item and return its number and result; errors as in `Executor.take`, but for WorkerError."""
        require_pending(self.n_pending)
        number = next(iter(self._waiting))
        item = self._waiting.pop(number)
        try:
            return number, self._work(item)
        except Exception as error:
            error.add_note(item_name(number, item))
            raise

    def __enter__(self) -> Self:
        """Return the executor."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drop what is pending."""
        self._waiting.clear()
