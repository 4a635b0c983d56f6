"""Drawn loads of experts: the spread of the fullest rank against sampled routes, and draws about the mean."""

from dataclasses import replace

import numpy as np
import pytest

from apex_sim.cost.forms.routing import fullest_spread
from apex_sim.cost.roofline import Roofline
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import StepModel, compile_step_model
from apex_sim.draw import normal, uniform
from apex_sim.hardware.cluster import load_cluster
from apex_sim.instance.pipeline import Pipeline
from apex_sim.model.load import load_model
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import Shape, tensor_pipeline_stages
from apex_sim.preset.load import load_preset


@pytest.mark.parametrize(("n_tokens", "n_experts", "top_k", "ep"), [(64, 32, 4, 4), (512, 32, 4, 4), (256, 64, 8, 8)])
def test_the_spread_is_that_of_sampled_routes(n_tokens: int, n_experts: int, top_k: int, ep: int) -> None:
    """4,000 draws of k distinct experts for each token; their deviation is known to 1 / sqrt(2 x 4,000), 1.1 %."""
    rng, n_draws = np.random.default_rng(5), 4000
    fullest = np.empty(n_draws)
    for draw in range(n_draws):
        picks = np.argpartition(rng.random((n_tokens, n_experts)), top_k, axis=1)[:, :top_k]
        fullest[draw] = np.bincount((picks // (n_experts // ep)).ravel(), minlength=ep).max()
    spread = float(fullest_spread(np.array([float(n_tokens)]), n_experts, top_k, ep)[0])
    # Four deviations of the sample, and a little for rows that are whole numbers.
    assert spread == pytest.approx(fullest.std() / fullest.mean(), rel=0.06)


def test_the_spread_falls_with_the_root_of_the_tokens() -> None:
    many = fullest_spread(np.array([1e4, 4e4]), 256, 8, 8)
    assert many[0] / many[1] == pytest.approx(2.0, rel=0.02)
    assert fullest_spread(np.array([100.0]), 256, 8, 1)[0] == 0.0


def test_draws_are_uniform_and_do_not_depend_on_each_other() -> None:
    """Of 20,000 draws the mean is known to 0.002, a correlation to 0.007; four deviations are allowed."""
    n = 20_000
    one = np.array([uniform(1, step, 0, 3) for step in range(n)])
    other = np.array([uniform(1, step, 1, 3) for step in range(n)])
    assert abs(one.mean() - 0.5) < 4 * np.sqrt(1 / 12 / n)
    assert np.histogram(one, 10, (0.0, 1.0))[0] == pytest.approx(np.full(10, n / 10), abs=4 * np.sqrt(n / 10))
    for with_what in (other, np.roll(one, 1)):
        assert abs(np.corrcoef(one, with_what)[0, 1]) < 4 / np.sqrt(n)
    assert uniform(2**62, 2**40, 5, 100) == uniform(2**62, 2**40, 5, 100) != uniform(2**62, 2**40 + 1, 5, 100)


def test_normal_draws_have_mean_zero_and_end_at_three_deviations() -> None:
    drawn = np.array([normal(3, step, 0, 100) for step in range(20_000)])
    assert abs(drawn.mean()) < 4 / np.sqrt(20_000)
    assert drawn.std() == pytest.approx(0.9965, abs=0.02)
    assert (drawn.min(), drawn.max()) == (-3.0, 3.0)


def _model(imbalance: float, attention_dp: int = 4, ep: bool = True) -> StepModel:
    model, engine, cluster = load_model("gpt-oss-20b"), load_preset("vllm-1"), load_cluster("4xh100-sxm")
    settings = resolve_settings(engine, cluster.device, 4096, max_num_seqs=64, expert_imbalance=imbalance)
    stages = tensor_pipeline_stages((model.n_layers,), 4 // attention_dp, attention_dp, ep=ep)
    return compile_step_model(
        model, cluster, Shape("h100-sxm", stages, Precision(), settings, engine), Roofline(cluster.device)
    )


def _batch(model: StepModel, n_tokens: int) -> StepBatch:
    batch = StepBatch(model.windows)
    batch.add(0, n_tokens, samples=True, is_decode=False)
    return batch


@pytest.mark.parametrize("attention_dp", [1, 4])
def test_steps_vary_about_the_usual_time(attention_dp: int) -> None:
    """Over 2,000 equal steps the mean moves by no more than four of its own deviations, and host and energy follow."""
    usual, varied = _model(0.0, attention_dp), _model(2.0, attention_dp)
    price = usual.stages[0].price(_batch(usual, 2000))
    pipeline, ends = Pipeline(varied, seed=11), []
    for _ in range(2000):
        batch = _batch(varied, 2000)
        if attention_dp > 1:
            start_s, end_s = pipeline.run_ranks([batch] * attention_dp, 0.0, 0.0)
        else:
            start_s, end_s = pipeline.run(batch, (0,), 0.0, 0.0, 0.0)
        ends.append(end_s - start_s)
    spread_s = np.std(ends)
    assert spread_s > 0.0
    assert abs(np.mean(ends) - price.device_s) < 4 * spread_s / np.sqrt(2000)
    meter = pipeline.meters[0]
    assert meter.busy_s == pytest.approx(sum(ends))
    assert sum(meter.operators_s().values()) == pytest.approx(meter.busy_s)


def test_the_spread_scales_with_the_setting_up_to_a_third_of_the_experts() -> None:
    one, two, huge = (_model(scale).stages[0] for scale in (1.0, 2.0, 1e6))
    assert one.spread_s is not None
    assert two.spread_s is not None
    assert huge.spread_s is not None
    assert two.spread_s[500] == pytest.approx(2 * one.spread_s[500])
    assert huge.joint is not None
    experts = huge.joint.names.index("moe")
    assert huge.spread_s[500] == pytest.approx(huge.joint.kernel_s[experts, 500] / 3)


def test_nothing_varies_where_all_devices_share_each_expert() -> None:
    assert _model(1.0, ep=False).stages[0].spread_s is None
    assert _model(0.0).stages[0].spread_s is None
    price = _model(0.0).stages[0].price(_batch(_model(0.0), 100))
    assert _model(0.0).stages[0].varied(price, 2.0) == price == replace(price)
