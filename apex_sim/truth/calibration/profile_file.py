"""What is kept of a calibration?  A small TOML file: fitted multipliers, where they come from, and where they hold."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from apex_sim.errors import InputError
from apex_sim.files import StrictModel, check, read_toml, write_atomic
from apex_sim.preset.preset import Preset

#: Raised when a key changes its meaning.
FORMAT: Final = 1
#: Lengths and users may lie so many times beyond what was seen.
EXTRAPOLATION: Final = 8.0

Range = tuple[float, float]


class ProfiledServer(StrictModel):
    """The one server that the runs were of."""

    preset: str
    engine: str
    engine_version: str
    model: str
    device: str
    tp: int = Field(ge=1)
    pp: int = Field(ge=1)
    attention_dp: int = Field(ge=1)
    ep: int = Field(ge=1)
    weight_dtype: str
    kv_dtype: str


class ProfileSupport(StrictModel):
    """What the runs covered, smallest and largest: users of an instance at a time, tokens of prompts and outputs."""

    concurrency: list[float] = Field(min_length=2, max_length=2)
    prompt_tokens: list[float] = Field(min_length=2, max_length=2)
    output_tokens: list[float] = Field(min_length=2, max_length=2)


class ProfiledTime(StrictModel):
    """One multiplier with its 80 % interval; `informed` says whether the runs told anything about it."""

    multiplier: float = Field(gt=0.01, lt=100)
    interval_80: list[float] = Field(min_length=2, max_length=2)
    prior_log_sd: float = Field(gt=0)
    posterior_log_sd: float = Field(gt=0)
    informed: bool


class ProfileFit(StrictModel):
    """How well the fit explains the runs, and which two times it can tell apart least."""

    chi_square: float = Field(ge=0)
    n_residuals: int = Field(ge=1)
    correlated: list[str] = Field(max_length=2)
    correlation: float = Field(ge=-1, le=1)


class ProfileFile(StrictModel):
    """A calibration profile as a TOML file."""

    format: Literal[1]
    apex_sim_version: str
    runs: list[str] = Field(min_length=1)
    data_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    preset_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    cost_model: str
    server: ProfiledServer
    support: ProfileSupport
    host: ProfiledTime
    frontend: ProfiledTime
    prompt: ProfiledTime
    decode: ProfiledTime
    fit: ProfileFit

    @property
    def multipliers(self) -> tuple[float, float, float, float]:
        """Multipliers in the order of the fitted parameters."""
        return self.host.multiplier, self.frontend.multiplier, self.prompt.multiplier, self.decode.multiplier


def read_profile(path: Path) -> ProfileFile:
    """Return the profile at `path`.

    Raises
    ------
    UnknownNameError : a key that no profile has.
    InputError : not a profile, or a value that cannot be, with file and key.
    """
    return check(ProfileFile, read_toml(path), str(path))


def write_profile(profile: ProfileFile, path: Path, *, force: bool = False) -> Path:
    """Write `profile` to `path` in one step.

    Raises
    ------
    InputError : something is there already and `force` is not set, or the folder cannot be written.
    """
    require_free(path, force=force)
    return write_atomic(path, profile_toml(profile))


def require_free(path: Path, *, force: bool) -> None:
    """Check that a profile may be written to `path`.

    Raises
    ------
    InputError : a folder is there, or a file and `force` is not set.
    """
    if path.is_dir():
        raise InputError("a folder", where=str(path), remedy="give the name of a file to --out")
    if path.exists() and not force:
        raise InputError("a file is there already", where=str(path), remedy="choose another --out, or use --force")


def preset_sha256(preset: Preset) -> str:
    """Return what identifies the times of a preset: multipliers of other times mean something else."""
    kernels = (preset.slowdown, preset.graphs.launch_s, preset.graphs.eager_launch_s, preset.expert_kernels)
    return hashlib.sha256(repr((preset.host, preset.factors, *kernels)).encode()).hexdigest()


def profile_toml(profile: ProfileFile) -> str:
    """Return the text of a profile, which `read_profile` takes back."""
    lines = [
        "# Calibration profile of apex-sim: use it with --profile on simulate, search and validate serving.",
        "# Multipliers of the preset's times; intervals hold 80 %. It is refused for any other server, and where users",
        f"# or lengths lie more than {EXTRAPOLATION:g} times beyond [support].",
    ]
    data = profile.model_dump()
    lines += [f"{key} = {_toml(value)}" for key, value in data.items() if not isinstance(value, dict)]
    for name, table in data.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, float):
        return repr(float(f"{value:.8g}"))
    return str(value) if isinstance(value, int) else _quoted(str(value))


def _quoted(text: str) -> str:
    escaped = "".join(
        f"\\{char}" if char in '\\"' else char if char.isprintable() else f"\\u{ord(char):04x}" for char in text
    )
    return f'"{escaped}"'
