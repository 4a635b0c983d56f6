"""Can the runs of a calibration all be true of one server, and do they say enough?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Final

from apex_sim.errors import InputError
from apex_sim.truth.calibration.fit import Evidence, Fit
from apex_sim.truth.calibration.likelihood import FIRST_TOKEN, LATER_TOKENS, fitted_metrics, repeat_sd
from apex_sim.truth.calibration.served_run import ServedRun

#: Standard deviations by which repeats of one load may differ; the difference of two has sqrt(2) of one.
_MOST_SDS: Final = 3.0
#: Mean squared residual beyond which a fit explains nothing: three standard deviations in every figure.
MOST_MEAN_SQUARE: Final = 9.0


def require_enough(runs: Sequence[ServedRun]) -> None:
    """Check that each run says how long a first or a later token takes.

    Raises
    ------
    InputError : neither TTFT nor TPOT was measured.
    """
    for run in runs:
        if not set(run.measured) & {*FIRST_TOKEN, *LATER_TOKENS}:
            known = ", ".join(run.measured) or "nothing"
            raise InputError(
                f"{run.name} has neither TTFT nor TPOT (it has {known}), too little to calibrate from",
                where=run.where,
                remedy="measure with a streaming client",
            )


def require_repeats_agree(runs: Sequence[ServedRun]) -> None:
    """Check that runs of the same load measured the same, within three standard deviations.

    Raises
    ------
    InputError : two of them contradict each other; it names both and the metric.
    """
    for first, second in combinations(runs, 2):
        if first.load != second.load:
            continue
        kind = first.replay.workload.load.kind
        for name in fitted_metrics(first.measured, kind):
            if name not in second.measured:
                continue
            sd = repeat_sd(name, first.noise_frac)
            apart = abs(math.log(second.measured[name] / first.measured[name]))
            if apart > _MOST_SDS * math.sqrt(2) * sd:
                raise InputError(
                    f"contradictory runs of one load: {name} is {first.measured[name]:.5g} in {first.name} and "
                    f"{second.measured[name]:.5g} in {second.name}, {math.expm1(apart):.0%} apart where repeats differ "
                    f"by {math.expm1(_MOST_SDS * math.sqrt(2) * sd):.0%} at most",
                    where=second.where,
                    remedy="leave one of them out, or calibrate them as two servers",
                )


def require_explained(evidence: Sequence[Evidence], fit: Fit) -> None:
    """Check that the fitted server could have measured all this.

    Raises
    ------
    InputError : the mean squared residual is above 9; it names the run and metric that are furthest off.
    """
    if fit.chi_square <= MOST_MEAN_SQUARE * fit.n_residuals:
        return
    worst, run, name, ratio = 0.0, None, "", 1.0
    for each in evidence:
        predicted = each.simulator.predict(fit.multipliers, each.rows)
        for metric, sd in each.sd_of.items():
            error = math.log(predicted[metric] / each.measured[metric])
            if abs(error) / sd > worst:
                worst, run, name, ratio = abs(error) / sd, each.simulator.run, metric, math.exp(error)
    raise InputError(
        f"no host time and kernel efficiency explain the runs together: chi-square {fit.chi_square:.0f} for "
        f"{fit.n_residuals} figures (at most {MOST_MEAN_SQUARE:g} each); furthest off is {name} of "
        f"{run.name if run else ''}, simulated at {ratio:.2f} of what was measured",
        where=run.where if run else "",
        remedy="check that model, device, plan, settings and lengths are those of the server, or leave the run out",
    )
