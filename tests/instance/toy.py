"""Engines without a model: steps as `toy_steps` prices them, and a few lines to run them and read what they did.

Everything else is the real thing: fleet, instance, meters, and the compiled engine with its tables.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy
from toy_steps import StepTime, affine, flat, per_sequence, toy_stage

from apex_sim.cost.step_model import StepModel
from apex_sim.fleet.compiled_plan import compiled_way
from apex_sim.fleet.fleet import Fleet
from apex_sim.fleet.invariants import check_run
from apex_sim.instance.block_pool import BlockPool
from apex_sim.instance.orders import ORDERS
from apex_sim.instance.policies import POLICIES as POLICY_OF
from apex_sim.instance.reference import Policy, ReferenceInstance
from apex_sim.instance.scheduler_queue import SchedulerQueue
from apex_sim.instance.sequence import Entry, Sequence
from apex_sim.plan.kv_layout import KvLayout
from apex_sim.plan.memory import Memory
from apex_sim.plan.plan import Plan
from apex_sim.plan.precision import Precision
from apex_sim.plan.shape import SchedulerSettings, Shape, tensor_pipeline_stages
from apex_sim.plan.speculation import Speculation
from apex_sim.preset.load import load_preset
from apex_sim.record.run import FleetRun
from apex_sim.workload.load_form import LoadForm
from apex_sim.workload.requests import Requests, make_requests
from apex_sim.workload.workload import Workload

__all__ = ["Engine", "StepTime", "affine", "ask", "flat", "per_sequence", "serve", "toy_parts", "try_instance"]

#: Which engine serves: the readable one, or the compiled one.
ENGINES = ("reference", "compiled")
PRESET_OF = {"prefill-first": "vllm-0.6", "chunked": "vllm-0.6", "unified": "vllm-1", "sglang": "sglang"}
PRESET_OF |= {"no-evict": "trtllm", "no-evict-chunked": "trtllm", "max-utilization": "trtllm"}


@dataclass(frozen=True, slots=True)
class Engine:
    """What a toy instance is; the policy decides the preset."""

    policy: str = "unified"
    max_num_seqs: int = 4
    max_num_batched_tokens: int = 64
    max_model_len: int = 64
    n_blocks: int = 100
    block_size_tokens: int = 4
    pp: int = 1
    async_scheduling: bool = False
    host_step_s: float = 0.0
    host_sequence_s: float = 0.0
    frontend_s: float = 0.0
    prompt_token_s: float = 0.0
    watermark_frac: float | None = None
    queue_order: str = "fcfs"
    max_num_waiting: int | None = None
    speculation: Speculation | None = None
    attention_dp: int = 1
    graphs: bool = False


def toy_shape(engine: Engine) -> Shape:
    """Return the shape of `engine`."""
    preset = load_preset(PRESET_OF.get(engine.policy, "vllm-0.6"))
    host = replace(
        preset.host,
        step_s=engine.host_step_s,
        sequence_s=engine.host_sequence_s,
        frontend_s=engine.frontend_s,
        prompt_token_s=engine.prompt_token_s,
    )
    watermark = preset.watermark_frac if engine.watermark_frac is None else engine.watermark_frac
    settings = SchedulerSettings(
        policy=engine.policy,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_model_len=engine.max_model_len,
        block_size_tokens=engine.block_size_tokens,
        gpu_memory_utilization_frac=0.9,
        cuda_graphs=False,
        async_scheduling=engine.async_scheduling,
        reservation=preset.reservation,
        queue_order=engine.queue_order,
        max_num_waiting=engine.max_num_waiting,
        speculation=engine.speculation,
    )
    stages = tensor_pipeline_stages((1,) * engine.pp, 1, engine.attention_dp, ep=engine.attention_dp > 1)
    return Shape("toy", stages, Precision(), settings, replace(preset, host=host, watermark_frac=watermark))


def toy_parts(engine: Engine, step_time: StepTime) -> tuple[Shape, Memory, StepModel]:
    """Return shape, memory and step model of `engine`."""
    shape = toy_shape(engine)
    n_heads = engine.max_num_seqs * (1 + shape.scheduler.n_draft_tokens)
    stage = toy_stage(step_time, n_heads, engine.max_num_batched_tokens, graphs=engine.graphs)
    memory = Memory((), KvLayout(engine.block_size_tokens), engine.n_blocks)
    return shape, memory, StepModel(shape, (stage,) * engine.pp, (None,), "toy", "none")


@dataclass(frozen=True, slots=True)
class ToyCost:
    """Names that a run's records carry."""

    name: str = "toy"
    provenance: str = "none"


def serve(
    engine: Engine,
    step_time: StepTime,
    requests: Requests,
    *,
    dp: int = 1,
    router: str = "round-robin",
    concurrency: int | None = None,
    offline: bool = False,
    horizon_s: float | None = None,
    check: bool = True,
    by: str = "reference",
) -> FleetRun:
    """Serve `requests` with `dp` equal instances, `by` one of `ENGINES`, and check the run's invariants."""
    shape, memory, model = toy_parts(engine, step_time)
    kind: Any = "closed" if concurrency is not None else "offline" if offline else "trace"
    workload = Workload("toy", requests, LoadForm(kind, concurrency), None, None, (), True, "none")
    cost: Any = ToyCost()
    plan, parts = Plan(((shape, dp),), router), {shape: (memory, model)}
    if by == "compiled":
        serve_compiled = compiled_way(plan, workload)
        assert serve_compiled
        assert horizon_s is None
        run = serve_compiled(plan, workload, parts, cost)
    else:
        fleet = Fleet(plan, workload, parts, check=check)
        fleet.run(horizon_s)
        run = fleet.result(cost)
    if check:
        check_run(run)
    return run


def ask(
    arrival_s: npt.ArrayLike,
    prompt_tokens: npt.ArrayLike,
    output_tokens: npt.ArrayLike,
    max_output_tokens: npt.ArrayLike | None = None,
) -> Requests:
    """Return requests; scalars stand for all rows, the limit for the output itself."""
    arrival = np.asarray(arrival_s, dtype=np.float64)
    prompt, output = (np.broadcast_to(np.asarray(t), arrival.shape) for t in (prompt_tokens, output_tokens))
    limit = output if max_output_tokens is None else np.broadcast_to(np.asarray(max_output_tokens), arrival.shape)
    return make_requests(arrival, prompt, output, max_output_tokens=limit)


@dataclass(slots=True)
class Log:
    """A listener that writes everything down; `outputs` are the actual output lengths by request."""

    outputs: list[int]
    events: list[tuple[str, int, float]] = field(default_factory=list)
    emitted: dict[int, int] = field(default_factory=dict)

    def scheduled(self, request: int, now_s: float) -> None:
        self.events.append(("scheduled", request, now_s))

    def token(self, request: int, now_s: float) -> bool:
        self.emitted[request] = self.emitted.get(request, 0) + 1
        self.events.append(("token", request, now_s))
        return self.emitted[request] == self.outputs[request]

    def finished(self, sequence: Sequence, now_s: float) -> None:
        self.events.append(("finished", sequence.request, now_s))

    def rejected(self, sequence: Sequence, reason: str, now_s: float) -> None:
        self.events.append((f"rejected: {reason}", sequence.request, now_s))

    def times(self, kind: str, request: int) -> list[float]:
        """Return when `kind` happened to `request`."""
        return [now_s for name, who, now_s in self.events if name == kind and who == request]


@dataclass(frozen=True, slots=True)
class Trial:
    """One instance after its run, with what it did."""

    instance: ReferenceInstance
    log: Log
    batches: list[list[tuple[int, int, int]]]

    def column(self, name: str) -> list[float]:
        """Return a column of the instance's steps."""
        values: list[float] = self.instance.steps.column(name).tolist()
        return values


def try_instance(
    engine: Engine,
    step_time: StepTime,
    asked: Iterable[tuple[float, int, int, int]],
    policy: Policy | None = None,
    until_s: float | None = None,
) -> Trial:
    """Run one instance on `asked`: rows of arrival time, prompt, output and maximum output; keep its batches.

    A batch is a list of (request, tokens before, new tokens).
    """
    rows = list(asked)
    env = simpy.Environment()
    shape, memory, model = toy_parts(engine, step_time)
    log = Log([output for _, _, output, _ in rows])
    batches: list[list[tuple[int, int, int]]] = []
    inner = policy or POLICY_OF[engine.policy]

    def spy(queue: SchedulerQueue) -> list[Entry]:
        entries = inner(queue)
        if entries:
            batches.append([(entry.sequence.request, entry.past, entry.n_new) for entry in entries])
        return entries

    instance = ReferenceInstance(env, shape, model, memory, log, spy)

    def arrivals() -> Any:
        for request, (arrival_s, prompt, _, limit) in enumerate(rows):
            yield env.timeout(arrival_s - env.now)
            instance.submit(request, prompt, limit)

    env.process(arrivals())
    env.run(until_s)
    return Trial(instance, log, batches)


def make_queue(engine: Engine, n_blocks: int | None = None) -> SchedulerQueue:
    """Return an empty scheduler queue for calling a policy by hand."""
    shape = toy_shape(engine)
    blocks = engine.n_blocks if n_blocks is None else n_blocks
    order = ORDERS.get(engine.queue_order)
    pool = BlockPool(blocks, KvLayout(engine.block_size_tokens), shape.preset.watermark_frac)
    return SchedulerQueue(shape.scheduler, pool, order() if order else None)


def put(queue: SchedulerQueue, *prompts: int, limit: int = 1000, runs_ahead: bool = False) -> list[Sequence]:
    """Append one waiting sequence for each prompt length; requests are numbered from 0 in each call."""
    sequences = [Sequence(index, prompt, limit, runs_ahead) for index, prompt in enumerate(prompts)]
    queue.waiting.extend(sequences)
    return sequences


def end_step(entries: list[Entry]) -> None:
    """Deliver the tokens of a step that a policy decided; nobody finishes."""
    for entry in entries:
        if entry.samples:
            entry.sequence.n_pending -= 1
            entry.sequence.n_generated += 1
            entry.sequence.n_computed -= entry.n_drafts


def shares(entries: list[Entry]) -> list[tuple[int, int]]:
    """Return (request, new tokens) of each entry."""
    return [(entry.sequence.request, entry.n_new) for entry in entries]


def who(sequences: Iterable[Sequence] | deque[Sequence]) -> list[int]:
    """Return the requests of `sequences`."""
    return [sequence.request for sequence in sequences]
