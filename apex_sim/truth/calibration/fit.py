"""Which times of the host and of kernels make the simulator measure what was measured?

The maximum of prior times likelihood, by least squares over z, the logarithms of the multipliers in units of their
priors' standard deviations:

    minimise  sum_i (ln(simulated_i(z) / measured_i) / sd_i)^2 + sum_k z_k^2

The covariance of z is (J^T J + 1)^-1 with J the derivatives of the residuals at the optimum (Gauss-Newton, Laplace's
approximation), and intervals are normal in the logarithm.

References
----------
A. Gelman and others, Bayesian Data Analysis, 3rd edition, section 4.1 (normal approximation at the mode).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from apex_sim.truth.calibration.likelihood import log_error
from apex_sim.truth.calibration.parameters import NAMES, is_compared, multipliers_at, prior_log_sds
from apex_sim.truth.calibration.run_simulator import RunSimulator

#: Finite differences, in prior sds: for the way to the optimum, and for what the runs tell.  They are wide because a
#: closed loop locks to its steps: as host time grows, the simulated median TTFT stands still and then jumps by a step.
_STEP: Final = 0.5
_WIDE_STEP: Final = 1.0
#: Nothing is believed further from the preset: a factor of 20 for the host, and of 2.5 for kernels.
_MOST_SDS: Final = 6.0
#: Half the width of an 80 % interval of a normal distribution, in standard deviations.
Z_80: Final = 1.2816
#: A parameter whose sd shrank by less than a tenth has learnt nothing.
_UNINFORMED_FRAC: Final = 0.9
_STARTS: Final = ((0.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (-1.0, 0.0, 0.0, 0.0))

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """One run as a fit sees it: what simulates it, what was measured (of the requests at `rows`), and how exactly."""

    simulator: RunSimulator
    measured: Mapping[str, float]
    sd_of: Mapping[str, float]
    rows: slice | None = None

    @property
    def server(self) -> tuple[str, str, str]:
        """Engine, model and device."""
        run = self.simulator.run
        return run.deployment.engine.lower(), run.replay.model.name, run.replay.cluster.device.name

    @property
    def prior_log_sds(self) -> Floats:
        """What is believed of the multipliers beforehand."""
        return prior_log_sds(*self.server)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was assumed of the run."""
        seen = "compared with servers" if is_compared(*self.server) else "never compared with a server"
        prior = f"priors: the preset was {seen} of this engine, model and device"
        return (prior, *self.simulator.run.notes, *self.simulator.notes)

    def residuals(self, point: Floats) -> list[float]:
        """Return ln(simulated / measured) over its sd, for each fitted metric."""
        predicted = self.simulator.predict(multipliers_at(point, self.prior_log_sds), self.rows)
        return [log_error(predicted, self.measured, name) / sd for name, sd in self.sd_of.items()]


@dataclass(frozen=True, slots=True)
class Estimate:
    """One fitted multiplier with its 80 % interval.

    `log_sd` is the posterior's; `informed` is false where it is about the prior's, so that the runs did not tell.
    """

    name: str
    multiplier: float
    low: float
    high: float
    log_sd: float
    prior_log_sd: float
    informed: bool


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """The optimum: estimates in the order of `NAMES`, correlations of their logarithms, and how well it fits.

    `chi_square` is the sum of squared residuals of the `n_residuals` figures, without the prior's part.
    """

    estimates: tuple[Estimate, ...]
    correlation: Floats
    chi_square: float
    n_residuals: int

    @property
    def multipliers(self) -> tuple[float, ...]:
        """Fitted multipliers."""
        return tuple(estimate.multiplier for estimate in self.estimates)

    def strongest_correlation(self) -> tuple[str, str, float]:
        """Return the two informed parameters that could most easily stand for one another, and their correlation."""
        pairs = [
            (abs(float(self.correlation[i, j])), i, j)
            for i in range(len(NAMES))
            for j in range(i)
            if self.estimates[i].informed or self.estimates[j].informed
        ]
        if not pairs:
            return "", "", 0.0
        _, i, j = max(pairs)
        return NAMES[j], NAMES[i], float(self.correlation[i, j])


def fit_multipliers(evidence: Sequence[Evidence], progress: Callable[[], object] | None = None) -> Fit:
    """Return the multipliers under which the runs of `evidence` are best explained.

    Parameters
    ----------
    progress : told after each point that was simulated.
    """
    from scipy.optimize import least_squares

    def residuals(point: Floats) -> Floats:
        if progress:
            progress()
        return np.array([r for each in evidence for r in each.residuals(point)] + point.tolist())

    def slopes(point: Floats, width: float = _STEP) -> Floats:
        steps = width * np.eye(len(NAMES))
        return np.column_stack([(residuals(point + step) - residuals(point - step)) / (2 * width) for step in steps])

    # max(host, kernels) bends where one hides the other, and a start on its flat side stays there.
    costs = [float((residuals(np.array(start)) ** 2).sum()) for start in _STARTS]
    starts = [np.array(_STARTS[i]) for i in sorted({0, int(np.argmin(costs))})]
    found = [
        least_squares(residuals, start, jac=slopes, bounds=(-_MOST_SDS, _MOST_SDS), xtol=1e-4, ftol=1e-5, max_nfev=25)
        for start in starts
    ]
    best = min(found, key=lambda result: float(result.cost))
    point: Floats = best.x
    n = len(NAMES)
    wide = slopes(point, _WIDE_STEP)
    covariance = np.linalg.inv(wide.T @ wide)
    sds = np.sqrt(np.diag(covariance))
    squared = residuals(point)[:-n] ** 2
    return Fit(
        estimates=tuple(
            _estimate(NAMES[k], float(point[k]), float(sds[k]), float(evidence[0].prior_log_sds[k])) for k in range(n)
        ),
        correlation=covariance / np.outer(sds, sds),
        chi_square=float(squared.sum()),
        n_residuals=len(squared),
    )


def _estimate(name: str, z: float, sd: float, prior_log_sd: float) -> Estimate:
    log_value, log_sd = z * prior_log_sd, sd * prior_log_sd
    return Estimate(
        name=name,
        multiplier=math.exp(log_value),
        low=math.exp(log_value - Z_80 * log_sd),
        high=math.exp(log_value + Z_80 * log_sd),
        log_sd=log_sd,
        prior_log_sd=prior_log_sd,
        informed=sd < _UNINFORMED_FRAC,
    )
