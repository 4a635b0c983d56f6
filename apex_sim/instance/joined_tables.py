"""Where do the tables of all stages lie once they are put end to end?

Stages that cost the same share their tables, and so do all instances of a shape: each table is there once, and compiled
code only reads it.  What was joined is where its stages have their tables from then on.
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

#: Joined tables that a process keeps, some ten MB for each stage that differs: those of a round of a search.
_MOST_KEPT_BYTES: Final = 1 << 29


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
        while len(_kept) > 1 and sum(joined.numbers.nbytes for joined in _kept.values()) > _MOST_KEPT_BYTES:
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
        _joined_numbers(list(distinct.values())),
        np.concatenate([table.layout for table in distinct.values()]),
        tuple(numbers_at[id(table)] for table in tables),
        tuple(layout_at[id(table)] for table in tables),
    )


def _joined_numbers(tables: Sequence[StageTables]) -> Floats:
    if len(tables) == 1:
        return tables[0].numbers
    joined, begin = np.concatenate([table.numbers for table in tables]), 0
    for table in tables:
        end = begin + len(table.numbers)
        table.move_to(joined[begin:end])
        begin = end
    return joined
