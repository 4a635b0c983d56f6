"""How should layers be split into stages so that the slowest stage is as fast as it can be?

What a layer takes is the least time that the workload's requests ask of its devices (`bounds.solo`), read from the
tables of an imagined instance with every layer in a stage of its own.  What any stage takes on top of its layers
(launches, sending to the next) is the same for all; embedding and LM head come on top of the first and the last.  The
integer program then weighs uneven layers, ends and memory.  It bounds no latency: whether the split is any better than
a balanced one is for simulation to say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from apex_sim.cost.device_costs import cost_on
from apex_sim.cost.step_model import compile_step_model
from apex_sim.errors import InfeasiblePlanError
from apex_sim.hardware.cluster import Cluster
from apex_sim.plan.legality import require_legal_shape
from apex_sim.plan.memory import instance_memory, stage_memory
from apex_sim.plan.plan import Plan
from apex_sim.plan.shape import Shape, Stage
from apex_sim.planner.bounds.solo import shared_prefix_tokens, stage_work_s
from apex_sim.planner.evaluation import costs_of
from apex_sim.planner.programs.pipeline import Pipeline
from apex_sim.planner.programs.pipeline_partition import PipelineMemoryError, partition
from apex_sim.planner.programs.solvers import solver
from apex_sim.planner.study import Study

#: A split this close to the fastest will do: far below what simulation can tell apart.
_GAP_FRAC: Final = 1e-3
#: Many splits are as fast as the balanced one, their slowest stage of as many layers: none of them is worth a plan.
_LEAST_GAIN_FRAC: Final = 2e-3


@dataclass(frozen=True, slots=True)
class _LayerCosts:
    """Seconds and bytes of each layer on one device, and of what the first and the last stage add.

    `layer_bytes` are weights and the KV of one request of `max_model_len` tokens, the least with which engines start.
    """

    layer_s: tuple[float, ...]
    embedding_s: float
    head_s: float
    layer_bytes: tuple[float, ...]
    embedding_bytes: float
    head_bytes: float


class FastestSplits:
    """The fastest splits of a study's instances; what layers cost is found out once for all numbers of stages."""

    def __init__(self, study: Study) -> None:
        self._study, self._costs = study, dict[Shape, _LayerCosts]()
        self._shared_tokens = shared_prefix_tokens(study.workload.requests)

    def of(self, pool: Cluster, shape: Shape) -> tuple[int, ...] | None:
        """Return the layers of each stage that make the slowest stage fastest; None where the shape's own do too.

        None as well where no split of such an instance can run.

        Raises
        ------
        SolverError : no solver for integer programs can be used.
        """
        model = self._study.model
        try:
            require_legal_shape(model, pool, shape)
        except InfeasiblePlanError:
            return None  # the reason is that of the balanced split
        costs = self._layer_costs(pool, shape)
        held = [stage_memory(model, pool.device, shape, index) for index in range(shape.pp)]
        pipeline = Pipeline(
            layer_s=(costs.layer_s,) * shape.pp,
            layer_bytes=costs.layer_bytes,
            budget_bytes=tuple(max(0.0, stage.weight_bytes + stage.kv_bytes) for stage in held),
            embedding_s=(costs.embedding_s,) * shape.pp,
            head_s=(costs.head_s,) * shape.pp,
            embedding_bytes=costs.embedding_bytes,
            head_bytes=costs.head_bytes,
        )
        try:
            best = partition(pipeline, by=solver(gap_frac=_GAP_FRAC))
        except PipelineMemoryError:
            return None
        own, places = tuple(stage.n_layers for stage in shape.stages), range(shape.pp)
        is_faster = best.slowest_s < (1.0 - _LEAST_GAIN_FRAC) * max(pipeline.stage_s(own, places))
        return best.n_layers if is_faster or not self._fits(pool, shape) else None

    def _fits(self, pool: Cluster, shape: Shape) -> bool:
        try:
            instance_memory(self._study.model, pool.device, shape)
        except InfeasiblePlanError:
            return False
        return True

    def _layer_costs(self, pool: Cluster, shape: Shape) -> _LayerCosts:
        apart = _taken_apart(shape, self._study.model.n_layers)
        if apart not in self._costs:
            self._costs[apart] = self._cost_of(pool, apart)
        return self._costs[apart]

    def _cost_of(self, pool: Cluster, apart: Shape) -> _LayerCosts:
        model = self._study.model
        cost = cost_on(costs_of(self._study), pool.device.name, Plan(((apart, 1),)))
        tables = compile_step_model(model, pool, apart, cost)
        first_s, *own_s, two_s, last_s = stage_work_s(tables, self._study.workload.requests, self._shared_tokens)
        stages = [stage_memory(model, pool.device, apart, index) for index in range(apart.pp)]
        first, *own, _, last = (stage.weight_bytes for stage in stages)
        any_stage_s = own_s[0] + own_s[1] - two_s
        length = apart.scheduler.max_model_len
        return _LayerCosts(
            layer_s=tuple(np.maximum(np.array(own_s) - any_stage_s, 0.0).tolist()),
            embedding_s=first_s - own_s[0],
            head_s=last_s - own_s[-1],
            layer_bytes=tuple(stage.weight_bytes + length * stage.kv_bytes_per_token for stage in stages[1:-2]),
            embedding_bytes=first - own[0],
            head_bytes=last - own[-1],
        )


def _taken_apart(shape: Shape, n_layers: int) -> Shape:
    """Return an imagined instance of single layers, between the first and the last once more and a stage of two.

    Two layers in one stage tell what stages take beside their layers, the first and the last layer at the ends what
    embedding and LM head take.  Every stage sends to another node, so that none differs in that.
    """
    attention, ffn = shape.stages[0].attention, shape.stages[0].ffn
    spans = [(0, 1), *((layer, 1) for layer in range(n_layers)), (0, 2), (n_layers - 1, 1)]
    stages = tuple(Stage(first, n, attention, ffn) for first, n in spans)
    return replace(shape, stages=stages, placement="spread")
