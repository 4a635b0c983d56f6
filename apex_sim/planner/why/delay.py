"""Where did the time of each request go?

    TTFT = front end + waiting for KV blocks + other waiting + own prompt + others' work + preemption
    E2E - TTFT = own decoding + prompts of others + sequences of others + preemption

Two counterfactual runs tell the parts apart.  *Alone*: the same requests on the same instance, one after the other, so
that nothing is shared.  *Ample*: the same load with more KV blocks than it can use.  With F, Q, S, T, E the times at
which a request was sent, queued, first scheduled, gave its first and its last token, a prime for ample and P, D for the
time from S to T and from T to E alone:

    front end = Q - F                     waiting for KV = clip(S - Q - (S' - Q'), 0, S - Q)
    own prompt = P                        other waiting = S - Q - waiting for KV
    preemption = clip(T - S - (T' - S'), 0, T - S - P)    where it was preempted or lost its place, else 0
    others' work = T - S - P - preemption

and likewise for decoding, where the rest is split between steps with prompts and steps without: what a step with
prompts takes longer than the instance's mean step without one in that time is due to the prompts.
The parts of each request add up to what was measured.  Others' work may be below 0: by the grain of steps, and where a
prompt that others cut into more chunks passes the stages of a pipeline sooner.
A prompt whose first tokens were in the prefix cache is priced alone on the rest, without its attention to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from apex_sim.fleet.compiled_plan import CompiledPlan
from apex_sim.fleet.fleet import simulate_plan
from apex_sim.plan.plan import Plan
from apex_sim.planner.evaluation import costs_of
from apex_sim.planner.study import Study
from apex_sim.planner.trial import Trial
from apex_sim.record.request_records import RequestRecords
from apex_sim.record.step_records import StepRecords
from apex_sim.workload.load_form import LoadForm
from apex_sim.workload.workload import Workload

Floats = NDArray[np.float64]

#: Parts of TTFT, and of the time after it.
FIRST_PARTS: Final = (
    "frontend",
    "kv_queueing",
    "queueing",
    "own_prompt",
    "others_before_first",
    "preemption_before_first",
)
DECODE_PARTS: Final = ("own_decode", "others_prompts", "others_sequences", "preemption_after_first")


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds of each part for each request, in the workload's order; NaN where a request did not finish."""

    first_s: Mapping[str, Floats]
    decode_s: Mapping[str, Floats]


def delays_of(study: Study, trial: Trial, compiled: CompiledPlan) -> Delays:
    """Return the parts of every request's latency in `trial`, whose plan was compiled to `compiled`."""
    requests = trial.run.requests
    prompt_s, decode_s = _alone(study, trial, compiled)
    ample = _ample(study, trial, compiled)
    waited_s, first_s = requests.scheduled_s - requests.queued_s, requests.first_token_s - requests.scheduled_s
    rest_s = requests.finish_s - requests.first_token_s
    kv_s = _clip(waited_s - (ample.scheduled_s - ample.queued_s), 0.0, waited_s)
    was_preempted = requests.n_preemptions > 0
    lost_first_s = _clip(first_s - (ample.first_token_s - ample.scheduled_s), 0.0, first_s - prompt_s) * was_preempted
    lost_decode_s = _clip(rest_s - (ample.finish_s - ample.first_token_s), 0.0, rest_s - decode_s) * was_preempted
    shared_s = rest_s - decode_s - lost_decode_s
    of_prompts = _prompt_share(trial, decode_s)
    first = (
        requests.queued_s - requests.arrival_s,
        kv_s,
        waited_s - kv_s,
        prompt_s,
        first_s - prompt_s - lost_first_s,
        lost_first_s,
    )
    decode = (decode_s, shared_s * of_prompts, shared_s * (1.0 - of_prompts), lost_decode_s)
    return Delays(dict(zip(FIRST_PARTS, first, strict=True)), dict(zip(DECODE_PARTS, decode, strict=True)))


def _clip(values: Floats, low: float, high: Floats) -> Floats:
    clipped: Floats = np.clip(values, low, np.maximum(high, low))
    return clipped


def _alone(study: Study, trial: Trial, compiled: CompiledPlan) -> tuple[Floats, Floats]:
    """Return how long each request takes on its instance, without any other, to its first token and from there on."""
    requests = trial.run.requests
    shapes, mine = trial.plan.expand(), requests.instance
    prompt_s, decode_s = np.full(len(mine), np.nan), np.full(len(mine), np.nan)
    cached = np.where(requests.finished, requests.cached_tokens, 0)
    for shape in compiled:
        rows = np.isin(mine, [index for index, each in enumerate(shapes) if each == shape])
        rows &= requests.finished
        plan = Plan(((shape, 1),))
        whole = _one_by_one(study, plan, compiled, np.zeros_like(cached))
        prompt_s[rows] = (whole.first_token_s - whole.scheduled_s)[rows]
        decode_s[rows] = (whole.finish_s - whole.first_token_s)[rows]
        hit = rows & (cached > 0)
        if hit.any():
            rest = _one_by_one(study, plan, compiled, cached)
            prompt_s[hit] = (rest.first_token_s - rest.scheduled_s)[hit]
    return prompt_s, decode_s


def _one_by_one(study: Study, plan: Plan, compiled: CompiledPlan, skipped: NDArray[np.int64]) -> RequestRecords:
    """Return what happens when one user asks every request, without the first `skipped` tokens of its prompt."""
    requests = study.workload.requests
    requests = replace(
        requests,
        prompt_tokens=np.maximum(requests.prompt_tokens - skipped, 1),
        prefix_hashes=None,
        hash_block_tokens=None,
    ).closed_loop(1)
    workload = replace(study.workload, requests=requests, load=LoadForm("closed", 1), rate_per_s=None)
    return _serve(study, plan, workload, compiled)


def _ample(study: Study, trial: Trial, compiled: CompiledPlan) -> RequestRecords:
    """Return what happens when no instance can run out of KV blocks."""
    with_room = {}
    for shape, (memory, steps) in compiled.items():
        seats = shape.scheduler.max_num_seqs * shape.n_queues
        n_blocks = memory.layout.blocks_for(shape.scheduler.max_model_len) * (seats + shape.n_queues)
        with_room[shape] = replace(memory, n_blocks=max(memory.n_blocks, n_blocks)), steps
    return _serve(study, trial.plan, study.workload, with_room)


def _serve(study: Study, plan: Plan, workload: Workload, compiled: CompiledPlan) -> RequestRecords:
    run = simulate_plan(study.model, study.cluster, plan, workload, costs_of(study), compiled=compiled)
    return run.requests


def _prompt_share(trial: Trial, decode_s: Floats) -> Floats:
    """Return which share of what others take of each request's decoding is due to their prompts."""
    requests = trial.run.requests
    shares = np.zeros(len(decode_s))
    gaps = np.maximum(requests.output_tokens - 1, 1)
    for index, instance in enumerate(trial.run.instances):
        rows = np.flatnonzero((requests.instance == index) & requests.finished)
        if len(instance.steps) and len(rows):
            times = requests.first_token_s[rows], requests.finish_s[rows]
            shares[rows] = _of_prompts(instance.steps, *times, decode_s[rows] / gaps[rows])
    return shares


def _of_prompts(steps: StepRecords, since_s: Floats, until_s: Floats, alone_s: Floats) -> Floats:
    """Return the share of steps' excess over `alone_s` that lies in what prompts add to steps, between two times.

    A part of a long run's steps stands for all of them.
    """
    end_s, took_s = steps.column("end_s"), steps.column("end_s") - steps.column("start_s")
    mixed = steps.column("n_prefill_tokens") > 0
    columns = np.stack([mixed * took_s, mixed, ~mixed * took_s, ~mixed])
    sums = np.concatenate([np.zeros((4, 1)), np.cumsum(columns, axis=1)], axis=1)
    order = np.maximum.accumulate(end_s)
    low, high = np.searchsorted(order, since_s, side="right"), np.searchsorted(order, until_s, side="right")
    mixed_s, n_mixed, plain_s, n_plain = sums[:, high] - sums[:, low]
    mean_s = np.where(n_plain > 0, plain_s / np.maximum(n_plain, 1), alone_s)
    prompts = np.maximum(mixed_s - n_mixed * mean_s, 0.0)
    sequences = np.maximum((n_mixed + n_plain) * (mean_s - alone_s), 0.0)
    both = prompts + sequences
    share: Floats = np.where(both > 0, prompts / np.where(both > 0, both, 1.0), 0.0)
    return share
