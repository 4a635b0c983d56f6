"""Which parameters of a preset does a calibration fit, and what is believed of them before a run was seen?

Each is a multiplier, fitted as its logarithm.  Priors are normal in the logarithm, centred on the preset:

host : all times of the processor in a step (for the step, each sequence and each rank), sd 0.5.  The presets' own
    fitted host steps, 1.5 to 4 ms, lie within a factor of exp(2 x 0.5) of one another: another processor, another
    Python.
frontend : the time of a request outside the scheduler, sd 0.5.  Measured servers have 2.6 to 6 ms.
prompt, decode : kernels of steps with prompts, and of decodes alone, sd 0.15.  Steps of prompts run 1.2 to 1.6 times
    as long as isolated kernels, a factor between engines and kernels whose logarithm has an sd of about 0.1; models
    and GPUs that no kernel table holds add to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from apex_sim.preset.preset import PhaseFactors, Preset

HOST: Final = "host"
FRONTEND: Final = "frontend"
PROMPT: Final = "prompt"
DECODE: Final = "decode"


@dataclass(frozen=True, slots=True)
class Prior:
    """A parameter's name and the standard deviation of its logarithm before any run was seen."""

    name: str
    log_sd: float


PRIORS: Final = (Prior(HOST, 0.5), Prior(FRONTEND, 0.5), Prior(PROMPT, 0.15), Prior(DECODE, 0.15))
PRIOR_SDS: Final[NDArray[np.float64]] = np.array([prior.log_sd for prior in PRIORS])


def scale_preset(preset: Preset, multipliers: Sequence[float], source: str = "") -> Preset:
    """Return `preset` with its times multiplied, in the order of `PRIORS`.

    Parameters
    ----------
    source : where the multipliers come from; it takes the place of the host times' own source.

    Examples
    --------
    >>> from apex_sim.preset.load import PRESETS
    >>> preset = next(iter(PRESETS.values()))
    >>> scaled = scale_preset(preset, (2.0, 1.0, 1.1, 1.0))
    >>> scaled.host.step_s / preset.host.step_s, scaled.factors.prompt
    (2.0, 1.1)
    """
    host_x, frontend_x, prompt_x, decode_x = multipliers
    host = replace(
        preset.host,
        step_s=preset.host.step_s * host_x,
        sequence_s=preset.host.sequence_s * host_x,
        rank_s=None if preset.host.rank_s is None else preset.host.rank_s * host_x,
        frontend_s=preset.host.frontend_s * frontend_x,
    )
    if source:
        host = replace(host, source=source, kind="fitted")
    factors = PhaseFactors(preset.factors.prompt * prompt_x, preset.factors.decode * decode_x)
    return replace(preset, host=host, factors=factors)


def multipliers_at(point: NDArray[np.float64]) -> tuple[float, ...]:
    """Return the multipliers at a point whose coordinates are in prior standard deviations."""
    return tuple(math.exp(value) for value in (point * PRIOR_SDS).tolist())
