"""What does speculation add to the compiled engine?"""

from __future__ import annotations

from typing import Any

import numpy as np

from apex_sim.cost.parts import Floats
from apex_sim.cost.step_model import StepModel
from apex_sim.cost.step_tables import n_sums


def draft_rows_of(step_model: StepModel) -> Floats:
    """Return the array `drafts` of the state: how often each draft token is kept, and room for the sums of a draft."""
    speculation = step_model.shape.scheduler.speculation
    kept = speculation.acceptance_frac if speculation else ()
    rows = np.zeros((3, max(len(kept), n_sums(len(step_model.windows)))))
    rows[0, : len(kept)] = kept
    return rows


def point_at_draft(engine: Any, step_model: StepModel) -> None:
    """Say where the tables of the draft's passes begin behind those of all stages."""
    draft = step_model.draft
    if draft is None:
        return
    tables = [stage.tables for stage in step_model.stages]
    engine["n_draft_passes"] = draft.n_next
    engine["first_numbers_at"] = sum(len(table.numbers) for table in tables)
    engine["first_layout_at"] = sum(len(table.layout) for table in tables)
    engine["next_numbers_at"] = engine["first_numbers_at"] + len(draft.first.numbers)
    engine["next_layout_at"] = engine["first_layout_at"] + len(draft.first.layout)
