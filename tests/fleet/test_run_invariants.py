"""The numbered invariants of docs/design.md on random engines, plans and loads, and that each check can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import Engine, StepTime, affine, ask, flat, per_sequence, serve

from apex_sim.errors import InvariantError
from apex_sim.fleet.invariants import check_run
from apex_sim.plan.scheduler import ACCOUNTING_ORDERS
from apex_sim.preset.research import RESEARCH_POLICIES, WHOLE_PROMPTS
from apex_sim.record.request_records import FINISHED, REJECTED, RUNNING
from apex_sim.record.run import FleetRun
from apex_sim.record.step_records import STEP_COLUMNS, StepRecords
from apex_sim.workload.requests import Requests

BLOCK = 4
LONGEST = 24


#: Policies that preempt, and whether they schedule ahead; the others reserve.
PREEMPTING = (
    ("prefill-first", False),
    ("chunked", False),
    ("unified", False),
    ("unified", True),
    ("sarathi", False),
    ("splitfuse", False),
)


@dataclass(frozen=True)
class Case:
    """One random run; pools hold little more than the longest request, so that most runs preempt."""

    engine: Engine
    step_time: StepTime
    requests: Requests
    dp: int
    router: str
    load: dict[str, Any]

    def run(self, requests: Requests | None = None) -> FleetRun:
        return serve(
            self.engine, self.step_time, requests or self.requests, dp=self.dp, router=self.router, **self.load
        )


@st.composite
def engines(draw: st.DrawFn) -> Engine:
    policy = draw(st.sampled_from(["prefill-first", "chunked", "unified", "unified-async", *RESEARCH_POLICIES]))
    pp = 1 if policy == "unified-async" else draw(st.integers(1, 3))
    n_queues = 1 if policy.startswith("unified") else pp
    runs_whole = policy == "prefill-first" or policy in WHOLE_PROMPTS
    orders = ["fcfs"] if policy in ("prefill-first", "chunked") else ["fcfs", "priority", *ACCOUNTING_ORDERS]
    return Engine(
        policy=policy.removesuffix("-async"),
        max_num_seqs=draw(st.integers(1, 6)),
        max_num_batched_tokens=LONGEST if runs_whole else draw(st.integers(6, 16)),
        max_model_len=LONGEST,
        n_blocks=n_queues * draw(st.integers(LONGEST // BLOCK + 1, 12)),
        block_size_tokens=BLOCK,
        pp=pp,
        async_scheduling=policy == "unified-async",
        host_step_s=draw(st.sampled_from([0.0, 0.1, 0.7])),
        host_sequence_s=draw(st.sampled_from([0.0, 0.03])),
        frontend_s=draw(st.sampled_from([0.0, 0.2])),
        prompt_token_s=draw(st.sampled_from([0.0, 0.01])),
        queue_order=draw(st.sampled_from(orders)),
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n = draw(st.integers(1, 12))
    gaps = draw(st.lists(st.sampled_from([0.0, 0.0, 0.1, 0.25, 1.0, 3.0]), min_size=n, max_size=n))
    prompts = np.array(draw(st.lists(st.integers(1, 14), min_size=n, max_size=n)))
    outputs = np.array(draw(st.lists(st.integers(1, 10), min_size=n, max_size=n)))
    limits = outputs if draw(st.booleans()) else LONGEST - prompts
    form = draw(st.sampled_from(["trace", "closed", "offline"]))
    loads: dict[str, dict[str, Any]] = {"trace": {}, "closed": {"concurrency": min(n, 3)}, "offline": {"offline": True}}
    step_time = draw(st.sampled_from([flat(0.1), flat(1.0), per_sequence(0.3), affine(0.05, 0.01)]))
    router = draw(st.sampled_from(["round-robin", "least-outstanding"]))
    priority = np.array(draw(st.lists(st.integers(-1, 1), min_size=n, max_size=n)))
    owners = tuple(draw(st.lists(st.sampled_from("xyz"), min_size=n, max_size=n)))
    return Case(
        draw(engines()),
        step_time,
        replace(ask(np.cumsum(gaps), prompts, outputs, limits), priority=priority, tenant=owners, session=owners),
        draw(st.integers(1, 3)),
        router,
        loads[form],
    )


def fingerprint(run: FleetRun) -> tuple[object, ...]:
    """Return all that a run recorded, bit for bit."""
    columns = [getattr(run.requests, name) for name in run.requests.__slots__]
    return (
        *(column.tobytes() if isinstance(column, np.ndarray) else column for column in columns),
        *(instance.steps.table().tobytes() for instance in run.instances),
        *(repr(instance.stages) for instance in run.instances),
        run.gaps.counts,
        run.gaps.sum_s,
        run.makespan_s,
        run.request_seconds,
    )


@settings(max_examples=250, deadline=None)
@given(cases())
def test_every_run_keeps_its_invariants_finishes_and_repeats_itself(case: Case) -> None:
    run = case.run()  # serve() checks INV-1 to INV-7
    assert (run.requests.status == FINISHED).all()
    assert (run.requests.emitted_tokens == case.requests.output_tokens).all()
    assert all(instance.n_blocks_held_at_end == 0 for instance in run.instances)
    assert fingerprint(run) == fingerprint(case.run())


def test_the_random_runs_do_preempt() -> None:
    """Guards the test above: its tiny pools force preemption under each policy."""
    for policy, is_async in PREEMPTING:
        engine = Engine(policy, 6, 24, LONGEST, n_blocks=7, async_scheduling=is_async)
        run = serve(engine, flat(1.0), ask(np.zeros(6), 6, 10), offline=True)
        assert run.requests.n_preemptions.sum() > 0


@settings(max_examples=250, deadline=None)
@given(cases(), st.data())
def test_nothing_is_decided_from_an_output_length_before_it_is_seen(case: Case, data: st.DataObject) -> None:
    """INV-8: with another actual output of one request, and the same maximum, all is as before until it first ends."""
    requests = replace(case.requests, max_output_tokens=LONGEST - case.requests.prompt_tokens)
    changed = data.draw(st.integers(0, requests.n - 1))
    outputs = requests.output_tokens.copy()
    outputs[changed] = data.draw(st.integers(1, 10))
    before, after = case.run(requests), case.run(replace(requests, output_tokens=outputs))
    until_s = min(before.requests.finish_s[changed], after.requests.finish_s[changed])
    for one, other in zip(before.instances, after.instances, strict=True):
        rows = [steps.table()[steps.column("decided_s") < until_s] for steps in (one.steps, other.steps)]
        np.testing.assert_array_equal(rows[0], rows[1])
    for name in ("arrival_s", "queued_s", "scheduled_s", "first_token_s", "finish_s"):
        times = [getattr(run.requests, name) for run in (before, after)]
        first, second = (np.where(column < until_s, column, np.inf) for column in times)
        np.testing.assert_array_equal(first, second)


# --- checks that can fail ---------------------------------------------------------------------------------------------


def good_run() -> FleetRun:
    """Return two instances of two stages, and three requests of which the last is refused."""
    engine = Engine("prefill-first", max_num_batched_tokens=500, max_model_len=500, n_blocks=200, pp=2)
    return serve(engine, flat(1.0), ask([0.0, 0.5, 1.0], [4, 4, 400], [3, 2, 1]), dp=2)


def with_requests(run: FleetRun, **columns: object) -> FleetRun:
    return replace(run, requests=replace(run.requests, **columns))  # type: ignore[arg-type]


def changed(column: np.ndarray[Any, Any], row: int, value: float) -> np.ndarray[Any, Any]:
    copy = column.copy()
    copy[row] = value
    return copy


def with_stage(run: FleetRun, **fields: object) -> FleetRun:
    first, *rest = run.instances
    stage, *stages = first.stages
    return replace(run, instances=(replace(first, stages=(replace(stage, **fields), *stages)), *rest))  # type: ignore[arg-type]


def with_step(run: FleetRun, row: int, **values: float) -> FleetRun:
    first, *rest = run.instances
    table = first.steps.table().copy()
    for name, value in values.items():
        table[row, STEP_COLUMNS.index(name)] = value
    steps = StepRecords()
    for line in table.tolist():
        steps.add(*line)
    return replace(run, instances=(replace(first, steps=steps), *rest))


Tamper = Callable[[FleetRun], FleetRun]
TAMPERS: dict[str, tuple[int, Tamper]] = {
    "unknown status": (1, lambda run: with_requests(run, status=changed(run.requests.status, 0, 7))),
    "finished without a time": (1, lambda run: with_requests(run, finish_s=changed(run.requests.finish_s, 0, np.nan))),
    "a finish time, not finished": (1, lambda run: with_requests(run, status=changed(run.requests.status, 0, RUNNING))),
    "rejected without a reason": (1, lambda run: with_requests(run, reasons=())),
    "reason of another request": (1, lambda run: with_requests(run, reasons=((0, "because"),))),
    "two reasons": (1, lambda run: with_requests(run, reasons=run.requests.reasons * 2)),
    "a time is missing": (2, lambda run: with_requests(run, queued_s=changed(run.requests.queued_s, 0, np.nan))),
    "first token before the step": (
        2,
        lambda run: with_requests(run, first_token_s=changed(run.requests.first_token_s, 1, 0.25)),
    ),
    "refused before it came": (2, lambda run: with_requests(run, queued_s=changed(run.requests.queued_s, 2, 0.5))),
    "before the run": (2, lambda run: with_requests(run, arrival_s=changed(run.requests.arrival_s, 0, -1.0))),
    "after the run": (2, lambda run: with_requests(run, finish_s=changed(run.requests.finish_s, 0, 1e6))),
    "a step starts before it is decided": (2, lambda run: with_step(run, 1, decided_s=1e3)),
    "a step ends before it starts": (2, lambda run: with_step(run, 0, end_s=-1.0)),
    "a step ends before the one before it": (2, lambda run: with_step(run, 0, end_s=5.5)),
    "a step ends after the run": (2, lambda run: with_step(run, 2, end_s=1e6)),
    "a step before the run": (2, lambda run: with_step(run, 0, decided_s=-1.0)),
    "too many blocks": (3, lambda run: with_step(run, 0, n_blocks_used=201)),
    "blocks held at the end": (
        3,
        lambda run: replace(run, instances=(replace(run.instances[0], n_blocks_held_at_end=1), run.instances[1])),
    ),
    "a token too few": (4, lambda run: with_requests(run, emitted_tokens=changed(run.requests.emitted_tokens, 0, 2))),
    "a token too many": (4, lambda run: with_requests(run, emitted_tokens=changed(run.requests.emitted_tokens, 2, 2))),
    "operators do not fill the makespan": (5, lambda run: with_stage(run, operators_s={"launch": 1.0})),
    "negative idle time": (
        5,
        lambda run: with_stage(run, operators_s={"launch": run.makespan_s + 1.0}, idle_s=-1.0),
    ),
    "negative energy": (6, lambda run: with_stage(run, dynamic_j=-1.0)),
    "no energy": (6, lambda run: with_stage(run, dynamic_j=float("nan"))),
    "another idle power": (6, lambda run: with_stage(run, idle_j=1.0)),
}


@pytest.mark.parametrize("name", TAMPERS)
def test_a_run_that_was_tampered_with_is_caught(name: str) -> None:
    number, tamper = TAMPERS[name]
    run = good_run()
    assert run.requests.status.tolist() == [FINISHED, FINISHED, REJECTED]
    with pytest.raises(InvariantError) as caught:
        check_run(tamper(run))
    assert caught.value.number == number


def test_littles_law_is_caught_when_it_is_broken() -> None:
    run = serve(Engine(), flat(1.0), ask([0.0, 0.5], 4, 3))
    with pytest.raises(InvariantError, match="INV-7"):
        check_run(replace(run, request_seconds=run.request_seconds + 0.1))
