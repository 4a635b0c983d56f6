"""What does one instance do, step by step?  The readable engine that defines the semantics (docs/design.md, section 5).

Each scheduler queue has a loop like the engine's own: decide a batch, spend the host's time on it, hand it to the
pipeline, and, once as many batches are in flight as the engine allows, wait for the oldest and take in its results.
Engines with one queue for each in-flight batch (vLLM v0) run several such loops over one pipeline.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

import simpy

from apex_sim.cost.draft_cost import DraftBatch
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import StepModel
from apex_sim.errors import InvariantError
from apex_sim.instance.acceptance import acceptance_draw
from apex_sim.instance.block_pool import BlockPool
from apex_sim.instance.clock import DECISIONS, ENDS, Process, Turn, start_process, wait_until
from apex_sim.instance.legal_batch import require_legal_batch
from apex_sim.instance.pipeline import Pipeline
from apex_sim.instance.policies import POLICIES
from apex_sim.instance.prefix_cache import prefix_cache_of
from apex_sim.instance.scheduler_queue import SchedulerQueue
from apex_sim.instance.sequence import Entry, Sequence
from apex_sim.plan.memory import Memory
from apex_sim.plan.shape import Shape
from apex_sim.record.latency_histogram import LatencyHistogram
from apex_sim.record.step_records import StepRecords

Policy = Callable[[SchedulerQueue], list[Entry]]


class Listener(Protocol):
    """Who wants to know what happens to requests; all times are seconds on the simulation's clock."""

    def scheduled(self, request: int, now_s: float) -> None:
        """Take note that the request was first picked for a step."""

    def token(self, request: int, now_s: float) -> bool:
        """Take in one output token; return whether it is the request's last."""

    def finished(self, sequence: Sequence, now_s: float) -> None:
        """Take note of the end of a request."""

    def rejected(self, sequence: Sequence, reason: str, now_s: float) -> None:
        """Take note that the engine refuses a request."""


@dataclass(slots=True)
class InFlight:
    """A batch on its way through the pipeline."""

    entries: list[Entry]
    end_s: float


class ReferenceInstance:
    """One instance on the SimPy clock.

    Parameters
    ----------
    env : simulation environment shared by the fleet.
    shape, step_model, memory : what the instance is, what its steps cost, and its KV pool.
    listener : told of everything that happens to requests.
    policy : batching policy; by default the one that the shape's scheduler settings name.
    unit_tokens : tokens of one hashed block of the requests' prompts; None if they have none.
    place : which of the fleet's instances this is; ties between them fall in this order.
    seed : of the draws that say which draft tokens are kept.
    check : assert that every batch is legal; always done for a `policy` that is handed in.
    """

    def __init__(
        self,
        env: simpy.Environment,
        shape: Shape,
        step_model: StepModel,
        memory: Memory,
        listener: Listener,
        policy: Policy | None = None,
        *,
        unit_tokens: int | None = None,
        check: bool = False,
        place: int = 0,
        seed: int = 0,
    ) -> None:
        self._env = env
        self._place = place
        self._shape = shape
        self._step_model = step_model
        self._listener = listener
        self._policy = policy or POLICIES[shape.scheduler.policy]
        self._checks = check or policy is not None
        self._speculation, self._seed = shape.scheduler.speculation, seed
        self.steps = StepRecords()
        self.gaps = LatencyHistogram()
        self._host = simpy.Resource(env, capacity=1)
        settings, preset, n_queues = shape.scheduler, shape.preset, shape.n_queues
        self._depth = shape.n_in_flight
        self.pipeline = Pipeline(step_model, hides_host=self._depth > 1)
        self.queues = [
            SchedulerQueue(
                settings,
                BlockPool(
                    memory.n_blocks // n_queues,
                    memory.layout,
                    preset.watermark_frac,
                    prefix_cache_of(settings, memory, unit_tokens),
                ),
                memory.n_host_blocks // n_queues,
            )
            for _ in range(n_queues)
        ]
        self._arrived = [env.event() for _ in self.queues]
        self._barren_steps = 0
        for index in range(n_queues):
            start_process(env, self._loop(index))

    def unfinished(self) -> list[Sequence]:
        """Return the sequences in the instance's care."""
        return [
            sequence
            for queue in self.queues
            for side in (queue.waiting, queue.running, queue.swapped)
            for sequence in side
        ]

    def submit(
        self, request: int, prompt_tokens: int, max_output_tokens: int, units: tuple[int, ...] = (), rank: float = 0.0
    ) -> None:
        """Put a request into the least loaded queue; it can be scheduled from the next decision on.

        It is refused if as many as the settings allow wait already.
        """
        index = min(range(len(self.queues)), key=lambda i: self.queues[i].n_unfinished)
        runs_ahead = self._shape.scheduler.async_scheduling
        sequence = Sequence(request, prompt_tokens, max_output_tokens, runs_ahead, rank, units=units)
        most = self._shape.scheduler.max_num_waiting
        if most is not None and sum(len(queue.waiting) for queue in self.queues) >= most:
            self._listener.rejected(sequence, f"{most} requests wait already", self._env.now)
            return
        self.queues[index].enqueue(sequence)
        arrived, self._arrived[index] = self._arrived[index], self._env.event()
        arrived.succeed()

    def _loop(self, index: int) -> Process:
        queue = self.queues[index]
        in_flight: deque[InFlight] = deque()
        while True:
            if queue.n_unfinished and len(in_flight) < self._depth:
                batch = yield from self._step(queue)
                if batch is None and not in_flight:  # a step that only preempts or refuses is empty: the next follows
                    batch = yield from self._step(queue)
                if batch is not None:
                    in_flight.append(batch)
                    if len(in_flight) < self._depth and in_flight[0].end_s > self._env.now:
                        continue
                elif not in_flight and queue.n_unfinished:
                    raise InvariantError(
                        1, f"{queue.n_unfinished} requests wait, nothing runs and nothing is scheduled"
                    )
            if in_flight:
                oldest = in_flight.popleft()
                yield from wait_until(self._env, oldest.end_s)
                yield Turn(self._env, ENDS, self._place)
                self._take_in(queue, oldest)
            elif not queue.n_unfinished:
                queue.rest()
                yield self._arrived[index]

    def _step(self, queue: SchedulerQueue) -> Generator[simpy.Event, Any, InFlight | None]:
        """Decide a batch, spend the host's time on it and hand it to the pipeline; None if there is none to run."""
        with self._host.request() as turn:
            yield turn
            yield Turn(self._env, DECISIONS, self._place)
            decided_s = self._env.now
            entries = self._decide(queue)
            if not entries:
                return None
            batch = StepBatch(self._step_model.windows)
            drafts = DraftBatch(self._step_model.windows) if self._speculation else None
            for entry in entries:
                batch.add(entry.past, entry.n_new, entry.n_sampled, entry.is_decode)
                if drafts:
                    drafts.add(entry.past, entry.n_new, entry.samples, entry.is_decode)
            batch.n_copied_blocks = queue.n_copied
            n_waiting = sum(len(each.waiting) + len(each.swapped) for each in self.queues)
            n_running = sum(len(each.running) for each in self.queues)
            n_used = sum(each.pool.n_used for each in self.queues)
            host_s = self._step_model.host_s(batch)
            yield self._env.timeout(host_s)
        requests = tuple(entry.sequence.request for entry in entries)
        start_s, end_s = self.pipeline.run(batch, requests, decided_s, host_s, self._env.now, drafts)
        self.steps.add(
            decided_s,
            start_s,
            end_s,
            batch.n_prefill_tokens,
            batch.n_decode,
            batch.n_sequences,
            n_waiting,
            n_running,
            n_used,
        )
        return InFlight(entries, end_s)

    def _decide(self, queue: SchedulerQueue) -> list[Entry]:
        entries = self._policy(queue)
        if self._checks:
            require_legal_batch(queue, entries)
        for sequence, reason in queue.rejected:
            self._listener.rejected(sequence, reason, self._env.now)
        queue.rejected.clear()
        for entry in entries:
            if entry.past == entry.sequence.n_hit_tokens and entry.sequence.n_preemptions == 0:
                self._listener.scheduled(entry.sequence.request, self._env.now)
        return entries

    def _take_in(self, queue: SchedulerQueue, batch: InFlight) -> None:
        """Deliver the batch's tokens and let finished sequences go."""
        now_s = self._env.now
        self._require_progress(queue, batch)
        for entry in batch.entries:
            sequence = entry.sequence
            if not entry.samples or sequence.is_finished:
                continue
            n_kept = self._n_kept(entry)
            sequence.n_pending -= 1
            sequence.n_computed -= entry.n_drafts - n_kept
            sequence.n_drafts = queue.settings.n_draft_tokens
            if sequence.n_generated > 0:
                self.gaps.add(now_s - sequence.last_token_s)
            sequence.last_token_s = now_s
            for _ in range(1 + n_kept):
                sequence.n_generated += 1
                if self._listener.token(sequence.request, now_s):
                    self._finish(queue, sequence, now_s)
                    break

    def _n_kept(self, entry: Entry) -> int:
        """Return how many of the entry's draft tokens are kept: those before the first that is not."""
        sequence, speculation = entry.sequence, self._speculation
        for index in range(entry.n_drafts):
            draw = acceptance_draw(self._seed, sequence.request, sequence.n_generated + index)
            if speculation is None or draw >= speculation.acceptance_frac[index]:
                return index
        return entry.n_drafts

    def _require_progress(self, queue: SchedulerQueue, batch: InFlight) -> None:
        """Refuse to go on for ever without a token: the oldest sequence computes at least one of its own a step."""
        self._barren_steps = 0 if any(entry.samples for entry in batch.entries) else self._barren_steps + 1
        if self._barren_steps > len(self.queues) * self._depth * queue.settings.max_model_len:
            raise InvariantError(
                1, f"{self._barren_steps} steps without a token: sequences preempt each other for ever"
            )

    def _finish(self, queue: SchedulerQueue, sequence: Sequence, now_s: float) -> None:
        sequence.is_finished = True
        (queue.running if sequence in queue.running else queue.waiting).remove(sequence)
        queue.release(sequence)
        self._listener.finished(sequence, now_s)
