"""What does a step of a toy engine cost?  Tables of the real step model that hold a line in tokens and samples.

Both engines then price toy steps as they price all others: by look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apex_sim.cost import step_tables as at
from apex_sim.cost.basis import Basis
from apex_sim.cost.operator_table import OperatorTable
from apex_sim.cost.parts import Floats
from apex_sim.cost.power import PowerModel
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import StageModel, StagePrice, knots
from apex_sim.cost.step_tables import StageTables

#: 2 J a second above idle while a step runs.
POWER = PowerModel(idle_w=10.0, max_w=100.0, active_w=2.0)


@dataclass(frozen=True, slots=True)
class StepTime:
    """A step lasts `fixed_s`, `token_s` for each token and `sample_s` for each sequence that emits one."""

    fixed_s: float
    token_s: float = 0.0
    sample_s: float = 0.0


def flat(seconds: float = 1.0) -> StepTime:
    """Steps that last `seconds`, whatever they compute."""
    return StepTime(seconds)


def per_sequence(seconds: float) -> StepTime:
    """Steps that last `seconds` for each sequence: egalitarian processor sharing, as long as no prompt is cut."""
    return StepTime(0.0, sample_s=seconds)


def affine(fixed_s: float, token_s: float) -> StepTime:
    """Steps that last `fixed_s` and `token_s` for each token."""
    return StepTime(fixed_s, token_s)


class ToyStage(StageModel):
    """A stage whose attention ranks each take as long as alone; the slowest counts."""

    def price_ranks(self, batches: Sequence[StepBatch]) -> StagePrice:
        return max(map(self.price, batches), key=lambda price: price.device_s)


def _operators(name: str, seconds: Floats) -> OperatorTable:
    """Return a table of one operator without kernels to launch."""
    totals = np.zeros((len(seconds), 4))
    totals[:, 0] = seconds
    inside = np.ones((1, len(seconds)), dtype=np.bool_)
    bounds = np.stack([seconds[None, :], np.zeros((1, len(seconds))), np.zeros((1, len(seconds)))])
    return OperatorTable((name,), (Basis("toy", "none"),), seconds[None, :], inside, 0.0, 0.0, totals, bounds)


def toy_stage(step_time: StepTime, max_num_seqs: int, max_num_batched_tokens: int, *, graphs: bool) -> StageModel:
    """Return a stage whose steps take `step_time`; with `graphs`, decodes run inside one, so that engines may leap."""
    counts = knots(max_num_batched_tokens)
    tokens = _operators("step", np.where(counts > 0, step_time.fixed_s, 0.0) + step_time.token_s * counts)
    head = _operators("samples", step_time.sample_s * np.arange(max_num_seqs + 1.0))
    scalars = np.zeros(at.N_SCALARS)
    scalars[at.SLOW_BASE] = scalars[at.SLOW_HALF_TOKENS] = 1.0
    scalars[at.ACTIVE_W], scalars[at.RANGE_W] = POWER.active_w, POWER.range_w
    sizes = range(1, max_num_seqs + 1) if graphs else ()
    layout = np.zeros(at.N_HEADER + len(sizes), dtype=np.int64)
    layout[at.TOKENS_AT], layout[at.HEAD_AT] = at.N_SCALARS, at.N_SCALARS + tokens.totals_s.size
    layout[at.MAX_TOKENS] = max_num_batched_tokens
    layout[at.GRAPHS_AT], layout[at.N_GRAPHS], layout[at.GRAPHS_DECODE_ONLY] = at.N_HEADER, len(sizes), 1
    layout[at.GRAPH_CONTEXT_TOKENS] = 2**62
    layout[at.N_HEADER :] = sizes
    numbers = np.concatenate([scalars, tokens.totals_s.ravel(), head.totals_s.ravel()])
    no_context: Any = None
    return ToyStage(no_context, tokens, head, (), POWER, StageTables(scalars, lambda: (numbers, layout)))
