"""What do steps take on a device that computes, reads or sends faster or slower, and is otherwise the same?

Each table cell's kernel time is divided by the speed of what bounds it there (`apex_sim.cost.bound`).  Prices that were
fitted to measured kernels follow no datasheet, so that another datasheet would change nothing: the question goes to the
prices themselves.  What bounds a kernel is taken as it was, however much the speeds differ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from apex_sim.cost.bound import compute_bound
from apex_sim.cost.decode_table import DecodeTable
from apex_sim.cost.operator_table import OperatorTable
from apex_sim.cost.prefill_table import PrefillTable
from apex_sim.cost.step_model import StageModel, StepModel, close_stage

Table = TypeVar("Table", PrefillTable, DecodeTable)


@dataclass(frozen=True, slots=True)
class Speeds:
    """How many times as fast arithmetic, the device's memory and the network are."""

    compute: float = 1.0
    memory: float = 1.0
    network: float = 1.0


def change_speeds(model: StepModel, speeds: Speeds) -> StepModel:
    """Return the step model of a device with other speeds; a draft's own tables stay as they are."""
    return replace(model, stages=tuple(_change_stage(stage, speeds) for stage in model.stages))


def _change_stage(stage: StageModel, speeds: Speeds) -> StageModel:
    joint = _change_table(stage.joint, speeds) if stage.joint else None
    attention = [
        (_change_attention(prefill, speeds), _change_attention(decode, speeds)) for prefill, decode in stage.attention
    ]
    tokens, head = _change_table(stage.tokens, speeds), _change_table(stage.head, speeds)
    return close_stage(stage.context, stage.classes, tokens, head, attention, joint, stage.spread_s, 1.0)


def _change_table(table: OperatorTable, speeds: Speeds) -> OperatorTable:
    by_bound = np.array([1 / speeds.compute, 1 / speeds.memory, 1 / speeds.network])
    bounds = table.bounds_s * by_bound[:, None, None]
    kernel = bounds.sum(axis=0)
    totals = table.totals_s * np.concatenate([[1.0], by_bound])
    totals[:, 0] = kernel.sum(axis=0)
    return replace(table, kernel_s=kernel, totals_s=totals, bounds_s=bounds)


def _change_attention(table: Table, speeds: Speeds) -> Table:
    prices = table.prices_s / np.array([1.0, speeds.compute, speeds.memory])
    prices[..., 0] /= np.where(compute_bound(table.prices_s), speeds.compute, speeds.memory)
    return replace(table, prices_s=prices)
