"""Who goes first in a queue that is not first come, first served?"""

from __future__ import annotations

import numpy as np

from apex_sim.plan.shape import SchedulerSettings
from apex_sim.workload.column import FloatArray
from apex_sim.workload.prediction import predicted_output_tokens
from apex_sim.workload.workload import Workload


def queue_ranks(workload: Workload, settings: SchedulerSettings) -> FloatArray:
    """Return the rank of each request; lower goes first, equal ranks go in order of arrival.

    A prediction is all that the scheduler may see of an output length (INV-8).
    """
    requests = workload.requests
    match settings.queue_order:
        case "priority":
            return requests.priority.astype(np.float64)
        case "shortest-predicted-first":
            return predicted_output_tokens(requests.output_tokens, settings.prediction_log_sd, workload.seed or 0)
        case _:
            return np.zeros(requests.n)
