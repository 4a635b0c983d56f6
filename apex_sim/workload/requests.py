"""What does each request ask for, and when does it arrive?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from apex_sim.errors import InputError
from apex_sim.workload.column import (
    FloatArray,
    IntArray,
    check_arrivals,
    check_hashes,
    check_max_output,
    frozen,
    tokens_column,
    whole_column,
)

#: The columns of a run must fit into memory beside the records of its simulation.
MAX_REQUESTS: Final = 20_000_000

MAX_OUTPUT_FROM_COLUMN: Final = "source column"
MAX_OUTPUT_FROM_SPEC: Final = "workload spec"
MAX_OUTPUT_IS_OUTPUT: Final = "output length (ignore_eos load)"
MAX_OUTPUT_FROM_PLAN: Final = "max_model_len minus prompt"


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """One row per request, kept as columns; make it with `make_requests`.

    Attributes
    ----------
    arrival_s : seconds since the start of the run, non-decreasing; NaN where the load decides (closed loop).
    prompt_tokens, output_tokens : what the request brings and what it will in fact get.
    max_output_tokens : what admission may reserve.  0 = unknown here: the plan, which knows `max_model_len`, replaces
        it by `max_model_len` minus the prompt.  Either every row is 0 or none is.
    priority : the order among waiting requests where a queue order uses it; 0 unless the source says otherwise.
    max_output_source : how `max_output_tokens` came about (one of the `MAX_OUTPUT_*` texts).
    tenant, session, parent : who asks, in which conversation, after which request; None when the source has none.
    prefix_hashes : per request the identities of its prompt's blocks of `hash_block_tokens` tokens, the last block may
        be partial; two requests share a prefix as far as their identities agree.

    Two values are equal when their `content_hash` is.
    """

    arrival_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    max_output_tokens: IntArray
    priority: IntArray
    max_output_source: str
    tenant: tuple[str, ...] | None = None
    session: tuple[str, ...] | None = None
    parent: tuple[str, ...] | None = None
    prefix_hashes: tuple[tuple[int, ...], ...] | None = None
    hash_block_tokens: int | None = None

    @property
    def n(self) -> int:
        """Number of requests."""
        return len(self.arrival_s)

    @property
    def duration_s(self) -> float | None:
        """Time from the first to the last arrival; None when the load decides the arrivals."""
        duration_s = float(self.arrival_s[-1] - self.arrival_s[0])
        return None if np.isnan(duration_s) else duration_s

    @property
    def rate_per_s(self) -> float | None:
        """Mean arrival rate, (n - 1) over the time from first to last arrival; None when nothing defines it."""
        return (self.n - 1) / self.duration_s if self.duration_s else None

    def full_blocks(self, row: int) -> tuple[int, ...]:
        """Return the identities of the full hashed blocks of one prompt; none if the source has no hashes."""
        if self.prefix_hashes is None or self.hash_block_tokens is None:
            return ()
        return self.prefix_hashes[row][: int(self.prompt_tokens[row]) // self.hash_block_tokens]

    def take(self, rows: slice | IntArray) -> Requests:
        """Return the requests at `rows`, in that order, arrivals unchanged."""
        index = np.arange(self.n)[rows]
        columns: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                columns[field.name] = frozen(value[index])
            elif isinstance(value, tuple):
                columns[field.name] = tuple(value[i] for i in index)
        return replace(self, **columns)  # type: ignore[arg-type]

    def head(self, n: int) -> Requests:
        """Return the first `n` requests.

        Raises
        ------
        InputError : there are not that many.
        """
        if not 1 <= n <= self.n:
            raise InputError(
                f"{n} requests asked of {self.n}", where="n_requests", remedy=f"ask for 1 to {self.n} requests"
            )
        return self if n == self.n else self.take(slice(0, n))

    def arriving(self, arrival_s: FloatArray) -> Requests:
        """Return the same requests at other arrival times."""
        arrival_s = np.asarray(arrival_s, dtype=np.float64)
        if arrival_s.shape != (self.n,):
            raise InputError(f"{arrival_s.size} arrival times for {self.n} requests", where="arrival_s")
        check_arrivals(arrival_s, "arrival_s", None)
        return replace(self, arrival_s=frozen(arrival_s + 0.0))

    def scaled_rate(self, factor: float) -> Requests:
        """Return the same requests arriving `factor` times as fast: every arrival time divided by `factor`."""
        if not 0 < factor < float("inf"):
            raise InputError(f"a rate factor of {factor}", where="factor", remedy="give a finite number above 0")
        return replace(self, arrival_s=frozen(self.arrival_s / factor))

    def closed_loop(self, concurrency: int) -> Requests:
        """Return the same requests asked by `concurrency` users, who all start at t=0 and ask on as they are served.

        Raises
        ------
        InputError : fewer than one user, or fewer requests than users, so that the loop would never be full.
        """
        if not 1 <= concurrency <= self.n:
            raise InputError(
                f"{concurrency} concurrent users for {self.n} requests",
                where="concurrency",
                remedy="give at least 1 user and at least as many requests as users",
            )
        return replace(self, arrival_s=frozen(np.where(np.arange(self.n) < concurrency, 0.0, np.nan)))

    def with_max_output(self, max_output_tokens: int | IntArray, source: str, where: str = "") -> Requests:
        """Return the same requests with what admission may reserve, and how that came about."""
        limit = np.broadcast_to(np.asarray(max_output_tokens, dtype=np.int64), (self.n,))
        check_max_output(limit, self.output_tokens, where or "max_output_tokens", None)
        return replace(self, max_output_tokens=frozen(limit.copy()), max_output_source=source)

    def content_hash(self) -> str:
        """Return a SHA-256 over all columns: equal for equal requests, on every machine."""
        digest = hashlib.sha256()
        for field in fields(self):
            value = getattr(self, field.name)
            digest.update(f"\n{field.name}:".encode())
            if isinstance(value, np.ndarray):
                digest.update(value.astype(value.dtype.newbyteorder("<")).tobytes())
            else:
                digest.update(json.dumps(value).encode())
        return digest.hexdigest()

    def statistics(self) -> dict[str, float | int | None]:
        """Return what describes the requests as plain numbers; None where the load decides."""
        result: dict[str, float | int | None] = {
            "n_requests": self.n,
            "duration_s": self.duration_s,
            "rate_per_s": self.rate_per_s,
        }
        for name, tokens in (("prompt_tokens", self.prompt_tokens), ("output_tokens", self.output_tokens)):
            result[f"{name}_mean"] = float(tokens.mean())
            result[f"{name}_p50"] = float(np.percentile(tokens, 50))
            result[f"{name}_p99"] = float(np.percentile(tokens, 99))
            result[f"{name}_max"] = int(tokens.max())
            result[f"{name}_total"] = int(tokens.sum())
        return result


def make_requests(
    arrival_s: npt.ArrayLike,
    prompt_tokens: npt.ArrayLike,
    output_tokens: npt.ArrayLike,
    *,
    max_output_tokens: npt.ArrayLike | None = None,
    priority: npt.ArrayLike | None = None,
    tenant: Sequence[str] | None = None,
    session: Sequence[str] | None = None,
    parent: Sequence[str] | None = None,
    prefix_hashes: Sequence[tuple[int, ...]] | None = None,
    hash_block_tokens: int | None = None,
    where: str = "requests",
    lines: Sequence[int] | None = None,
) -> Requests:
    """Return checked `Requests`; without `max_output_tokens` that column is 0, "unknown" (see `Requests`).

    Parameters
    ----------
    where : names the source in errors.
    lines : line of each row in the source, for errors; without it rows are counted from 0.

    Raises
    ------
    InputError : no request or too many; columns of unequal length; arrivals that are not finite, negative or out of
        order; tokens that are not whole, below 1 or above `MAX_TOKENS`; `max_output_tokens` below the output.

    Examples
    --------
    >>> make_requests([0.0, 0.5], [100, 200], [10, 1]).rate_per_s
    2.0
    """
    arrivals = np.asarray(arrival_s, dtype=np.float64) + 0.0  # + 0.0 turns -0.0 into 0.0
    n = len(arrivals)
    if not 1 <= n <= MAX_REQUESTS:
        raise InputError(f"{n} requests", where=where, remedy=f"give 1 to {MAX_REQUESTS} requests")
    prompt = tokens_column(prompt_tokens, "prompt_tokens", where, lines)
    output = tokens_column(output_tokens, "output_tokens", where, lines)
    known = max_output_tokens is not None
    limit = np.zeros(n, dtype=np.int64)
    if max_output_tokens is not None:
        limit = tokens_column(max_output_tokens, "max_output_tokens", where, lines)
    order = np.zeros(n, dtype=np.int64) if priority is None else whole_column(priority, "priority", where)
    columns = {"prompt_tokens": prompt, "output_tokens": output, "max_output_tokens": limit, "priority": order}
    texts = {"tenant": tenant, "session": session, "parent": parent, "prefix_hashes": prefix_hashes}
    for name, column in (columns | texts).items():
        if column is not None and len(column) != n:
            raise InputError(f"{len(column)} values of {name} for {n} arrivals", where=where)
    check_arrivals(arrivals, where, lines)
    if known:
        check_max_output(limit, output, where, lines)
    check_hashes(prefix_hashes, hash_block_tokens, prompt, where, lines)
    return Requests(
        arrival_s=frozen(arrivals),
        prompt_tokens=frozen(prompt),
        output_tokens=frozen(output),
        max_output_tokens=frozen(limit),
        priority=frozen(order),
        max_output_source=MAX_OUTPUT_FROM_COLUMN if known else MAX_OUTPUT_FROM_PLAN,
        tenant=None if tenant is None else tuple(tenant),
        session=None if session is None else tuple(session),
        parent=None if parent is None else tuple(parent),
        prefix_hashes=None if prefix_hashes is None else tuple(prefix_hashes),
        hash_block_tokens=hash_block_tokens,
    )
