"""Which share of the requests goes to which shape of a plan?"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Routing:
    """Shares that a weighted router keeps.

    Parameters
    ----------
    bucket_tokens : ascending; the longest prompt of each bucket but the last, which holds all longer ones.  Empty: one
        bucket of all requests.
    shares : for each bucket, for each entry of the plan's instances the part of the bucket's requests that its
        instances serve together; each bucket's parts add up to 1.
    """

    bucket_tokens: tuple[int, ...]
    shares: tuple[tuple[float, ...], ...]
