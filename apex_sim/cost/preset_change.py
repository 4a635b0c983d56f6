"""What do steps take when an engine's times change, but neither its rules nor what it computes?

Tables are as large as the cost back end is slow; a fit, a calibration or a question of sensitivity asks for the same
plan under many times of the host or of kernels, and takes the tables that are there.
"""

from __future__ import annotations

from dataclasses import replace

from apex_sim.cost.stage_context import StageContext
from apex_sim.cost.stage_tables import retime_stage
from apex_sim.cost.step_model import StageModel, StepModel, close_stage, compile_step_model
from apex_sim.preset.preset import Preset


def change_preset(model: StepModel, preset: Preset) -> StepModel:
    """Return the step model under `preset`, which differs from its own in times only.

    Host time, slowdown of prompts, launches and phase factors may differ; rules, graph sizes and collectives may not:
    they are in the tables.  Stages that share tables share the new ones; a draft's tables are made anew.
    """
    shape = replace(model.shape, preset=preset)
    if model.draft:
        context = model.stages[0].context
        return compile_step_model(context.model, context.cluster, shape, context.cost)
    changed = {number: _change_stage(stage, preset) for number, stage in _distinct(model).items()}
    stages = tuple(replace(changed[id(stage.tables)], context=_context(stage, preset)) for stage in model.stages)
    return replace(model, shape=shape, stages=stages)


def _distinct(model: StepModel) -> dict[int, StageModel]:
    """Return one stage for each of the tables: those that cost the same have the same."""
    return {id(stage.tables): stage for stage in model.stages}


def _context(stage: StageModel, preset: Preset) -> StageContext:
    return replace(stage.context, shape=replace(stage.context.shape, preset=preset))


def _change_stage(stage: StageModel, preset: Preset) -> StageModel:
    shape, context = stage.context.shape, _context(stage, preset)
    if preset.factors.decode == shape.preset.factors.decode:  # kernel times stay as they are
        tables = retime_stage(stage.tables, context, stage.tokens, stage.head, stage.joint)
        return replace(stage, context=context, tables=tables)
    return close_stage(
        context,
        stage.classes,
        stage.tokens,
        stage.head,
        stage.attention,
        stage.joint,
        stage.spread_s,
        preset.factors.decode / shape.preset.factors.decode,
    )
