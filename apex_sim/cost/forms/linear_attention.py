"""How long do the causal convolution and the gated delta rule of linear attention take?

Decode reads and writes one state for each sequence, whatever its context, and is bound by those bytes.  Prefill walks
through each sequence in chunks of 64 tokens: the heads of all sequences are units that the multiprocessors take in
waves, and the chunks of a unit follow one another, so that a lone prompt leaves most of the device idle.  Kernels that
keep the chunks' intermediates in memory are bound by those bytes instead.

References
----------
Yang, Kautz and Hatamizadeh, "Gated Delta Networks", arXiv:2412.06464, section 3.3 (chunkwise form).
vLLM, vllm/model_executor/models/qwen3_next.py: causal_conv1d_update and the fused recurrent rule in decode,
causal_conv1d_fn and the chunked rule (FlashInfer's on Hopper and Blackwell) in prefill.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from apex_sim.cost.forms.shares import Floats, KernelTime, cache_factor, soft_max
from apex_sim.hardware.device import Device

#: Tokens that the chunked rule takes at once.
CHUNK_TOKENS: Final = 64
_BF16: Final = 2.0


@dataclass(frozen=True, slots=True)
class LinearHeads:
    """One layer's heads on one device; a state is a `k_dim` x `v_dim` matrix in bf16 for each value head."""

    n_k_heads: float | Floats
    n_v_heads: float | Floats
    k_dim: float | Floats
    v_dim: float | Floats
    conv_kernel: float | Floats

    @property
    def state_numbers(self) -> float | Floats:
        """Numbers of one sequence's states."""
        return self.n_v_heads * self.k_dim * self.v_dim

    @property
    def conv_channels(self) -> float | Floats:
        """Channels of the convolution: queries, keys and values."""
        return 2.0 * self.n_k_heads * self.k_dim + self.n_v_heads * self.v_dim


@dataclass(frozen=True, slots=True)
class LinearDecodeCoefficients:
    """Fitted sizes of one decode step's two kernels.

    Parameters
    ----------
    launch_s : fixed time of both.
    state_frac, conv_frac : reachable shares of DRAM bandwidth over states, and over the convolution's inputs.
    cached_ratio, cached_frac : speed of L2-resident states over DRAM, and the share of L2 that counts as resident.
    """

    launch_s: float
    state_frac: float
    conv_frac: float
    cached_ratio: float
    cached_frac: float


@dataclass(frozen=True, slots=True)
class LinearPrefillCoefficients:
    """Fitted sizes of the prefill kernels.

    Parameters
    ----------
    launch_s : fixed time of all.
    unit_s : of one wave of units (a head of a sequence), states included; chunk_s : of one chunk of a unit.
    crowd_frac : how much slower chunks are when every multiprocessor has one.
    sms_frac : units at a time, for each multiprocessor.
    token_bytes : bytes over DRAM at full bandwidth that a token of a head costs through its intermediates.
    conv_frac : reachable share of DRAM bandwidth in the convolution.
    cached_ratio, cached_frac : as in decode, for activations.
    sharpness : how well waves and bytes overlap.
    """

    launch_s: float
    unit_s: float
    chunk_s: float
    crowd_frac: float
    sms_frac: float
    token_bytes: float
    conv_frac: float
    cached_ratio: float
    cached_frac: float
    sharpness: float


def decode_work(heads: LinearHeads, n_sequences: float | Floats) -> tuple[Floats, Floats, Floats]:
    """Return (FLOP, bytes of states read and written, bytes of the convolution) of one token of each sequence.

    A number of state is read out with the key, updated, and read out with the query: 2 FLOP each.

    Examples
    --------
    >>> flop, state_bytes, _ = decode_work(LinearHeads(16, 32, 128, 128, 4), 1.0)
    >>> float(flop), float(state_bytes)
    (3211264.0, 2097152.0)
    """
    n = np.asarray(n_sequences, dtype=float)
    taps = heads.conv_kernel
    flop = n * (6.0 * heads.state_numbers + 2.0 * taps * heads.conv_channels)
    return flop, n * 2.0 * heads.state_numbers * _BF16, n * heads.conv_channels * 2.0 * taps * _BF16


def prefill_work(
    heads: LinearHeads, n_tokens: float | Floats, n_sequences: float | Floats
) -> tuple[Floats, Floats, Floats]:
    """Return (FLOP, bytes of states, bytes of activations) of a varlen launch.

    Per token and head, a chunk of C tokens costs 2 C (3 k_dim + 2 v_dim) FLOP within itself (both score matrices, the
    two products of the inverse, the outputs) and 6 k_dim v_dim with the state; the inverse itself is left out.
    """
    tokens, n = np.asarray(n_tokens, dtype=float), np.asarray(n_sequences, dtype=float)
    inside = 2.0 * CHUNK_TOKENS * (3.0 * heads.k_dim + 2.0 * heads.v_dim) * heads.n_v_heads
    flop = tokens * (inside + 6.0 * heads.state_numbers + 2.0 * heads.conv_kernel * heads.conv_channels)
    values = heads.n_v_heads * heads.v_dim
    return flop, n * 2.0 * heads.state_numbers * _BF16, tokens * (3.0 * heads.conv_channels + values) * _BF16


def linear_decode_time(
    coefficients: LinearDecodeCoefficients, device: Device, heads: LinearHeads, n_sequences: float | Floats,
    cold: bool = True,
) -> KernelTime:  # fmt: skip
    """Return the time of convolution and rule for one token of each sequence; `cold` leaves no state in L2.

    Examples
    --------
    64 sequences of Qwen3-Next read and write 134 MB of states a layer: at 3.35 TB/s 40 us or more.

    >>> from apex_sim.cost.coefficient_file import load_fit
    >>> from apex_sim.hardware.device import load_device
    >>> c = load_fit("h100-sxm", "linear_decode", "bf16", LinearDecodeCoefficients).coefficients
    >>> bool(linear_decode_time(c, load_device("h100-sxm"), LinearHeads(16, 32, 128, 128, 4), 64).kernel_s > 40e-6)
    True
    """
    c = coefficients
    flop, state_bytes, conv_bytes = decode_work(heads, n_sequences)
    memory_s = (state_bytes + conv_bytes) / device.memory_bytes_per_s
    dram_s = (state_bytes / c.state_frac + conv_bytes / c.conv_frac) / device.memory_bytes_per_s
    if not cold:
        dram_s = dram_s * cache_factor(state_bytes / 2.0, device.l2_bytes * c.cached_frac, c.cached_ratio)
    return KernelTime(c.launch_s + dram_s, flop / device.flops("bf16"), memory_s)


def linear_prefill_time(
    coefficients: LinearPrefillCoefficients, device: Device, heads: LinearHeads, n_tokens: float | Floats,
    n_sequences: float | Floats,
) -> KernelTime:  # fmt: skip
    """Return the time of convolution and chunked rule; sequences count as equally long.

    Inputs are warm where they fit into L2: the projection before has just written them.
    """
    c = coefficients
    tokens, n = np.asarray(n_tokens, dtype=float), np.asarray(n_sequences, dtype=float)
    flop, state_bytes, moved = prefill_work(heads, tokens, n)
    room = c.sms_frac * device.n_sms
    units = n * heads.n_v_heads
    waves = np.ceil(units / room - 1e-9)
    chunks = np.ceil(tokens / np.maximum(n, 1e-9) / CHUNK_TOKENS - 1e-9)
    crowd = 1.0 + c.crowd_frac * np.minimum(units / room, 1.0)
    chain_s = waves * (c.unit_s + chunks * c.chunk_s * crowd)
    own_bytes = tokens * heads.n_v_heads * c.token_bytes
    conv_bytes = 2.0 * tokens * heads.conv_channels * _BF16
    cached = c.cached_frac * device.l2_bytes
    bytes_s = own_bytes / device.memory_bytes_per_s * cache_factor(own_bytes, cached, c.cached_ratio)
    conv_s = conv_bytes / c.conv_frac / device.memory_bytes_per_s * cache_factor(conv_bytes, cached, c.cached_ratio)
    kernel_s = c.launch_s + soft_max(chain_s, bytes_s, c.sharpness) + conv_s
    memory_s = (state_bytes + moved) / device.memory_bytes_per_s
    return KernelTime(kernel_s, flop / device.flops("bf16"), memory_s)
