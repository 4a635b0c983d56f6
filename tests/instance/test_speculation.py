"""Speculative decoding on the reference: who verifies what, what leaves together, and what a step costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy import Engine, ask, end_step, flat, make_queue, put, serve, shares, try_instance

from apex_sim.cost.draft_cost import DraftBatch
from apex_sim.cost.roofline import Roofline
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import compile_step_model
from apex_sim.fleet.fleet import simulate_plan
from apex_sim.hardware.cluster import load_cluster
from apex_sim.instance.acceptance import acceptance_draw
from apex_sim.instance.policies.unified import schedule_unified as schedule
from apex_sim.model.load import load_model
from apex_sim.plan.plan import Plan
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import Shape, tensor_pipeline_stages
from apex_sim.plan.speculation import Speculation
from apex_sim.preset.load import load_preset
from apex_sim.workload.load_form import LoadForm
from apex_sim.workload.workload import Workload


def drafting(*acceptance: float) -> Speculation:
    return Speculation("any", len(acceptance), acceptance)


def engine(*acceptance: float, **settings: int) -> Engine:
    return Engine(speculation=drafting(*acceptance), **settings)  # type: ignore[arg-type]


# --- draws ------------------------------------------------------------------------------------------------------------


def _draws(seed: int, n_requests: int, n_positions: int) -> np.ndarray:
    return np.array([[acceptance_draw(seed, r, t) for t in range(n_positions)] for r in range(n_requests)])


def test_draws_are_uniform() -> None:
    """Chi-square over 64 bins, 63 degrees of freedom: mean 63, standard deviation 11.2; five of them either way."""
    for seed in (0, 1, 2**40 + 3):
        counts = np.histogram(_draws(seed, 256, 256), bins=64, range=(0.0, 1.0))[0]
        chi_square = float(((counts - 1024.0) ** 2 / 1024.0).sum())
        assert 63 - 5 * 11.2 < chi_square < 63 + 5 * 11.2


def test_draws_of_neighbours_do_not_know_each_other() -> None:
    """Correlations of 65,280 pairs have a standard error of 0.0039: along positions, requests and seeds."""
    draws, other = _draws(7, 256, 256), _draws(8, 256, 256)
    pairs = {
        "positions": (draws[:, :-1], draws[:, 1:]),
        "requests": (draws[:-1], draws[1:]),
        "seeds": (draws, other),
        "diagonal": (draws[:-1, 1:], draws[1:, :-1]),
    }
    for one, two in pairs.values():
        assert abs(np.corrcoef(one.ravel(), two.ravel())[0, 1]) < 5 * 0.0039


def test_no_two_of_many_tokens_share_a_draw_more_often_than_chance() -> None:
    """65,536 words of 32 bits: half a pair is expected to be equal; streams that overlap would share hundreds."""
    draws = _draws(0, 256, 256).ravel()
    assert len(draws) - len(np.unique(draws)) <= 6


# --- the policy, by hand ----------------------------------------------------------------------------------------------


def test_the_first_token_comes_alone_and_then_drafts_are_verified() -> None:
    queue = make_queue(engine(0.5, 0.5, 0.5, max_num_batched_tokens=16))
    (sequence,) = put(queue, 6)
    step = schedule(queue)
    assert (shares(step), step[0].n_drafts, sequence.n_blocks) == ([(0, 6)], 0, 2)
    end_step(step)
    sequence.n_drafts = 3
    step = schedule(queue)
    assert (shares(step), step[0].n_drafts, step[0].n_sampled) == ([(0, 4)], 3, 4)
    assert sequence.n_blocks == 4  # 10 tokens and 3 to look ahead, in blocks of 4


def test_the_budget_cuts_drafts_and_they_are_forgotten() -> None:
    queue = make_queue(engine(0.5, 0.5, 0.5, max_num_batched_tokens=6))
    sequences = put(queue, 3, 3)
    end_step(schedule(queue))
    for sequence in sequences:
        sequence.n_drafts = 3
    step = schedule(queue)
    assert shares(step) == [(0, 4), (1, 2)]
    assert [entry.n_drafts for entry in step] == [3, 1]
    assert [sequence.n_drafts for sequence in sequences] == [0, 0]


def test_no_token_beyond_the_longest_request_is_computed_or_has_a_block() -> None:
    queue = make_queue(engine(0.5, 0.5, 0.5, max_model_len=16))
    (sequence,) = put(queue, 13)
    end_step(schedule(queue))
    sequence.n_drafts = 3
    step = schedule(queue)  # 13 are computed, and the 15th is the last that may be
    assert (shares(step), step[0].n_drafts, sequence.n_blocks) == ([(0, 2)], 1, 4)


def test_a_preempted_sequence_starts_again_without_drafts() -> None:
    queue = make_queue(engine(0.5, 0.5, max_num_batched_tokens=32), n_blocks=5)
    first, second = put(queue, 8, 8)
    end_step(schedule(queue))
    first.n_drafts = second.n_drafts = 2
    assert shares(schedule(queue)) == [(0, 3)]  # 13 tokens with what lies ahead: 4 blocks
    assert (second.n_drafts, second.n_computed, second.n_preemptions) == (0, 0, 1)


# --- what leaves ------------------------------------------------------------------------------------------------------


def _token_times(acceptance: tuple[float, ...], output: int) -> list[float]:
    trial = try_instance(engine(*acceptance), flat(), [(0.0, 4, output, output)])
    return trial.log.times("token", 0)


def test_all_accepted_means_k_and_one_tokens_a_step() -> None:
    assert _token_times((1.0, 1.0), 7) == [1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0]


def test_none_accepted_means_one_token_a_step() -> None:
    assert _token_times((0.0, 1.0), 4) == [1.0, 2.0, 3.0, 4.0]


def test_an_answer_ends_with_its_last_token() -> None:
    assert _token_times((1.0, 1.0), 3) == [1.0, 2.0, 2.0]


def test_tokens_that_leave_together_are_one_gap() -> None:
    run = serve(engine(1.0, 1.0), flat(), ask([0.0], 4, 7))
    assert (run.gaps.n, run.gaps.sum_s) == (2, 2.0)


def test_mean_tokens_of_a_step_are_the_sum_of_the_products() -> None:
    """Each decode step emits 1 + A tokens, A independent and at most 3; the answer's end cuts the last step only."""
    acceptance, n, output = (0.8, 0.6, 0.5), 40, 501
    setting = engine(*acceptance, max_model_len=600, n_blocks=1000)
    run = serve(setting, flat(), ask(np.zeros(n), 4, output), concurrency=1)
    n_steps = run.instances[0].steps.n_steps - n  # prompts take one step each
    expected = drafting(*acceptance).expected_tokens
    error = 5 * 1.2 / np.sqrt(n_steps) + 3 * n / n_steps  # five standard errors, and what ends cut off
    assert n * (output - 1) / n_steps == pytest.approx(expected, abs=error)


def test_a_request_keeps_the_same_tokens_on_any_instance() -> None:
    """Nobody waits for anybody, so that the time in the system counts the request's own steps."""
    requests = ask(np.zeros(12), 4, 30)
    setting = engine(0.7, 0.7, max_num_seqs=16, max_num_batched_tokens=256, n_blocks=1000)
    alone, several = (serve(setting, flat(), requests, dp=dp) for dp in (1, 3))
    assert alone.requests.e2e_s.tolist() == several.requests.e2e_s.tolist()
    assert len(set(alone.requests.e2e_s.tolist())) > 3


# --- what it costs ----------------------------------------------------------------------------------------------------

CLUSTER, MODEL = load_cluster("1xh100-sxm"), load_model("llama-3.1-8b")
COST = Roofline(CLUSTER.device)


def _shape(speculation: Speculation | None) -> Shape:
    preset = load_preset("vllm-1")
    preset = replace(preset, host=replace(preset.host, step_s=0.0, sequence_s=0.0))
    settings = resolve_settings(
        preset, CLUSTER.device, 2048, max_num_seqs=8, async_scheduling=None if speculation else False,
        speculation=speculation,
    )  # fmt: skip
    return Shape("h100-sxm", tensor_pipeline_stages((MODEL.n_layers,), 1), Precision(), settings, preset)


def _per_token_s(speculation: Speculation | None, output: int) -> float:
    """Return TPOT of one request alone, nothing but steps between its tokens."""
    requests = ask([0.0], 500, output)
    workload = Workload("one", requests, LoadForm("trace", None), None, None, (), True, "none")
    plan = Plan(((_shape(speculation), 1),), "round-robin")
    return float(simulate_plan(MODEL, CLUSTER, plan, workload, COST, check=True).requests.tpot_s[0])


def _step_s(speculation: Speculation, context: int) -> float:
    """Return device time of verification and draft for one sequence."""
    step_model = compile_step_model(MODEL, CLUSTER, _shape(speculation), COST)
    batch, drafts = StepBatch(step_model.windows), DraftBatch(step_model.windows)
    n_new = 1 + speculation.n_draft_tokens
    batch.add(context, n_new, n_new, is_decode=True)
    drafts.add(context, n_new, True, is_decode=True)
    assert step_model.draft is not None
    return step_model.stages[0].price(batch).device_s + step_model.draft.price(drafts)[0]


@pytest.mark.parametrize("n", [1, 3])
def test_speed_up_is_expected_tokens_over_the_time_of_a_step(n: int) -> None:
    """At both ends of acceptance without noise: 1 or k + 1 tokens for verification and draft, at the mean context."""
    for frac, emitted in ((0.0, 1), (1.0, n + 1)):
        speculation = Speculation("llama-3.2-1b", n, (frac,) * n)
        per_token_s = _per_token_s(speculation, 1 + 60 * (n + 1))
        context = 500 + (60 * (n + 1) - emitted) // 2
        assert per_token_s == pytest.approx(_step_s(speculation, context) / emitted, rel=2e-3)


def test_a_draft_pays_where_it_is_right_and_costs_where_it_is_wrong() -> None:
    plain_s = _per_token_s(None, 241)
    wrong_s, right_s = (_per_token_s(Speculation("llama-3.2-1b", 3, (frac,) * 3), 241) for frac in (0.0, 1.0))
    assert right_s < plain_s / 2 < plain_s < wrong_s < 2 * plain_s
