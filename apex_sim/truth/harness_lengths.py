"""Which lengths did a published benchmark draw, where its harness draws the same ones each time?

InferenceX and Nebius ran a harness descended from vLLM's `benchmark_serving.py`: all prompt lengths, then all output
lengths, by NumPy's older generator under the seed 0, each from int(share x L) to L.  The published mean lengths of the
runs agree with these draws to all digits, and with no other seed's.

References
----------
https://github.com/SemiAnalysisAI/InferenceX, utils/bench_serving/benchmark_serving.py, sample_random_requests.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from apex_sim.truth.case import Case
from apex_sim.workload.column import IntArray

#: Starts of the names of sources that the harness measured.
_SOURCES: Final = ("inferencex", "silicon_inferencex", "nebius")
NOTE: Final = "lengths: those that the benchmark's harness draws under its seed 0"


def drawn_lengths(case: Case) -> tuple[IntArray, IntArray] | None:
    """Return prompt and output lengths of a run of that harness; None for other runs, or with a seed of its own.

    Examples
    --------
    The prompts of a published run of 40 requests are 0.905 of 1,024 tokens long on average, the outputs 0.8962.

    >>> generator = np.random.RandomState(0)
    >>> [round(float(generator.randint(819, 1025, size=40).mean() / 1024), 4) for _ in range(2)]
    [0.905, 0.8962]
    """
    load = case.load
    known = case.source.lower().startswith(_SOURCES) and load.seed is None and load.workload is None
    if not known or load.isl_tokens is None or load.osl_tokens is None or not load.n_requests:
        return None
    if load.length_low_frac is None or load.length_low_frac >= 1.0:
        return None
    generator = np.random.RandomState(0)  # the harness's own generator, not one for new draws
    prompts, outputs = (
        generator.randint(max(1, int(length * load.length_low_frac)), length + 1, size=load.n_requests)
        for length in (load.isl_tokens, load.osl_tokens)
    )
    return prompts.astype(np.int64), outputs.astype(np.int64)
