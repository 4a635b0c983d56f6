"""Which draft tokens are kept, and what does the draft cost?  Speculation over plain arrays."""

from __future__ import annotations

from apex_sim.cost import step_tables as of
from apex_sim.cost.step_price import price_step
from apex_sim.draw import ACCEPTANCE, uniform
from apex_sim.instance.kernel.state import State
from apex_sim.machine_code import inner


@inner
def take_in_drafts(state: State, request: int, n_drafts: int) -> int:
    """Return how many tokens a request emits at the end of a step; what was computed of rejected drafts is undone."""
    record, engine = state.requests[request], state.engine[0]
    n_kept = 0
    while (
        n_kept < n_drafts
        and uniform(engine["seed"], record["number"], record["generated"] + n_kept, ACCEPTANCE)
        < state.drafts[0, n_kept]
    ):
        n_kept += 1
    record["computed"] -= n_drafts - n_kept
    record["drafts"] = engine["n_draft_tokens"]
    return int(min(1 + n_kept, record["output"] - record["generated"]))


@inner
def draft_cost(state: State, queue: int) -> tuple[float, float]:
    """Return device time and energy above idle of the draft beside the step that was decided, as `DraftCost`."""
    engine = state.engine[0]
    if engine["first_layout_at"] == 0:
        return 0.0, 0.0
    sums, windows = state.drafts[1:], state.windows
    for place in range(len(state.sums)):
        sums[0, place] = state.sums[place]
        sums[1, place] = 0.0
    sums[0, of.N_SAMPLED] = 0.0
    for index in range(state.queues[queue]["n_entries"]):
        entry = state.entries[queue, index]
        if entry["samples"] == 0:
            continue
        context = entry["past"] + entry["n_new"]
        sums[0, of.N_SAMPLED] += 1.0
        sums[1, of.LONGEST_CONTEXT] = max(sums[1, of.LONGEST_CONTEXT], context)
        for which in range(len(windows)):
            place, window = of.BY_CLASS + which * of.CLASS_FIELDS, windows[which]
            sums[1, place + of.DECODE_KEYS] += context if window == 0 else min(context, window)
    sums[1, of.N_TOKENS] = sums[1, of.N_SAMPLED] = sums[1, of.N_DECODE] = sums[0, of.N_SAMPLED]
    device_s, dynamic_j, n_passes = 0.0, 0.0, 1.0
    numbers_at, layout_at = engine["first_numbers_at"], engine["first_layout_at"]
    for which in range(len(sums)):
        if n_passes > 0.0 and sums[which, of.N_TOKENS] > 0.0:
            pass_s, pass_j, _, _, _, _, _ = price_step(
                state.numbers[numbers_at:], state.layout[layout_at:], sums[which], state.price_s
            )
            device_s += n_passes * pass_s
            dynamic_j += n_passes * pass_j
        numbers_at, layout_at = engine["next_numbers_at"], engine["next_layout_at"]
        n_passes = engine["n_draft_passes"]
    return device_s, dynamic_j
