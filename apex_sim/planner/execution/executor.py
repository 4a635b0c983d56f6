"""What does the search loop ask of those who do its work?"""

from __future__ import annotations

from collections.abc import Container
from types import TracebackType
from typing import Protocol, Self, TypeVar

from apex_sim.errors import shorten

ItemT = TypeVar("ItemT", contravariant=True)
ResultT = TypeVar("ResultT", covariant=True)


class Executor(Protocol[ItemT, ResultT]):
    """Does one kind of work on many items, which `submit` takes and `take` gives back in any order.

    An executor is made with its work, a function of one item that returns a value and changes nothing, so that an item
    can be done again where its worker was lost.  Results do not depend on which executor did the work.  It is left as a
    context manager: what is pending is dropped, and workers stop at once, whatever they are doing.
    """

    @property
    def n_workers(self) -> int:
        """Items that are worked on at the same time, at most."""

    @property
    def n_pending(self) -> int:
        """Items that were submitted and not taken."""

    def submit(self, number: int, item: ItemT) -> None:
        """Ask for the work on `item`; `number`, which no pending item has, will tell its result from others.

        Raises
        ------
        InputError : the item cannot be sent to another process.
        """

    def take(self) -> tuple[int, ResultT]:
        """Return number and result of an item that is done; wait for the next one if none is.

        An error that the work raised is raised here, with a note that names the item, and the item counts as taken.

        Raises
        ------
        WorkerError : every worker that tried the item died or took too long.
        RuntimeError : nothing is pending.
        """

    def __enter__(self) -> Self:
        """Return the executor."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drop what is pending, and stop all workers."""


def item_name(number: int, item: object) -> str:
    """Return what messages call an item: its label where it has one, as plans do.

    Examples
    --------
    >>> item_name(3, "TP4 PP1")
    "item 3 ('TP4 PP1')"
    """
    return f"item {number} ({shorten(str(getattr(item, 'label', None) or repr(item)))})"


def require_new(number: int, pending: Container[int]) -> None:
    """Refuse a number that a pending item has.

    Raises
    ------
    ValueError : it is taken.
    """
    if number in pending:
        raise ValueError(f"item {number} is already pending")


def require_pending(n_pending: int) -> None:
    """Refuse to wait for ever.

    Raises
    ------
    RuntimeError : nothing is pending.
    """
    if not n_pending:
        raise RuntimeError("take() without a pending item")
