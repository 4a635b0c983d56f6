"""What a metric makes of slower steps: exact where times just scale, more where a queue grows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from apex_sim.metrics.slo import Slo
from apex_sim.planner.evaluation import cost_model_of, run_plan
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.study import load_study
from apex_sim.record.run import FleetRun
from apex_sim.truth.request_blocks import block_deviations
from apex_sim.truth.response import Served, responses
from apex_sim.workload.load_form import LoadForm

ONE = {"tp": [8], "pp": [1], "dp": [1], "weight_dtypes": ["fp8"]}


def served(load, **space):
    study = load_study("quickstart", {"load": load, "space": {**ONE, **space}})
    (plan,) = enumerate_space(study).feasible
    run, compiled = run_plan(study, plan)
    return Served(study.model, study.cluster, study.workload, cost_model_of(study), Slo(), compiled, run)


def test_in_a_closed_loop_everything_scales():
    found = responses(served({"concurrency": 8, "n_requests": 60}))
    for name in ("ttft_mean_s", "tpot_p99_s", "e2e_mean_s", "makespan_s"):
        assert found[name].gain == pytest.approx(1.0)
    assert found["output_tokens_per_s"].gain == pytest.approx(-1.0)
    assert found["tpot_mean_s"].decode > found["tpot_mean_s"].prompt > 0
    assert found["ttft_mean_s"].prompt > found["tpot_mean_s"].prompt
    assert found["tpot_mean_s"].decode + found["tpot_mean_s"].prompt < 1.0  # the host takes its share


def test_throughput_follows_arrivals_while_a_plan_keeps_up_and_its_queue_amplifies_when_it_hardly_does():
    calm = responses(served({"rate_per_s": 1, "n_requests": 200}))
    busy = responses(served({"rate_per_s": 40, "n_requests": 400}))
    assert abs(calm["output_tokens_per_s"].gain) < 0.05
    assert busy["output_tokens_per_s"].gain < -0.3
    assert calm["e2e_mean_s"].gain == pytest.approx(1.0, abs=0.2)
    assert busy["ttft_mean_s"].gain > 1.5


def test_long_loads_are_cut_and_answer_alike():
    load = {"concurrency": 8}
    short, long = (responses(served({**load, "n_requests": n})) for n in (290, 900))
    assert long["tpot_mean_s"].prompt == pytest.approx(short["tpot_mean_s"].prompt, abs=0.03)


def test_blocks_tell_the_scatter_of_a_mean_and_of_a_sum():
    run = served({"concurrency": 8, "n_requests": 400}).run
    rng = np.random.default_rng(0)
    sds = []
    for _ in range(40):
        finish_s = run.requests.first_token_s + 1.0
        arrival_s = run.requests.first_token_s - rng.lognormal(0.0, 0.5, 400)
        fake: FleetRun = replace(run, requests=replace(run.requests, arrival_s=arrival_s, finish_s=finish_s))
        deviations = block_deviations(fake, LoadForm("closed", 8), Slo())["ttft_mean_s"]
        sds.append(float(np.linalg.norm(deviations)))
    truth = np.sqrt(np.expm1(0.25) / 400)  # coefficient of variation of a log-normal mean
    assert np.mean(sds) == pytest.approx(truth, rel=0.1)


def test_few_requests_tell_no_scatter():
    run = served({"concurrency": 8, "n_requests": 30}).run
    assert block_deviations(run, LoadForm("closed", 8), Slo()) == {}
