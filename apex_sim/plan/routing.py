"""Which share of the requests goes to which shape of a plan?"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from apex_sim.errors import InputError

#: How far from 1 a bucket's shares may add up: rounding, no mistake.
_SUM_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Routing:
    """Shares that a weighted router keeps.

    Parameters
    ----------
    bucket_tokens : ascending; the longest prompt of each bucket but the last, which holds all longer ones.  Empty: one
        bucket of all requests.
    shares : for each bucket, for each entry of the plan's instances the part of the bucket's requests that its
        instances serve together; each bucket's parts add up to 1.

    Raises
    ------
    InputError : buckets that do not ascend, or shares that fit neither them nor 1.
    """

    bucket_tokens: tuple[int, ...]
    shares: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        """Check buckets and shares."""
        if any(low >= high for low, high in pairwise((0, *self.bucket_tokens))):
            raise InputError(
                f"bucket_tokens {self.bucket_tokens} do not ascend from 1",
                where="routing, key 'bucket_tokens'",
                remedy="give the longest prompt of each bucket but the last, shortest first",
            )
        if len(self.shares) != len(self.bucket_tokens) + 1:
            raise InputError(
                f"{len(self.shares)} rows of shares for {len(self.bucket_tokens) + 1} buckets",
                where="routing, key 'shares'",
                remedy="give one row for each bucket; the last holds all longer prompts",
            )
        for row in self.shares:
            _require_parts(row)

    def bucket_of(self, prompt_tokens: int) -> int:
        """Return the bucket of a prompt.

        Examples
        --------
        >>> [Routing((512,), ((1.0, 0.0), (0.0, 1.0))).bucket_of(n) for n in (1, 512, 513)]
        [0, 0, 1]
        """
        return bisect_left(self.bucket_tokens, prompt_tokens)


def routing_by_capacity(capacities_per_s: Sequence[float]) -> Routing:
    """Return the shares of a weighted round robin that load every entry to the same part of its capacity.

    Parameters
    ----------
    capacities_per_s : requests a second that all instances of an entry together can serve, one for each entry.

    Raises
    ------
    InputError : a capacity that is no number of 0 or more, or none above 0.

    Examples
    --------
    >>> routing_by_capacity([3.0, 1.0]).shares
    ((0.75, 0.25),)
    """
    whole_per_s = math.fsum(capacities_per_s)
    if not all(0.0 <= each < math.inf for each in capacities_per_s) or not whole_per_s > 0.0:
        raise InputError(
            f"capacities_per_s {tuple(capacities_per_s)}",
            where="routing by capacity",
            remedy="give requests per second of each entry, one of them above 0",
        )
    return Routing((), (tuple(each / whole_per_s for each in capacities_per_s),))


def _require_parts(row: Sequence[float]) -> None:
    """Check that `row` divides a whole into parts."""
    if not all(0.0 <= share <= 1.0 for share in row) or abs(math.fsum(row) - 1.0) > _SUM_TOLERANCE:
        raise InputError(
            f"shares {tuple(row)} add up to {math.fsum(row):g}",
            where="routing, key 'shares'",
            remedy="give shares from 0 to 1 that add up to 1 in each bucket",
        )
