"""Which request rate could a plan sustain, by a closed form?

In saturation an instance keeps its batch full.  With B sequences of p prompt and o output tokens on average, B / o
of them end in a step and as many prompts enter it, so that a pipeline slot lasts s(B decodes + B p / o prompt
tokens) and the instance serves B / (o s) requests per second.  An estimate from means: queueing needs the simulation.
Where nobody joins a batch, B requests take their prompts and as many steps as the longest of B answers.
It assumes that the batches in a pipeline are equal; engines do not balance them, and unequal ones serve down to half
of the estimate at two or four stages, less at eight.  Ranks of attention DP are taken as equally full.  An engine that
never evicts keeps room for the whole output.  With speculation a step emits E tokens for each sequence, so that B E / o
of them end in it.
"""

from __future__ import annotations

from copy import copy

import numpy as np

from apex_sim.cost.draft_cost import DraftBatch
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import StepModel
from apex_sim.plan.memory import Memory
from apex_sim.preset.research import RESEARCH_POLICIES
from apex_sim.workload.column import IntArray
from apex_sim.workload.requests import Requests


def workload_capacity_per_s(step_model: StepModel, memory: Memory, requests: Requests) -> float:
    """Return the estimated capacity of one instance, in requests of this workload per second."""
    settings = step_model.shape.scheduler
    research = RESEARCH_POLICIES.get(settings.policy)
    prompt, output = float(requests.prompt_tokens.mean()), float(requests.output_tokens.mean())
    if research is None or not research.reserves:
        return instance_capacity_per_s(step_model, memory, prompt, output)
    room = settings.max_model_len - requests.prompt_tokens
    stated = requests.max_output_tokens
    held = prompt + float(np.where(stated > 0, np.minimum(stated, room), room).mean())
    if research.joins:
        return instance_capacity_per_s(step_model, memory, prompt, output, held)
    n_running = max(1.0, _n_running(step_model, memory, held))
    longest = expected_longest(requests.output_tokens, n_running)
    decode_s = _step_s(step_model, _decodes(step_model, n_running * output / longest, prompt + output / 2))
    return n_running / (longest * decode_s + _prefill_s(step_model, n_running, prompt))


def expected_longest(tokens: IntArray, n: float) -> float:
    """Return the mean of the largest of `n` draws from `tokens`.

    Examples
    --------
    >>> expected_longest(np.array([1, 3]), 1), expected_longest(np.array([1, 3]), 2)
    (2.0, 2.5)
    """
    below = np.arange(len(tokens) + 1) / len(tokens)
    return float((np.sort(tokens) * np.diff(below**n)).sum())


def instance_capacity_per_s(
    step_model: StepModel,
    memory: Memory,
    prompt_tokens: float,
    output_tokens: float,
    reserved_tokens: float | None = None,
) -> float:
    """Return the estimated capacity of one instance in requests per second.

    Parameters
    ----------
    prompt_tokens, output_tokens : means of the workload.
    reserved_tokens : mean tokens whose memory a request takes from start to end; by default it takes what it has.
    """
    shape = step_model.shape
    settings = shape.scheduler
    held_tokens = prompt_tokens + (output_tokens if settings.policy.startswith("no-evict") else output_tokens / 2)
    n_running = max(1.0, _n_running(step_model, memory, reserved_tokens or held_tokens))
    if settings.policy in ("prefill-first", "sglang"):
        decode_s = _step_s(step_model, _decodes(step_model, n_running, held_tokens))
        slot_s = decode_s + _prefill_s(step_model, n_running / output_tokens, prompt_tokens)
    else:
        emitted = settings.speculation.expected_tokens if settings.speculation else 1.0
        n_new, n_entering = 1 + settings.n_draft_tokens, emitted * prompt_tokens / output_tokens
        n_running = min(n_running, settings.max_num_batched_tokens / (n_new + n_entering))
        batch = _decodes(step_model, n_running, held_tokens, n_new)
        _add_prompts(batch, n_running * n_entering, prompt_tokens, settings.max_num_batched_tokens)
        slot_s = _step_s(step_model, batch) + _draft_s(step_model, batch, _decodes(step_model, n_running, held_tokens))
        n_running *= emitted
    return shape.attention_dp * n_running / (output_tokens * slot_s)


def _n_running(step_model: StepModel, memory: Memory, held_tokens: float) -> float:
    """Return the sequences of a full batch of one attention rank: seats, or what the KV cache holds."""
    shape = step_model.shape
    n_seats = shape.scheduler.max_num_seqs * shape.n_queues / shape.attention_dp / shape.pp
    return min(n_seats, memory.kv_tokens / shape.attention_dp / shape.pp / held_tokens)


def _decodes(step_model: StepModel, n_running: float, held_tokens: float, n_new: int = 1) -> StepBatch:
    batch = StepBatch(step_model.windows)
    for _ in range(max(1, round(n_running))):
        batch.add(round(held_tokens), n_new, samples=n_new, is_decode=True)
    return batch


def _draft_s(step_model: StepModel, batch: StepBatch, follow: StepBatch) -> float:
    """Return the time of a draft beside `batch`, which then proposes for the sequences of `follow`."""
    if step_model.draft is None:
        return 0.0
    drafts = DraftBatch(step_model.windows)
    drafts.first, drafts.follow = copy(batch), follow
    drafts.first.n_sampled = follow.n_sequences
    return step_model.draft.price(drafts)[0]


def _prefill_s(step_model: StepModel, n_entering: float, prompt_tokens: float) -> float:
    """Return the time of the prompt steps for each decode step, after which `n_entering` prompts find a seat."""
    length, budget = max(1, round(prompt_tokens)), step_model.shape.scheduler.max_num_batched_tokens
    n_prompts = max(1, min(round(n_entering), budget // length))
    chunk = min(length, budget)  # of a prompt longer than a step the middle chunk stands for all
    batch = StepBatch(step_model.windows)
    for _ in range(n_prompts):
        batch.add((length - chunk) // 2, chunk, samples=True, is_decode=False)
    return _step_s(step_model, batch) * length / chunk * n_entering / n_prompts


def _add_prompts(batch: StepBatch, prompt_share: float, prompt_tokens: float, budget_tokens: int) -> None:
    left = min(round(prompt_share), budget_tokens - batch.n_tokens)
    while left > 0:
        chunk = min(left, max(1, round(prompt_tokens)))
        batch.add(max(0, round((prompt_tokens - chunk) / 2)), chunk, samples=False, is_decode=False)
        left -= chunk


def _step_s(step_model: StepModel, batch: StepBatch) -> float:
    device_s = max(stage.price(batch).device_s for stage in step_model.stages)
    host_s = step_model.host_s(batch)
    overlaps = step_model.shape.scheduler.async_scheduling or step_model.shape.pp > 1
    return max(device_s, host_s) if overlaps else device_s + host_s
