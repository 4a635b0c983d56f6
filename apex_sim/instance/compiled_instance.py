"""How does one instance serve its requests, compiled?

The same semantics as `ReferenceInstance`, for an instance whose requests do not depend on what happens elsewhere: their
arrivals are known, or its own ends cause them (a closed loop).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apex_sim.cost import step_tables as of
from apex_sim.cost.parts import Floats
from apex_sim.cost.step_model import StageModel, StepModel
from apex_sim.cost.step_tables import Ints
from apex_sim.errors import InvariantError
from apex_sim.instance.draft_arrays import draft_rows_of, point_at_draft
from apex_sim.instance.joined_tables import join_tables
from apex_sim.instance.kernel import state as at
from apex_sim.instance.kernel.policies import COMPILED_POLICIES
from apex_sim.instance.kernel.prefixes import start_queue
from apex_sim.instance.kernel.state import State
from apex_sim.instance.long_run import run_interruptibly
from apex_sim.instance.prefix_cache import prefix_cache_of
from apex_sim.instance.scheduler_queue import swap_space_is_full
from apex_sim.instance.served import Served, served_of
from apex_sim.machine_code import announce
from apex_sim.plan.memory import Memory
from apex_sim.plan.shape import Shape
from apex_sim.preset.preset import Reservation
from apex_sim.record.latency_histogram import N_BINS
from apex_sim.record.request_records import RUNNING
from apex_sim.record.step_records import STEP_COLUMNS

#: Steps that are kept, at most; every other one goes when there are more.
_MOST_STEPS = 8192
#: Requests that take a tenth of a second: above, an interrupt does not wait for the end.
_LONG_RUN = 50_000


@dataclass(frozen=True, slots=True)
class Asked:
    """Requests of one instance, in order of arrival; `limit` is the most output tokens that each may have.

    Those of lower rank go first where the queue order asks for it.

    Without a `concurrency` request i arrives at `arrival_s[i]`; with one, so many arrive at the start, and each end
    lets another arrive.  `units` are the identities of each prompt's full blocks of `unit_tokens` tokens, if any.
    `numbers` are the fleet's numbers of the requests, their places by default.  What is drawn during the run follows
    from `seed`, these numbers and `place`, that of the instance among those of the fleet.
    """

    arrival_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    limit_tokens: Ints
    ranks: Floats
    concurrency: int | None = None
    unit_tokens: int | None = None
    units: Sequence[tuple[int, ...]] = ()
    numbers: Ints | None = None
    seed: int = 0
    place: int = 0


def serve_compiled(shape: Shape, step_model: StepModel, memory: Memory, asked: Asked) -> Served:
    """Serve `asked` to the end.

    Raises
    ------
    InvariantError : INV-1, if requests can never end.
    """
    state = start(shape, step_model, memory, _requests(asked), asked.unit_tokens, asked.units)
    state.engine[0]["concurrent"] = asked.concurrency or 0
    state.engine[0]["seed"], state.engine[0]["place"] = asked.seed, asked.place
    _let_arrive(state, asked)
    _run_to_the_end(shape, state)
    return served_of(state, state.requests, step_model)


def _run_to_the_end(shape: Shape, state: State) -> None:
    """Run an instance, a long run so that an interrupt can end it."""
    if len(state.requests) < _LONG_RUN:
        run(shape, state)
        return

    def stop() -> None:
        state.engine["error"] = at.INTERRUPTED

    stop()
    COMPILED_POLICIES[shape.scheduler.policy](state)  # compiles if need be, and does nothing else
    state.engine["error"] = 0
    run_interruptibly(lambda: run(shape, state), stop)


def run(shape: Shape, state: State) -> None:
    """Run an instance until nothing is left to do before the time that its engine names.

    Raises
    ------
    InvariantError : INV-1, if requests can never end.
    InfeasiblePlanError : the swap space is full, where the engine stops.
    """
    COMPILED_POLICIES[shape.scheduler.policy](state)
    engine = state.engine[0]
    if engine["error"] == at.STUCK:
        raise InvariantError(1, "requests wait, nothing runs and nothing is scheduled")
    if engine["error"] == at.SWAP_SPACE_FULL:
        raise swap_space_is_full(shape.scheduler.swap_bytes)
    if engine["error"] == at.NO_PROGRESS:
        raise InvariantError(
            1, f"{engine['barren_steps']} steps without a token: sequences preempt each other for ever"
        )


def start(
    shape: Shape,
    step_model: StepModel,
    memory: Memory,
    requests: at.Records,
    unit_tokens: int | None = None,
    units: Sequence[tuple[int, ...]] = (),
) -> State:
    """Return an instance at rest; none of `requests` has arrived.  Of `units` see `Asked`."""
    settings, preset, n = shape.scheduler, shape.preset, len(requests)
    announce(COMPILED_POLICIES[settings.policy], f"the engine for policy {settings.policy}")
    n_queues, depth = shape.n_queues, shape.n_in_flight
    n_stages, n_groups = len(step_model.stages), max(len(stage.attention) for stage in step_model.stages)
    n_sums = of.n_sums(len(step_model.windows))
    most_running = settings.max_num_seqs + 1
    prefixes = prefix_cache_of(settings, memory, unit_tokens)
    joined = join_tables(step_model)
    state = State(
        requests=requests,
        queues=np.zeros(n_queues, dtype=at.QUEUE),
        engine=np.zeros(1, dtype=at.ENGINE),
        stages=np.zeros(n_stages, dtype=at.STAGE),
        waiting=np.zeros((n_queues, n + 1), dtype=np.int64),
        running=np.zeros((n_queues, most_running), dtype=np.int64),
        entries=np.zeros((n_queues, 2 * most_running), dtype=at.ENTRY),
        flights=np.zeros((n_queues, depth, most_running), dtype=at.ENTRY),
        flight_sizes=np.zeros((n_queues, depth), dtype=np.int64),
        flight_ends_s=np.zeros((n_queues, depth)),
        coming_s=np.zeros(n),
        coming=np.zeros(n, dtype=np.int64),
        left=np.zeros(n, dtype=np.int64),
        window_lists=np.array(memory.layout.window_lists, dtype=np.int64).reshape(-1, 2),
        windows=np.array([window or 0 for window in step_model.windows], dtype=np.int64),
        numbers=joined.numbers,
        layout=joined.layout,
        visits=np.zeros((3, n_stages, max(map(_n_knots, step_model.stages)))),
        attention_s=np.zeros((n_stages, 2, n_groups)),
        gaps=np.zeros(N_BINS, dtype=np.int64),
        steps=np.zeros((_MOST_STEPS, len(STEP_COLUMNS))),
        sums=np.zeros(n_sums),
        growth=np.zeros((2, len(step_model.windows))),
        line=np.zeros((3, n_groups)),
        price_s=np.zeros((2, max(n_groups, step_model.draft.n_groups if step_model.draft else 0))),
        preempted=np.zeros(most_running, dtype=np.int64),
        holes=np.zeros((n_queues, most_running + 1, 2), dtype=np.int64),
        swapped=np.zeros((n_queues, most_running), dtype=np.int64),
        rank_sums=np.zeros((n_queues, n_sums)),
        most=np.zeros(n_sums),
        drafts=draft_rows_of(step_model),
        **_units(units if prefixes else (), n, n_queues),
    )
    _reserve(state, settings.reservation)
    _settle(state.engine[0], shape, memory, depth)
    requests["place"] = at.NOWHERE
    state.holes[:, 0, 1], state.queues["n_holes"] = memory.n_blocks // n_queues, 1
    point_at_draft(state.engine[0], step_model, joined)
    varies = any(stage.spread_s is not None for stage in step_model.stages)
    is_plain = shape.attention_dp == 1 and not varies and not settings.speculation
    state.engine[0]["has_lines"] = int(n_stages == 1 and is_plain)
    for queue in state.queues:
        queue["n_blocks"] = queue["n_free"] = memory.n_blocks // n_queues
        queue["n_host_free"] = memory.n_host_blocks // n_queues
        queue["n_watermark"] = int(preset.watermark_frac * (memory.n_blocks // n_queues))
    if prefixes:
        state.engine[0]["unit_tokens"], state.engine[0]["unit_blocks"] = prefixes.unit_tokens, prefixes.unit_blocks
        n_records = len(state.units) // n_queues
        for index, queue in enumerate(state.queues):
            start_queue(queue, state.units, index * n_records, n_records, memory.n_blocks // n_queues)
    state.stages["n_devices"] = [stage.n_devices for stage in shape.stages]
    for index, (stage, model) in enumerate(zip(state.stages, step_model.stages, strict=True)):
        numbers_at, layout_at = joined.numbers_at[index], joined.layout_at[index]
        stage["numbers_at"], stage["numbers_end"] = numbers_at, numbers_at + len(model.tables.numbers)
        stage["layout_at"], stage["layout_end"] = layout_at, layout_at + len(model.tables.layout)
    return state


def _n_knots(stage: StageModel) -> int:
    """Return the length of the longest table of a stage, and one for the knot behind its last."""
    return max(len(stage.tokens.totals_s), stage.n_joint_knots, len(stage.head.totals_s)) + 1


def _units(full: Sequence[tuple[int, ...]], n_requests: int, n_queues: int) -> dict[str, Any]:
    """Return the units of all prompts, numbered from 0, one request after the other, and their records in each queue.

    Without prompts in `full` no request has any.  A queue's free blocks need a record for each unit and one more for
    each gap between two.
    """
    counts = np.array([len(units) for units in full] or np.zeros(n_requests), dtype=np.int64)
    flat = np.fromiter((unit for units in full for unit in units), dtype=np.int64, count=int(counts.sum()))
    distinct, numbers = np.unique(flat, return_inverse=True)
    records = np.zeros(n_queues * (2 * len(distinct) + 3), dtype=at.UNIT)
    records["references"] = -1
    return {
        "units": records,
        "unit_numbers": numbers.astype(np.int64),
        "unit_first": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "unit_held": np.zeros(len(flat), dtype=np.int64),
    }


def _requests(asked: Asked) -> at.Records:
    requests = np.zeros(len(asked.prompt_tokens), dtype=at.REQUEST)
    requests["prompt"], requests["output"] = asked.prompt_tokens, asked.output_tokens
    requests["number"] = np.arange(len(requests)) if asked.numbers is None else asked.numbers
    requests["limit"], requests["rank"], requests["status"] = asked.limit_tokens, asked.ranks, RUNNING
    for name in ("arrival_s", "queued_s", "scheduled_s", "first_s", "finish_s", "last_s"):
        requests[name] = np.nan
    return requests


def _reserve(state: State, rule: Reservation | None) -> None:
    if rule is None:
        return
    for name in ("first_ratio", "least_ratio", "decay_ratio", "retract_steps", "clip_tokens", "max_prefill_tokens"):
        state.engine[name] = getattr(rule, name)
    state.queues["start_ratio"] = rule.first_ratio


def _settle(engine: Any, shape: Shape, memory: Memory, depth: int) -> None:
    settings, host = shape.scheduler, shape.preset.host
    engine["max_num_seqs"], engine["budget"] = settings.max_num_seqs, settings.max_num_batched_tokens
    engine["max_model_len"], engine["block_size"] = settings.max_model_len, memory.layout.block_size_tokens
    engine["n_full_lists"], engine["n_lists"] = memory.layout.n_full_lists, memory.layout.n_lists
    engine["depth"], engine["runs_ahead"] = depth, int(settings.async_scheduling)
    engine["host_holder"], engine["until_s"] = -1, np.inf
    engine["row_stride"] = engine["n_to_next_row"] = 1
    engine["swaps"] = int(settings.swaps)
    engine["n_draft_tokens"] = settings.n_draft_tokens
    ranks = shape.preset.ranks if shape.attention_dp > 1 else None
    engine["n_ranks"], engine["waiting_weight"] = shape.attention_dp, (ranks.waiting_weight or 0) if ranks else 1
    engine["is_sorted"] = int(settings.sorts_queue)
    engine["most_waiting"] = -1 if settings.max_num_waiting is None else settings.max_num_waiting
    engine["host_step_s"], engine["host_sequence_s"] = host.on_step_s(0, shape.n_shards), host.sequence_s
    engine["frontend_s"], engine["prompt_token_s"] = host.frontend_s, host.prompt_token_s


def _let_arrive(state: State, asked: Asked) -> None:
    """Put the requests whose arrival is known in the order in which they reach the scheduler."""
    engine, n = state.engine[0], len(asked.prompt_tokens)
    first = min(n, asked.concurrency or n)
    state.requests["arrival_s"][:first] = asked.arrival_s[:first]
    delay_s = engine["frontend_s"] + engine["prompt_token_s"] * asked.prompt_tokens[:first]
    queued_s = asked.arrival_s[:first] + delay_s
    order = np.argsort(queued_s, kind="stable")
    state.coming_s[:first], state.coming[:first] = queued_s[order], order
    engine["n_coming"] = engine["n_arrived"] = first
