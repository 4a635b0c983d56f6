"""Both engines against closed forms of queueing theory; the compiled one serves more, in finer steps, at no cost.

Where arrivals are random, a mean over n customers is compared with its expectation.  Waits are autocorrelated, so its
standard error comes from batch means: the run, its first tenth dropped, is cut into 20 batches much longer than a busy
period; their means are nearly independent and normal, and s / sqrt(20) estimates the error.  Four of them let a right
simulator fail once in about 1,000 seeds (Student's t, 19 degrees of freedom); seeds are fixed.  Each test also demands
that this tolerance is small enough to tell the law from its neighbours.  Where a step is the quantum of service, as it
is of the continuous laws for M/M/c and processor sharing, a bound on what the quantum changes is added and derived.
Decodes run inside graphs, so that the compiled engine leaps over equal steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from toy import ENGINES, Engine, ask, flat, per_sequence, serve

Floats = NDArray[np.float64]

ONE_SERVER = Engine(
    "prefill-first", max_num_seqs=1, max_num_batched_tokens=512, max_model_len=512, n_blocks=1000, graphs=True
)
SEATS = Engine(max_num_batched_tokens=16384, max_model_len=16384, n_blocks=10**6, graphs=True)

on_both = pytest.mark.parametrize("by", ENGINES)


def mean_and_error(sample: Floats, n_batches: int = 20) -> tuple[float, float]:
    """Return the mean past the first tenth, and its standard error by batch means."""
    settled = sample[len(sample) // 10 :]
    means = settled[: len(settled) // n_batches * n_batches].reshape(n_batches, -1).mean(axis=1)
    return float(settled.mean()), float(means.std(ddof=1) / math.sqrt(n_batches))


def poisson_arrivals(rate_per_s: float, n: int, seed: int) -> Floats:
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate_per_s, n))


def lindley(arrivals: Floats, service: Floats) -> Floats:
    """Return the waits of a single first-come-first-served server: W' = max(0, W + S - A)."""
    waits = np.zeros(len(arrivals))
    for index in range(1, len(arrivals)):
        gap = arrivals[index] - arrivals[index - 1]
        waits[index] = max(0.0, waits[index - 1] + service[index - 1] - gap)
    return waits


def test_batch_means_see_autocorrelation() -> None:
    """AR(1) with phi = 0.9: the variance of a mean is (1 + phi) / (1 - phi) = 19 times that of independent values."""
    rng, phi, n = np.random.default_rng(5), 0.9, 40_000
    series = np.zeros(n)
    for index, shock in enumerate(rng.normal(size=n - 1)):
        series[index + 1] = phi * series[index] + shock
    _, error = mean_and_error(series)
    exact = 1 / (1 - phi) / math.sqrt(0.9 * n)
    # chi-square with 19 degrees of freedom: a standard deviation is known to 1 / sqrt(38) = 16 %; three of those
    assert error == pytest.approx(exact, rel=0.5)


SERVICES: dict[str, Callable[[np.random.Generator, int], NDArray[np.int64]]] = {
    "M/D/1": lambda rng, n: np.full(n, 4),
    "M/Geo/1": lambda rng, n: rng.geometric(0.25, n),
    "M/G/1, two sizes": lambda rng, n: np.where(rng.random(n) < 0.9, 2, 22),
}


@on_both
@pytest.mark.parametrize("law", SERVICES)
def test_waits_follow_pollaczek_khinchine(law: str, by: str) -> None:
    """One sequence at a time in steps of 0.25 s: service is 0.25 s x output tokens, mean 1 s; rho = 0.7.

    W = lambda E[S^2] / (2 (1 - rho)), and every single wait follows Lindley's recursion.
    """
    n, rate_per_s = {"reference": 12_000, "compiled": 200_000}[by], 0.7
    rng = np.random.default_rng(11)
    arrivals, outputs = poisson_arrivals(rate_per_s, n, 12), SERVICES[law](rng, n)
    run = serve(ONE_SERVER, flat(0.25), ask(arrivals, 1, outputs), by=by)
    waits = run.requests.scheduled_s - arrivals
    assert np.abs(waits - lindley(arrivals, outputs / 4.0)).max() < 1e-7  # sums of rounded times
    moments = {"M/D/1": 1.0, "M/Geo/1": (2 - 0.25) / 0.25**2 / 16, "M/G/1, two sizes": (0.9 * 4 + 0.1 * 484) / 16}
    expected = rate_per_s * moments[law] / (2 * (1 - rate_per_s))
    mean, error = mean_and_error(waits)
    assert 4 * error < (0.5 if by == "reference" else 0.15) * expected
    assert mean == pytest.approx(expected, abs=4 * error)


def erlang_c(n_servers: int, load: float) -> float:
    """Return the probability that an arrival waits; `load` = arrival rate x mean service, in servers."""
    below = sum(load**k / math.factorial(k) for k in range(n_servers))
    at = load**n_servers / math.factorial(n_servers) * n_servers / (n_servers - load)
    return at / (below + at)


@on_both
def test_waits_for_a_seat_follow_erlang_c(by: str) -> None:
    """M/M/c: 4 seats, flat steps, geometric outputs: service has mean 1 and is nearly exponential, rho 0.7.

    A quantum of 0.05 s changes the mean wait by less than one: an arrival waits for at most one step to end, and
    geometric service varies by 5 % less than exponential, which lowers the wait by about half of that.
    """
    n, step_s = {"reference": (12_000, 0.05), "compiled": (400_000, 0.005)}[by]
    n_seats, load = 4, 2.8
    outputs = np.random.default_rng(21).geometric(step_s, n)
    arrivals = poisson_arrivals(load, n, 22)
    run = serve(replace(SEATS, max_num_seqs=n_seats), flat(step_s), ask(arrivals, 1, outputs), by=by)
    expected, neighbour = (erlang_c(seats, load) / (seats - load) for seats in (n_seats, n_seats + 1))
    mean, error = mean_and_error(run.requests.scheduled_s - arrivals)
    assert 4 * error + step_s < (1.0 if by == "reference" else 0.2) * (expected - neighbour)
    assert mean == pytest.approx(expected, abs=4 * error + step_s)


@on_both
@pytest.mark.parametrize("sizes", ["constant", "two sizes"])
def test_a_step_proportional_to_its_batch_is_processor_sharing(sizes: str, by: str) -> None:
    """M/G/1-PS: mean sojourn E[S] / (1 - rho) = 2.5, whatever the distribution of service; rho = 0.6, E[S] = 1.

    The quantum is 0.05 s for each sequence.  An arrival waits for the step under way, on average less than its length
    seen by an arrival, 0.05 x E[N^2] / E[N] with N geometric: 0.05 x (1 + rho) / (1 - rho) = 0.2; a size-biased bound.
    The compiled engine has a tenth of that quantum.
    """
    n, step_s = {"reference": (5_000, 0.05), "compiled": (60_000, 0.005)}[by]
    rng, rate_per_s, short, long = np.random.default_rng(31), 0.6, round(0.25 / step_s), round(4.0 / step_s)
    outputs = np.full(n, round(1 / step_s)) if sizes == "constant" else np.where(rng.random(n) < 0.8, short, long)
    arrivals = poisson_arrivals(rate_per_s, n, 32)
    engine = replace(SEATS, max_num_seqs=1000)
    run = serve(engine, per_sequence(step_s), ask(arrivals, 1, outputs), by=by)
    quantum_s = step_s * (1 + rate_per_s) / (1 - rate_per_s)
    mean, error = mean_and_error(run.requests.e2e_s)
    assert 4 * error + quantum_s < (
        1.2 if by == "reference" else 0.25
    )  # first come first served: 1.75 for constant sizes, 3.55 for two
    assert mean == pytest.approx(2.5, abs=4 * error + quantum_s)
    if sizes == "two sizes":  # sojourn is proportional to size: x / (1 - rho)
        for tokens, expected in ((short, 0.625), (long, 10.0)):
            mean, error = mean_and_error(run.requests.e2e_s[outputs == tokens])
            assert mean == pytest.approx(expected, abs=4 * error + quantum_s)


@on_both
def test_deterministic_arrivals_and_service_wait_as_computed_by_hand(by: str) -> None:
    """D/D/1, exact in binary: at rho = 4/3 each waits 0.25 s longer than the one before, at rho = 1 nobody waits."""
    count = np.arange(50)
    run = serve(ONE_SERVER, flat(0.25), ask(0.75 * count, 1, 4), by=by)
    assert (run.requests.scheduled_s - run.requests.arrival_s).tolist() == (0.25 * count).tolist()
    run = serve(ONE_SERVER, flat(0.25), ask(1.0 * count, 1, 4), by=by)
    assert (run.requests.scheduled_s - run.requests.arrival_s).tolist() == [0.0] * 50
    assert run.requests.e2e_s.tolist() == [1.0] * 50


@on_both
def test_requests_at_one_instant_are_served_in_order(by: str) -> None:
    """Batches of 3 arrivals every 2 s into one server of 0.5 s: waits 0, 0.5, 1.0, each time anew."""
    run = serve(ONE_SERVER, flat(0.25), ask(np.repeat(2.0 * np.arange(10), 3), 1, 2), by=by)
    assert (run.requests.scheduled_s - run.requests.arrival_s).tolist() == [0.0, 0.5, 1.0] * 10


@on_both
@pytest.mark.parametrize("policy", ["unified", "chunked"])
@pytest.mark.parametrize("users", [1, 3, 8])
def test_a_closed_loop_turns_over_at_users_over_response_time(policy: str, users: int, by: str) -> None:
    """8 seats and flat steps of 0.125 s: a request of 5 tokens responds in 0.625 s, so X = N / R, to the last bit.

    A user asks again at the very end of a step, and the next step has the request.
    """
    engine = Engine(policy, max_num_seqs=8, n_blocks=1000, graphs=True)
    n = 20 * users
    run = serve(engine, flat(0.125), ask(np.zeros(n), 1, 5), concurrency=users, by=by)
    assert set(run.requests.e2e_s.tolist()) == {0.625}
    assert n / run.makespan_s == users / 0.625


@on_both
def test_a_closed_loop_obeys_littles_law_whatever_the_lengths(by: str) -> None:
    """N = X R while the loop is full: users x time until the last start = sum of times in the system until then."""
    n, users = {"reference": 3_000, "compiled": 60_000}[by], 6
    outputs = np.random.default_rng(41).geometric(0.1, n)
    run = serve(SEATS, flat(0.125), ask(np.zeros(n), 1, outputs), concurrency=users, by=by)
    full_s = run.requests.arrival_s.max()
    inside = np.minimum(run.requests.finish_s, full_s) - run.requests.arrival_s
    assert inside.sum() == pytest.approx(users * full_s, rel=1e-12)


@on_both
@pytest.mark.parametrize("router", ["round-robin", "least-outstanding"])
def test_request_seconds_are_the_integral_of_the_number_in_the_system(router: str, by: str) -> None:
    arrivals = poisson_arrivals(5.0, 2_000, 51)
    engine = replace(SEATS, frontend_s=0.01)  # with no time before the queue, dependent instances take the reference
    run = serve(engine, flat(0.05), ask(arrivals, 3, 10), dp=2, router=router, by=by)
    times = np.concatenate([run.requests.arrival_s, run.requests.finish_s])
    order = np.argsort(times, kind="stable")
    number = np.cumsum(np.repeat([1, -1], run.requests.arrival_s.size)[order])
    integral = float((number[:-1] * np.diff(times[order])).sum())
    assert run.request_seconds == pytest.approx(integral, rel=1e-9)


@on_both
@pytest.mark.parametrize("policy", ["unified", "chunked", "prefill-first"])
@pytest.mark.parametrize(
    ("n_batches", "pp"), [(1, 1), (1, 2), (1, 8), (2, 4), (3, 2), (5, 3), (8, 2), (12, 4), (13, 5), (31, 8), (100, 7)]
)
def test_the_bubble_of_a_pipeline(policy: str, n_batches: int, pp: int, by: str) -> None:
    """m equal prompts through p equal stages, until the last has drained: a share (p - 1) / (m + p - 1) is idle.

    Exactly, and on each stage: p - 1 steps before its first batch and after its last, taken together.
    """
    engine = Engine(policy, max_num_seqs=8, max_num_batched_tokens=8, max_model_len=9, n_blocks=200, pp=pp)
    run = serve(engine, flat(0.5), ask(np.zeros(n_batches), 8, 1), offline=True, by=by)
    assert run.makespan_s == 0.5 * (n_batches + pp - 1)
    for stage in run.instances[0].stages:
        assert stage.n_steps == n_batches
        assert stage.idle_s / run.makespan_s == (pp - 1) / (n_batches + pp - 1)
