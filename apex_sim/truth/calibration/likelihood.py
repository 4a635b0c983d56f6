"""How closely should a simulation agree with a run, metric by metric?

A residual is ln(simulated / measured) over a standard deviation.  Two scatters are told apart:

between repeats : two runs of one load on one server.  InferenceX's closed loops repeat within 3 % of the median TTFT
    and 0.6 % of TPOT in the median, 21 % and 3 % in nine of ten cases; three of these standard deviations hold them.
between loads : what four multipliers cannot follow.  Normal errors of 10 % of TTFT and 4 % of TPOT have medians of 6.5
    and 2.9 %, which are those of the first presets at loads that they were not fitted at.  On the servers that presets
    are fitted to it is half as much; a user's server is another.  Repeats of a load share this error, so that n of them
    count as one.

E2E and throughput of a closed loop say nearly the same as TPOT and are therefore taken as less certain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from apex_sim.errors import InputError

#: Standard deviations of the logarithm, between repeats and between loads; of each group the first that was measured.
GROUPS: Final[tuple[Mapping[str, tuple[float, float]], ...]] = (
    {"ttft_median_s": (0.05, 0.10), "ttft_mean_s": (0.08, 0.12)},
    {"tpot_median_s": (0.02, 0.04), "tpot_mean_s": (0.02, 0.04), "itl_mean_s": (0.02, 0.04)},
    {"e2e_mean_s": (0.04, 0.06)},
    {"output_tokens_per_s": (0.04, 0.06)},
)
#: Those of the first two groups, one of which a run must have.
FIRST_TOKEN: Final = tuple(GROUPS[0])
LATER_TOKENS: Final = tuple(GROUPS[1])
#: Loads whose throughput the arrivals decide.
_OPEN_LOADS: Final = ("trace",)


def fitted_metrics(measured: Mapping[str, float], load_kind: str) -> tuple[str, ...]:
    """Return the metrics that a fit uses: one of each group, and throughput where the server decides it.

    Examples
    --------
    >>> fitted_metrics({"ttft_mean_s": 0.1, "tpot_median_s": 0.01, "output_tokens_per_s": 50.0}, "trace")
    ('ttft_mean_s', 'tpot_median_s')
    """
    first = [next((name for name in group if name in measured), None) for group in GROUPS]
    arrivals_decide = load_kind in _OPEN_LOADS
    return tuple(name for name in first if name and not (name == "output_tokens_per_s" and arrivals_decide))


def repeat_sd(name: str, noise_frac: float | None = None) -> float:
    """Return the scatter of a fitted metric between repeats; a known one of TTFT counts if it is larger."""
    sd = next(group[name][0] for group in GROUPS if name in group)
    return max(sd, noise_frac or 0.0) if name in FIRST_TOKEN else sd


def load_sd(name: str, n_repeats: int = 1) -> float:
    """Return the scatter of a fitted metric between loads, of one among `n_repeats` runs of a load."""
    return next(group[name][1] for group in GROUPS if name in group) * math.sqrt(n_repeats)


def log_error(predicted: Mapping[str, float], measured: Mapping[str, float], name: str) -> float:
    """Return ln(predicted / measured) of one metric.

    Raises
    ------
    InputError : the simulated run has no such figure, as no TPOT where each output is one token.
    """
    if not predicted.get(name, 0.0) > 0:
        raise InputError(
            f"{name} was measured, and cannot come about with these requests",
            where="RUNS",
            remedy="check the lengths in the benchmark file",
        )
    return math.log(predicted[name] / measured[name])
