"""Orders of plans: against SciPy's tau-b without noise, by hand with it, and from the rows of a file."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from apex_sim.truth.ranking_quality import ANY_DEVICES, PairCounts, count_pairs, rank_groups, summarise_rankings
from apex_sim.truth.served_plan import PlanGroup, ServedPlan
from apex_sim.truth.validation import validate_serving

VALUES = st.lists(st.integers(1, 6), min_size=2, max_size=9)


@settings(deadline=None)
@given(st.data())
def test_without_noise_tau_b_is_that_of_scipy(data):
    measured = data.draw(VALUES)
    predicted = data.draw(st.lists(st.integers(1, 6), min_size=len(measured), max_size=len(measured)))
    pairs = count_pairs(measured, predicted, 0.0)
    if len(set(measured)) == 1 or len(set(predicted)) == 1:
        assert pairs.tau_b is None
    else:
        assert pairs.tau_b == pytest.approx(kendalltau(measured, predicted).statistic)
    n = len(measured)
    parts = (pairs.n_concordant, pairs.n_discordant, pairs.n_tied_measured, pairs.n_tied_predicted, pairs.n_tied_both)
    assert sum(parts) == n * (n - 1) // 2


def test_differences_within_the_noise_are_ties_on_both_sides():
    measured, predicted = [1.00, 1.02, 1.50], [1.01, 1.00, 1.50]
    assert count_pairs(measured, predicted, 0.0) == PairCounts(2, 1, 0, 0, 0)
    assert count_pairs(measured, predicted, 0.03) == PairCounts(2, 0, 0, 0, 1)
    assert count_pairs(measured, predicted, 0.03).tau_b == 1.0
    assert count_pairs(measured, predicted, 0.9).tau_b is None


def plan(label: str, n_devices: int, measured: dict[str, float], predicted: dict[str, float]) -> ServedPlan:
    return ServedPlan(label, n_devices, (label,), measured, predicted, (None,))


def group(*plans: ServedPlan, source: str = "lab") -> PlanGroup:
    return PlanGroup(source, "a load", plans)


def test_the_predicted_best_is_judged_by_what_it_was_measured_to_be():
    one = group(
        plan("TP8", 8, {"itl_mean_s": 0.010}, {"itl_mean_s": 0.012}),
        plan("TP4", 4, {"itl_mean_s": 0.015}, {"itl_mean_s": 0.011}),
        plan("TP2", 2, {"itl_mean_s": 0.030}, {"itl_mean_s": 0.030}),
    )
    (ranking,) = rank_groups([one])
    assert (ranking.quantity, ranking.column, ranking.devices) == ("tpot", "itl_mean_s", ANY_DEVICES)
    assert ranking.plans == ("TP8", "TP4", "TP2")
    assert ranking.predicted_best == "TP4"
    assert not ranking.is_best_found
    assert ranking.regret_frac == pytest.approx(0.5)
    assert ranking.tau_b == pytest.approx(1 / 3)
    assert not ranking.is_tie


def test_throughput_is_per_device_and_better_when_higher():
    one = group(
        plan("TP8", 8, {"output_tokens_per_s": 800.0}, {"output_tokens_per_s": 790.0}),
        plan("TP2", 2, {"output_tokens_per_s": 300.0}, {"output_tokens_per_s": 310.0}),
    )
    (ranking,) = rank_groups([one])
    assert ranking.plans == ("TP2", "TP8")
    assert ranking.measured == (150.0, 100.0)
    assert (ranking.is_best_found, ranking.regret_frac, ranking.tau_b) == (True, 0.0, 1.0)


def test_a_choice_among_tied_plans_is_right_and_called_a_tie():
    one = group(
        plan("TP8", 8, {"ttft_mean_s": 0.0380}, {"ttft_mean_s": 0.0400}),
        plan("TP4 DP2", 8, {"ttft_mean_s": 0.0382}, {"ttft_mean_s": 0.0380}),
    )
    any_size, equal = rank_groups([one])
    assert (any_size.devices, equal.devices) == (ANY_DEVICES, "8")
    assert any_size.is_tie
    assert any_size.is_best_found
    assert any_size.predicted_best == "TP4 DP2"
    assert any_size.regret_frac == pytest.approx(0.0002 / 0.0380)
    # Measured a tie, predicted an order: nothing is left to agree on.
    assert any_size.tau_b is None


def test_a_column_counts_only_where_all_plans_have_it():
    one = group(
        plan("TP8", 8, {"tpot_median_s": 1.0, "itl_mean_s": 1.0}, {"tpot_median_s": 1.0, "itl_mean_s": 1.0}),
        plan("TP4", 4, {"itl_mean_s": 2.0, "e2e_mean_s": 3.0}, {"itl_mean_s": 2.0, "e2e_mean_s": 3.0}),
    )
    assert [ranking.column for ranking in rank_groups([one])] == ["itl_mean_s"]


def test_sources_weigh_equally_in_the_quality_of_rankings():
    right = group(
        plan("A", 1, {"e2e_mean_s": 1.0}, {"e2e_mean_s": 1.0}),
        plan("B", 2, {"e2e_mean_s": 2.0}, {"e2e_mean_s": 2.0}),
        source="good",
    )
    wrong = group(
        plan("A", 1, {"e2e_mean_s": 1.0}, {"e2e_mean_s": 2.0}),
        plan("B", 2, {"e2e_mean_s": 2.0}, {"e2e_mean_s": 1.0}),
        source="bad",
    )
    good, bad, both = summarise_rankings(rank_groups([right, right, right, wrong]))
    assert (good.n_groups, good.tau_b_mean, good.best_found_frac, good.regret_max_frac) == (3, 1.0, 1.0, 0.0)
    assert (bad.n_groups, bad.tau_b_mean, bad.best_found_frac, bad.regret_mean_frac) == (1, -1.0, 0.0, 1.0)
    assert (both.n_groups, both.tau_b_mean, both.best_found_frac, both.regret_mean_frac) == (4, 0.0, 0.5, 0.5)


def test_plans_that_served_one_load_are_found_in_a_file(write_cases):
    path = write_cases(
        {"tp": "2", "n_devices": "2"},
        {"tp": "4", "n_devices": "4", "tpot_mean_s": "0.003"},
        {"tp": "4", "n_devices": "4", "tpot_mean_s": "0.0032"},  # a repeat
        {"tp": "8", "n_devices": "8", "concurrency": "3"},  # another load
        {"tp": "8", "n_devices": "8", "engine_version": "0.14.0"},  # another release
        {"tp": "8", "n_devices": "8", "source": "other"},
        {"tp": "8", "n_devices": "8", "device": "no-such-gpu"},
    )
    rankings = [one for one in validate_serving(path).summary.rankings if one.quantity == "tpot"]
    (one,) = rankings
    assert one.plans == ("TP4", "TP2")
    assert one.measured == (pytest.approx(0.0031), pytest.approx(0.004))
    assert "100/20 tokens, 4 users" in one.group


def shards(tmp_path, write_cases, *, left_out: int = -1, note: str = "one of 2 servers"):
    """One server for ten prompts, and two servers that shared them in turn."""
    rows = [(0.5 * i, 30 + i, 4 + i % 3) for i in range(10)]

    def write(name: str, chosen: list[tuple[float, int, int]]) -> None:
        lines = [f"{arrival},{prompt},{output}" for arrival, prompt, output in chosen]
        (tmp_path / name).write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *lines]) + "\n")

    write("one.csv", [(1.03 * arrival, prompt, output + 1) for arrival, prompt, output in rows])
    write("two_0.csv", rows[::2])
    write("two_1.csv", rows[1::2])
    trace = {"load_kind": "trace", "concurrency": "", "n_requests": "", "itl_mean_s": "0.004"}
    servers = [
        trace | {"workload": "one.csv", "tp": "4", "n_devices": "4", "ttft_mean_s": "0.030"},
        trace | {"workload": "two_0.csv", "tp": "2", "n_devices": "2", "ttft_mean_s": "0.050", "note": note},
        trace | {"workload": "two_1.csv", "tp": "2", "n_devices": "2", "ttft_mean_s": "0.060", "note": note},
    ]
    return write_cases(*(server for index, server in enumerate(servers) if index != left_out))


def test_servers_that_shared_a_load_are_one_plan(tmp_path, write_cases):
    rankings = validate_serving(shards(tmp_path, write_cases)).summary.rankings
    ttft = [one for one in rankings if one.quantity == "ttft"]
    # All plans, and those of four devices, which are the same two.
    assert [one.devices for one in ttft] == [ANY_DEVICES, "4"]
    assert ttft[0].plans == ("TP4", "TP2 DP2")
    assert ttft[0].measured == (0.030, pytest.approx(0.055))
    assert "10 requests of" in ttft[0].group


def test_a_plan_of_which_a_server_is_missing_is_not_ranked(tmp_path, write_cases):
    assert validate_serving(shards(tmp_path, write_cases, left_out=2)).summary.rankings == ()


def test_servers_whose_rows_do_not_say_that_they_shared_a_load_stay_apart(tmp_path, write_cases):
    # Each half of the prompts is a load of its own, which one server served.
    assert validate_serving(shards(tmp_path, write_cases, note="")).summary.rankings == ()
