"""Where do the tables of all stages lie once they are put end to end?

Stages that cost the same share their tables, and so do all instances of a shape: each table is there once, and compiled
code only reads it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from apex_sim.cost.parts import Floats
from apex_sim.cost.step_model import StepModel
from apex_sim.cost.step_tables import Ints, StageTables

#: Shapes whose joined tables a process keeps: some ten MB each.
_MOST_KEPT: Final = 8


@dataclass(frozen=True, slots=True)
class JoinedTables:
    """Numbers and layouts of a step model's tables, and where each table begins in them, stages first, then drafts."""

    tables: tuple[StageTables, ...]
    numbers: Floats
    layout: Ints
    numbers_at: tuple[int, ...]
    layout_at: tuple[int, ...]


_kept: OrderedDict[tuple[int, ...], JoinedTables] = OrderedDict()


def join_tables(step_model: StepModel) -> JoinedTables:
    """Return the tables of `step_model`; those kept hold on to what they were made of, so that an id stays its own."""
    drafts = (step_model.draft.first, step_model.draft.follow) if step_model.draft else ()
    tables = (*(stage.tables for stage in step_model.stages), *drafts)
    key = tuple(id(table) for table in tables)
    if key not in _kept:
        _kept[key] = _join(tables)
        while len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    return _kept[key]


def _join(tables: Sequence[StageTables]) -> JoinedTables:
    distinct = {id(table): table for table in tables}
    numbers_at, layout_at, n_numbers, n_layout = dict[int, int](), dict[int, int](), 0, 0
    for number, table in distinct.items():
        numbers_at[number], layout_at[number] = n_numbers, n_layout
        n_numbers, n_layout = n_numbers + len(table.numbers), n_layout + len(table.layout)
    return JoinedTables(
        tuple(tables),
        np.concatenate([table.numbers for table in distinct.values()]),
        np.concatenate([table.layout for table in distinct.values()]),
        tuple(numbers_at[id(table)] for table in tables),
        tuple(layout_at[id(table)] for table in tables),
    )
