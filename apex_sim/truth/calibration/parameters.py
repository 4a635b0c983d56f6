"""Which parameters of a preset does a calibration fit, and what is believed of them before a run was seen?

Each is a multiplier, fitted as its logarithm.  Priors are normal in the logarithm, centred on the preset:

host : all times of the processor in a step (for the step, each sequence and each rank), sd 0.5.  The presets' own
    fitted host steps, 1.5 to 4 ms, lie within a factor of exp(2 x 0.5) of one another: another processor, another
    Python.
frontend : the time of a request outside the scheduler, sd 0.5.  Measured servers have 2.6 to 6 ms.
prompt, decode : kernels of steps with prompts, and of decodes alone.  For an engine, model and GPU that the presets
    were never compared with, sd 0.15: steps of prompts run 1.2 to 1.6 times as long as isolated kernels, a factor
    between engines and kernels whose logarithm has an sd of about 0.1, and the kernels of an unseen model add to it.
    Where they were compared (docs/accuracy.md), what all loads of a server share is small: of eight vLLM servers with
    5 to 9 loads each the mean logarithmic error of TPOT has an rms of 1.0 % and that of TTFT of 4.4 %, against 2.0 %
    and 5.9 % between loads of a server.  There sd 0.07 and 0.02, wider, as a user's server is none of those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from apex_sim.preset.preset import PhaseFactors, Preset

HOST: Final = "host"
FRONTEND: Final = "frontend"
PROMPT: Final = "prompt"
DECODE: Final = "decode"


#: In the order in which fits, profiles and `scale_preset` hold them.
NAMES: Final = (HOST, FRONTEND, PROMPT, DECODE)
_UNSEEN: Final = (0.5, 0.5, 0.15, 0.15)
_COMPARED: Final = (0.5, 0.5, 0.07, 0.02)
#: Engines, models and devices whose presets were compared with several servers: docs/accuracy.md.
_COMPARED_SERVERS: Final = (("vllm", "gpt-oss-120b", "h200-sxm"), ("vllm", "llama-3.1-70b", "h100-sxm"))


def is_compared(engine: str, model: str, device: str) -> bool:
    """Return whether the presets were compared with servers of this engine, model and device."""
    return (engine, model, device) in _COMPARED_SERVERS


def prior_log_sds(engine: str, model: str, device: str) -> NDArray[np.float64]:
    """Return the standard deviations of the logarithms before any run was seen, in the order of `NAMES`."""
    return np.array(_COMPARED if is_compared(engine, model, device) else _UNSEEN)


def scale_preset(preset: Preset, multipliers: Sequence[float], source: str = "") -> Preset:
    """Return `preset` with its times multiplied, in the order of `NAMES`.

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


def multipliers_at(point: NDArray[np.float64], log_sds: NDArray[np.float64]) -> tuple[float, ...]:
    """Return the multipliers at a point whose coordinates are in prior standard deviations."""
    return tuple(math.exp(value) for value in (point * log_sds).tolist())
