"""The compiled engine against the reference where cells are spread each in their own way, on random loads."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scenario import LONGEST, Scenario, differences, draw

from apex_sim.cost.roofline import Roofline
from apex_sim.cost.step_model import StepModel, compile_step_model
from apex_sim.fleet.compiled_plan import compiled_way
from apex_sim.hardware.cluster import load_cluster
from apex_sim.model.load import load_model
from apex_sim.plan.kv_layout import KvLayout
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import CellParallelism, Shape, cell_stages
from apex_sim.preset.load import load_preset

#: Model, attention and FFN.
CELLS = {
    "joint": ("llama-3.2-1b", CellParallelism(attention_dp=2), CellParallelism(tp=2)),
    "joint-tp2": ("llama-3.2-1b", CellParallelism(tp=2, attention_dp=2), CellParallelism(tp=4)),
    "hybrid": ("mixtral-8x7b", CellParallelism(attention_dp=4), CellParallelism(tp=2, ep=2)),
    "context": ("deepseek-v3", CellParallelism(cp=4), CellParallelism(ep=4)),
    "context-ranks": ("deepseek-v3", CellParallelism(attention_dp=2, cp=2), CellParallelism(tp=2, ep=2)),
}


@cache
def _step_model(name: str, preset_name: str) -> StepModel:
    model_name, attention, ffn = CELLS[name]
    model, cluster, preset = load_model(model_name), load_cluster("4xh100-sxm"), load_preset(preset_name)
    settings = replace(
        resolve_settings(preset, cluster.device, LONGEST), max_num_seqs=16, max_num_batched_tokens=2 * LONGEST
    )
    stages = cell_stages((model.n_layers,), attention, ffn)
    shape = Shape("h100-sxm", stages, Precision(), settings, preset)
    return compile_step_model(model, cluster, shape, Roofline(cluster.device))


def _scenarios(name: str, n: int) -> list[Scenario]:
    """Return the first drawn scenarios with as many ranks, on the cells of `name`."""
    found: list[Scenario] = []
    seed, attention = 0, CELLS[name][1]
    while len(found) < n:
        scenario, seed = draw(np.random.default_rng(seed)), seed + 1
        drawn = scenario.shape
        if (drawn.attention_dp, drawn.pp, drawn.scheduler.speculation) != (attention.attention_dp, 1, None):
            continue
        step_model = _step_model(name, scenario.shape.preset.name)
        settings = replace(scenario.shape.scheduler, expert_imbalance=0.0)
        shape = replace(scenario.shape, stages=step_model.shape.stages, scheduler=settings)
        layout = KvLayout(scenario.memory.layout.block_size_tokens * attention.cp)
        blocks = shape.n_queues * int(layout.blocks_for(LONGEST) * 1.1 + 8)
        memory = replace(scenario.memory, layout=layout, n_blocks=blocks)
        found.append(replace(scenario, shape=shape, memory=memory, step_model=replace(step_model, shape=shape)))
    return [one if compiled_way(one.plan(), one.workload) else replace(one, dp=1) for one in found]


@pytest.mark.parametrize("name", CELLS)
def test_compiled_and_reference_agree(name: str) -> None:
    """Every run checks its invariants, too."""
    for index, scenario in enumerate(_scenarios(name, 8)):
        found = differences(scenario.run(compiled=False), scenario.run(compiled=True))
        assert not found, f"{name}, scenario {index}: {found}"
