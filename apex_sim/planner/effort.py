"""How far does a search go?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from apex_sim.workload.workload import Workload

#: Share of the plans that is simulated whole where no gap is asked for.
WHOLE_FRAC: Final = 0.10
#: The gap that a search is content with where none is asked for.
GAP_FRAC: Final = 0.05

#: First requests at which plans are compared, as a share of all, and the least number.
_FIRST_FRAC: Final = 1 / 16
_LEAST_FIRST: Final = 48
#: Of a closed loop, requests for each user: the first of all users come at once, as they never do again.
_WAVES: Final = 3
#: A plan that needs more than this share of the requests to be ruled out is simulated whole instead.
LONGEST_PREFIX_FRAC: Final = 0.6


@dataclass(frozen=True, slots=True)
class Effort:
    """How far a search goes: `exhaustive` simulates all plans, `gap_frac` goes on until that gap is proven.

    Without either it stops at `GAP_FRAC`, or when `whole_frac` of the plans have been simulated whole.
    """

    gap_frac: float | None = None
    exhaustive: bool = False
    whole_frac: float = WHOLE_FRAC


def n_first_requests(workload: Workload) -> int:
    """Return on how many of the first requests plans are compared; with fewer in all, no comparison is worth it."""
    n, n_waves = workload.requests.n, _WAVES * (workload.load.concurrency or 0)
    return max(_LEAST_FIRST, math.ceil(n * _FIRST_FRAC), min(n_waves, math.floor(n * LONGEST_PREFIX_FRAC)))
