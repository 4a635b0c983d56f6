"""What bounds an operator: arithmetic, the device's memory, or the network?

Of an operator's kernel time at one size, what is network is bound by the network.  The rest belongs to whichever takes
longer at the datasheet's full speed, the arithmetic or the bytes; how far the kernel stays behind either counts with
the one that bounds it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from apex_sim.cost.parts import Floats, Parts

#: What can bound a kernel, in the order of the rows of a split.
BOUNDS: Final = ("compute", "memory", "network")


def split_kernel_s(parts: Parts) -> Floats:
    """Return the kernel time of an operator by `BOUNDS`, (3, sizes); the rows add up to `parts.kernel_s`.

    Examples
    --------
    >>> from apex_sim.cost.basis import Basis
    >>> split_kernel_s(Parts(3.0, 2.0, 1.0, 0.5, 1, 0, Basis("roofline", "toy"))).tolist()
    [[2.5], [0.0], [0.5]]
    """
    kernel, compute, memory, network = np.broadcast_arrays(
        *(np.atleast_1d(part) for part in (parts.kernel_s, parts.compute_s, parts.memory_s, parts.network_s))
    )
    rest = kernel - network
    return np.stack([np.where(compute > memory, rest, 0.0), np.where(compute > memory, 0.0, rest), network])


def compute_bound(prices_s: Floats) -> NDArray[np.bool_]:
    """Return where arithmetic takes longer than bytes, of (..., 3) kernel, compute and memory times of attention."""
    bound: NDArray[np.bool_] = prices_s[..., 1] > prices_s[..., 2]
    return bound
