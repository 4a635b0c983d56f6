"""How long do devices take to add up, gather, scatter or swap what they hold?

Every algorithm of a library is a line: a latency plus time for each byte (Hockney's alpha-beta model), fitted for each
number of devices; a library that switches protocols is the lower envelope of its lines.  NCCL picks among LL, LL128
and Simple, rings, trees and in-switch reduction; vLLM's own kernels are one line each, and vLLM says which one runs.

References
----------
Hockney, "The communication challenge for MPP", Parallel Computing 20(3), 1994.
Thakur, Rabenseifner and Gropp, "Optimization of Collective Communication Operations in MPICH", IJHPCA 19(1), 2005.
vLLM, csrc/custom_all_reduce.cuh (one-shot and two-shot), vllm/distributed/device_communicators/custom_all_reduce.py
(8 MiB, more than two devices only over NVLink) and all_reduce_utils.py (limits beside symmetric memory).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import numpy as np

from apex_sim.cost.forms.shares import Floats, KernelTime
from apex_sim.errors import InputError
from apex_sim.hardware.device import Device
from apex_sim.hardware.link import Link
from apex_sim.units import KIB, MIB

Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]

Lines = tuple[tuple[float, float, float], ...]

#: Up to how many bytes vLLM's one-shot kernel reduces (exclusive), by number of devices; more than two devices only.
_ONE_SHOT_BYTES: Final = {4: 512 * KIB, 8: 256 * KIB}
#: Up to how many bytes (exclusive) vLLM uses its own kernels at all.
_CUSTOM_BYTES: Final = 8 * MIB
#: Lower limits where symmetric memory takes over, by architecture and number of devices.
_CUSTOM_BESIDE_SYMMETRIC_BYTES: Final = {
    "hopper": {2: 8 * MIB, 4: 8 * MIB, 6: MIB // 2, 8: MIB // 4},
    "blackwell": {2: 2 * MIB, 4: 2 * MIB, 6: MIB, 8: MIB},
}
#: Up to how many bytes symmetric memory is used, by architecture and number of devices (inclusive, as the measured
#: rows of vLLM 0.24 show).
_SYMMETRIC_BYTES: Final = {
    "hopper": {2: 64 * MIB, 4: 32 * MIB, 6: 64 * MIB, 8: 64 * MIB},
    "blackwell": {2: 8 * MIB, 4: 32 * MIB, 6: 128 * MIB, 8: 128 * MIB},
}


@dataclass(frozen=True, slots=True)
class CollectiveCoefficients:
    """Fitted lines of one collective in one library on one kind of device.

    Parameters
    ----------
    operation : which collective; says how it grows beyond the measured numbers of devices.
    lines : rows of (n_devices, latency_s, s_per_byte).
    """

    operation: Operation
    lines: Lines


@dataclass(frozen=True, slots=True)
class VllmAllReduceCoefficients:
    """Fitted lines of vLLM's own all-reduces on one kind of device, empty where it has no such kernel.

    Parameters
    ----------
    one_shot : every device reads all others' buffers; for small messages.
    two_shot : reduce-scatter, then all-gather.
    symmetric : over multicast memory of NVSwitch (torch symmetric memory).
    """

    one_shot: Lines
    two_shot: Lines
    symmetric: Lines


def traffic_frac(operation: Operation, n_devices: float) -> float:
    """Return the bytes that each device sends for each byte of the message.

    An all-reduce sends its buffer twice, less the share that stays; the others once.  The message is the full buffer:
    what an all-gather ends with, what a reduce-scatter or all-to-all starts with.

    Examples
    --------
    >>> traffic_frac("all_reduce", 4)
    1.5
    """
    return (2.0 if operation == "all_reduce" else 1.0) * (n_devices - 1.0) / n_devices


def collective_time(
    coefficients: CollectiveCoefficients, device: Device, n_bytes: float | Floats, n_devices: int
) -> KernelTime:
    """Return the time of a collective over `n_devices` of one node (or one NVLink domain).

    Between measured numbers of devices, latency and time per byte are interpolated; beyond them, hops grow with the
    ring and bytes with `traffic_frac` (assumed).  `memory_s` counts one read and one write of the message.

    Raises
    ------
    InputError : fewer than one device.
    """
    if n_devices < 1:
        raise InputError(f"{n_devices} devices", remedy="give 1 or more")
    size = np.asarray(n_bytes, dtype=float)
    none = 0.0 * size
    if n_devices == 1:
        return KernelTime(none, none, none)
    latency_s, s_per_byte = _lines_at(coefficients, float(n_devices))
    kernel_s = (latency_s + s_per_byte * size[..., None]).min(axis=-1)
    return KernelTime(kernel_s, none, 2.0 * size / device.memory_bytes_per_s)


@lru_cache(maxsize=256)
def _lines_at(coefficients: CollectiveCoefficients, n_devices: float) -> tuple[Floats, Floats]:
    """Return latencies and times per byte of the lines at a number of devices, measured or not."""
    table = np.array(coefficients.lines)
    measured = np.unique(table[:, 0])
    nearest = float(np.clip(n_devices, measured[0], measured[-1]))
    below, above = measured[measured <= nearest][-1], measured[measured >= nearest][0]
    low, high = table[table[:, 0] == below, 1:], table[table[:, 0] == above, 1:]
    share = 0.0 if above == below else (nearest - below) / (above - below)
    latency_s, s_per_byte = ((1.0 - share) * low + share * high).T
    hops = (n_devices - 1.0) / (nearest - 1.0)
    grown = traffic_frac(coefficients.operation, n_devices) / traffic_frac(coefficients.operation, nearest)
    return latency_s * hops, s_per_byte * grown


def vllm_all_reduce_time(
    own: VllmAllReduceCoefficients, nccl: CollectiveCoefficients, device: Device, n_bytes: float | Floats,
    n_devices: int, symmetric: bool = True,
) -> KernelTime:  # fmt: skip
    """Return the time of the all-reduce that vLLM picks inside one node.

    Its own kernels run below 8 MiB for 2, 4, 6 or 8 devices (more than 2 only over NVLink), in one shot for 2 devices
    and for small messages.  With `symmetric`, as newer versions do on Hopper and Blackwell, symmetric memory takes
    over beyond a lower limit.  NCCL does the rest; for a server with `--disable-custom-all-reduce` call
    `collective_time` with NCCL's lines.
    """
    size = np.asarray(n_bytes, dtype=float)
    best = collective_time(nccl, device, size, n_devices)
    if n_devices not in (2, 4, 6, 8) or (n_devices > 2 and not device.nvlink_bytes_per_s):
        return best
    kernel_s, custom_bytes = best.kernel_s, float(_CUSTOM_BYTES)
    if symmetric and own.symmetric:
        custom_bytes, upto = symmetric_limits(device, n_devices)
        kernel_s = np.where(size <= upto, _own_time(own.symmetric, size, n_devices), kernel_s)
    if own.two_shot:
        kernel_s = np.where(size < custom_bytes, _own_time(own.two_shot, size, n_devices), kernel_s)
    if own.one_shot:
        upto = min(custom_bytes, one_shot_limit(n_devices))
        kernel_s = np.where(size < upto, _own_time(own.one_shot, size, n_devices), kernel_s)
    return KernelTime(kernel_s, best.compute_s, best.memory_s)


def _own_time(lines: Lines, size: Floats, n_devices: int) -> Floats:
    latency_s, s_per_byte = _lines_at(CollectiveCoefficients("all_reduce", lines), float(n_devices))
    return np.asarray((latency_s + s_per_byte * size[..., None]).min(axis=-1))


def one_shot_limit(n_devices: int) -> float:
    """Return the bytes from which vLLM's custom all-reduce works in two shots; infinite for two devices."""
    return float("inf") if n_devices == 2 else float(_ONE_SHOT_BYTES[4 if n_devices <= 4 else 8])


def symmetric_limits(device: Device, n_devices: int) -> tuple[float, float]:
    """Return the bytes from which, and those up to which, vLLM's symmetric-memory all-reduce runs.

    Both are 8 MiB where vLLM has no such kernel for the architecture.
    """
    first = _CUSTOM_BESIDE_SYMMETRIC_BYTES.get(device.architecture, {}).get(n_devices, _CUSTOM_BYTES)
    return float(first), float(_SYMMETRIC_BYTES.get(device.architecture, {}).get(n_devices, _CUSTOM_BYTES))


def exchanged_bytes(
    n_tokens: float | Floats, hidden_size: int, top_k: int, bytes_per_number: float, n_ranks: int | None = None
) -> Floats:
    """Return the bytes that one rank sends when its tokens go to their experts, or come back from them.

    DeepEP's low-latency kernels send a copy for each of the `top_k` experts (`n_ranks` None); its normal kernels one
    for each distinct rank among them, in expectation under uniform routing.

    Examples
    --------
    >>> float(exchanged_bytes(128, 7168, 8, 1.0)) == 128 * 8 * 7168
    True
    >>> round(float(exchanged_bytes(1, 1000, 8, 1.0, 8)))
    5251
    """
    copies = float(top_k) if n_ranks is None else n_ranks * (1.0 - (1.0 - 1.0 / n_ranks) ** top_k)
    return np.asarray(np.asarray(n_tokens, dtype=float) * copies * hidden_size * bytes_per_number)


def cross_node_time(
    operation: Operation, inside_s: float | Floats, n_bytes: float | Floats, n_devices_per_node: int, n_nodes: int,
    link: Link,
) -> Floats:  # fmt: skip
    """Return the time of a collective over nodes, given that of the same collective inside one node.

    Hierarchical: inside the node, and between equal ranks of the nodes as a ring (pairwise for an all-to-all) over
    each device's share of the node's links.  An all-reduce moves 1/n_devices_per_node of the message between nodes, an
    all-gather or reduce-scatter too; an all-to-all sends everything meant for other nodes, after it went to the device
    of equal rank over the node's own links (NCCL's PXN: NVIDIA, Doubling all2all Performance with NCCL 2.12; DeepEP's
    normal kernels forward on the receiving side).  Derived, not measured: the phases do not overlap, and the network
    itself is free of contention (both assumed).

    Parameters
    ----------
    inside_s : of a message of `n_bytes` over the devices of one node.
    link : between nodes, as one device has it when its whole node sends.

    Examples
    --------
    >>> ib = Link(50e9, 5e-6, "InfiniBand", "example", "assumed")
    >>> print(f"{float(cross_node_time('all_reduce', 200e-6, 2**20 * 64, 8, 2, ib)) * 1e6:.0f} us")
    378 us
    """
    size = np.asarray(n_bytes, dtype=float)
    if n_nodes == 1:
        return np.asarray(inside_s + 0.0 * size)
    steps = (2.0 if operation == "all_reduce" else 1.0) * (n_nodes - 1.0)
    share = 1.0 if operation == "all_to_all" else 1.0 / n_devices_per_node
    sent = share * traffic_frac(operation, n_nodes) * size
    return np.asarray(inside_s + steps * link.latency_s + sent / link.bytes_per_s)


def send_time(n_bytes: float | Floats, link: Link) -> Floats:
    """Return the time of a point-to-point copy over a link: latency plus bytes over bandwidth (derived)."""
    return np.asarray(link.latency_s + np.asarray(n_bytes, dtype=float) / link.bytes_per_s)
