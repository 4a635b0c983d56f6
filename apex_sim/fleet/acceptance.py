"""Which workloads can an instance not be asked to serve?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apex_sim.errors import InputError
from apex_sim.plan.plan import Plan
from apex_sim.plan.scheduler import ACCOUNTING_ORDERS
from apex_sim.plan.shape import SchedulerSettings
from apex_sim.workload.requests import Requests


def may_serve(plan: Plan, requests: Requests, entry: int) -> NDArray[np.bool_]:
    """Return which requests the plan's shares can send to one of its entries; all of them where it has no shares."""
    if plan.routing is None:
        return np.ones(requests.n, dtype=np.bool_)
    served = np.array([row[entry] > 0.0 for row in plan.routing.shares])
    mine: NDArray[np.bool_] = served[np.searchsorted(plan.routing.bucket_tokens, requests.prompt_tokens, side="left")]
    return mine


def require_lengths(requests: Requests, settings: SchedulerSettings, mine: NDArray[np.bool_]) -> None:
    """Check that no request of `mine` is longer than the instance accepts.

    Raises
    ------
    InputError : one is.
    """
    longest = np.where(mine, requests.prompt_tokens + requests.output_tokens, 0)
    index = int(np.argmax(longest))
    if longest[index] > settings.max_model_len:
        raise InputError(
            f"request {index} has {longest[index]} tokens, max_model_len is {settings.max_model_len}",
            where="workload",
            remedy="raise max_model_len or drop the request",
        )


def owners_of(requests: Requests, settings: SchedulerSettings) -> tuple[str, ...] | None:
    """Return to whom the queue order charges each request: tenants or sessions, or None where it asks for neither.

    Raises
    ------
    InputError : it does, and the workload does not say.
    """
    column = ACCOUNTING_ORDERS.get(settings.queue_order, "")
    if not column:
        return requests.tenant or requests.session
    owners: tuple[str, ...] | None = getattr(requests, column)
    if owners is None:
        raise InputError(
            f"queue order {settings.queue_order!r} needs to know each request's {column}, and no request has one",
            where=f"workload, column {column!r}",
            remedy=f"add a column {column!r} to the trace, or use another queue order",
        )
    return owners
