"""How long does a matrix product take on one device?

C[m, n] = A[m, k] B[k, n] runs as tiles of C that the SMs work off in waves.  The form below is a handful of such
mechanisms with fitted sizes; what a library may choose (tile, split of k) is listed in the coefficients, and the form
takes the best choice, or the one that the library's fixed dispatch prescribes for the shape.

References
----------
NVIDIA, "Matrix Multiplication Background User's Guide", sections on tile and wave quantisation.
Osama et al., "Stream-K: Work-centric Parallel Decomposition for Dense Matrix-Matrix Multiplication on the GPU",
PPoPP 2023 (splitting k to fill a wave).
Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009 (the floor).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from apex_sim.cost.forms.shares import MOST_OF_PEAK, Floats, KernelTime, cache_factor, soft_max
from apex_sim.hardware.device import Device

#: Outputs leave in bf16, whatever the operands.
_OUTPUT_BYTES: Final = 2.0
#: Partial sums of split-k are fp32.
_PARTIAL_BYTES: Final = 4.0
#: Waves beyond which tiles of unequal speed blur the steps: half a wave of tail is charged instead.
_BLURRED_WAVES: Final = 6.0
#: Shortest slice of k that a split works on.
_SHORTEST_K: Final = 64.0
#: Columns that a block of the quantisation kernel handles in one pass (256 threads x 8 values).
_QUANTISE_COLUMNS: Final = 2048.0


@dataclass(frozen=True, slots=True)
class GemmCoefficients:
    """Fitted sizes of one GEMM library at one precision on one device.

    Parameters
    ----------
    peak : key of `Device.peak_flops` that the tensor cores run at.
    activation_bytes, weight_bytes : bytes of one element of A and of B, scales included.
    schedules : what the library may run; each row is (tile_m, tile_n, n_splits, m_above, m_upto, n_above, n_upto,
        k_above, k_upto) and is eligible where above < size <= upto.
    launch_s : fixed time of the launch.
    math_frac : share of an SM's peak that a 128 x 256 tile reaches.
    tile_exponent : how that share shrinks with the tile's area.
    cache_ratio : L2-to-SM bandwidth over DRAM bandwidth: small tiles starve on operand loads.
    prologue_k : filling and draining the pipeline, in units of k.
    tile_s : fixed time of a 128 x 128 tile (its epilogue; in proportion to the area).
    exposed_frac : share of prologue and fixed time that later waves still see (persistent kernels hide most).
    split_s, split_frac : fixed time of a split-k reduction, and its traffic relative to L2-speed fp32 partial sums.
    memory_frac, ramp_bytes : reachable share of DRAM bandwidth, and the bytes' worth of time to get there.
    store_frac : share of the store of C that does not overlap with anything.
    sharpness : how cleanly compute and memory overlap; large means max(compute, memory).
    cached_ratio, cached_frac : speed of L2-resident operands over DRAM, and the share of L2 that counts as resident.
    throttle_frac, settle_s, settle_exponent : slowdown of long kernels under the power limit, the time at peak after
        which half of it has set in, and how suddenly it does.
    spill_frac, row_spill_frac, resident_frac : slowdown of the waves when B, or A, outgrows L2 and each wave reads it
        from DRAM again, and the share of L2 that it may fill.
    cluster_tiles : tiles along m that a cluster of SMs works off together; a second tile is padded to a whole cluster.
    padding_ratio : bandwidth at which the rows of tiles beyond m are filled, over DRAM bandwidth; 0 where that is free.
    quantise_row_s, quantise_pass_s : activation quantisation, for each row and for each pass over 2,048 columns.
    quantise_ratio : its DRAM time relative to the bytes at `memory_frac`.
    """

    peak: str
    activation_bytes: float
    weight_bytes: float
    schedules: tuple[tuple[float, ...], ...]
    launch_s: float
    math_frac: float
    tile_exponent: float
    cache_ratio: float
    prologue_k: float
    tile_s: float
    exposed_frac: float
    split_s: float
    split_frac: float
    memory_frac: float
    ramp_bytes: float
    store_frac: float
    sharpness: float
    cached_ratio: float
    cached_frac: float
    throttle_frac: float
    settle_s: float
    settle_exponent: float
    spill_frac: float
    row_spill_frac: float
    resident_frac: float
    cluster_tiles: float
    padding_ratio: float
    quantise_row_s: float
    quantise_pass_s: float
    quantise_ratio: float


@lru_cache(maxsize=64)
def _columns(schedules: tuple[tuple[float, ...], ...]) -> tuple[Floats, ...]:
    """Return the schedules as one column vector for each of their nine entries."""
    return tuple(np.array(schedules, dtype=float).T[:, :, None])


def gemm_time(
    coefficients: GemmCoefficients,
    device: Device,
    m: float | Floats,
    n: float | Floats,
    k: float | Floats,
    cold: bool = True,
) -> KernelTime:
    """Return the time of C[m, n] = A[m, k] B[k, n], without the quantisation of A.

    A tile costs its math or its operand loads, whichever is slower, plus a pipeline prologue; ceil(tiles / SMs) waves
    of tiles run against the DRAM traffic of A, B and C.  Where the rows of tiles beyond m are not free, they and the
    operands share one path to the SMs.  `cold` leaves nothing in L2, as a serving step finds it.

    Examples
    --------
    >>> from apex_sim.cost.coefficient_file import load_fit
    >>> from apex_sim.hardware.device import load_device
    >>> fit = load_fit("h100-sxm", "gemm", "bf16", GemmCoefficients)
    >>> bool(gemm_time(fit.coefficients, load_device("h100-sxm"), 1, 8192, 8192).kernel_s >= 8192 * 8192 * 2 / 3.35e12)
    True
    """
    c = coefficients
    m, n, k = np.broadcast_arrays(*(np.asarray(size, dtype=float) for size in (m, n, k)))
    shape, (m, n, k) = m.shape, (size.ravel() for size in (m, n, k))
    bandwidth, flops = device.memory_bytes_per_s, device.flops(c.peak)
    out_bytes = m * n * _OUTPUT_BYTES
    moved = m * k * c.activation_bytes + n * k * c.weight_bytes + out_bytes
    memory_s = moved / bandwidth
    compute_s = 2.0 * m * n * k / flops
    resident = 1.0 if cold else cache_factor(moved, device.l2_bytes * c.cached_frac, c.cached_ratio)
    dram_s = (moved * resident + c.ramp_bytes) / (bandwidth * c.memory_frac)
    busy_s, split_s = _best_schedule(c, device, m, n, k, dram_s)
    body_s = soft_max(busy_s, dram_s, c.sharpness) + split_s + c.store_frac * out_bytes / bandwidth
    settled = (compute_s / c.settle_s) ** c.settle_exponent
    kernel_s = c.launch_s + body_s * (1.0 + c.throttle_frac * settled / (1.0 + settled))
    floor_s = np.maximum(compute_s, memory_s) if cold else compute_s
    kernel_s = np.maximum(kernel_s, floor_s / MOST_OF_PEAK)
    return KernelTime(kernel_s.reshape(shape), compute_s.reshape(shape), memory_s.reshape(shape))


def _best_schedule(
    c: GemmCoefficients, device: Device, m: Floats, n: Floats, k: Floats, dram_s: Floats
) -> tuple[Floats, Floats]:
    """Return (time of the waves, extra time of split-k) under the fastest eligible schedule of each shape."""
    tile_m, tile_n, n_splits, *bounds = _columns(c.schedules)
    sm_flops = device.flops(c.peak) / device.n_sms * c.math_frac * (tile_m * tile_n / 32768.0) ** c.tile_exponent
    sm_bytes_per_s = device.memory_bytes_per_s / device.n_sms * c.cache_ratio
    load_bytes = tile_m * c.activation_bytes + tile_n * c.weight_bytes
    per_k_s = np.maximum(2.0 * tile_m * tile_n / sm_flops, load_bytes / sm_bytes_per_s)
    tile_rows = np.ceil(m / tile_m)
    if c.cluster_tiles > 1:
        tile_rows = np.where(tile_rows > 1, np.ceil(tile_rows / c.cluster_tiles) * c.cluster_tiles, tile_rows)
    tile_columns = np.ceil(n / tile_n)
    waves = tile_rows * tile_columns * (n_splits / device.n_sms)
    waves = np.where(waves > _BLURRED_WAVES, waves + 0.5, np.ceil(waves))
    fixed_s = (1.0 - c.exposed_frac + c.exposed_frac * waves) * (
        per_k_s * c.prologue_k + c.tile_s * (tile_m * tile_n / 16384.0)
    )
    slice_k = np.maximum(k / n_splits, np.minimum(k, _SHORTEST_K))
    l2_bytes = c.resident_frac * device.l2_bytes
    slowdown = 1.0 + c.spill_frac * _spilt(n * k * c.weight_bytes / l2_bytes)
    if c.row_spill_frac:
        slowdown = slowdown + c.row_spill_frac * _spilt(m * k * c.activation_bytes / l2_bytes)
    busy_s = waves * per_k_s * slice_k * slowdown + fixed_s
    if c.padding_ratio:
        filled_bytes = (tile_rows * tile_m - m) * c.activation_bytes / c.padding_ratio
        loaded_bytes = (tile_rows * load_bytes / c.cache_ratio + filled_bytes) * tile_columns * k
        busy_s = soft_max(busy_s, loaded_bytes / device.memory_bytes_per_s, c.sharpness)
    partial_s = c.split_frac * _PARTIAL_BYTES / (3.0 * device.memory_bytes_per_s)
    split_s = np.where(n_splits > 1, c.split_s + m * n * (n_splits * partial_s), 0.0)
    total_s = np.maximum(busy_s, dram_s) + split_s
    for size, above, upto in zip((m, n, k), bounds[::2], bounds[1::2], strict=True):
        if above.any() or np.isfinite(upto).any():
            total_s = np.where((size > above) & (size <= upto), total_s, np.inf)
    best = total_s.argmin(axis=0)[None]
    return np.take_along_axis(busy_s, best, 0)[0], np.take_along_axis(split_s, best, 0)[0]


def _spilt(fill: Floats) -> Floats:
    """Return how much of an operand that fills L2 `fill` times is read again: 0 well below 1, 1 well above."""
    return np.asarray(1.0 - 1.0 / (1.0 + fill**4))


def quantise_time(
    coefficients: GemmCoefficients, device: Device, m: float | Floats, k: float, cold: bool = True
) -> KernelTime:
    """Return the time to quantise the activations A[m, k] from bf16 ahead of the product.

    One block handles a row in ceil(k / 2048) passes, and all rows share the DRAM.  An engine that fuses the
    quantisation into the norm before it leaves this out.  The launch is part of the product's.
    """
    c = coefficients
    moved = np.asarray(m, dtype=float) * k * (_OUTPUT_BYTES + c.activation_bytes)
    memory_s = moved / device.memory_bytes_per_s
    if c.activation_bytes >= _OUTPUT_BYTES:
        return KernelTime(0.0 * memory_s, 0.0 * memory_s, 0.0 * memory_s)
    rows_s = m * (c.quantise_row_s + c.quantise_pass_s * np.ceil(k / _QUANTISE_COLUMNS))
    kernel_s = np.maximum(rows_s, c.quantise_ratio * memory_s / c.memory_frac)
    return KernelTime(np.maximum(kernel_s, memory_s / MOST_OF_PEAK) if cold else kernel_s, 0.0 * memory_s, memory_s)
