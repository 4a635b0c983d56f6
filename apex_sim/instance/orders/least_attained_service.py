"""Autellix's least attained service by program: whose calls together have had the least goes first.

Rules of Luo et al., Autellix: An Efficient Serving Engine for LLM Agents as General Programs,
https://arxiv.org/abs/2502.13965, section 4.2 (PLAS): a program's service is summed over all its calls, so that a long
program does not start anew with each call.  A session of the workload is a program.

Differences: service is counted in tokens computed, prompts, outputs and recomputations alike, where Autellix counts
seconds; it is compared as it is, where Autellix compares levels of it, and nobody is promoted for having waited.
"""

from __future__ import annotations

from collections import Counter

from apex_sim.instance.orders.queue_order import QueueOrder
from apex_sim.instance.sequence import Entry, Sequence


class LeastAttainedService(QueueOrder):
    """By the tokens that were computed for a request's session so far, its own included."""

    def __init__(self) -> None:
        self._tokens_of = Counter[str]()

    def place(self, sequence: Sequence) -> tuple[float, int]:
        """Return the service of the sequence's program, and its number."""
        return float(self._tokens_of[sequence.owner]), sequence.request

    def runs(self, entry: Entry) -> None:
        """Count the tokens of a step."""
        self._tokens_of[entry.sequence.owner] += entry.n_new
