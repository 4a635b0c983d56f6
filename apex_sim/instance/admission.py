"""What does a scheduler that reserves room for outputs remember from one decision to the next?"""

from __future__ import annotations

from dataclasses import dataclass

from apex_sim.instance.sequence import Sequence
from apex_sim.preset.preset import Reservation


@dataclass(slots=True)
class Admission:
    """State of SGLang's scheduler beside its queues; other policies leave it alone.

    `n_decays` decode decisions lie behind the moment at which the share of remaining output that a running sequence
    reserves was `start_ratio`.  `is_full` bars admission until running sequences become fewer than `n_seats`, which
    counts those of the last decisions, ended ones among them until decodes are scheduled again.  `chunked` is the one
    prompt under way.
    """

    reservation: Reservation
    start_ratio: float
    n_decays: int = 0
    is_full: bool = False
    n_seats: int = 0
    chunked: Sequence | None = None

    @property
    def ratio(self) -> float:
        """Share of its remaining output that a running sequence reserves."""
        if not self.n_decays:
            return self.start_ratio
        rule = self.reservation
        return max(self.start_ratio - self.n_decays * rule.decay_ratio, rule.least_ratio)

    def rest(self) -> None:
        """Start afresh: the instance has nothing to do."""
        self.start_ratio, self.n_decays = self.reservation.first_ratio, 0
        self.is_full, self.n_seats = False, 0
