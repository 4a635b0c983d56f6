"""Known errors come back as intervals that hold what they should, and shared errors do not blur a choice."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from apex_sim.cost.basis import Basis
from apex_sim.truth.choice import choices_of
from apex_sim.truth.coverage import coverage_of
from apex_sim.truth.error_bar import (
    Spread,
    Terms,
    below_probability,
    interval_of,
    intervals_of,
    is_coin_toss,
    terms_of,
)
from apex_sim.truth.footing import Footing
from apex_sim.truth.metric_class import METRIC_CLASSES, class_of
from apex_sim.truth.operator_error import error_log_sd
from apex_sim.truth.response import Response
from apex_sim.truth.validated import UNKNOWN_LOG_SD, Z_80, Validated, load_validated
from apex_sim.truth.validated_fit import CaseError, fit_validated
from apex_sim.truth.validated_text import validated_toml
from apex_sim.truth.validation import CaseResult

NOTHING = Validated((), {})


def footing(preset="engine", device="gpu", family="llama", **other):
    values = {"model": "m", "tp": (1,), "layout": "TP1", "n_at_once": 8.0, "prompt_tokens": 100.0, **other}
    return Footing(preset, device, family, **values)


def spread(ground, *, gain=1.0, decode=None, blocks=None, name="tpot_mean_s"):
    return Spread(ground, {}, decode or {}, {name: Response(0.0, gain, gain)}, blocks or {})


def case(source, case_id="c"):
    return CaseResult(case_id, source, "e", "1", "m", "d", "TP1", {}, {}, {}, {}, None, "", ())


def synthetic(scales, rng, n=60):
    """Return errors of sources whose cases err with these standard deviations, all on one ground."""
    return [
        CaseError(case(source, f"{source}-{index}"), spread(footing()), "tpot_mean_s", float(error))
        for source, log_sd in scales.items()
        for index, error in enumerate(rng.normal(0.0, log_sd, n))
    ]


def test_known_errors_come_back_as_coverage_and_width():
    errors = synthetic({"a": 0.05, "b": 0.05, "c": 0.05, "d": 0.05}, np.random.default_rng(1), n=400)
    validated = fit_validated(errors)
    rows = coverage_of(errors, validated)
    whole = rows[-1]
    assert whole.n == 1600
    assert whole.depth == 3.0
    assert whole.covered_frac == pytest.approx(0.8, abs=0.04)  # four standard errors of 1,600 draws
    assert whole.half_width_frac == pytest.approx(Z_80 * 0.05, rel=0.1)
    assert whole.width_ratio == pytest.approx(Z_80 / 0.6745, rel=0.15)


def test_a_source_does_not_set_its_own_interval():
    errors = synthetic({"a": 0.05, "b": 0.05, "c": 0.05, "bad": 0.5}, np.random.default_rng(2), n=200)
    covered = {row.source: row.covered_frac for row in coverage_of(errors, fit_validated(errors))}
    assert covered["bad"] < 0.4
    assert covered["a"] > 0.8


def test_sources_of_one_campaign_are_left_out_together():
    rng = np.random.default_rng(8)
    errors = synthetic({"a": 0.02, "copy": 0.02, "b": 0.2, "c": 0.2}, rng)
    alone = fit_validated(errors)
    both = fit_validated([replace(e, together="a+copy") if e.source in ("a", "copy") else e for e in errors])
    left = {group.source for group in both.without("a").groups}
    assert left == {"b", "c"}
    assert {group.source for group in alone.without("a").groups} == {"b", "c", "copy"}
    scales = [known.without("a").scales(footing())["pace"].log_sd for known in (both, alone)]
    assert scales[0] == pytest.approx(0.2, rel=0.2)
    assert scales[1] < 0.15


def test_probabilities_of_winning_hold():
    rng, errors = np.random.default_rng(7), []
    for source in ("a", "b", "c"):
        for index in range(300):
            truth, name = {"TP1": 1.0, "TP2": 1.0 + rng.uniform(-0.2, 0.2)}, "tpot_mean_s"
            for layout, measured_s in truth.items():
                log_error = float(rng.normal(0.0, 0.05))
                predicted = {name: measured_s * math.exp(log_error)}
                mine = replace(
                    case(source, f"{source}{index}{layout}"), measured={name: measured_s}, predicted=predicted
                )
                ground = spread(footing(layout=layout, load=str(index)))
                errors.append(CaseError(mine, ground, name, log_error))
    found = choices_of(errors, fit_validated(errors))
    assert sum(each.n for each in found) == 900
    for each in found:
        assert each.won_frac == pytest.approx(each.probability, abs=0.08)
    assert found[-1].won_frac > 0.95


def test_what_was_never_checked_is_less_sure():
    rng = np.random.default_rng(3)
    known = fit_validated(synthetic({"a": 0.02, "b": 0.02}, rng))
    here = interval_width(known, footing())
    other = CaseError(case("far"), spread(footing("other", "tpu", "moe")), "tpot_mean_s", 0.6)
    wide = fit_validated([*synthetic({"a": 0.02, "b": 0.02}, rng), *[other] * 5])
    # All three groups in logs against the two known ones: (0.6 / 1.28 / 0.02) ^ (1 / 3) = 2.9 times the scale.
    assert interval_width(wide, footing("third", "chip", "new")) > 2.8 * interval_width(wide, footing())
    assert here < 0.05
    assert interval_width(NOTHING, footing()) == pytest.approx(Z_80 * UNKNOWN_LOG_SD)


def interval_width(validated, ground):
    bar = intervals_of({"tpot_mean_s": 1.0}, spread(ground), validated)["tpot_mean_s"]
    return math.log(bar.high)


def test_a_growing_queue_amplifies_and_a_plan_that_keeps_up_delivers_what_is_asked():
    scales = fit_validated(synthetic({"a": 0.05, "b": 0.05}, np.random.default_rng(4))).scales(footing())
    slow = terms_of(spread(footing(), gain=5.0), "tpot_mean_s", scales)
    plain = terms_of(spread(footing()), "tpot_mean_s", scales)
    assert slow.log_sd == pytest.approx(math.hypot(1, 4) * plain.log_sd)
    kept_up = spread(footing(), gain=-0.01, name="output_tokens_per_s")
    assert terms_of(kept_up, "output_tokens_per_s", scales).log_sd < 0.01


def test_prices_less_sure_than_those_of_checked_servers_widen_the_interval():
    scales = fit_validated(synthetic({"a": 0.05, "b": 0.05}, np.random.default_rng(5))).scales(footing())
    sure = terms_of(spread(footing()), "tpot_mean_s", scales)
    unsure = terms_of(spread(footing(), decode={("gemm", ""): 0.5}), "tpot_mean_s", scales)
    assert unsure.cost_log_sd > 5 * sure.log_sd
    assert unsure.preset_log_sd <= sure.preset_log_sd
    assert error_log_sd(Basis("roofline", "datasheet")) > 4 * error_log_sd(Basis("calibrated", "fit", 0.05))
    assert error_log_sd(Basis("calibrated", "fit", 0.05), 1.0) > error_log_sd(Basis("calibrated", "fit", 0.05))


def test_plans_of_the_same_kernels_are_told_apart_better_than_either_is_known():
    shared = Terms({("operator", "gemm"): 0.3, ("layout", "a"): 0.01}, 0.3, 0.0, 0.01)
    rival = Terms({("operator", "gemm"): 0.3, ("layout", "b"): 0.01}, 0.3, 0.0, 0.01)
    stranger = Terms({("operator", "other"): 0.3, ("layout", "b"): 0.01}, 0.3, 0.0, 0.01)
    assert below_probability((1.0, shared), (1.1, rival)) == pytest.approx(0.99)
    assert is_coin_toss(below_probability((1.0, shared), (1.1, stranger)))
    assert below_probability((1.1, rival), (1.0, shared)) == pytest.approx(
        1 - below_probability((1.0, shared), (1.1, rival))
    )


def test_equal_plans_are_a_coin_toss_and_a_plan_twice_as_fast_wins():
    terms = terms_of(spread(footing()), "tpot_mean_s", NOTHING.scales(footing()))
    other = terms_of(spread(footing(layout="TP2")), "tpot_mean_s", NOTHING.scales(footing()))
    assert below_probability((1.0, terms), (1.0, other)) == pytest.approx(0.5)
    assert is_coin_toss(below_probability((1.0, terms), (1.0, terms)))
    assert below_probability((1.0, terms), (2.0, other)) > 0.95


def test_the_same_requests_count_for_both_plans():
    blocks = {"tpot_mean_s": np.linspace(-0.1, 0.1, 20)}
    scales = NOTHING.scales(footing())
    terms = terms_of(spread(footing(), blocks=blocks), "tpot_mean_s", scales)
    assert terms.workload_log_sd == pytest.approx(float(np.linalg.norm(blocks["tpot_mean_s"])))
    assert below_probability((1.0, terms), (1.001, terms)) == 0.99


def test_parts_of_an_interval_add_up_in_squares_of_logs():
    bar = interval_of(10.0, Terms({}, 0.03, 0.04, 0.12))
    assert bar.total_frac == pytest.approx(math.expm1(Z_80 * 0.13))
    assert (bar.low, bar.high) == pytest.approx((10 / (1 + bar.total_frac), 10 * (1 + bar.total_frac)))
    assert interval_of(0.9, Terms({}, 0.0, 0.0, 1.0), most=1.0).high == 1.0


def test_the_table_is_read_as_it_was_written(tmp_path):
    fitted = fit_validated(synthetic({"a": 0.05, 'b"[x]': 0.02}, np.random.default_rng(6)))
    path = tmp_path / "validated.toml"
    path.write_text(validated_toml(fitted, ["cases.csv"]), encoding="utf-8")
    read = load_validated(path)
    assert read.groups == fitted.groups
    assert read.without("a").scales(footing()) == fitted.without("a").scales(footing())


def test_the_shipped_table_knows_every_preset_that_was_measured():
    groups = load_validated().groups
    assert {group.preset for group in groups} >= {"vllm-0.6", "vllm-1"}
    assert all(set(group.errors) <= set(METRIC_CLASSES) for group in groups)
    assert class_of("itl_p99_s") == "pace_tail"
