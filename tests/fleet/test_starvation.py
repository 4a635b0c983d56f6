"""A sorted queue may starve few requests with much work: such a run is not steady, however few they are."""

from __future__ import annotations

import numpy as np
from toy import Engine, ask, flat, serve

from apex_sim.metrics.stability import Stability, judge_stability
from apex_sim.workload.load_form import LoadForm
from apex_sim.workload.workload import Workload


def verdict(queue_order: str, gap_s: float) -> Stability:
    """One seat, a second a token: 20,000 answers of one token, one each `gap_s`, and 240 of 20 tokens among them."""
    arrival_s = np.sort(np.concatenate([np.arange(20_000) * gap_s, (np.arange(240) + 0.5) * gap_s * 20_000 / 240]))
    outputs = np.where(np.isin(arrival_s, np.arange(20_000) * gap_s), 1, 20)
    requests = ask(arrival_s, 1, outputs)
    engine = Engine("unified", max_num_seqs=1, queue_order=queue_order)
    run = serve(engine, flat(1.0), requests, by="compiled")
    workload = Workload("starving", requests, LoadForm("trace", None), None, None, (), True, "none")
    return judge_stability(run, workload, 1.0)


def test_work_that_piles_up_counts_though_requests_hardly_do() -> None:
    """1.24 s of work arrive each second: the long ones, 1.2 % of the requests, are 11 % of the tokens and wait."""
    found = verdict("shortest-predicted-first", 1.0)
    assert found.steady is False
    assert "mean requests by tokens" in found.reason
    assert found.backlog_growth_frac
    assert 0.05 < found.backlog_growth_frac <= 240 * 21 / (240 * 21 + 40_000)  # nearly all of them, never more


def test_below_capacity_nobody_starves() -> None:
    assert verdict("shortest-predicted-first", 2.0).steady is True
    assert verdict("fcfs", 2.0).steady is True
