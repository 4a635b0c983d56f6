"""What came of the requests that the compiled engine served?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from apex_sim.cost.meter import StageMeter
from apex_sim.cost.step_model import StepModel
from apex_sim.errors import InvariantError
from apex_sim.instance.kernel import state as at
from apex_sim.instance.kernel.state import State
from apex_sim.plan.shape import Shape
from apex_sim.record.latency_histogram import LatencyHistogram
from apex_sim.record.request_records import REJECTED, RUNNING
from apex_sim.record.step_records import StepRecords


@dataclass(frozen=True, slots=True)
class Served:
    """What came of them; times are NaN where they never happened."""

    requests: at.Records
    reasons: dict[int, str]
    gaps: LatencyHistogram
    steps: StepRecords
    meters: tuple[StageMeter, ...]
    idle_s: tuple[float, ...]
    free_s: tuple[float, ...]
    end_s: float
    n_blocks_held: int
    n_leapt_steps: int


def served_of(state: State, requests: at.Records, step_model: StepModel) -> Served:
    """Return what came of `requests`, those of the state's that arrived.

    Raises
    ------
    InvariantError : INV-1, if requests never ended.
    """
    engine = state.engine[0]
    lost = int((requests["status"] == RUNNING).sum())
    if lost:
        raise InvariantError(1, f"{lost} requests never ended")
    gaps = LatencyHistogram()
    gaps.counts, gaps.n, gaps.sum_s = state.gaps.tolist(), int(engine["n_gaps"]), float(engine["sum_gaps_s"])
    rows, n_steps = int(engine["n_rows"]), int(engine["n_steps"])
    meters = tuple(
        StageMeter.of_counts(
            stage,
            state.visits[:, index],
            state.attention_s[index],
            state.stages[index],
        )
        for index, stage in enumerate(step_model.stages)
    )
    return Served(
        requests=requests,
        reasons={
            int(i): _reason(requests[i], step_model.shape) for i in np.flatnonzero(requests["status"] == REJECTED)
        },
        gaps=gaps,
        steps=StepRecords.sample(state.steps[:rows], n_steps, int(engine["most_blocks_used"])),
        meters=meters,
        idle_s=tuple(state.stages["idle_s"].tolist()),
        free_s=tuple(state.stages["free_s"].tolist()),
        end_s=float(engine["now_s"]),
        n_blocks_held=int((state.queues["n_blocks"] - state.queues["n_free"]).sum()),
        n_leapt_steps=int(engine["n_leapt_steps"]),
    )


def _reason(request: Any, shape: Shape) -> str:
    if request["reason"] == at.TOO_MANY_WAIT:
        return f"{shape.scheduler.max_num_waiting} requests wait already"
    if request["reason"] == at.CANNOT_SWAP_IN:
        return "swapped out for good: the KV cache cannot hold its blocks and one more"
    n_tokens = request["prompt"] + request["generated"]
    if request["reason"] == at.PROMPT_EXCEEDS_BUDGET:
        return f"prompt of {n_tokens} tokens exceeds the step budget"
    return f"prompt of {n_tokens} tokens can never fit the KV cache"
