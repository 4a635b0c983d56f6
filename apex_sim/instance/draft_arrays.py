"""What does speculation add to the compiled engine?"""

from __future__ import annotations

from typing import Any

import numpy as np

from apex_sim.cost.parts import Floats
from apex_sim.cost.step_model import StepModel
from apex_sim.cost.step_tables import n_sums
from apex_sim.instance.joined_tables import JoinedTables


def draft_rows_of(step_model: StepModel) -> Floats:
    """Return the array `drafts` of the state: how often each draft token is kept, and room for the sums of a draft."""
    speculation = step_model.shape.scheduler.speculation
    kept = speculation.acceptance_frac if speculation else ()
    rows = np.zeros((3, max(len(kept), n_sums(len(step_model.windows)))))
    rows[0, : len(kept)] = kept
    return rows


def point_at_draft(engine: Any, step_model: StepModel, joined: JoinedTables) -> None:
    """Say where the tables of the draft's passes begin."""
    draft = step_model.draft
    if draft is None:
        return
    n_stages = len(step_model.stages)
    engine["n_draft_passes"] = draft.n_next
    engine["first_numbers_at"], engine["next_numbers_at"] = joined.numbers_at[n_stages:]
    engine["first_layout_at"], engine["next_layout_at"] = joined.layout_at[n_stages:]
