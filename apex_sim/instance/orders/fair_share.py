"""The virtual token counter: each tenant gets the same service, whatever the others ask for.

Rules of Sheng et al., Fairness in Serving Large Language Models, OSDI 2024, https://arxiv.org/abs/2401.00588,
Algorithm 2 (VTC), with the prices of https://github.com/Ying1123/VTC-artifact slora/server/router/vtc_req_queue.py at
commit 14c19b70: the tenant with the lowest counter is admitted next, its oldest request first, and is charged for the
prompt at once and for each output token as it leaves.  A tenant that comes back to the queue is lifted to the lowest
counter there, so that nobody saves up service while away.  Nobody is preempted for fairness; where memory lacks, the
tenant with the highest counter gives way.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from apex_sim.instance.orders.queue_order import QueueOrder
from apex_sim.instance.sequence import Entry, Sequence

#: What a prompt token and an output token cost (`input_price` and `output_price` there).
PROMPT_WEIGHT: Final = 1.0
OUTPUT_WEIGHT: Final = 2.0


class FairShare(QueueOrder):
    """By the counter of a request's tenant."""

    def __init__(self) -> None:
        self._charged_of: dict[str, float] = defaultdict(float)
        self._left_last = ""

    def place(self, sequence: Sequence) -> tuple[float, int]:
        """Return the tenant's counter, and the sequence's number."""
        return self._charged_of[sequence.owner], sequence.request

    def arrange(self, waiting: Iterable[Sequence]) -> list[Sequence]:
        """Return those that wait as they would be admitted, each charged for its prompt before the next is picked."""
        of_tenant: dict[str, list[Sequence]] = {}
        for sequence in sorted(waiting, key=lambda each: each.request, reverse=True):
            of_tenant.setdefault(sequence.owner, []).append(sequence)
        heap = [(self._charged_of[tenant], queue[-1].request, tenant) for tenant, queue in of_tenant.items()]
        heapq.heapify(heap)
        arranged = list[Sequence]()
        while heap:
            charged, _, tenant = heapq.heappop(heap)
            sequence = of_tenant[tenant].pop()
            arranged.append(sequence)
            if of_tenant[tenant]:
                charged += self._prompt_charge(sequence)
                heapq.heappush(heap, (charged, of_tenant[tenant][-1].request, tenant))
        return arranged

    def arrives(self, sequence: Sequence, waiting: Iterable[Sequence]) -> None:
        """Lift a tenant of whom nobody waited."""
        tenants = {each.owner for each in waiting}
        if sequence.owner in tenants:
            return
        charged = self._charged_of
        floor = min((charged[tenant] for tenant in tenants), default=charged[self._left_last])
        charged[sequence.owner] = max(charged[sequence.owner], floor)

    def runs(self, entry: Entry) -> None:
        """Charge a prompt when its first tokens run."""
        if entry.past == entry.sequence.n_hit_tokens and not entry.is_decode:
            self._charged_of[entry.sequence.owner] += self._prompt_charge(entry.sequence)
            self._left_last = entry.sequence.owner

    def emits(self, sequence: Sequence) -> None:
        """Charge an output token."""
        self._charged_of[sequence.owner] += OUTPUT_WEIGHT

    @staticmethod
    def _prompt_charge(sequence: Sequence) -> float:
        """Return what admission costs; one that was preempted has paid."""
        return 0.0 if sequence.n_preemptions else PROMPT_WEIGHT * sequence.prompt_tokens
