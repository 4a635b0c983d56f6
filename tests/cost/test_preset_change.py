"""A step model under other times equals one compiled for them, and factors act on their own phase."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from apex_sim.cost.calibrated import best_cost_model
from apex_sim.cost.preset_change import change_preset
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import StepModel, compile_step_model
from apex_sim.hardware.cluster import load_cluster
from apex_sim.model.load import load_model
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import Shape, tensor_pipeline_stages
from apex_sim.preset.load import load_preset
from apex_sim.preset.preset import PhaseFactors, Preset


def _step_model(preset: Preset) -> StepModel:
    model, cluster = load_model("llama-3.1-8b"), load_cluster("1xh100-sxm")
    settings = resolve_settings(preset, cluster.device, 2048, tp=1, pp=1)
    shape = Shape(
        cluster.device.name,
        tensor_pipeline_stages((model.n_layers,), 1, 1, ep=False),
        Precision("bf16", "bf16"),
        settings,
        preset,
    )
    return compile_step_model(model, cluster, shape, best_cost_model(cluster.device))


def _batch(model: StepModel, *, prompt: bool) -> StepBatch:
    batch = StepBatch(model.windows)
    batch.add(300, 1, True, True)
    if prompt:
        batch.add(0, 1500, True, False)
    return batch


@pytest.mark.parametrize("prompt", [False, True])
def test_a_changed_preset_equals_one_compiled_for_it(prompt: bool) -> None:
    preset = load_preset("vllm-1")
    base = _step_model(preset)
    slowdown = replace(preset.slowdown, base=1.3)
    for other in (
        replace(preset, factors=PhaseFactors(1.25, 1.5)),
        replace(preset, slowdown=slowdown, host=replace(preset.host, step_s=9e-3)),
    ):
        changed, anew = change_preset(base, other), _step_model(other)
        batch = _batch(base, prompt=prompt)
        assert changed.host_s(batch) == anew.host_s(batch)
        assert np.array_equal(changed.stages[0].tables.numbers, anew.stages[0].tables.numbers)
        assert changed.stages[0].price(batch) == anew.stages[0].price(batch)
        again = change_preset(changed, preset)
        assert np.allclose(again.stages[0].tables.numbers, base.stages[0].tables.numbers, rtol=1e-12)


def test_each_factor_acts_on_kernels_of_its_own_phase() -> None:
    preset = load_preset("vllm-1")
    base = _step_model(preset)
    for prompt in (False, True):
        before = base.stages[0].price(_batch(base, prompt=prompt))
        kernels_s = before.device_s - before.launch_s
        for factors, factor in ((PhaseFactors(prompt=1.5), 1.5 if prompt else 1.0), (PhaseFactors(decode=1.5), 1.5)):
            expected = 1.0 if prompt and factors.decode > 1.0 else factor
            after = change_preset(base, replace(preset, factors=factors)).stages[0].price(_batch(base, prompt=prompt))
            assert after.device_s - after.launch_s == pytest.approx(expected * kernels_s, rel=1e-12)


def test_stages_that_share_tables_share_the_changed_ones() -> None:
    preset = load_preset("vllm-1")
    model, cluster = load_model("llama-3.1-8b"), load_cluster("8xh100-sxm")
    settings = resolve_settings(preset, cluster.device, 2048, tp=1, pp=8)
    stages = tensor_pipeline_stages((4,) * 8, 1, 1, ep=False)
    shape = Shape(cluster.device.name, stages, Precision("bf16", "bf16"), settings, preset)
    base = compile_step_model(model, cluster, shape, best_cost_model(cluster.device))
    for other in (
        replace(preset, factors=PhaseFactors(1.0, 1.5)),
        replace(preset, slowdown=replace(preset.slowdown, base=1.3)),
    ):
        changed = change_preset(base, other)
        assert [stage.context.index for stage in changed.stages] == list(range(8))
        assert {stage.context.shape.preset for stage in changed.stages} == {other}
        assert _sharing(changed) == _sharing(base)
        assert len(set(_sharing(base))) == 3  # first, middle, last


def _sharing(model: StepModel) -> list[int]:
    """Return for each stage the first that has its tables."""
    numbers = [id(stage.tables) for stage in model.stages]
    return [numbers.index(number) for number in numbers]
