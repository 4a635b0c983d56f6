"""Which plans are of one family, and what does simulating some of them teach about the others?

Where all requests are there from the start, a run of the first ones is over before instances have filled up: it
flatters plans with few instances, and by how much depends on how the model is spread, hardly on number formats or
knobs.  So what one plan of a family did on all requests, over what it did on the first, is expected of the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from apex_sim.plan.plan import Plan

#: Devices, stages with their cells, placement and count of each shape.
Family = tuple[tuple[object, ...], ...]


def family_of(plan: Plan) -> Family:
    """Return what a plan has in common with those that differ in number formats, clock or knobs only."""
    return tuple((shape.device, shape.stages, shape.placement, count) for shape, count in plan.instances)


def n_differences(choices: Mapping[str, Any], others: Mapping[str, Any]) -> int:
    """Return in how many dimensions two plans were chosen differently."""
    return len([name for name in {**choices, **others} if choices.get(name) != others.get(name)])


class Lessons:
    """How much larger losses came out on all requests than on the first ones, by family."""

    def __init__(self) -> None:
        self._ratios: dict[Family, list[float]] = {}

    def learn(self, family: Family, first_loss: float, whole_loss: float) -> None:
        """Take what became of one plan; a loss of 0, or of an undefined metric, teaches nothing."""
        ratio = whole_loss / first_loss if first_loss and math.isfinite(first_loss) else 0.0
        if 0.0 < ratio < math.inf:
            self._ratios.setdefault(family, []).append(ratio)

    def expected(self, family: Family, first_loss: float) -> float:
        """Return the loss to expect on all requests: as in the family so far, else as in all families.

        Examples
        --------
        >>> lessons = Lessons()
        >>> lessons.expected((), 2.0)
        2.0
        >>> lessons.learn((), 1.0, 3.0)
        >>> lessons.expected((), 2.0)
        6.0
        """
        if not self._ratios:  # most searches learn nothing, and hashing a family's stages takes time
            return first_loss
        ratios = self._ratios.get(family) or [ratio for each in self._ratios.values() for ratio in each]
        return first_loss * math.fsum(ratios) / len(ratios)


def one_of_each_first(ordered: Iterable[int], kind_of: Callable[[int], object], met: Iterable[int]) -> list[int]:
    """Return plans in their order, but those last of whose kind another came before or is among `met`.

    Examples
    --------
    >>> one_of_each_first([5, 2, 7, 4], lambda i: i % 3, met=[])
    [5, 7, 2, 4]
    """
    kinds = {kind_of(index) for index in met}
    firsts, others = list[int](), list[int]()
    for index in ordered:
        (others if kind_of(index) in kinds else firsts).append(index)
        kinds.add(kind_of(index))
    return firsts + others
