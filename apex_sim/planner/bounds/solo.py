"""How fast could a shape serve each request at best: alone, with every step as cheap as its tables allow?

Whatever else runs on the instance, a step that holds a part of a request costs at least the floors of that part
(`floors`), a request's steps follow each other, and everything else only delays it.  So the sums of floors are below
its latencies in every simulation, under any router, batching policy and load.

What an instance does for a request takes a part of the instance's time that no other request can use: `work_s` adds up
over requests, whoever shares their steps.

Preemption, swapping, drafts and waiting add to all of this and are taken as nothing.  A prefix cache may save every
token that another request's prompt begins with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apex_sim.cost.parts import Floats
from apex_sim.cost.step_batch import Window
from apex_sim.cost.step_model import StepModel
from apex_sim.plan.shape import Shape
from apex_sim.planner.bounds.floors import SLACK_FRAC, StageFloors, stage_floors
from apex_sim.workload.column import IntArray
from apex_sim.workload.requests import Requests


@dataclass(frozen=True, slots=True, eq=False)
class SoloTimes:
    """Lower bounds for each request of a workload on one instance of a shape.

    Parameters
    ----------
    ttft_s : arrival to first token.
    decode_s : first to last token.
    work_s, prefill_work_s : of the instance's time, on its busiest stage; the latter before the first token.
    dynamic_j : energy above idle of all devices of the instance.
    idle_w : what all devices of an instance draw while held.
    """

    ttft_s: Floats
    decode_s: Floats
    work_s: Floats
    prefill_work_s: Floats
    dynamic_j: Floats
    idle_w: float

    @property
    def n_bytes(self) -> int:
        """Memory that the times of all requests take."""
        return 5 * self.ttft_s.nbytes


def solo_times(step_model: StepModel, requests: Requests, shared_tokens: IntArray) -> SoloTimes:
    """Return the bounds of every request on one instance of the step model's shape.

    `shared_tokens` : as of `shared_prefix_tokens`, what a prefix cache may save.
    """
    shape = step_model.shape
    stages, work = _floors_of(step_model, requests), _work_of(shape, requests, shared_tokens)
    host = shape.preset.host
    waits_for_host = shape.pp == 1 and not shape.scheduler.async_scheduling
    host_s = host.on_step_s(1, shape.tp) if waits_for_host else 0.0
    prefill_s = _through(stages, [work.prefill_s(stage) for stage in stages]) + host_s * work.n_prompt_steps
    decode_s = np.sum([work.decode_s(stage) for stage in stages], axis=0) + host_s * work.n_decode_steps
    spent_s = [work.spent_s(stage) for stage in stages]
    busiest = max(spent_s, key=lambda each: float(each.sum()))
    prompts_s = [work.prompt_share_s(stage) for stage in stages]
    busiest_prompts = max(prompts_s, key=lambda each: float(each.sum()))
    n_tokens = work.new_tokens + work.n_decode_tokens
    dynamic_j = sum(
        stage.n_devices * (floors.active_w * each + floors.token_j * n_tokens)
        for stage, floors, each in zip(shape.stages, stages, spent_s, strict=True)
    )
    idle_w = sum(
        stage.n_devices * model.power.idle_w for stage, model in zip(shape.stages, step_model.stages, strict=True)
    )
    keep = 1.0 - SLACK_FRAC
    before_s = host.frontend_s + host.prompt_token_s * requests.prompt_tokens
    return SoloTimes(
        ttft_s=keep * (before_s + prefill_s),
        decode_s=keep * decode_s,
        work_s=keep * busiest,
        prefill_work_s=keep * busiest_prompts,
        dynamic_j=keep * np.asarray(dynamic_j),
        idle_w=idle_w,
    )


def stage_work_s(step_model: StepModel, requests: Requests, shared_tokens: IntArray) -> tuple[float, ...]:
    """Return the least time that all requests take of each stage of one instance; arguments as of `solo_times`."""
    work, stages = _work_of(step_model.shape, requests, shared_tokens), _floors_of(step_model, requests)
    spent_s = {id(floors): float(work.spent_s(floors).sum()) for floors in stages}
    return tuple(spent_s[id(floors)] for floors in stages)


def _floors_of(step_model: StepModel, requests: Requests) -> list[StageFloors]:
    """Return the floors of each stage; stages with the same tables share theirs."""
    longest = int((requests.prompt_tokens + requests.output_tokens).max())
    alike = {id(stage.tables): stage for stage in step_model.stages}
    floors = {number: stage_floors(stage, longest) for number, stage in alike.items()}
    return [floors[id(stage.tables)] for stage in step_model.stages]


def _work_of(shape: Shape, requests: Requests, shared_tokens: IntArray) -> _Work:
    new = requests.prompt_tokens - (shared_tokens if shape.scheduler.prefix_cache else 0)
    return _Work(requests.prompt_tokens, new, requests.output_tokens - 1, requests.output_tokens, shape)


def _through(stages: Sequence[StageFloors], prefill_s: Sequence[Floats]) -> Floats:
    """Return how long prompts take through all stages, of which each works on another chunk of them.

    All chunks pass any one stage in turn; the first has come through the stages before it, the last goes on through
    those behind it.
    """
    chunk_s = [max(a + b for a, b in stage.prompt_lines) for stage in stages]
    within = [each + sum(chunk_s) - own for each, own in zip(prefill_s, chunk_s, strict=True)]
    longest: Floats = np.max(within, axis=0)
    return longest


@dataclass(frozen=True, slots=True)
class _Work:
    """What requests ask of an instance: whole prompts, their tokens to compute, tokens to decode, and tokens out."""

    prompt_tokens: IntArray
    new_tokens: IntArray
    n_decode_tokens: IntArray
    n_output: IntArray
    shape: Shape

    @property
    def n_prompt_steps(self) -> Floats:
        """The fewest steps that a prompt takes."""
        return np.ceil(self.new_tokens / self.shape.scheduler.max_num_batched_tokens)

    @property
    def n_decode_steps(self) -> Floats:
        """The fewest steps that the other tokens take, each draft token accepted."""
        return np.ceil(self.n_decode_tokens / (1 + self.shape.scheduler.n_draft_tokens))

    def prefill_s(self, stage: StageFloors) -> Floats:
        """Return the least that the chunks of each prompt take on a stage."""
        steps, tokens = self.n_prompt_steps, self.new_tokens
        lines = [a * steps + b * tokens for a, b in stage.prompt_lines]
        least: Floats = np.max(lines, axis=0) + self._pairs_s(stage)
        return least

    def decode_s(self, stage: StageFloors) -> Floats:
        """Return the least that the steps after the first token take on a stage, one for each token."""
        total: Floats = self.n_decode_steps * stage.decode_step_s
        first, last = self.prompt_tokens, self.prompt_tokens + self.n_decode_tokens
        for keys_s in stage.decode_keys_s.values():
            if self.shape.scheduler.n_draft_tokens:
                total = total + self.n_decode_steps * keys_s[np.minimum(first + 1, len(keys_s) - 1)]
                continue
            up_to = np.cumsum(keys_s)
            total = total + (up_to[last] - up_to[first])
        return total

    def spent_s(self, stage: StageFloors) -> Floats:
        """Return the least part of the stage's time that each request takes."""
        scheduler, n_ranks = self.shape.scheduler, self.shape.attention_dp
        steps = self.n_decode_tokens / (1 + scheduler.n_draft_tokens) / (scheduler.max_num_seqs * n_ranks)
        tokens = self.new_tokens + self.n_decode_tokens
        lines = [a * steps + b * tokens for a, b in stage.step_lines]
        best = max(lines, key=lambda each: float(each.sum()))
        sampled = self.n_output if not scheduler.n_draft_tokens else 0 * self.n_output
        spent: Floats = best + stage.sampled_s * sampled + self._pairs_s(stage) / n_ranks
        for window, per_key_s in stage.key_s.items() if not scheduler.n_draft_tokens else ():
            spent = spent + per_key_s * _keys_read(self.prompt_tokens, self.n_decode_tokens, window)
        return spent

    def prompt_share_s(self, stage: StageFloors) -> Floats:
        """Return the least part of the stage's time that each prompt takes, in steps as good as any."""
        n_ranks = self.shape.attention_dp
        rate_s = max(b for _, b in (stage.prompt_lines if n_ranks == 1 else stage.step_lines))
        share: Floats = rate_s * self.new_tokens + self._pairs_s(stage) / n_ranks
        return share

    def _pairs_s(self, stage: StageFloors) -> Floats:
        cached = self.prompt_tokens - self.new_tokens
        spent = np.zeros(len(cached))
        for window, per_pair_s in stage.pair_s.items():
            spent += per_pair_s * (_pairs(self.prompt_tokens, window) - _pairs(cached, window))
        return spent


def _pairs(n_tokens: IntArray, window: Window) -> Floats:
    """Return the (query, key) pairs of whole prompts under causal attention."""
    n = n_tokens.astype(np.float64)
    growing = n if window is None else np.minimum(n, window)
    pairs: Floats = growing * (growing + 1.0) / 2.0 + (n - growing) * (window or 0)
    return pairs


def _keys_read(prompt_tokens: IntArray, n_decode_tokens: IntArray, window: Window) -> Floats:
    """Return the keys that the decode steps of each request read."""
    return _pairs(prompt_tokens + n_decode_tokens, window) - _pairs(prompt_tokens, window)


def shared_prefix_tokens(requests: Requests) -> IntArray:
    """Return how many tokens of each prompt another prompt begins with too, all but one at most.

    That many a prefix cache could hold; at least one token is always computed.
    """
    if requests.prefix_hashes is None or requests.hash_block_tokens is None:
        return np.zeros_like(requests.prompt_tokens)
    counts = Counter(block for row in range(requests.n) for block in set(requests.full_blocks(row)))
    shared = np.zeros_like(requests.prompt_tokens)
    for row in range(requests.n):
        blocks = requests.full_blocks(row)
        n_shared = next((i for i, block in enumerate(blocks) if counts[block] < 2), len(blocks))
        shared[row] = n_shared * requests.hash_block_tokens
    return np.minimum(shared, requests.prompt_tokens - 1)
