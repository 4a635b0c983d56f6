"""Which instance takes the next request?"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, count

from apex_sim.errors import InputError, UnknownNameError
from apex_sim.plan.plan import Plan
from apex_sim.plan.routing import Routing

#: Takes a request's prompt tokens and how many requests are outstanding at each instance, in order of arrival; returns
#: an instance's index.  It serves one run: it may remember what it gave to whom.
Router = Callable[[int, list[int]], int]


def round_robin(plan: Plan) -> Router:
    """Return a router that takes the instances in turn.

    Examples
    --------
    >>> route = round_robin(Plan(((None, 2),)))
    >>> [route(100, [0, 0]) for _ in range(3)]
    [0, 1, 0]
    """
    turn, n_instances = count(), plan.n_instances
    return lambda prompt_tokens, outstanding: next(turn) % n_instances


def least_outstanding(plan: Plan) -> Router:
    """Return a router that takes the instance with the fewest unfinished requests; the first of several.

    Examples
    --------
    >>> least_outstanding(Plan(()))(100, [3, 1, 1])
    1
    """
    return lambda prompt_tokens, outstanding: outstanding.index(min(outstanding))


def size_bucket(plan: Plan) -> Router:
    """Return a router that keeps the plan's shares among prompts of each length.

    Raises
    ------
    InputError : the plan has no shares, or not one for each of its entries that have instances.
    """
    return _SharedOut(plan, _routing_of(plan))


def weighted_round_robin(plan: Plan) -> Router:
    """Return a router that keeps the plan's shares among all requests.

    Raises
    ------
    InputError : as of `size_bucket`; or the plan's shares depend on the length of prompts.
    """
    routing = _routing_of(plan)
    if routing.bucket_tokens:
        raise InputError(
            f"router {plan.router!r} has one bucket, and the routing {len(routing.shares)}",
            where=f"plan {plan.label}",
            remedy="leave bucket_tokens empty, or use router 'size-bucket'",
        )
    return _SharedOut(plan, routing)


class _SharedOut:
    """Gives each entry its share of a bucket's requests, and each instance of an entry its turn.

    After every request an entry has its share of those before, within one request.  Of the entries that are behind
    their share it takes the one whose next request is due first, the first of several.

    References
    ----------
    Balinski and Young, The quota method of apportionment, The American Mathematical Monthly 82 (1975), 701-730.
    """

    def __init__(self, plan: Plan, routing: Routing) -> None:
        counts = [n for _, n in plan.instances]
        self._routing, self._counts = routing, counts
        self._firsts = [0, *accumulate(counts)]
        self._n_routed = [0] * len(routing.shares)
        self._given = [[0] * len(counts) for _ in routing.shares]
        self._turns = [0] * len(counts)

    def __call__(self, prompt_tokens: int, outstanding: list[int]) -> int:
        """Return the instance that takes a prompt of so many tokens."""
        entry = self._entry(self._routing.bucket_of(prompt_tokens))
        turn = self._turns[entry]
        self._turns[entry] = (turn + 1) % self._counts[entry]
        return self._firsts[entry] + turn

    def _entry(self, bucket: int) -> int:
        self._n_routed[bucket] += 1
        n_routed, given, shares = self._n_routed[bucket], self._given[bucket], self._routing.shares[bucket]
        behind = (entry for entry, share in enumerate(shares) if share * n_routed > given[entry])
        entry = min(behind, key=lambda each: (given[each] + 1) / shares[each])
        given[entry] += 1
        return entry


#: Routers that look at requests only, whatever the instances do.
BLIND_ROUTERS = ("round-robin", "weighted-round-robin", "size-bucket")
#: Each makes the router of one run from the plan that it serves.
ROUTERS: dict[str, Callable[[Plan], Router]] = {
    "round-robin": round_robin,
    "least-outstanding": least_outstanding,
    "weighted-round-robin": weighted_round_robin,
    "size-bucket": size_bucket,
}
_SHARING = (weighted_round_robin, size_bucket)
#: Those that a plan must give shares.
SHARING_ROUTERS = tuple(name for name, make in ROUTERS.items() if make in _SHARING)
#: Of plans whose shares depend on the length of prompts.
SHARING_BY_LENGTH = "size-bucket"


def load_router(name: str) -> Callable[[Plan], Router]:
    """Return what makes the router `name`.

    Raises
    ------
    UnknownNameError : no such router.
    """
    if name not in ROUTERS:
        raise UnknownNameError("router", name, ROUTERS)
    return ROUTERS[name]


def make_router(plan: Plan) -> Router:
    """Return the router of one run of `plan`.

    Raises
    ------
    UnknownNameError : no such router.
    InputError : the plan's shares are missing, do not fit its instances, or its router has no use for them.
    """
    make = load_router(plan.router)
    if plan.routing is not None and make not in _SHARING:
        raise InputError(
            f"router {plan.router!r} keeps no shares",
            where=f"plan {plan.label}",
            remedy="leave out the routing, or use router 'weighted-round-robin' or 'size-bucket'",
        )
    return make(plan)


def _routing_of(plan: Plan) -> Routing:
    """Return the shares of `plan`, checked against its instances."""
    where = f"plan {plan.label}"
    if plan.routing is None:
        raise InputError(f"router {plan.router!r} without a routing", where=where, remedy="give the plan a Routing")
    for row in plan.routing.shares:
        if len(row) != len(plan.instances):
            raise InputError(
                f"{len(row)} shares for {len(plan.instances)} entries",
                where=where,
                remedy="give one share for each entry of the plan's instances",
            )
        if any(share > 0.0 and n < 1 for share, (_, n) in zip(row, plan.instances, strict=True)):
            raise InputError("a share of requests for an entry without instances", where=where, remedy="give it 0")
    return plan.routing
