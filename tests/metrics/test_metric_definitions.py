"""Metrics of a made-up run of two instances, each worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from apex_sim.errors import InputError, UnknownNameError
from apex_sim.hardware.cluster import load_cluster
from apex_sim.metrics.definitions import METRICS, Metrics
from apex_sim.metrics.slo import Slo, make_slo
from apex_sim.metrics.summary import latency_sample_s, summarise
from apex_sim.plan.memory import Memory
from apex_sim.plan.plan import Plan
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import Shape, tensor_pipeline_stages
from apex_sim.preset.load import load_preset
from apex_sim.record.latency_histogram import LatencyHistogram
from apex_sim.record.request_records import FINISHED, REJECTED, RUNNING, RequestRecords
from apex_sim.record.run import FleetRun, InstanceRun, StageRun
from apex_sim.record.step_records import STEP_COLUMNS, StepRecords

CLUSTER = load_cluster("4xh100-sxm")
NAN = math.nan


def _shape(preset: str, pp: int) -> Shape:
    engine = load_preset(preset)
    stages = tensor_pipeline_stages((16,) * pp, 2 // pp)
    return Shape("h100-sxm", stages, Precision(), resolve_settings(engine, CLUSTER.device, 4096, pp=pp), engine)


def _steps(*n_blocks_used: int) -> StepRecords:
    steps = StepRecords()
    for n in n_blocks_used:
        steps.add(*(float(n) if column == "n_blocks_used" else 0.0 for column in STEP_COLUMNS))
    return steps


def _instance(shape: Shape, busy_s: float, dynamic_j: float, *n_blocks_used: int) -> InstanceRun:
    stage = StageRun({"moe": busy_s}, 100.0 - busy_s, busy_s, 3, 2, dynamic_j, idle_j=2 * 115.0 * 100.0)
    return InstanceRun(shape, Memory((), 16, 200), (stage,), _steps(*n_blocks_used), 0)


def _run(preset: str = "vllm-1", pp: int = 1) -> FleetRun:
    """Return five requests on DP2 TP2 over 100 s.

    | | arrival | first | finish | prompt | output | |
    |---|---|---|---|---|---|---|
    | 0 | 0 | 2 | 12 | 100 | 11 | TTFT 2, TPOT 1, E2E 12 |
    | 1 | 10 | 11 | 11 | 200 | 1 | TTFT 1, TPOT undefined, E2E 1 |
    | 2 | 20 | 26 | 100 | 300 | 38 | TTFT 6, TPOT 2, E2E 80 |
    | 3 | 30 | - | - | 400 | 5 | rejected |
    | 4 | 40 | 45 | - | 500 | 9 | 3 tokens out, still running |
    """
    requests = RequestRecords(
        arrival_s=np.array([0.0, 10, 20, 30, 40]),
        queued_s=np.array([0.0, 10, 20, 30, 40]),
        scheduled_s=np.array([1.0, 10, 25, NAN, 41]),
        first_token_s=np.array([2.0, 11, 26, NAN, 45]),
        finish_s=np.array([12.0, 11, 100, NAN, NAN]),
        prompt_tokens=np.array([100, 200, 300, 400, 500]),
        output_tokens=np.array([11, 1, 38, 5, 9]),
        emitted_tokens=np.array([11, 1, 38, 0, 3]),
        n_preemptions=np.array([0, 0, 2, 0, 1]),
        cached_tokens=np.zeros_like(np.array([0, 0, 2, 0, 1])),
        instance=np.array([0, 1, 0, 1, 0]),
        status=np.array([FINISHED, FINISHED, FINISHED, REJECTED, RUNNING], dtype=np.int8),
        reasons=((3, "too long"),),
    )
    gaps = LatencyHistogram()
    gaps.add(1.0, 10)
    gaps.add(2.0, 37)
    shape = _shape(preset, pp)
    instances = (_instance(shape, 60.0, 4000.0, 10, 50, 20), _instance(shape, 20.0, 1000.0, 5))
    return FleetRun(Plan(((shape, 2),)), requests, instances, gaps, 100.0, 0.0, "made-up", "")


def _metrics(limits: dict[str, float] | None = None) -> Metrics:
    return summarise(_run(), CLUSTER, make_slo(limits or {}))


def test_every_metric_has_a_definition_and_a_value() -> None:
    assert set(_metrics()) == set(METRICS)


def test_latencies_are_of_finished_requests_of_all_instances() -> None:
    metrics = _metrics()
    assert metrics["ttft_mean_s"] == pytest.approx((2 + 1 + 6) / 3)
    assert metrics["ttft_median_s"] == 2
    assert metrics["e2e_mean_s"] == pytest.approx((12 + 1 + 80) / 3)
    assert metrics["e2e_p90_s"] == pytest.approx(12 + 0.8 * (80 - 12))


def test_tpot_counts_the_gaps_and_is_undefined_for_one_token() -> None:
    """(12 - 2) / 10 = 1 and (100 - 26) / 37 = 2; the single token of request 1 has none."""
    assert latency_sample_s(_run().requests, "tpot").tolist() == [1.0, 2.0]
    assert _metrics()["tpot_mean_s"] == 1.5
    assert _metrics()["itl_mean_s"] == pytest.approx((10 + 74) / 47)  # weighs gaps, not requests
    assert _metrics()["itl_median_s"] == pytest.approx(2.0, rel=0.01)


def test_rates_are_over_the_makespan() -> None:
    metrics = _metrics()
    assert metrics["output_tokens_per_s"] == 53 / 100
    assert metrics["total_tokens_per_s"] == (53 + 600) / 100
    assert metrics["requests_per_s"] == 3 / 100
    assert (metrics["n_finished"], metrics["n_rejected"], metrics["n_preemptions"]) == (3, 1, 3)


def test_cost_and_energy_are_of_all_held_devices() -> None:
    metrics = _metrics()
    usd_per_h = 4 * CLUSTER.device.price_usd_per_h
    energy_j = 5000 + 2 * 23_000
    assert metrics["usd_per_h"] == usd_per_h
    assert metrics["usd"] == pytest.approx(usd_per_h * 100 / 3600)
    assert metrics["usd_per_million_output_tokens"] == pytest.approx(usd_per_h * 100 / 3600 / 53 * 1e6)
    assert metrics["energy_j"] == energy_j
    assert metrics["power_mean_w"] == energy_j / 100
    assert metrics["energy_per_output_token_j"] == pytest.approx(energy_j / 53)
    assert metrics["busy_frac"] == (60 + 20) / 200


def test_kv_use_is_of_the_instances_blocks() -> None:
    """50 of 200 blocks; steps record the sum over queues, so it is the same in vLLM v0's two queues at PP2."""
    assert _metrics()["kv_used_max_frac"] == 0.25
    assert summarise(_run("vllm-0.6", 2), CLUSTER, Slo())["kv_used_max_frac"] == 0.25


@pytest.mark.parametrize(
    ("limits", "n_kept"),
    [
        ({}, 3),
        ({"ttft_p99_s": 2.0}, 2),
        ({"tpot_mean_s": 1.0}, 2),  # the single token keeps every TPOT limit
        ({"e2e_p95_s": 10.0}, 1),
        ({"ttft_p99_s": 1.5, "e2e_p99_s": 1.5}, 1),
        ({"ttft_p99_s": 0.5}, 0),
        ({"output_tokens_per_s": 99.0}, 3),  # no limit on a request
    ],
)
def test_goodput_counts_finished_requests_within_all_limits(limits: dict[str, float], n_kept: int) -> None:
    metrics = _metrics(limits)
    assert metrics["goodput_per_s"] == n_kept / 100
    assert metrics["slo_attainment_frac"] == n_kept / 5


def test_violations_know_the_direction_of_a_metric() -> None:
    metrics = _metrics()
    kept = {"ttft_mean_s": 3.0, "output_tokens_per_s": 0.53, "usd_per_h": 1e3}
    assert make_slo(kept).violations(metrics) == []
    broken = {"ttft_mean_s": 2.99, "output_tokens_per_s": 0.54}
    assert make_slo(broken).violations(metrics) == [
        "output_tokens_per_s is 0.53, below 0.54",
        "ttft_mean_s is 3, above 2.99",
    ]


def test_a_run_without_finished_requests_has_no_latencies_and_breaks_their_limits() -> None:
    run = _run()
    nobody = replace(run.requests, status=np.full(5, REJECTED, dtype=np.int8), emitted_tokens=np.zeros(5, dtype=int))
    metrics = summarise(replace(run, requests=nobody, gaps=LatencyHistogram()), CLUSTER, Slo())
    for name in ("ttft_mean_s", "tpot_p99_s", "itl_median_s", "energy_per_output_token_j"):
        assert metrics[name] is None
    assert metrics["output_tokens_per_s"] == 0
    assert make_slo({"ttft_mean_s": 9.0}).violations(metrics) == ["ttft_mean_s is not defined in this run"]


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"ttft_p99_s": 0.0}, "limit 0.0"),
        ({"ttft_p99_s": math.inf}, "limit inf"),
        ({"busy_frac": 0.5}, "no better direction"),
        ({"ttft_p99_s": 5.0, "e2e_p99_s": 4.0}, "allows more than"),
    ],
)
def test_impossible_limits_are_refused(limits: dict[str, float], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        make_slo(limits)


def test_an_unknown_metric_gets_its_nearest_names() -> None:
    with pytest.raises(UnknownNameError, match="ttft_p99_s"):
        make_slo({"ttft_p99": 1.0})
