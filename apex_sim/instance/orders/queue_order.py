"""Who goes first, where that depends on what was served so far?

The reference engine tells an order what it may know: who arrives, which tokens run, which leave (INV-8).
"""

from __future__ import annotations

from collections.abc import Iterable

from apex_sim.instance.sequence import Entry, Sequence


class QueueOrder:
    """First come, first served; the base of all orders that keep account, of which each instance has one.

    A sequence's `owner` is its tenant or its session, as the order asks for.
    """

    def place(self, sequence: Sequence) -> tuple[float, int]:
        """Return where `sequence` stands: lower goes first, and the highest is preempted where memory lacks."""
        return 0.0, sequence.request

    def arrange(self, waiting: Iterable[Sequence]) -> list[Sequence]:
        """Return those that wait in the order in which they may be admitted by the next step."""
        return sorted(waiting, key=self.place)

    def arrives(self, sequence: Sequence, waiting: Iterable[Sequence]) -> None:
        """Take note that `sequence` joins those `waiting`."""

    def runs(self, entry: Entry) -> None:
        """Take note of one sequence's share of a step that is about to run."""

    def emits(self, sequence: Sequence) -> None:
        """Take note that an output token of `sequence` is there."""
