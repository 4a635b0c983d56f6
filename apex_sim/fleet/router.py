"""Which instance takes the next request?"""

from __future__ import annotations

from collections.abc import Callable

from apex_sim.errors import UnknownNameError

#: Takes how many requests were routed before and how many are outstanding at each instance; returns an instance's
#: index.
Router = Callable[[int, list[int]], int]


def round_robin(n_routed: int, outstanding: list[int]) -> int:
    """Return the instances in turn, in order of arrival."""
    return n_routed % len(outstanding)


def least_outstanding(n_routed: int, outstanding: list[int]) -> int:
    """Return the instance with the fewest unfinished requests; the first of several.

    Examples
    --------
    >>> least_outstanding(7, [3, 1, 1])
    1
    """
    return outstanding.index(min(outstanding))


#: Routers that look at how many requests came before only.
BLIND_ROUTERS = ("round-robin",)
ROUTERS: dict[str, Router] = {"round-robin": round_robin, "least-outstanding": least_outstanding}


def load_router(name: str) -> Router:
    """Return the router `name`.

    Raises
    ------
    UnknownNameError : no such router.
    """
    if name not in ROUTERS:
        raise UnknownNameError("router", name, ROUTERS)
    return ROUTERS[name]
