"""Which kernel do an engine's routed experts run in, where it has several for a number format?"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ExpertKernel:
    """A kernel by the name that fits of measured kernels have, and the sizes that it needs.

    Parameters
    ----------
    name : "marlin" for the fit "mxfp4-marlin".
    architectures : devices that the engine runs it on.
    hidden_multiple, width_multiple : hidden size, and an expert's width on one device, are padded to a multiple of
        these, in memory as in the kernel.
    source : where the engine says so.
    """

    name: str
    architectures: Collection[str] = field(hash=False)
    source: str
    hidden_multiple: int = 1
    width_multiple: int = 1

    def padded(self, hidden_size: int, width: float) -> tuple[int, float]:
        """Return hidden size and width as they are stored and multiplied.

        Examples
        --------
        >>> ExpertKernel("marlin", ("hopper",), "", 256, 128).padded(2880, 360.0)
        (3072, 384.0)
        """
        return _up(hidden_size, self.hidden_multiple), float(_up(width, self.width_multiple))


def _up(size: float, multiple: int) -> int:
    return int(-(-size // multiple) * multiple)
