"""Errors along axes, noise floors, and which class of load a case belongs to."""

from __future__ import annotations

import pytest

from apex_sim.truth.axes import AXES, QUANTITIES, summarise_axes, with_quantities
from apex_sim.truth.noise import noise_floors, tie_frac
from apex_sim.truth.validation import validate_serving


def place(**values: str) -> dict[str, str]:
    return dict.fromkeys(AXES, "-") | values


def test_each_value_of_an_axis_pools_its_sources_with_equal_weight():
    places = [place(plan="TP2")] * 4 + [place(plan="TP8")]
    sources = ["one", "many", "many", "many", "many"]
    errors = [{"itl_mean_s": e} for e in (0.50, -0.10, -0.10, 0.20, 0.03)]
    rows = summarise_axes(places, sources, errors, [{}] * 5)
    of = {(row.axis, row.value, row.metric): row for row in rows}
    tp2 = of["plan", "TP2", "itl_mean_s"]
    assert (tp2.n, tp2.n_sources) == (4, 2)
    assert tp2.median_abs_frac == pytest.approx((0.50 + 0.10) / 2)
    assert tp2.bias_frac == pytest.approx((0.50 - 0.10) / 2)
    # |errors| of "many" at TP2: 0.10 0.10 0.20; p90 lies 0.8 of the way from the second to the third.
    assert tp2.p90_abs_frac == pytest.approx((0.50 + 0.18) / 2)
    assert of["plan", "TP8", "itl_mean_s"].median_abs_frac == pytest.approx(0.03)
    assert of["device", "-", "itl_mean_s"].n == 5
    assert ("plan", "TP2", "ttft") not in of


def test_a_quantity_takes_of_each_case_the_column_that_it_has():
    errors = [{"ttft_mean_s": 0.4, "ttft_median_s": 0.1}, {"ttft_mean_s": 0.2}, {"ttft_median_s": None}]
    assert [with_quantities(one).get("ttft") for one in errors] == [0.1, 0.2, None]
    noise = [{"ttft_mean_s": 0.03, "ttft_median_s": 0.05}, {"ttft_mean_s": 0.03}, {}]
    rows = summarise_axes([place()] * 3, ["a"] * 3, errors, noise)
    ttft = next(row for row in rows if row.metric == "ttft")
    assert (ttft.n, ttft.median_abs_frac, ttft.noise_frac) == (2, pytest.approx(0.15), pytest.approx(0.04))


def test_values_stand_in_natural_order():
    places = [place(plan=plan) for plan in ("TP16", "TP2", "TP8 DP2", "TP8")]
    rows = summarise_axes(places, ["a"] * 4, [{"ttft_mean_s": 0.1}] * 4, [{}] * 4)
    assert list(dict.fromkeys(row.value for row in rows if row.axis == "plan")) == ["TP2", "TP8", "TP8 DP2", "TP16"]


def test_a_replayed_case_knows_its_place_on_every_axis(write_cases):
    validation = validate_serving(
        write_cases(
            {"concurrency": "4"},
            {"dp": "2", "n_devices": "4", "concurrency": "12"},
            {"load_kind": "offline", "concurrency": ""},
            {"load_kind": "poisson", "concurrency": "", "rate_per_s": "20", "e2e_mean_s": "0.2"},
            {"load_kind": "poisson", "concurrency": "", "rate_per_s": "20"},
            {"device": "no-such-gpu"},
        )
    )
    closed, copies, offline, little, unknown, skipped = validation.cases
    assert closed.axes == {
        "source": "mine",
        "engine": "vllm 0.13.0",
        "device": "h200-sxm",
        "family": "GptOss",
        "plan": "TP2",
        "load": "1 to 4 at once",
    }
    assert (copies.axes["plan"], copies.axes["load"]) == ("TP2 DP2", "4 to 16 at once")
    assert offline.axes["load"] == "offline"
    assert little.axes["load"] == "1 to 4 at once"  # 20/s x 0.2 s
    assert unknown.axes["load"] == "not known"
    assert skipped.axes == {}
    plans = {row.value: row.n for row in validation.summary.by_axis if (row.axis, row.metric) == ("plan", "tpot")}
    assert plans == {"TP2": 4, "TP2 DP2": 1}


def test_repeats_and_stated_noise_are_floors():
    measured = [{"itl_mean_s": 1.0, "ttft_mean_s": 1.0}, {"itl_mean_s": 1.02}, {"itl_mean_s": 5.0}]
    floors = noise_floors([0.03, None, None], ["x", "x", None], measured)
    assert floors[0] == {"itl_mean_s": pytest.approx(0.02 / 1.01), "ttft_mean_s": 0.03}
    assert floors[1] == {"itl_mean_s": pytest.approx(0.02 / 1.01)}
    assert floors[2] == {}


def test_the_stated_noise_of_ttft_goes_before_that_of_repeats():
    measured = [{"ttft_mean_s": 1.0}, {"ttft_mean_s": 1.5}]
    assert noise_floors([0.03, None], ["x", "x"], measured) == [
        {"ttft_mean_s": 0.03},
        {"ttft_mean_s": pytest.approx(0.4)},
    ]


def test_repeats_in_a_file_show_as_the_floor_of_their_metric(write_cases):
    validation = validate_serving(write_cases({}, {"tpot_mean_s": "0.0041"}, {"engine_version": "0.14.0"}))
    row = next(row for row in validation.summary.by_source if row.metric == "tpot_mean_s")
    assert row.noise_frac == pytest.approx(0.0001 / 0.00405)  # the other release is no repeat


def test_ties_are_as_wide_as_the_noise():
    assert tie_frac("ttft_median_s", [None, 0.02, 0.05]) == 0.05
    assert tie_frac("ttft_median_s", [None]) == 0.03
    assert tie_frac("tpot_median_s", [0.05]) == 0.013


def test_every_quantity_names_measured_columns():
    from apex_sim.truth.case import MEASURED

    assert {column for columns in QUANTITIES.values() for column in columns} <= set(MEASURED)
