"""Who wants to know what happens to an instance's requests?"""

from __future__ import annotations

from typing import Protocol

from apex_sim.instance.sequence import Sequence


class Listener(Protocol):
    """Who wants to know what happens to requests; all times are seconds on the simulation's clock."""

    def scheduled(self, request: int, now_s: float) -> None:
        """Take note that the request was first picked for a step."""

    def token(self, request: int, now_s: float) -> bool:
        """Take in one output token; return whether it is the request's last."""

    def finished(self, sequence: Sequence, now_s: float) -> None:
        """Take note of the end of a request."""

    def rejected(self, sequence: Sequence, reason: str, now_s: float) -> None:
        """Take note that the engine refuses a request."""
