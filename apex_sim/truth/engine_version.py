"""Which preset stands for a release of a serving engine, and was that release looked at?

A release that no preset was made from is replayed by the nearest one, and the case says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from apex_sim.errors import UnsupportedError, shorten
from apex_sim.preset.preset import Preset
from apex_sim.preset.sglang import SGLANG
from apex_sim.preset.trtllm import TRTLLM
from apex_sim.preset.trtllm_cpp import TRTLLM_0_14
from apex_sim.preset.vllm import VLLM_0_6, VLLM_1

Release = tuple[int, int]

#: After every release.
_LAST: Final[Release] = (10**6, 0)


@dataclass(frozen=True, slots=True)
class EngineReleases:
    """Releases of one engine from `first` up to, but without, `before`; `preset` None: none is near enough.

    `reason` says why a preset is only the nearest one, or why there is none; empty where its rules were read in these
    releases.
    """

    engine: str
    first: Release
    before: Release
    preset: Preset | None
    reason: str = ""


#: One row for each run of releases; those of an engine follow each other without a gap.
ENGINE_RELEASES: Final = (
    EngineReleases("vllm", (0, 0), (0, 6), VLLM_0_6, "its rules were read in 0.6"),
    EngineReleases("vllm", (0, 6), (0, 7), VLLM_0_6),
    EngineReleases("vllm", (0, 7), (0, 8), VLLM_0_6, "its rules were read in 0.6; both run the v0 engine by default"),
    EngineReleases("vllm", (0, 8), (0, 11), VLLM_1, "its rules were read in 0.11; both run the v1 engine by default"),
    EngineReleases("vllm", (0, 11), _LAST, VLLM_1),
    EngineReleases("sglang", (0, 0), (0, 5), SGLANG, "its rules were read in 0.5"),
    EngineReleases("sglang", (0, 5), (0, 6), SGLANG),
    EngineReleases("sglang", (0, 6), (1, 0), SGLANG, "its rules were read in 0.5"),
    EngineReleases("sglang", (1, 0), _LAST, None, "no preset was made from a release near it"),
    EngineReleases("trtllm", (0, 0), (0, 14), TRTLLM_0_14, "its rules were read in 0.14"),
    EngineReleases("trtllm", (0, 14), (0, 15), TRTLLM_0_14),
    EngineReleases("trtllm", (0, 15), (1, 0), TRTLLM_0_14, "its rules were read in 0.14; both default to C++ engines"),
    EngineReleases("trtllm", (1, 0), _LAST, TRTLLM),
)


def preset_of_release(
    engine: str, version: str, releases: Iterable[EngineReleases] = ENGINE_RELEASES
) -> tuple[Preset, str]:
    """Return the preset of an engine's release, and a note where it is only the nearest one ("" where it is known).

    Raises
    ------
    UnsupportedError : an engine that no preset stands for, a version without numbers, or a release that is too far from
        all presets.

    Examples
    --------
    >>> preset, note = preset_of_release("vllm", "0.9.2")
    >>> preset.name, note.partition(":")[0]
    ('vllm-1', 'engine_version 0.9.2 is replayed by the nearest preset, vllm-1')
    """
    rows = [row for row in releases if row.engine == engine.lower()]
    title = f"engine {shorten(engine)} {shorten(version)}"
    if not rows:
        known = ", ".join(dict.fromkeys(row.engine for row in releases))
        raise UnsupportedError(f"{title} is not built yet: known engines are {known}")
    numbers = re.match(r"v?(\d{1,5})(?:\.(\d{1,5}))?", version)
    if numbers is None:
        raise UnsupportedError(f"{title} is not built yet: the version must be a number such as 0.11.2")
    release = (int(numbers[1]), int(numbers[2] or 0))
    row = next(row for row in rows if row.first <= release < row.before)
    if row.preset is None:
        raise UnsupportedError(f"{title}: {row.reason}")
    if not row.reason:
        return row.preset, ""
    return row.preset, f"engine_version {version} is replayed by the nearest preset, {row.preset.name}: {row.reason}"
