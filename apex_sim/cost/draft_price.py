"""What does a draft cost in one step?

Kernel and reference of an instance both price it here, so that equal batches cost equal bits.
"""

from __future__ import annotations

from apex_sim.cost import step_tables as at
from apex_sim.cost.parts import Floats
from apex_sim.cost.step_price import price_step
from apex_sim.cost.step_tables import Ints
from apex_sim.machine_code import compiled


@compiled
def price_draft(
    first_numbers: Floats, first_layout: Ints, next_numbers: Floats, next_layout: Ints, sums: Floats, n_next: float,
    attention_s: Floats,
) -> tuple[float, float]:  # fmt: skip
    """Return device time and energy above idle of each device for one pass over a step and `n_next` passes after it.

    Parameters
    ----------
    sums : (2, ...): of the step's tokens as the draft sees them, and of one token for each sequence that sampled.
    attention_s : written, and of no further use.
    """
    device_s, dynamic_j, _, _, _, _, _ = price_step(first_numbers, first_layout, sums[0], attention_s)
    if n_next > 0.0 and sums[1, at.N_DECODE] > 0.0:
        next_s, next_j, _, _, _, _, _ = price_step(next_numbers, next_layout, sums[1], attention_s)
        device_s += n_next * next_s
        dynamic_j += n_next * next_j
    return device_s, dynamic_j
