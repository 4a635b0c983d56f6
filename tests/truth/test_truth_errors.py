"""Error arithmetic by hand."""

from __future__ import annotations

import pytest

from apex_sim.truth.error_summary import relative_error, summarise_errors


def test_relative_errors_are_signed():
    assert relative_error(0.9, 1.2) == pytest.approx(-0.25)
    assert relative_error(1.5, 1.2) == pytest.approx(0.25)
    assert relative_error(None, 1.2) is None


def test_statistics_of_one_source():
    errors = [{"ttft_mean_s": e, "tpot_mean_s": None} for e in (-0.10, 0.20, -0.30, 0.05, -0.02)]
    summary = summarise_errors(
        ["a"] * 5, errors, [{"ttft_mean_s": f} if f else {} for f in (0.03, None, 0.05, None, 0.10)], [""] * 5
    )
    (row,) = summary.by_source
    assert (row.source, row.metric, row.n) == ("a", "ttft_mean_s", 5)
    # |errors| sorted: 0.02 0.05 0.10 0.20 0.30; p90 lies 0.6 of the way from the fourth to the fifth.
    assert row.median_abs_frac == pytest.approx(0.10)
    assert row.p90_abs_frac == pytest.approx(0.26)
    assert row.bias_frac == pytest.approx(-0.02)
    assert row.noise_frac == pytest.approx(0.05)


def test_sources_weigh_equally_however_many_rows_they_have():
    sources = ["one"] + ["many"] * 9
    errors = [{"tpot_mean_s": 0.50}] + [{"tpot_mean_s": -0.10}] * 9
    (pooled,) = summarise_errors(sources, errors, [{"ttft_mean_s": 0.03}] * 10, [""] * 10).pooled
    assert pooled.n == 10
    assert pooled.median_abs_frac == pytest.approx((0.50 + 0.10) / 2)
    assert pooled.p90_abs_frac == pytest.approx((0.50 + 0.10) / 2)
    assert pooled.bias_frac == pytest.approx((0.50 - 0.10) / 2)
    assert pooled.noise_frac is None  # the floors are about another metric


def test_skipped_cases_are_counted_by_reason_and_have_no_share_in_the_errors():
    summary = summarise_errors(
        ["a", "a", "b", "b"],
        [{"ttft_mean_s": 0.1}, {}, {}, {}],
        [{}] * 4,
        ["", "no device", "no engine", "no engine"],
    )
    assert (summary.n_cases, summary.n_replayed) == (4, 1)
    assert summary.n_skipped_by_reason == {"no engine": 2, "no device": 1}
    assert [row.source for row in summary.by_source] == ["a"]
    assert summary.by_source[0].noise_frac is None
