"""How long does a predictor of a given quality think that each answer will be?"""

from __future__ import annotations

from typing import Final

import numpy as np

from apex_sim.workload.column import FloatArray, IntArray

#: Number of this purpose among the random streams of a seed; `workload.draw` has those before it.
_STREAM: Final = 64


def predicted_output_tokens(output_tokens: IntArray, log_sd: float, seed: int) -> FloatArray:
    """Return a prediction of each output length, o exp(s z) with z standard normal: right in the median.

    Parameters
    ----------
    log_sd : s, standard deviation of the logarithm of prediction over truth; 0 is an exact predictor.
    seed : each z is a function of the seed and of the request's number alone.

    Examples
    --------
    >>> predicted_output_tokens(np.array([100, 200]), 0.0, seed=0).tolist()
    [100.0, 200.0]
    """
    stream = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_STREAM,)))
    return np.asarray(output_tokens * np.exp(log_sd * stream.standard_normal(len(output_tokens))), dtype=np.float64)
