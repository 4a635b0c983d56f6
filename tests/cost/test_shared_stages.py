"""Stages that cost the same share their tables, and each costs what it does alone."""

from dataclasses import replace

import numpy as np
import pytest

from apex_sim.cost import step_model as compiler
from apex_sim.cost.roofline import Roofline
from apex_sim.cost.stage_context import StageContext
from apex_sim.cost.step_model import StepModel, compile_step_model
from apex_sim.hardware.cluster import load_cluster
from apex_sim.model.load import load_model
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import Shape, balanced_split, tensor_pipeline_stages
from apex_sim.preset.load import load_preset

CLUSTER = load_cluster("4x8xh100-sxm")


def _compiled(name: str, tp: int, pp: int) -> StepModel:
    model, preset = load_model(name), load_preset("vllm-1")
    settings = resolve_settings(preset, CLUSTER.device, 4096, pp=pp)
    settings = replace(settings, max_num_seqs=16, max_num_batched_tokens=2048)
    stages = tensor_pipeline_stages(balanced_split(model.n_layers, pp), tp)
    shape = Shape("h100-sxm", stages, Precision("bf16"), settings, preset)
    return compile_step_model(model, CLUSTER, shape, Roofline(CLUSTER.device))


def _distinct(step_model: StepModel) -> int:
    return len({id(stage.tables.numbers) for stage in step_model.stages})


@pytest.mark.parametrize(
    ("name", "tp", "pp", "n_distinct"),
    [
        ("llama-3.1-70b", 1, 2, 2),
        # first, middle, last, and the stage that hands over to the next node
        ("llama-3.1-70b", 4, 4, 4),
        # two or three layers in the middle: with three it may end a node, too
        ("llama-3.1-70b", 1, 32, 6),
        # alternating windows: a stage of an odd number begins with one kind or the other
        ("gpt-oss-20b", 1, 8, 4),
    ],
)
def test_equal_stages_are_priced_once_and_to_the_same_bits(name: str, tp: int, pp: int, n_distinct: int) -> None:
    shared = _compiled(name, tp, pp)
    assert _distinct(shared) == n_distinct
    assert [stage.context.index for stage in shared.stages] == list(range(pp))
    for stage in shared.stages:
        context = StageContext(stage.context.cost, stage.context.model, CLUSTER, shared.shape, stage.context.index)
        alone = compiler._stage_model(context, shared.windows)
        assert np.array_equal(alone.tables.numbers, stage.tables.numbers)
        assert np.array_equal(alone.tables.layout, stage.tables.layout)


def test_a_deep_pipeline_needs_no_more_evaluations_than_a_short_one() -> None:
    assert _distinct(_compiled("llama-3.1-405b", 1, 18)) <= 6
