"""Which plans have the lowest bounds, while bounds rise one by one?"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Mapping
from typing import Final

#: Where more than this share of the plans changed, all are sorted anew.
_MANY_FRAC: Final = 0.1


class BoundOrder:
    """Numbers of plans in the order of the least loss that each may still have; at first nothing is known of any."""

    def __init__(self, n_plans: int) -> None:
        self._losses: dict[int, float] = dict.fromkeys(range(n_plans), -math.inf)
        self._order = [(-math.inf, index) for index in range(n_plans)]

    def below(self, loss: float) -> list[int]:
        """Return the plans with bounds below `loss`, the lowest first."""
        return [index for _, index in self._order[: bisect_left(self._order, (loss,))]]

    def change(self, losses: Mapping[int, float | None]) -> None:
        """Take new bounds; a plan with None is left out from now on."""
        many = len(losses) > _MANY_FRAC * len(self._order)
        for index, loss in losses.items():
            before = self._losses.pop(index, None)
            if before is not None and not many:
                del self._order[bisect_left(self._order, (before, index))]
            if loss is not None:
                self._losses[index] = loss
                if not many:
                    insort(self._order, (loss, index))
        if many:
            self._order = sorted((loss, index) for index, loss in self._losses.items())


def low_or_between(indices: list[int], n: int) -> list[int]:
    """Return `n` of the plans in order of their bounds: half of them the first, half spread over all others.

    Where the best bounds belong to plans that break a limit, an answer lies in between.
    """
    if len(indices) <= n:
        return indices
    n_low = n - n // 2
    rest, n_spread = indices[n_low:], n // 2
    return indices[:n_low] + [rest[(2 * k + 1) * len(rest) // (2 * n_spread)] for k in range(n_spread)]
