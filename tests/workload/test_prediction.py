"""Predicted output lengths: exact at no error, log-normal otherwise, and the same for a request whoever else asks."""

from __future__ import annotations

import math

import numpy as np

from apex_sim.workload.prediction import predicted_output_tokens

OUTPUTS = np.full(40_000, 200)


def test_the_logarithm_of_the_error_has_the_stated_mean_and_spread() -> None:
    """Of n draws the mean of z has standard error 1 / sqrt(n), its variance sqrt(2 / n); four of each are allowed."""
    errors = np.log(predicted_output_tokens(OUTPUTS, 0.5, seed=3) / OUTPUTS)
    n = len(OUTPUTS)
    assert abs(errors.mean()) < 4 * 0.5 / math.sqrt(n)
    assert abs(errors.var() / 0.25 - 1) < 4 * math.sqrt(2 / n)


def test_a_prediction_depends_on_seed_and_request_alone() -> None:
    few, many = (predicted_output_tokens(OUTPUTS[:n], 0.5, seed=3) for n in (10, 1000))
    assert np.array_equal(few, many[:10])
    assert not np.array_equal(few, predicted_output_tokens(OUTPUTS[:10], 0.5, seed=4))


def test_errors_of_neighbours_are_not_related() -> None:
    errors = np.log(predicted_output_tokens(OUTPUTS, 1.0, seed=0) / OUTPUTS)
    assert abs(np.corrcoef(errors[1:], errors[:-1])[0, 1]) < 4 / math.sqrt(len(OUTPUTS))
