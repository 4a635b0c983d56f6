"""How long does multi-head latent attention take on one device?

DeepSeek-V2 (2024, sections 2.1.2 and 2.1.3): the cache holds one latent of 512 numbers and one rotary key of 64 for
each token, shared by all heads.  Prefill expands them to ordinary heads (192 for the scores, 128 for the values);
decode folds the expansion into the query and works on the latent itself, which makes it compute-bound with many heads.
The projections around the kernel are matrix products and are not part of the time.

A decode kernel cuts the heads into tiles, and each tile of heads reads the whole latent: how many heads a tile holds
decides the time, more than how many there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from apex_sim.cost.forms.prefill_attention import Heads, PrefillBatch, PrefillCoefficients, prefill_attention_time
from apex_sim.cost.forms.shares import MOST_OF_PEAK, Floats, KernelTime, cache_factor, soft_max
from apex_sim.hardware.device import Device

LATENT: Final = 512.0
ROTARY: Final = 64.0
#: Scores work on 192 numbers and values on 128: as many FLOP and bytes as heads of the mean size.
PREFILL_HEAD_DIM: Final = 160.0
_BF16_BYTES: Final = 2.0
_FP32_BYTES: Final = 4.0
#: Multiplications and additions of one head for one key.
_HEAD_FLOP: Final = 2.0 * (LATENT + ROTARY + LATENT)
#: Keys that `block_s` is the time of.
_BLOCK: Final = 128.0
#: Rounds of blocks beyond which the steps blur.
_BLURRED_ROUNDS: Final = 16.0
#: Keys to a step of the logarithm by which Triton's split grows.
_LOG_KEYS: Final = 64.0


@dataclass(frozen=True, slots=True)
class LatentDecodeCoefficients:
    """Kernel layout and fitted sizes of one latent decode attention.

    Parameters
    ----------
    tiles : (most heads, heads in a tile, blocks of a tile, 1 for a kernel for few heads) of the kernels that the engine
        picks by the heads on the device, fewest heads first; the last one serves all larger numbers.
    split : how a context is cut over blocks: not at all, until the SMs are full, or growing with its logarithm.
    most_parts : parts that a context is cut into at most.
    launch_s : fixed time of the launches.
    unit_s, empty_s : fixed time of a block, and of one that the launch has room for but finds no part to work on.
    block_s : time of each 128 keys of 576 numbers in 2 bytes, when one block runs alone on an SM.
    math_frac, least_rows, least_keys : share of an SM's peak that a block's products reach, and the rows and keys that
        it pads its work to.
    few_ratio, many_s : time of a block of the kernels for fewer heads relative to the last one's, and how much longer
        the last one takes to launch.
    far_ratio : time of a block that waits for keys from DRAM, over one that finds them in L2.
    blocks_per_sm : blocks that an SM holds at once.
    shared_ratio, alone_frac : time of a block that shares its SM over one that is alone, and the blocks for each SM up
        to which none shares.
    part_keys : shortest part of a context worth splitting off.
    split_s, part_s, partial_frac : the reduction over parts: fixed, for each part, and share of bandwidth.
    memory_frac, ramp_bytes : reachable share of DRAM bandwidth, and the bytes' worth of time to get there.
    again_frac : share of the latents that tiles of heads which do not run at the same time read again.
    sharpness : how cleanly the blocks' own time and DRAM time overlap.
    query_frac : share of bandwidth for queries and outputs.
    cached_ratio, cached_frac : speed of an L2-resident cache over DRAM, and the share of L2 that counts as resident.
    """

    tiles: tuple[tuple[float, float, float, float], ...]
    split: Literal["none", "fill", "logarithm"]
    most_parts: float
    launch_s: float
    unit_s: float
    empty_s: float
    block_s: float
    math_frac: float
    least_rows: float
    least_keys: float
    few_ratio: float
    many_s: float
    far_ratio: float
    blocks_per_sm: float
    shared_ratio: float
    alone_frac: float
    part_keys: float
    split_s: float
    part_s: float
    partial_frac: float
    memory_frac: float
    ramp_bytes: float
    again_frac: float
    sharpness: float
    query_frac: float
    cached_ratio: float
    cached_frac: float


def mla_prefill_time(
    coefficients: PrefillCoefficients, device: Device, batch: PrefillBatch, n_heads: float | Floats
) -> KernelTime:
    """Return the time of a prefill launch with `n_heads` heads on the device; keys and values are in bf16."""
    return prefill_attention_time(coefficients, device, batch, Heads(n_heads, n_heads, PREFILL_HEAD_DIM, _BF16_BYTES))


def mla_decode_time(
    coefficients: LatentDecodeCoefficients, device: Device, n_sequences: float | Floats,
    context_tokens: float | Floats, n_heads: float | Floats, kv_bytes: float, cold: bool = True,
) -> KernelTime:  # fmt: skip
    """Return the time of a decode launch over `context_tokens` cached latents, summed over the sequences.

    For each cached token and head 2 (576 + 512) FLOP.  A latent is read once for all tiles of heads that run at the
    same time, as far as they do; blocks come in rounds that fill the SMs.

    Parameters
    ----------
    n_sequences : sequences, one query each.
    kv_bytes : bytes of one cached number.
    cold : nothing of the cache is in L2, as serving finds it.

    Examples
    --------
    >>> from apex_sim.cost.coefficient_file import load_fit
    >>> from apex_sim.hardware.device import load_device
    >>> h100 = load_device("h100-sxm")
    >>> fit = load_fit("h100-sxm", "mla_decode_attention", "bf16-kv", LatentDecodeCoefficients)
    >>> time = mla_decode_time(fit.coefficients, h100, 32, 32 * 4096, 128, 2.0)
    >>> bool(time.kernel_s > 32 * 4096 * 576 * 2 / h100.memory_bytes_per_s)
    True
    """
    c, bandwidth, peak = coefficients, device.memory_bytes_per_s, device.flops("bf16")
    h, sequences, context = (np.asarray(value, dtype=float) for value in (n_heads, n_sequences, context_tokens))
    h, sequences, context = np.broadcast_arrays(h, sequences, context)
    mean, key_bytes = context / sequences, (LATENT + ROTARY) * kv_bytes
    read, query_bytes = context * key_bytes, sequences * h * (LATENT + ROTARY + LATENT) * _BF16_BYTES
    cache_bytes = device.l2_bytes * c.cached_frac
    resident = cache_factor(read, cache_bytes, c.cached_ratio)
    tile_heads, tile_blocks, slowdown, many_s = _tile(c, h)
    n_tiles = np.ceil(h / tile_heads)
    units = sequences * n_tiles * tile_blocks
    parts = _parts(c, device, sequences * n_tiles, units, mean)
    at_once = np.clip(device.n_sms * c.blocks_per_sm / units, 1.0 / n_tiles, 1.0)
    again = c.again_frac * (1.0 / at_once - 1.0) * cache_factor(read / parts, cache_bytes, c.cached_ratio)
    dram_s = (read * ((1.0 if cold else resident) + again) + c.ramp_bytes) / (bandwidth * c.memory_frac)
    keys = np.maximum(mean / parts, c.least_keys)
    rows = np.maximum(np.minimum(h, tile_heads), c.least_rows)
    math_s = _HEAD_FLOP * rows / tile_blocks * keys / (peak / device.n_sms * c.math_frac)
    load_s = keys / _BLOCK * c.block_s * kv_bytes / _BF16_BYTES / tile_blocks
    near = 1.0 if cold else cache_factor(read, cache_bytes, c.far_ratio)
    block_s = c.unit_s + np.maximum(math_s, load_s) * slowdown * near
    busy_s = block_s * _rounds(c, device, units * parts) + c.empty_s * units * (c.most_parts - parts) / device.n_sms
    partial_bytes = sequences * h * LATENT * _FP32_BYTES * parts
    split_s = (c.split_s + c.part_s * parts + partial_bytes / (bandwidth * c.partial_frac)) * (1.0 - 1.0 / parts)
    compute_s, memory_s = _HEAD_FLOP * h * context / peak, (read + query_bytes) / bandwidth
    query_s = query_bytes / (bandwidth * c.query_frac) * cache_factor(query_bytes, cache_bytes, c.cached_ratio)
    kernel_s = c.launch_s + many_s + soft_max(busy_s, dram_s, c.sharpness) + split_s + query_s
    floor_s = np.maximum(compute_s, memory_s) if cold else compute_s
    return KernelTime(np.maximum(kernel_s, floor_s / MOST_OF_PEAK), compute_s, memory_s)


def _tile(c: LatentDecodeCoefficients, n_heads: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the heads in a tile, its blocks, their relative time and more launch time of the kernel for the heads."""
    most, heads, blocks, few = np.array(c.tiles, dtype=float).T
    which = np.minimum(np.searchsorted(most, n_heads), len(most) - 1)
    is_few = few[which] > 0.0
    return heads[which], blocks[which], np.where(is_few, c.few_ratio, 1.0), np.where(is_few, 0.0, c.many_s)


def _parts(c: LatentDecodeCoefficients, device: Device, tiles: Floats, units: Floats, mean_keys: Floats) -> Floats:
    """Return the parts that each context is cut into."""
    if c.split == "none":
        return np.ones_like(units)
    most = np.minimum(mean_keys / c.part_keys, c.most_parts)
    if c.split == "fill":
        return np.maximum(np.minimum(np.floor(device.n_sms * c.blocks_per_sm / units), most), 1.0)
    # SGLang's Triton kernels: get_num_kv_splits_triton of sglang/srt/layers/attention/triton_backend.py.
    wanted = np.ceil(device.n_sms * np.maximum(np.log2(mean_keys / _LOG_KEYS), 1.0) / tiles)
    return np.maximum(np.minimum(wanted, most), 1.0)


def _rounds(c: LatentDecodeCoefficients, device: Device, blocks: Floats) -> Floats:
    """Return how many times the duration of a lone block it takes to run so many blocks."""
    slots = device.n_sms * c.blocks_per_sm
    full = np.floor(blocks / slots - 1e-9)
    rest = blocks - full * slots
    crowd = np.clip((rest / device.n_sms - c.alone_frac) / max(1.0 - c.alone_frac, 0.01), 0.0, 1.0)
    stepped = full * c.shared_ratio + 1.0 + (c.shared_ratio - 1.0) * crowd
    return np.where(full > _BLURRED_ROUNDS, blocks / slots * c.shared_ratio, stepped)
