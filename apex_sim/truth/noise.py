"""By how much does a measurement differ when it is repeated?  Smaller differences and errors say nothing.

Two sources, the first before the second: what the case states (`noise_frac`, which is TTFT's), and repeats inside the
file, which are cases with one release, plan and load.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import Final

import numpy as np

#: Where neither is known.  Servers that shared one load in turn, in the runs that apex_plus published (vLLM 0.6.0,
#: Llama-3.1-70B, H100): TTFT differs by 3 %, ITL by 1.3 %; nobody repeated the other metrics, which take ITL's.
USUAL_TTFT_NOISE_FRAC: Final = 0.03
USUAL_NOISE_FRAC: Final = 0.013
#: Pairs grow with the square.
_MAX_REPEATS: Final = 100


def noise_floors(
    stated: Sequence[float | None],
    repeats: Sequence[Hashable | None],
    measured: Sequence[Mapping[str, float]],
) -> list[dict[str, float]]:
    """Return the noise floors of each case by metric; a metric without one is left out.

    The floor from repeats is the median of |a - b| / mean(a, b) over all pairs of them, of the first 100 where
    there are more.

    Parameters
    ----------
    stated : of each case its `noise_frac`.
    repeats : of each case what it shares with its repeats; None for a case that was not replayed.
    measured : of each case its values by metric.

    Examples
    --------
    >>> noise_floors([None, 0.03], ["same", "same"], [{"itl_mean_s": 0.99}, {"itl_mean_s": 1.01}])
    [{'itl_mean_s': 0.020000000000000018}, {'itl_mean_s': 0.020000000000000018}]
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, key in enumerate(repeats):
        if key is not None:
            groups[key].append(index)
    floors: list[dict[str, float]] = [{} for _ in measured]
    for members in groups.values():
        for metric in dict.fromkeys(name for i in members for name in measured[i]):
            having = [i for i in members if metric in measured[i]]
            pairs = [(measured[i][metric], measured[j][metric]) for i, j in combinations(having[:_MAX_REPEATS], 2)]
            if pairs:
                floor = float(np.median([2 * abs(a - b) / (a + b) for a, b in pairs]))
                for i in having:
                    floors[i][metric] = floor
    for index, floor_frac in enumerate(stated):
        if floor_frac is not None:
            floors[index] |= {name: floor_frac for name in measured[index] if name.startswith("ttft")}
    return floors


def tie_frac(metric: str, stated: Sequence[float | None]) -> float:
    """Return up to which relative difference of a metric two plans are tied: the largest that their cases state.

    Examples
    --------
    >>> tie_frac("ttft_mean_s", [0.05, None]), tie_frac("itl_mean_s", [0.05])
    (0.05, 0.013)
    """
    if not metric.startswith("ttft"):
        return USUAL_NOISE_FRAC
    return max((floor for floor in stated if floor is not None), default=USUAL_TTFT_NOISE_FRAC)
