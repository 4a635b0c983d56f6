"""Where does a reservation of KV blocks in one piece find room?"""

from __future__ import annotations

from bisect import bisect_left


class ContiguousSpace:
    """Holes between reservations, in order of place; each reservation takes the first hole that holds it.

    Examples
    --------
    >>> space = ContiguousSpace(10)
    >>> space.take(4), space.take(4), space.take(4)
    (0, 4, None)
    >>> space.give_back(0, 4)
    >>> space.holes
    [(0, 4), (8, 2)]
    """

    def __init__(self, n_blocks: int) -> None:
        self.holes = [(0, n_blocks)]

    def take(self, n_blocks: int) -> int | None:
        """Return where the reservation begins; None, and no change, if no hole holds it."""
        for index, (place, size) in enumerate(self.holes):
            if size >= n_blocks:
                self.holes[index : index + 1] = [(place + n_blocks, size - n_blocks)] if size > n_blocks else []
                return place
        return None

    def give_back(self, place: int, n_blocks: int) -> None:
        """Free a reservation; neighbouring holes become one."""
        index = bisect_left(self.holes, (place, 0))
        if index < len(self.holes) and self.holes[index][0] == place + n_blocks:
            n_blocks += self.holes.pop(index)[1]
        if index and sum(self.holes[index - 1]) == place:
            before, size = self.holes[index - 1]
            self.holes[index - 1] = before, size + n_blocks
        else:
            self.holes.insert(index, (place, n_blocks))
