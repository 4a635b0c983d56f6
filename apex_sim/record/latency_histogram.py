"""How are millions of inter-token gaps kept in a few kilobytes?"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

SMALLEST_S: Final = 1e-6
_RATIO: Final = 1.01
LOG_RATIO: Final = math.log(_RATIO)
N_BINS: Final = 2400


class LatencyHistogram:
    """Weighted histogram over logarithmic bins 1 % wide, from 1 us to about 6 hours; sum and count are exact.

    Examples
    --------
    >>> histogram = LatencyHistogram()
    >>> histogram.add(0.020, 99); histogram.add(2.0, 1)
    >>> round(histogram.mean_s, 6), round(histogram.quantile_s(0.5), 3)
    (0.0398, 0.02)
    """

    def __init__(self) -> None:
        self.counts = [0] * N_BINS
        self.n = 0
        self.sum_s = 0.0

    def add(self, gap_s: float, count: int = 1) -> None:
        """Add `count` gaps of `gap_s` seconds."""
        bin_index = int(math.log(gap_s / SMALLEST_S) / LOG_RATIO) if gap_s > SMALLEST_S else 0
        self.counts[min(bin_index, N_BINS - 1)] += count
        self.n += count
        self.sum_s += gap_s * count

    def merge(self, other: LatencyHistogram) -> None:
        """Add all gaps of `other`."""
        for index in np.flatnonzero(other.counts).tolist():
            self.counts[index] += other.counts[index]
        self.n += other.n
        self.sum_s += other.sum_s

    @property
    def mean_s(self) -> float:
        """Exact mean; NaN without gaps."""
        return self.sum_s / self.n if self.n else math.nan

    def quantile_s(self, q: float) -> float:
        """Return the gap below which a share `q` lies, to within the 1 % width of a bin; NaN without gaps."""
        if not self.n:
            return math.nan
        index = int(np.searchsorted(np.cumsum(self.counts), max(q * self.n, 1)))
        return SMALLEST_S * math.exp(LOG_RATIO * (min(index, N_BINS - 1) + 0.5))
