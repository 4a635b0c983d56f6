"""What does each layer of a pipeline cost on each device, and what may a device hold?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apex_sim.errors import InputError


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What is to be split, and over what.

    Attributes
    ----------
    layer_s : per device (one per stage), per layer, the time that the layer takes there.
    layer_bytes : of each layer: weights, and whatever else grows with it.
    budget_bytes : what each device can hold of layers, embedding and head.
    embedding_s, head_s : per device, what it takes on top if its stage is the first, or the last; empty = nothing.
    embedding_bytes, head_bytes : what the first and the last stage hold on top.
    send_s : per boundary between stages; counts for the stage that sends.  Empty = nothing.
    """

    layer_s: tuple[tuple[float, ...], ...]
    layer_bytes: tuple[float, ...]
    budget_bytes: tuple[float, ...]
    embedding_s: tuple[float, ...] = ()
    head_s: tuple[float, ...] = ()
    embedding_bytes: float = 0.0
    head_bytes: float = 0.0
    send_s: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        n_stages = len(self.layer_s)
        if not 0 < n_stages <= self.n_layers:
            raise InputError(
                f"{self.n_layers} layers for {n_stages} stages", where="pipeline", remedy="give each stage a layer"
            )
        lengths = {"budget_bytes": n_stages, "embedding_s": n_stages, "head_s": n_stages, "send_s": n_stages - 1}
        for name, length in lengths.items():
            got = len(getattr(self, name))
            if got != length and (got or name == "budget_bytes"):
                raise InputError(f"{got} figures instead of {length}", where=f"pipeline, {name}")
        if any(len(row) != self.n_layers for row in self.layer_s):
            raise InputError(f"a device whose times are not those of {self.n_layers} layers", where="pipeline, layer_s")

    @property
    def n_stages(self) -> int:
        """Stages, and as many devices."""
        return len(self.layer_s)

    @property
    def n_layers(self) -> int:
        """Layers to split."""
        return len(self.layer_bytes)

    def stage_s(self, n_layers: Sequence[int], devices: Sequence[int]) -> tuple[float, ...]:
        """Return the time of each stage of a split, on these devices."""
        found, start = [], 0
        for stage, (device, n) in enumerate(zip(devices, n_layers, strict=True)):
            found.append(sum(self.layer_s[device][start : start + n]) + self.extra_s(stage, device))
            start += n
        return tuple(found)

    def extra_s(self, stage: int, device: int) -> float:
        """Return what the stage takes beside its layers, if it is on the device."""
        first = self.embedding_s[device] if self.embedding_s and stage == 0 else 0.0
        last = self.head_s[device] if self.head_s and stage == self.n_stages - 1 else 0.0
        return first + last + (self.send_s[stage] if self.send_s and stage < self.n_stages - 1 else 0.0)

    def extra_bytes(self, stage: int) -> float:
        """Return what the stage holds beside its layers."""
        first = self.embedding_bytes if stage == 0 else 0.0
        return first + (self.head_bytes if stage == self.n_stages - 1 else 0.0)
