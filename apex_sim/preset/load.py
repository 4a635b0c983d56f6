"""Which preset does a name stand for?"""

from __future__ import annotations

from apex_sim.errors import UnknownNameError
from apex_sim.preset.preset import Preset
from apex_sim.preset.sglang import SGLANG
from apex_sim.preset.trtllm import TRTLLM
from apex_sim.preset.trtllm_cpp import TRTLLM_0_14
from apex_sim.preset.vllm import VLLM_0_6, VLLM_1

PRESETS = {preset.name: preset for preset in (VLLM_0_6, VLLM_1, SGLANG, TRTLLM_0_14, TRTLLM)}


def load_preset(name: str) -> Preset:
    """Return the preset `name`.

    Raises
    ------
    UnknownNameError : no such preset.

    Examples
    --------
    >>> load_preset("vllm-1").policy
    'unified'
    >>> load_preset("trtllm").policies
    ('no-evict', 'no-evict-chunked', 'max-utilization')
    """
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return PRESETS[name]
