"""What happened to each request?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FINISHED: Final = 0
REJECTED: Final = 1
RUNNING: Final = 2
STATUS_NAMES: Final = ("finished", "rejected", "running")


@dataclass(frozen=True, slots=True)
class RequestRecords:
    """One row for each request, in the workload's order; times in seconds from the start, NaN where it never happened.

    `arrival_s` is when the client sent it, `queued_s` when a scheduler could first see it, `scheduled_s` when it was
    first picked for a step, `first_token_s` and `finish_s` when the first and the last token left.  `cached_tokens` of
    its prompt were in the prefix cache when it was first admitted.
    """

    arrival_s: NDArray[np.float64]
    queued_s: NDArray[np.float64]
    scheduled_s: NDArray[np.float64]
    first_token_s: NDArray[np.float64]
    finish_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    emitted_tokens: NDArray[np.int64]
    n_preemptions: NDArray[np.int64]
    cached_tokens: NDArray[np.int64]
    instance: NDArray[np.int64]
    status: NDArray[np.int8]
    reasons: tuple[tuple[int, str], ...]

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Mask of the requests that finished."""
        mask: NDArray[np.bool_] = self.status == FINISHED
        return mask

    @property
    def ttft_s(self) -> NDArray[np.float64]:
        """Time to first token, queueing included."""
        return self.first_token_s - self.arrival_s

    @property
    def e2e_s(self) -> NDArray[np.float64]:
        """Arrival to last token."""
        return self.finish_s - self.arrival_s

    @property
    def tpot_s(self) -> NDArray[np.float64]:
        """(E2E - TTFT) / (n_output - 1); NaN for single-token outputs, where it is undefined."""
        gaps = np.where(self.output_tokens > 1, self.output_tokens - 1, 1)
        return np.where(self.output_tokens > 1, (self.finish_s - self.first_token_s) / gaps, np.nan)

    def columns(self) -> dict[str, Any]:
        """Return the columns by name, status in words, for tables and files."""
        names = np.array(STATUS_NAMES)
        reasons = dict(self.reasons)
        return {
            "arrival_s": self.arrival_s,
            "queued_s": self.queued_s,
            "scheduled_s": self.scheduled_s,
            "first_token_s": self.first_token_s,
            "finish_s": self.finish_s,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "e2e_s": self.e2e_s,
            "n_preemptions": self.n_preemptions,
            "cached_tokens": self.cached_tokens,
            "instance": self.instance,
            "status": names[self.status],
            "reason": [reasons.get(index, "") for index in range(len(self.status))],
        }
