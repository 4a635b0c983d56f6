"""What does a user say of the server that a benchmark does not?  The columns of a measured case, as TOML or flags."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from apex_sim.errors import InputError
from apex_sim.files import StrictModel, check, read_toml
from apex_sim.truth.case import Deployment, EngineSettings

#: Without these nothing can be simulated.
NEEDED: Final = ("engine", "engine_version", "model", "device", "tp")

Count = Field(default=None, ge=1)
Flag = Field(default=None, ge=0, le=1)


class ServerFile(StrictModel):
    """One server; None keeps the engine's own default.  Flags are 0 or 1, as in the CSV of measured cases."""

    engine: str | None = None
    engine_version: str | None = None
    model: str | None = None
    device: str | None = None
    tp: int | None = Count
    pp: int | None = Count
    ep: int | None = Count
    dp: int | None = Count
    attention_dp: int | None = Flag
    weight_dtype: str | None = None
    act_dtype: str | None = None
    kv_dtype: str | None = None
    gpu_memory_utilization_frac: float | None = Field(default=None, gt=0, le=1)
    max_model_len: int | None = Count
    max_num_seqs: int | None = Count
    max_num_batched_tokens: int | None = Count
    block_size: int | None = Count
    chunked_prefill: int | None = Flag
    prefix_cache: int | None = Flag
    cuda_graphs: int | None = Flag
    async_scheduling: int | None = Flag
    custom_all_reduce: int | None = Flag
    length_low_frac: float | None = Field(
        default=None, gt=0, le=1, description="lengths lie in [so much x L, L], where the benchmark gives means only"
    )

    @property
    def missing(self) -> tuple[str, ...]:
        """What must be stated and is not."""
        return tuple(key for key in NEEDED if getattr(self, key) is None)

    def deployment(self) -> Deployment:
        """Return what was served with what, once nothing is `missing`."""
        data: dict[str, Any] = {field.name: getattr(self, field.name, None) for field in fields(Deployment)}
        return Deployment(**data)

    def settings(self) -> EngineSettings:
        """Return the server's flags."""
        return EngineSettings(**{field.name: getattr(self, field.name, None) for field in fields(EngineSettings)})


def make_server(path: Path | None, flags: dict[str, Any]) -> ServerFile:
    """Return the server of a TOML file with `flags` laid over it; None values change nothing.

    Raises
    ------
    UnknownNameError : a key that no server has.
    InputError : a value that cannot be, with file and key.
    """
    data = read_toml(path) if path else {}
    return check(ServerFile, data | {k: v for k, v in flags.items() if v is not None}, str(path or "command line"))


def require_stated(server: ServerFile, where: str) -> None:
    """Check that the server is known well enough to be simulated.

    Raises
    ------
    InputError : engine, version, model, device or TP is not stated.
    """
    if server.missing:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in server.missing)
        raise InputError(
            f"the benchmark does not say {', '.join(server.missing)}", where=where, remedy=f"state {flags} or --server"
        )
