"""What is certain of a whole run once the first requests have been simulated?

No server knows the future: until the first request that was left out arrives, everything happened as it will in the
whole run.  So every latency that ended before is exact, and one that had not ended is longer than what had passed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from apex_sim.planner.bounds.floors import SLACK_FRAC
from apex_sim.planner.bounds.plan_bound import Seen
from apex_sim.record.request_records import RequestRecords
from apex_sim.workload.workload import Workload


def has_prefixes(workload: Workload) -> bool:
    """Whether the first requests say anything for certain: not where all are there from the start."""
    load = workload.load
    return load.concurrency is not None or (load.kind == "trace" and float(workload.requests.arrival_s[-1]) > 0.0)


def head_of(workload: Workload, n_requests: int) -> Workload:
    """Return the workload of the first `n_requests`; of a closed loop no fewer than its users."""
    n = max(n_requests, workload.load.concurrency or 1)
    if n >= workload.requests.n:
        return workload
    return replace(workload, requests=workload.requests.head(n))


def certain_until_s(run: RequestRecords, workload: Workload) -> float:
    """Return up to when a run of the first requests is that of the whole workload.

    Of a trace: until the next arrival.  Of a closed loop: until a user asks for the first request that was left out,
    which is when all of the run's requests have been asked and one more has left.
    """
    n, users = len(run.arrival_s), workload.load.concurrency
    if users is None:
        return float(workload.requests.arrival_s[n])
    left_s = np.sort(np.where(np.isnan(run.finish_s), run.arrival_s, run.finish_s))
    return float(left_s[n - users])


def seen_in(run: RequestRecords, workload: Workload) -> Seen:
    """Return what is certain of each request of `workload` after a run of its first ones."""
    n, until_s = len(run.arrival_s), certain_until_s(run, workload)
    ttft_s, decode_s = np.zeros(workload.requests.n), np.zeros(workload.requests.n)
    began, ended = run.first_token_s < until_s, run.finish_s < until_s
    waited_s = np.maximum(np.where(began, run.first_token_s, until_s) - run.arrival_s, 0.0)
    ttft_s[:n] = np.where(np.isnan(waited_s), 0.0, waited_s)
    decoded_s = np.where(ended, run.finish_s, until_s) - run.first_token_s
    decode_s[:n] = np.where(began, decoded_s, 0.0)
    return Seen((1.0 - SLACK_FRAC) * ttft_s, (1.0 - SLACK_FRAC) * decode_s)
