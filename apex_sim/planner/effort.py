"""How far does a search go?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Share of the plans that is simulated whole where no gap is asked for.
WHOLE_FRAC: Final = 0.10
#: The gap that a search is content with where none is asked for.
GAP_FRAC: Final = 0.05


@dataclass(frozen=True, slots=True)
class Effort:
    """How far a search goes: `exhaustive` simulates all plans, `gap_frac` goes on until that gap is proven.

    Without either it stops at `GAP_FRAC`, or when `whole_frac` of the plans have been simulated whole.
    """

    gap_frac: float | None = None
    exhaustive: bool = False
    whole_frac: float = WHOLE_FRAC
