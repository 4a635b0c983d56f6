"""What does speculation add to the arrays of the compiled engine?"""

from __future__ import annotations

from typing import Any

import numpy as np

from apex_sim.cost.step_model import StepModel
from apex_sim.plan.speculation import Speculation


def draft_arrays_of(speculation: Speculation | None, step_model: StepModel) -> dict[str, Any]:
    """Return the arrays by their names in `State`; empty tables where nobody prices a draft."""
    draft, nothing = step_model.draft, np.zeros(0, dtype=np.int64)
    return {
        "acceptance_frac": np.array(speculation.acceptance_frac if speculation else (), dtype=np.float64),
        "first_numbers": draft.first.numbers if draft else np.zeros(0),
        "first_layout": draft.first.layout if draft else nothing,
        "next_numbers": draft.follow.numbers if draft else np.zeros(0),
        "next_layout": draft.follow.layout if draft else nothing,
        "draft_sums": np.zeros((2, len(step_model.windows) * 3 + 6)),
        "draft_attention_s": np.zeros((2, draft.n_groups if draft else 0)),
    }
