"""When does a batch end?  It is priced on each stage and handed from stage to stage."""

from __future__ import annotations

from apex_sim.cost import step_tables as of
from apex_sim.cost.decode_line import line_s, price_line
from apex_sim.cost.look_up import locate
from apex_sim.cost.step_price import price_step
from apex_sim.draw import EXPERTS, normal
from apex_sim.instance.kernel.ranks import price_together
from apex_sim.instance.kernel.record import is_sampled
from apex_sim.instance.kernel.speculation import draft_cost
from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import inner

#: More tokens than any window holds.
_NO_LIMIT = 1e18


@inner
def send_batch(state: State, queue: int) -> None:
    """Send the batch that was decided through all stages, and keep it in flight."""
    engine, record = state.engine[0], state.queues[queue]
    slot = (record["first_flight"] + record["n_flight"]) % state.flights.shape[1]
    for rank in range(queue, queue + engine["n_ranks"]):
        _sum_up(state, rank)
        for field in range(len(state.sums) if engine["n_ranks"] > 1 else 0):
            state.rank_sums[rank, field] = state.sums[field]
    is_line = engine["has_lines"] == 1 and state.sums[of.N_PREFILL_TOKENS] == 0.0 and record["n_copied"] == 0
    record["n_same"] = record["n_same"] + 1 if is_line and _is_same(state, queue, slot) else 1
    for rank in range(queue, queue + engine["n_ranks"]):
        n_entries = state.queues[rank]["n_entries"]
        for index in range(n_entries):
            state.flights[rank, slot, index]["request"] = state.entries[rank, index]["request"]
            state.flights[rank, slot, index]["samples"] = state.entries[rank, index]["samples"]
        state.flight_sizes[rank, slot] = n_entries
    record["n_flight"] += 1
    if not is_line:
        record["n_same"] = 0
        engine["line_steps"] = 0
    end_s = engine["now_s"]
    for stage in range(len(state.stages)):
        device_s, dynamic_j = _price(state, stage)
        if is_line:
            end_s = _along_line(state, queue, device_s, dynamic_j)
        else:
            device_s = _beside(state, queue, stage, device_s)
            end_s = _occupy(state, stage, record["decided_s"], end_s, device_s)
    state.flight_ends_s[queue, slot] = end_s
    if is_sampled(state, len(state.engine)):  # one step, but Numba compiles a copy for each literal
        sample_step(state, queue, end_s)


@inner
def _is_same(state: State, queue: int, slot: int) -> bool:
    """Whether the batch holds the same requests, in order, as the one before it."""
    record = state.queues[queue]
    before = (slot - 1) % state.flights.shape[1]
    if record["n_same"] == 0 or state.flight_sizes[queue, before] != record["n_entries"]:
        return False
    for index in range(record["n_entries"]):
        if state.flights[queue, before, index]["request"] != state.entries[queue, index]["request"]:
            return False
    return True


@inner
def _sum_up(state: State, queue: int) -> None:
    """Sum up the batch as `StepBatch` does."""
    sums, growing, room, windows = state.sums, state.growth[0], state.growth[1], state.windows
    sums[:] = 0.0
    growing[:] = 0.0
    room[:] = _NO_LIMIT
    for index in range(state.queues[queue]["n_entries"]):
        entry = state.entries[queue, index]
        past, n_new = entry["past"], entry["n_new"]
        context = past + n_new
        sums[of.N_TOKENS] += n_new
        sums[of.N_SAMPLED] += entry["samples"]
        sums[of.LONGEST_CONTEXT] = max(sums[of.LONGEST_CONTEXT], context)
        if entry["decodes"] == 1:
            sums[of.N_DECODE] += 1.0
        else:
            sums[of.N_PREFILL_TOKENS] += n_new
            sums[of.N_PREFILL_SEQUENCES] += 1.0
        for which in range(len(windows)):
            place, window = of.BY_CLASS + which * of.CLASS_FIELDS, windows[which]
            if entry["decodes"] == 1:
                sums[place + of.DECODE_KEYS] += context if window == 0 else min(context, window)
                if window == 0:
                    growing[which] += 1.0
                elif context < window:
                    growing[which] += 1.0
                    room[which] = min(room[which], window - context)
            elif window == 0:
                sums[place + of.PAIRS] += n_new * past + n_new * (n_new + 1) // 2
                sums[place + of.KEYS] += context
            else:
                inside = max(0, min(n_new, window - past))
                sums[place + of.PAIRS] += inside * past + inside * (inside + 1) // 2 + (n_new - inside) * window
                sums[place + of.KEYS] += min(context, window + n_new - 1)


@inner
def _drawn_imbalance(state: State, stage: int, knot: int, fraction: float) -> float:
    """Return how much longer than usual the experts take in a stage's next step, at this place of their table."""
    engine, record = state.engine[0], state.stages[stage]
    deviation = normal(engine["seed"], record["n_steps"], engine["place"], EXPERTS + stage)
    low = record["numbers_at"] + state.layout[record["layout_at"] + of.SPREAD_AT] + knot
    high = low + 1 if fraction > 0.0 else low
    spread_s = state.numbers[low] * (1.0 - fraction) + state.numbers[high] * fraction
    return float(deviation * spread_s)


@inner
def _price(state: State, stage: int) -> tuple[float, float]:
    """Price the batch on a stage and count what it visits; return device time and energy."""
    record = state.stages[stage]
    numbers = state.numbers[record["numbers_at"] : record["numbers_end"]]
    layout = state.layout[record["layout_at"] : record["layout_end"]]
    engine, price_s = state.engine[0], state.price_s
    if engine["n_ranks"] > 1:
        device_s, dynamic_j, launch_s, slowdown_s, outside_s, n_own, n_joint = price_together(
            numbers, layout, state.rank_sums, state.most, state.sums, state.line, price_s
        )
        knot, fraction = locate(n_joint)
        state.visits[1, stage, knot] += 1.0 - fraction
        if fraction > 0.0:
            state.visits[1, stage, knot + 1] += fraction
    else:
        device_s, dynamic_j, launch_s, slowdown_s, outside_s, knot, fraction = price_step(
            numbers, layout, state.sums, price_s
        )
        n_own = 0
    if layout[of.SPREAD_AT] > 0:
        imbalance_s = _drawn_imbalance(state, stage, knot, fraction)
        device_s += imbalance_s
        dynamic_j += numbers[of.ACTIVE_W] * imbalance_s
        record["imbalance_s"] += imbalance_s
    if n_own > 0:
        knot, fraction = locate(n_own)
    record["n_steps"] += 1
    record["busy_s"] += device_s
    record["launch_s"] += launch_s
    record["slowdown_s"] += slowdown_s
    record["dynamic_j"] += dynamic_j
    record["outside_s"] += outside_s
    state.visits[0, stage, knot] += 1.0 - fraction
    if fraction > 0.0:
        state.visits[0, stage, knot + 1] += fraction
    state.visits[2, stage, int(state.sums[of.N_SAMPLED])] += 1.0
    for group in range(layout[of.N_GROUPS]):
        state.attention_s[stage, 0, group] += price_s[0, group]
        state.attention_s[stage, 1, group] += price_s[1, group]
    engine["knot"], engine["fraction"] = knot, fraction
    engine["launch_s"], engine["outside_s"] = launch_s, outside_s
    return device_s, dynamic_j


@inner
def _beside(state: State, queue: int, stage: int, device_s: float) -> float:
    """Return how long a step takes with copies of KV blocks before it and a draft after it, and count these."""
    record, n_copied = state.stages[stage], state.queues[queue]["n_copied"]
    if n_copied > 0:
        copy_s = n_copied * state.numbers[record["numbers_at"] + of.SWAP_BLOCK_S]
        record["swap_s"] += copy_s
        record["busy_s"] += copy_s
        record["dynamic_j"] += state.numbers[record["numbers_at"] + of.ACTIVE_W] * copy_s
        device_s += copy_s
    if state.engine[0]["n_draft_tokens"] > 0:
        draft_s, draft_j = draft_cost(state, queue)
        record["draft_s"] += draft_s
        record["busy_s"] += draft_s
        record["dynamic_j"] += draft_j
        device_s += draft_s
    return device_s


@inner
def _occupy(state: State, stage: int, decided_s: float, arrives_s: float, device_s: float) -> float:
    """Let a stage work from when it is free; count waiting and exposed host time; return the end."""
    record = state.stages[stage]
    begin_s = max(arrives_s, record["free_s"])
    host_s = begin_s - max(record["free_s"], min(decided_s, begin_s)) if stage == 0 else 0.0
    record["host_s"] += host_s
    record["dynamic_j"] += state.numbers[record["numbers_at"] + of.ACTIVE_W] * host_s
    record["idle_s"] += begin_s - record["free_s"] - host_s
    record["free_s"] = begin_s + device_s
    state.engine[0]["last_begin_s"] = begin_s
    return float(record["free_s"])


@inner
def _along_line(state: State, queue: int, device_s: float, first_j: float) -> float:
    """Run a decode batch on a single stage: a new line, or another step of the one that runs."""
    engine, record, stage = state.engine[0], state.queues[queue], state.stages[0]
    only = len(state.stages) - 1  # 0, but Numba compiles a copy for each literal
    sequential = engine["depth"] == 1
    follows = record["decided_s"] == stage["free_s"] if sequential else engine["now_s"] <= stage["free_s"]
    if record["n_same"] <= 1 or not follows or engine["line_done"] >= engine["line_steps"]:
        numbers = state.numbers[stage["numbers_at"] : stage["numbers_end"]]
        layout = state.layout[stage["layout_at"] : stage["layout_end"]]
        n_steps, growth_s, growth_j = price_line(
            numbers, layout, state.sums, state.growth[0], state.growth[1], first_j, device_s, state.line[1:]
        )
        begin_s = max(engine["now_s"], stage["free_s"])
        engine["line_start_s"] = record["decided_s"] if sequential else begin_s
        engine["line_first_s"] = device_s + (record["host_s"] if sequential else 0.0)
        engine["line_growth_s"], engine["line_growth_j"] = growth_s, growth_j
        engine["line_device_s"], engine["line_first_j"] = device_s, first_j
        engine["line_steps"], engine["line_done"] = n_steps, 0
        engine["line_knot"], engine["line_fraction"] = engine["knot"], engine["fraction"]
        engine["line_launch_s"], engine["line_outside_s"] = engine["launch_s"], engine["outside_s"]
        for group in range(state.line.shape[1]):
            state.line[0, group] = state.price_s[1, group]
    engine["line_done"] += 1
    _occupy(state, only, record["decided_s"], engine["now_s"], device_s)
    end_s = engine["line_start_s"] + line_s(engine["line_first_s"], engine["line_growth_s"], engine["line_done"])
    stage["free_s"] = end_s
    return float(end_s)


@inner
def sample_step(state: State, queue: int, end_s: float) -> None:
    """Keep the step that was just sent."""
    engine, record, row, n_sequences = state.engine[0], state.queues[queue], state.engine[0]["n_rows"] - 1, 0
    for rank in range(engine["n_ranks"]):
        n_sequences += state.queues[queue + rank]["n_entries"]
    steps, dynamic_j = state.steps, 0.0
    for stage in range(len(state.stages)):
        dynamic_j += state.stages[stage]["dynamic_j"] * state.stages[stage]["n_devices"]
    steps[row, 0], steps[row, 1], steps[row, 2] = record["decided_s"], engine["last_begin_s"], end_s
    steps[row, 3], steps[row, 4] = state.sums[of.N_PREFILL_TOKENS], state.sums[of.N_DECODE]
    steps[row, 5], steps[row, 6] = n_sequences, engine["n_waiting"]
    steps[row, 7], steps[row, 8], steps[row, 9] = engine["n_running"], engine["n_blocks_used"], dynamic_j
