"""What does the compiled engine remember?  Records in plain arrays."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apex_sim.cost.parts import Floats
from apex_sim.cost.step_tables import Ints

Records = NDArray[Any]

#: One request: what the scheduler knows of it (as in `Sequence`), its actual output length, and when things happened.
#: `room` is how many tokens its blocks are sure to hold, `place` where they begin if they were reserved in one piece,
#: `on_host` how many blocks of it were swapped out, `number` the fleet's number of it, `drafts` how many tokens are
#: proposed to follow.
REQUEST: Final = np.dtype(
    [
        ("prompt", np.int64),
        ("output", np.int64),
        ("limit", np.int64),
        ("rank", np.float64),
        ("computed", np.int64),
        ("generated", np.int64),
        ("pending", np.int64),
        ("blocks", np.int64),
        ("room", np.int64),
        ("number", np.int64),
        ("drafts", np.int64),
        ("preemptions", np.int64),
        ("seen", np.int64),
        ("cached", np.int64),
        ("place", np.int64),
        ("on_host", np.int64),
        ("status", np.int64),
        ("reason", np.int64),
        ("arrival_s", np.float64),
        ("queued_s", np.float64),
        ("scheduled_s", np.float64),
        ("first_s", np.float64),
        ("finish_s", np.float64),
        ("last_s", np.float64),
    ]
)

#: One unit of a prompt, or a stretch of free blocks without one, in the queue of free blocks: how many requests hold it
#: (-1: not cached), its neighbours in the queue (-1: none) and its blocks.
UNIT: Final = np.dtype([("references", np.int64), ("before", np.int64), ("after", np.int64), ("n_blocks", np.int64)])

#: One scheduler queue with its loop.  `n_left_waiting` is how many the last decision left waiting, `n_same` counts the
#: batches handed over in a row that held the same decodes, `n_copied` the blocks that the decision moves to or from the
#: host.  From `under_way` (the request under way plus one, or 0) on they are those of `Admission`; the last five say
#: where its units lie and which blocks of them are free.
QUEUE: Final = np.dtype(
    [
        ("phase", np.int64),
        ("wait_s", np.float64),
        ("retries", np.int64),
        ("n_free", np.int64),
        ("n_blocks", np.int64),
        ("n_watermark", np.int64),
        ("first_waiting", np.int64),
        ("n_waiting", np.int64),
        ("n_running", np.int64),
        ("first_flight", np.int64),
        ("n_flight", np.int64),
        ("taking", np.int64),
        ("n_entries", np.int64),
        ("is_steady", np.int64),
        ("n_left_waiting", np.int64),
        ("n_same", np.int64),
        ("decided_s", np.float64),
        ("host_s", np.float64),
        ("asked", np.int64),
        ("n_holes", np.int64),
        ("n_swapped", np.int64),
        ("n_host_free", np.int64),
        ("n_copied", np.int64),
        ("under_way", np.int64),
        ("is_full", np.int64),
        ("n_seats", np.int64),
        ("n_decays", np.int64),
        ("start_ratio", np.float64),
        ("first_unit", np.int64),
        ("end_units", np.int64),
        ("first_free", np.int64),
        ("last_free", np.int64),
        ("spare", np.int64),
    ]
)

#: The whole instance: settings, clock, host, and the line of equal decode batches that runs (as in `DecodeRun`).  It
#: runs up to `until_s`; before `quiet_s` no request leaves unless another arrives, and `n_left` have.  Without tables
#: of a draft `first_layout_at` is 0.
ENGINE: Final = np.dtype(
    [
        ("max_num_seqs", np.int64),
        ("unit_tokens", np.int64),
        ("unit_blocks", np.int64),
        ("budget", np.int64),
        ("max_model_len", np.int64),
        ("block_size", np.int64),
        ("n_full_lists", np.int64),
        ("n_lists", np.int64),
        ("keeps_one_free", np.int64),
        ("depth", np.int64),
        ("runs_ahead", np.int64),
        ("is_sorted", np.int64),
        ("swaps", np.int64),
        ("most_waiting", np.int64),
        ("n_draft_tokens", np.int64),
        ("n_draft_passes", np.float64),
        ("first_numbers_at", np.int64),
        ("first_layout_at", np.int64),
        ("next_numbers_at", np.int64),
        ("next_layout_at", np.int64),
        ("concurrent", np.int64),
        ("n_ranks", np.int64),
        ("waiting_weight", np.int64),
        ("n_placed", np.int64),
        ("has_lines", np.int64),
        ("seed", np.int64),
        ("place", np.int64),
        ("host_step_s", np.float64),
        ("host_sequence_s", np.float64),
        ("frontend_s", np.float64),
        ("prompt_token_s", np.float64),
        ("now_s", np.float64),
        ("until_s", np.float64),
        ("quiet_s", np.float64),
        ("n_left", np.int64),
        ("host_holder", np.int64),
        ("n_host_waiters", np.int64),
        ("first_coming", np.int64),
        ("n_coming", np.int64),
        ("n_arrived", np.int64),
        ("barren_steps", np.int64),
        ("error", np.int64),
        ("n_gaps", np.int64),
        ("sum_gaps_s", np.float64),
        ("line_start_s", np.float64),
        ("line_first_s", np.float64),
        ("line_growth_s", np.float64),
        ("line_device_s", np.float64),
        ("line_first_j", np.float64),
        ("line_growth_j", np.float64),
        ("line_launch_s", np.float64),
        ("line_outside_s", np.float64),
        ("line_fraction", np.float64),
        ("line_knot", np.int64),
        ("line_steps", np.int64),
        ("line_done", np.int64),
        ("knot", np.int64),
        ("fraction", np.float64),
        ("launch_s", np.float64),
        ("outside_s", np.float64),
        ("last_begin_s", np.float64),
        ("n_waiting", np.int64),
        ("n_running", np.int64),
        ("n_blocks_used", np.int64),
        ("most_blocks_used", np.int64),
        ("n_leaps", np.int64),
        ("n_leapt_steps", np.int64),
        ("n_rows", np.int64),
        ("row_stride", np.int64),
        ("n_to_next_row", np.int64),
        ("n_steps", np.int64),
        ("n_asked", np.int64),
        ("first_ratio", np.float64),
        ("least_ratio", np.float64),
        ("decay_ratio", np.float64),
        ("retract_steps", np.int64),
        ("clip_tokens", np.int64),
        ("max_prefill_tokens", np.int64),
        ("total_left", np.float64),
        ("free_left", np.int64),
        ("input_left", np.int64),
        ("chunk_left", np.int64),
    ]
)

#: One pipeline stage: where its tables lie, and what `StageMeter` counts.
STAGE: Final = np.dtype(
    [
        ("n_devices", np.int64),
        ("numbers_at", np.int64),
        ("numbers_end", np.int64),
        ("layout_at", np.int64),
        ("layout_end", np.int64),
        ("free_s", np.float64),
        ("idle_s", np.float64),
        ("busy_s", np.float64),
        ("host_s", np.float64),
        ("launch_s", np.float64),
        ("slowdown_s", np.float64),
        ("swap_s", np.float64),
        ("draft_s", np.float64),
        ("imbalance_s", np.float64),
        ("dynamic_j", np.float64),
        ("outside_s", np.float64),
        ("n_steps", np.int64),
    ]
)

#: One sequence's share of a step, as in `Entry`; `samples` counts the tokens that the head computes.
ENTRY: Final = np.dtype(
    [("request", np.int64), ("past", np.int64), ("n_new", np.int64), ("samples", np.int64), ("decodes", np.int64)]
)

#: The `place` of a request whose blocks are not in one piece.
NOWHERE: Final = -1

#: Phases of a queue's loop.
IDLE: Final = 0
WANTS_HOST: Final = 1
ON_HOST: Final = 2
WAITS_FOR_END: Final = 3

#: Why a request was rejected, and why a run was stopped; from outside by the last.
PROMPT_EXCEEDS_BUDGET: Final = 1
PROMPT_EXCEEDS_POOL: Final = 2
TOO_MANY_WAIT: Final = 3
CANNOT_SWAP_IN: Final = 4
STUCK: Final = 1
NO_PROGRESS: Final = 2
SWAP_SPACE_FULL: Final = 3
INTERRUPTED: Final = -1


class State(NamedTuple):
    """All arrays of one instance.

    Parameters
    ----------
    requests, queues, stages : records; `engine` has one.
    waiting : (queues, capacity): ring of requests by queue, a heap if sorted.
    running, entries : (queues, sequences), in the policy's order; the second is the batch that is being decided.
    flights : (queues, batches in flight, sequences): entries of batches handed over, a ring; then lengths and ends.
    coming_s, coming : when the next requests reach the scheduler, in order, and which.
    left : requests that are gone, in order.
    window_lists : (windows, 2): block lists, and most blocks in each, of layers with windows.
    windows : tokens of each attention window of the model, 0 for full attention.
    numbers, layout : tables of all stages, then those of a draft's first and later passes.
    visits : (3, stages, knots): of the token, joint and head tables.
    attention_s : (stages, 2, groups): spent on prefill and decode.
    gaps : counts of inter-token gaps, as in `LatencyHistogram`.
    steps : sampled steps, columns as in `StepRecords`.
    line : (3, groups): decode attention in the line's first step, what each step adds, what of that is outside data.
    sums, price_s, preempted : scratch, and `growth` : (2, windows): decodes that see another key, and for how long.
    units : records of all prompts' units, then of stretches of free blocks without one.
    unit_numbers, unit_held : of all prompts one after the other: which unit, and whether the request holds it.
    unit_first : where each request's units begin.
    holes : (queues, holes, 2): place and size of each hole between reservations.
    swapped : (queues, sequences): requests whose blocks lie in the host's memory, first out first.
    drafts : (3, ...): how often each draft token is kept; scratch for the two sums that price a draft.
    rank_sums : sums of each attention rank's batch; `most` : the most that a rank has.
    """

    requests: Records
    queues: Records
    engine: Records
    stages: Records
    waiting: Ints
    running: Ints
    entries: Records
    flights: Records
    flight_sizes: Ints
    flight_ends_s: Floats
    coming_s: Floats
    coming: Ints
    left: Ints
    window_lists: Ints
    windows: Ints
    numbers: Floats
    layout: Ints
    visits: Floats
    attention_s: Floats
    gaps: Ints
    steps: Floats
    sums: Floats
    growth: Floats
    line: Floats
    price_s: Floats
    preempted: Ints
    units: Records
    unit_numbers: Ints
    unit_first: Ints
    unit_held: Ints
    holes: Ints
    swapped: Ints
    drafts: Floats
    rank_sums: Floats
    most: Floats
