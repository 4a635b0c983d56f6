"""Are requests counted into the right buckets, and is the mix the cheapest that carries them?"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog

from apex_sim.errors import InputError
from apex_sim.planner.programs.bucket_mix import Buckets, best_mix, buckets_of
from apex_sim.planner.programs.shape_option import ShapeOption
from apex_sim.workload.requests import Requests, make_requests


def _requests(prompt_tokens: list[int]) -> Requests:
    n = len(prompt_tokens)
    return make_requests(
        arrival_s=np.arange(n) / 2.0, prompt_tokens=np.array(prompt_tokens), output_tokens=np.ones(n, int)
    )


def test_quantiles_hold_as_many_requests_each() -> None:
    buckets = buckets_of(_requests(list(range(1, 101))), 4)
    assert buckets.bucket_tokens == (25, 50, 75)
    assert buckets.rate_per_s == pytest.approx([0.5] * 4)


def test_powers_of_two_end_below_the_longest_prompt() -> None:
    buckets = buckets_of(
        _requests([100, 300, 600, 1024, 1025, 4000, 4096, 5000]), 4, by="powers of two", rate_per_s=8.0
    )
    assert buckets.bucket_tokens == (1024, 2048, 4096)
    assert buckets.rate_per_s == pytest.approx([4.0, 1.0, 2.0, 1.0])


def test_the_longest_prompt_may_be_a_power_of_two() -> None:
    assert buckets_of(_requests([512, 1024]), 2, by="powers of two").bucket_tokens == (512,)


@pytest.mark.parametrize("by", ["quantiles", "powers of two"])
@pytest.mark.parametrize("seed", range(20))
def test_every_bucket_holds_its_requests_and_none_is_empty(seed: int, by: str) -> None:
    random = np.random.default_rng(seed)
    tokens = np.maximum(1, random.lognormal(5, 2, int(random.integers(2, 60))).astype(int))
    buckets = buckets_of(_requests(tokens.tolist()), int(random.integers(1, 9)), by=by, rate_per_s=3.0)  # type: ignore[arg-type]
    lows, highs = (-1, *buckets.bucket_tokens), (*buckets.bucket_tokens, np.inf)
    expected = [3.0 * np.mean((tokens > low) & (tokens <= high)) for low, high in zip(lows, highs, strict=True)]
    assert buckets.rate_per_s == pytest.approx(expected)
    assert min(expected) > 0
    assert list(buckets.bucket_tokens) == sorted(set(buckets.bucket_tokens))


def test_equal_prompts_make_one_bucket() -> None:
    assert buckets_of(_requests([64] * 5), 8).bucket_tokens == ()


def test_buckets_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="n_buckets is 0"):
        buckets_of(_requests([1, 2]), 0)
    with pytest.raises(InputError, match="define no rate"):
        buckets_of(_requests([7]), 1)


@pytest.mark.parametrize("seed", range(30))
def test_the_mix_is_the_cheapest_of_all_counts(seed: int) -> None:
    """Brute force over counts, with a linear program that looks whether they carry the buckets."""
    random = np.random.default_rng(seed)
    n_options, n_buckets = int(random.integers(2, 4)), int(random.integers(1, 5))
    capacity = random.choice([0.0, 1.0, 2.0, 5.0], (n_options, n_buckets))
    capacity[0] = np.maximum(capacity[0], 1.0)
    usd = random.uniform(1, 8, n_options)
    rates = random.uniform(0.1, 2.0, n_buckets)
    options = [ShapeOption(f"s{s}", f"gpu-{s}", 1, usd[s], 1.0, tuple(capacity[s].tolist())) for s in range(n_options)]
    mix = best_mix(options, Buckets(tuple(range(1, n_buckets)), tuple(rates.tolist())))

    def carries(counts: tuple[int, ...]) -> bool:
        pairs = [(s, b) for s in range(n_options) for b in range(n_buckets) if capacity[s, b]]
        load = [[(s == of) * rates[b] / capacity[s, b] for s, b in pairs] for of in range(n_options)]
        whole = [[float(b == of) for _, b in pairs] for of in range(n_buckets)]
        found = linprog([0.0] * len(pairs), A_ub=load, b_ub=counts, A_eq=whole, b_eq=[1.0] * n_buckets)
        return bool(found.status == 0)

    prices = {counts: float(np.dot(counts, usd)) for counts in itertools.product(range(9), repeat=n_options)}
    cheapest = next(price for counts, price in sorted(prices.items(), key=lambda item: item[1]) if carries(counts))
    assert mix.composition.usd_per_h == pytest.approx(cheapest, rel=1e-6)
    assert [name for name, _ in mix.instances] == list(mix.composition.used)
    assert len(mix.routing.shares) == n_buckets
    for row in mix.routing.shares:
        assert len(row) == len(mix.instances)
        assert sum(row) == pytest.approx(1.0, abs=1e-12)
