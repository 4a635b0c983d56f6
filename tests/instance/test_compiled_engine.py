"""The compiled engine against the reference: every decision equal, every request's times equal in every bit."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scenario import Scenario, compare, draw

from apex_sim.errors import InvariantError
from apex_sim.fleet.static_fleet import asked_of
from apex_sim.instance.compiled_instance import serve_compiled
from apex_sim.instance.served import Served

N_SCENARIOS, N_CHUNKS = 1600, 32

#: What the scenarios together must hold, at least so often.
HELD = (
    "unified",
    "chunked",
    "prefill-first",
    "sglang",
    "no-evict",
    "no-evict-chunked",
    "max-utilization",
    "asynchronous",
    "PP > 1",
    "DP > 1",
    "closed loop",
    "dependent closed loop",
    "least-outstanding",
    "preemption",
    "prefix hits",
    "rejection",
    "windows",
    "sarathi",
    "splitfuse",
    "orca",
    "static",
    "priority",
    "shortest-predicted-first",
    "cap on waiting",
    "refused",
    "speculation",
    "attention DP",
    "expert imbalance",
)


@pytest.mark.parametrize("chunk", range(N_CHUNKS))
def test_compiled_and_reference_agree(chunk: int) -> None:
    each = N_SCENARIOS // N_CHUNKS
    for seed in range(chunk * each, (chunk + 1) * each):
        found, _ = compare(seed)
        assert not found, f"scenario {seed}: {found}"


def test_the_scenarios_hold_every_feature_fifty_times() -> None:
    """Guards the test above; one in three is run, and must hold a third of that."""
    total = Counter[str]()
    for seed in range(0, N_SCENARIOS, 3):
        total += compare(seed)[1]
    assert {name: total[name] for name in HELD if total[name] < 50 / 3} == {}


def test_a_leap_is_no_rare_event() -> None:
    """Nearly all steps of a lone long answer are leapt over; without leaps the comparison above would prove little."""
    n_steps = n_leapt = 0
    for seed in range(60):
        scenario = draw(np.random.default_rng(seed))
        if scenario.shape.pp > 1 or scenario.shape.scheduler.policy == "no-evict-chunked":
            continue
        served = _serve(scenario)
        n_steps, n_leapt = n_steps + served.steps.n_steps, n_leapt + served.n_leapt_steps
    assert n_leapt > 0.4 * n_steps


def test_chunks_that_end_leave_decodes_to_leap_over() -> None:
    """With one rank; attention DP leaps over nothing, and its drawn budgets of 16 tokens make chunks of most steps."""
    n_steps = n_leapt = 0
    for seed in range(240):
        scenario = draw(np.random.default_rng(seed))
        shape = scenario.shape
        if shape.scheduler.policy != "no-evict-chunked" or shape.pp * shape.attention_dp > 1:
            continue
        served = _serve(scenario)
        n_steps, n_leapt = n_steps + served.steps.n_steps, n_leapt + served.n_leapt_steps
    assert n_leapt > 0.4 * n_steps > 0


def _serve(scenario: Scenario) -> Served:
    everyone = np.ones(scenario.workload.requests.n, dtype=bool)
    asked = asked_of(scenario.workload, scenario.shape, everyone)
    return serve_compiled(scenario.shape, scenario.step_model, scenario.memory, asked)


def test_requests_that_can_never_end_are_an_error() -> None:
    """A pool below the longest request: refused in planning, and no livelock if it comes here all the same."""
    seed = next(s for s in range(100) if draw(np.random.default_rng(s)).shape.scheduler.policy == "unified")
    scenario = draw(np.random.default_rng(seed))
    tiny = replace(scenario, memory=replace(scenario.memory, n_blocks=1))
    for compiled in (False, True):
        with pytest.raises(InvariantError, match="INV-1"):
            tiny.run(compiled=compiled)
