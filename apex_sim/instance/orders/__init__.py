"""Queue orders that keep account of what was served; each instance of the reference engine makes its own."""

from typing import Final

from apex_sim.instance.orders.fair_share import FairShare
from apex_sim.instance.orders.least_attained_service import LeastAttainedService
from apex_sim.instance.orders.multi_level_feedback import MultiLevelFeedback
from apex_sim.instance.orders.queue_order import QueueOrder

#: By their names in `apex_sim.plan.scheduler.ACCOUNTING_ORDERS`.
ORDERS: Final[dict[str, type[QueueOrder]]] = {
    "multi-level-feedback": MultiLevelFeedback,
    "least-attained-service": LeastAttainedService,
    "fair-share": FairShare,
}
