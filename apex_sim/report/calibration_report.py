"""What does a calibration say, as plain numbers and as rows of tables?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from apex_sim.report.document import SCHEMA_VERSION

if TYPE_CHECKING:
    from apex_sim.truth.calibration.server_calibration import Calibration

TIMES: Final = {
    "host": "host step",
    "frontend": "frontend",
    "prompt": "prompt kernels",
    "decode": "decode kernels",
}
_Z_80: Final = 1.2816


class Compared(Protocol):
    """A metric with its signed relative errors before and after."""

    @property
    def metric(self) -> str:
        """Name of the metric."""

    @property
    def before_frac(self) -> float:
        """Under the preset."""

    @property
    def after_frac(self) -> float:
        """Under the profile."""


def calibration_document(calibration: Calibration, written: str | None) -> dict[str, Any]:
    """Return the whole calibration; `written` is where the profile went."""
    return {
        "schema_version": SCHEMA_VERSION,
        "profile": calibration.profile.model_dump(),
        "written": written,
        "fitted": [asdict(row) for row in calibration.fitted],
        "check": {"how": calibration.check.how, "metrics": [asdict(row) for row in calibration.check.metrics]},
        "notes": list(calibration.notes),
    }


def time_rows(calibration: Calibration) -> list[tuple[str, ...]]:
    """Return for each fitted time its multiplier, intervals after and before, and whether the runs told it."""
    rows: list[tuple[str, ...]] = []
    for each in calibration.fit.estimates:
        prior = math.exp(_Z_80 * each.prior_log_sd)
        told = "yes" if each.informed else "not informed"
        interval = f"{each.low:.2f} to {each.high:.2f}"
        rows.append((TIMES[each.name], f"{each.multiplier:.3f}", interval, f"{1 / prior:.2f} to {prior:.2f}", told))
    return rows


def error_rows(compared: Iterable[Compared]) -> list[tuple[str, ...]]:
    """Return for each metric how many figures there are, and their median absolute errors before and after."""
    by_metric: dict[str, list[tuple[float, float]]] = {}
    for row in compared:
        by_metric.setdefault(row.metric, []).append((abs(row.before_frac), abs(row.after_frac)))
    return [
        (metric, str(len(errors)), *(f"{share:.1%}" for share in np.median(np.array(errors), axis=0).tolist()))
        for metric, errors in by_metric.items()
    ]
