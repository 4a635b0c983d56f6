"""Which mix of shapes serves requests of mixed sizes at the least price?

Requests fall into buckets by the length of their prompt, which is all that a router knows of a request when it comes;
the buckets are the size classes of `fleet_composition`.  Mélange's program packs slices of a bucket's load into
instances and needs more slices for a finer answer; here a bucket's load divides at will, as a router's shares do, which
is the limit of ever finer slices and leaves only the counts to be whole.

References
----------
Griggs et al., "Mélange: Cost Efficient Large Language Model Serving by Exploiting GPU Heterogeneity",
https://arxiv.org/abs/2404.14527, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from apex_sim.errors import InputError
from apex_sim.plan.routing import Routing
from apex_sim.planner.programs.fleet_composition import Composition, best_composition
from apex_sim.planner.programs.fleet_limits import Demand, Limits, Objective
from apex_sim.planner.programs.shape_option import ShapeOption
from apex_sim.planner.programs.solvers import Solver
from apex_sim.workload.requests import Requests


@dataclass(frozen=True, slots=True)
class Buckets:
    """Prompt lengths that are treated alike.

    Attributes
    ----------
    bucket_tokens : the longest prompt of each bucket but the last, as in `Routing`.
    rate_per_s : requests per second of each bucket, none of them 0.
    """

    bucket_tokens: tuple[int, ...]
    rate_per_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Mix:
    """A fleet with the shares that its router must keep.

    Attributes
    ----------
    composition : counts, and shares of all options.
    instances : (name of the option, count) of those that the fleet holds.
    routing : for each bucket the shares of `instances`, in their order.
    """

    composition: Composition
    instances: tuple[tuple[str, int], ...]
    routing: Routing


def buckets_of(
    requests: Requests,
    n_buckets: int,
    by: Literal["quantiles", "powers of two"] = "quantiles",
    rate_per_s: float | None = None,
) -> Buckets:
    """Return at most `n_buckets` buckets of prompt lengths, each with at least one request.

    Parameters
    ----------
    by : "quantiles" makes buckets of about as many requests each; "powers of two" ends them at the largest powers of
        two below the longest prompt.
    rate_per_s : of all requests; None = that of their arrivals.

    Raises
    ------
    InputError : less than one bucket, or arrivals that define no rate.
    """
    rate = requests.rate_per_s if rate_per_s is None else rate_per_s
    if n_buckets < 1:
        raise InputError(f"n_buckets is {n_buckets}", where="buckets", remedy="ask for at least one")
    if not rate:
        raise InputError("the arrivals define no rate", where="buckets", remedy="give 'rate_per_s'")
    tokens = np.asarray(requests.prompt_tokens)
    longest = int(tokens.max())
    if by == "quantiles":
        parts = np.arange(1, n_buckets) / n_buckets
        edges = np.quantile(tokens, parts, method="inverted_cdf").astype(int).tolist()
    else:
        top = (longest - 1).bit_length() - 1  # the largest power of two below the longest prompt
        edges = [2**power for power in range(max(0, top - n_buckets + 2), top + 1)]
    # An edge below which nothing new lies, or above which nothing does, would bound a bucket without requests.
    kept: list[int] = []
    for edge in sorted(set(edges)):
        low = kept[-1] if kept else -1
        if edge < longest and ((tokens > low) & (tokens <= edge)).any():
            kept.append(int(edge))
    counts = np.bincount(np.searchsorted(kept, tokens, side="left"), minlength=len(kept) + 1)
    return Buckets(tuple(kept), tuple((rate * counts / len(tokens)).tolist()))


def best_mix(
    options: Sequence[ShapeOption],
    buckets: Buckets,
    limits: Limits | None = None,
    objective: Objective = "usd_per_h",
    by: Solver | None = None,
) -> Mix:
    """Return the cheapest mix of options that carries every bucket, with the routing that it takes.

    Parameters
    ----------
    options : their capacities are, per bucket, the highest rate at which one instance keeps the SLOs; 0 = never.

    Raises
    ------
    InfeasibleFleetError, SolverTimeOutError : as `best_composition` does.

    Examples
    --------
    >>> small = ShapeOption("small", "l40s", 1, 1.0, 350.0, (4.0, 0.0))
    >>> large = ShapeOption("large", "h100-sxm", 1, 3.0, 700.0, (8.0, 2.0))
    >>> mix = best_mix([small, large], Buckets((1024,), (10.0, 1.0)))
    >>> mix.instances, mix.routing.bucket_tokens
    ((('small', 2), ('large', 1)), (1024,))
    """
    found = best_composition(options, Demand(buckets.rate_per_s), limits, objective, by)
    held = [s for s, count in enumerate(found.counts) if count]
    shares = tuple(tuple(row[s] for s in held) for row in found.shares)
    instances = tuple((found.names[s], found.counts[s]) for s in held)
    return Mix(found, instances, Routing(buckets.bucket_tokens, shares))
