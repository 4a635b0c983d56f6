"""What does one instance do, step by step?  The readable engine that defines the semantics (docs/design.md, section 5).

Each scheduler queue has a loop like the engine's own: decide a batch, spend the host's time on it, hand it to the
pipeline, and, once as many batches are in flight as the engine allows, wait for the oldest and take in its results.
Engines with one queue for each in-flight batch (vLLM v0) run several such loops over one pipeline.  Ranks of attention
DP have a queue each and one loop together: all decide at the same instant, in their order, and their batches are one
step.  A rank without work takes part with a dummy batch; the loop rests only if no rank has any.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

import simpy

from apex_sim.cost.draft_cost import DraftBatch
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import StepModel
from apex_sim.draw import ACCEPTANCE, uniform
from apex_sim.errors import InvariantError
from apex_sim.instance.block_pool import BlockPool
from apex_sim.instance.clock import DECISIONS, ENDS, Process, Turn, start_process, wait_until
from apex_sim.instance.legal_batch import require_legal_batch
from apex_sim.instance.listener import Listener
from apex_sim.instance.orders import ORDERS
from apex_sim.instance.orders.queue_order import QueueOrder
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
OrderMaker = Callable[[], QueueOrder]


@dataclass(slots=True)
class InFlight:
    """A step on its way through the pipeline: the entries of each attention rank."""

    entries: list[list[Entry]]
    end_s: float


class ReferenceInstance:
    """One instance on the SimPy clock.

    Parameters
    ----------
    env : simulation environment shared by the fleet.
    shape, step_model, memory : what the instance is, what its steps cost, and its KV pool.
    listener : told of everything that happens to requests.
    policy, order : batching policy, and what makes a queue order that keeps account; by default those that the shape's
        scheduler settings name.
    unit_tokens : tokens of one hashed block of the requests' prompts; None if they have none.
    place : which of the fleet's instances this is; ties between them fall in this order.
    seed : of what is drawn during the run.
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
        order: OrderMaker | None = None,
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
        self.pipeline = Pipeline(step_model, hides_host=self._depth > 1, seed=seed, place=place)
        maker = order or ORDERS.get(settings.queue_order)
        self._order = maker() if maker else None
        own = replace(memory, n_blocks=memory.n_blocks // n_queues)
        self.queues = [
            SchedulerQueue(
                settings,
                BlockPool(own.n_blocks, own.layout, preset.watermark_frac, prefix_cache_of(settings, own, unit_tokens)),
                self._order,
                memory.n_host_blocks // n_queues,
            )
            for _ in range(n_queues)
        ]
        n_ranks = shape.attention_dp
        self._loops = [self.queues[first : first + n_ranks] for first in range(0, n_queues, n_ranks)]
        self._arrived = [env.event() for _ in self._loops]
        self._barren_steps = 0
        self._n_placed = 0
        for index in range(len(self._loops)):
            start_process(env, self._loop(index))

    def unfinished(self) -> list[Sequence]:
        """Return the sequences in the instance's care."""
        return [sequence for queue in self.queues for sequence in queue.unfinished()]

    def submit(
        self,
        request: int,
        prompt_tokens: int,
        max_output_tokens: int,
        units: tuple[int, ...] = (),
        rank: float = 0.0,
        owner: str = "",
    ) -> None:
        """Put a request into a queue; it can be scheduled from the next decision on.

        It is refused if as many as the settings allow wait already.
        """
        index = self._place_of_next()
        runs_ahead = self._shape.scheduler.async_scheduling
        sequence = Sequence(request, prompt_tokens, max_output_tokens, runs_ahead, rank, owner=owner, units=units)
        most = self._shape.scheduler.max_num_waiting
        if most is not None and sum(len(queue.waiting) for queue in self.queues) >= most:
            self._listener.rejected(sequence, f"{most} requests wait already", self._env.now)
            return
        self.queues[index].enqueue(sequence)
        self._n_placed += 1
        loop = index // self._shape.attention_dp
        arrived, self._arrived[loop] = self._arrived[loop], self._env.event()
        arrived.succeed()

    def _place_of_next(self) -> int:
        """Return the queue with the fewest unfinished requests, or the attention rank that the engine's rule gives."""
        weight, ranks = 1, self._shape.preset.ranks
        if self._shape.attention_dp > 1 and ranks:
            if ranks.waiting_weight is None:
                return self._n_placed % len(self.queues)
            weight = ranks.waiting_weight
        loads = [weight * len(queue.waiting) + len(queue.running) + len(queue.swapped) for queue in self.queues]
        return loads.index(min(loads))

    def _loop(self, index: int) -> Process:
        queues = self._loops[index]
        in_flight: deque[InFlight] = deque()
        while True:
            n_unfinished = sum(queue.n_unfinished for queue in queues)
            if n_unfinished and len(in_flight) < self._depth:
                batch = yield from self._step(queues)
                if batch is None and not in_flight:  # a step that only preempts or refuses is empty: the next follows
                    batch = yield from self._step(queues)
                if batch is not None:
                    in_flight.append(batch)
                    if len(in_flight) < self._depth and in_flight[0].end_s > self._env.now:
                        continue
                elif not in_flight and (n_left := sum(queue.n_unfinished for queue in queues)):
                    raise InvariantError(1, f"{n_left} requests wait, nothing runs and nothing is scheduled")
            if in_flight:
                oldest = in_flight.popleft()
                yield from wait_until(self._env, oldest.end_s)
                yield Turn(self._env, ENDS, self._place)
                self._take_in(queues, oldest)
            elif not any(queue.n_unfinished for queue in queues):
                for queue in queues:
                    queue.rest()
                yield self._arrived[index]

    def _step(self, queues: list[SchedulerQueue]) -> Generator[simpy.Event, Any, InFlight | None]:
        """Decide a batch, spend the host's time on it and hand it to the pipeline; None if there is none to run."""
        with self._host.request() as turn:
            yield turn
            yield Turn(self._env, DECISIONS, self._place)
            decided_s = self._env.now
            entries = [self._decide(queue) for queue in queues]
            if not any(entries):
                return None
            batches = [self._batch_of(queue, each) for queue, each in zip(queues, entries, strict=True)]
            n_waiting = sum(len(each.waiting) + len(each.swapped) for each in self.queues)
            n_running = sum(len(each.running) for each in self.queues)
            n_used = sum(each.pool.n_used for each in self.queues)
            host_s = max(self._step_model.host_s(batch) for batch in batches)  # each rank has a process of its own
            yield self._env.timeout(host_s)
        start_s, end_s = self._send(batches, entries, decided_s, host_s)
        self.steps.add(
            decided_s,
            start_s,
            end_s,
            sum(batch.n_prefill_tokens for batch in batches),
            sum(batch.n_decode for batch in batches),
            sum(batch.n_sequences for batch in batches),
            n_waiting,
            n_running,
            n_used,
            self.pipeline.dynamic_j(self._shape),
        )
        return InFlight(entries, end_s)

    def _batch_of(self, queue: SchedulerQueue, entries: list[Entry]) -> StepBatch:
        batch = StepBatch(self._step_model.windows, n_copied_blocks=queue.n_copied)
        for entry in entries:
            batch.add(entry.past, entry.n_new, entry.n_sampled, entry.is_decode)
        return batch

    def _drafts_of(self, entries: list[Entry]) -> DraftBatch | None:
        if self._speculation is None:
            return None
        drafts = DraftBatch(self._step_model.windows)
        for entry in entries:
            drafts.add(entry.past, entry.n_new, entry.samples, entry.is_decode)
        return drafts

    def _send(
        self, batches: list[StepBatch], entries: list[list[Entry]], decided_s: float, host_s: float
    ) -> tuple[float, float]:
        """Hand a step to the pipeline; return when it starts and ends."""
        if len(batches) > 1:
            return self.pipeline.run_ranks(batches, decided_s, self._env.now)
        requests = tuple(entry.sequence.request for entry in entries[0])
        drafts = self._drafts_of(entries[0])
        return self.pipeline.run(batches[0], requests, decided_s, host_s, self._env.now, drafts)

    def _decide(self, queue: SchedulerQueue) -> list[Entry]:
        queue.arrange()
        entries = self._policy(queue)
        if self._checks:
            require_legal_batch(queue, entries)
        for sequence, reason in queue.rejected:
            self._listener.rejected(sequence, reason, self._env.now)
        queue.rejected.clear()
        for entry in entries:
            if self._order:
                self._order.runs(entry)
            if entry.past == entry.sequence.n_hit_tokens and entry.sequence.n_preemptions == 0:
                self._listener.scheduled(entry.sequence.request, self._env.now)
        return entries

    def _take_in(self, queues: list[SchedulerQueue], batch: InFlight) -> None:
        """Deliver the tokens of all ranks and let finished sequences go."""
        self._require_progress(queues[0], batch)
        for queue, entries in zip(queues, batch.entries, strict=True):
            for entry in entries:
                if entry.samples and not entry.sequence.is_finished:
                    self._deliver(queue, entry)

    def _deliver(self, queue: SchedulerQueue, entry: Entry) -> None:
        """Deliver the token of one entry and those of its drafts that are kept."""
        sequence, now_s, n_kept = entry.sequence, self._env.now, self._n_kept(entry)
        sequence.n_pending -= 1
        sequence.n_computed -= entry.n_drafts - n_kept
        sequence.n_drafts = queue.settings.n_draft_tokens
        if sequence.n_generated > 0:
            self.gaps.add(now_s - sequence.last_token_s)
        sequence.last_token_s = now_s
        for _ in range(1 + n_kept):
            sequence.n_generated += 1
            if self._order:
                self._order.emits(sequence)
            if self._listener.token(sequence.request, now_s):
                self._finish(queue, sequence, now_s)
                break

    def _n_kept(self, entry: Entry) -> int:
        """Return how many of the entry's draft tokens are kept: those before the first that is not."""
        sequence, speculation = entry.sequence, self._speculation
        for index in range(entry.n_drafts):
            draw = uniform(self._seed, sequence.request, sequence.n_generated + index, ACCEPTANCE)
            if speculation is None or draw >= speculation.acceptance_frac[index]:
                return index
        return entry.n_drafts

    def _require_progress(self, queue: SchedulerQueue, batch: InFlight) -> None:
        """Refuse to go on for ever without a token: the oldest sequence computes at least one of its own a step."""
        samples = any(entry.samples for entries in batch.entries for entry in entries)
        self._barren_steps = 0 if samples else self._barren_steps + 1
        if self._barren_steps > len(self.queues) * self._depth * queue.settings.max_model_len:
            raise InvariantError(
                1, f"{self._barren_steps} steps without a token: sequences preempt each other for ever"
            )

    def _finish(self, queue: SchedulerQueue, sequence: Sequence, now_s: float) -> None:
        sequence.is_finished = True
        (queue.running if sequence in queue.running else queue.waiting).remove(sequence)
        queue.release(sequence)
        self._listener.finished(sequence, now_s)
