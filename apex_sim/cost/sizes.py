"""How large are an attention launch and a mixture of experts, as one device sees them?"""

from __future__ import annotations

from dataclasses import dataclass

from apex_sim.cost.parts import Floats
from apex_sim.preset.preset import ExpertKernels


@dataclass(frozen=True, slots=True)
class AttentionSizes:
    """Heads of one attention layer on one device; `kv_dtype` is the cache's number format, `window` None for full."""

    n_q_heads: int
    n_kv_heads: int
    head_dim: int
    kv_dtype: str
    window: int | None = None


@dataclass(frozen=True, slots=True)
class LatentSizes:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1) on one device."""

    n_heads: int
    latent_dim: int
    rope_dim: int
    nope_dim: int
    value_dim: int
    kv_dtype: str

    @property
    def is_measured(self) -> bool:
        """Whether these are the sizes of DeepSeek-V2 to V3, the only ones whose kernels were measured."""
        return (self.latent_dim, self.rope_dim, self.nope_dim, self.value_dim) == (512, 64, 128, 128)


@dataclass(frozen=True, slots=True)
class PrefillWork:
    """A varlen launch in sums over its sequences; scalars or arrays.

    `pairs` counts the (query, key) pairs that causal mask and window leave.
    """

    pairs: float | Floats
    n_query_tokens: float | Floats
    n_key_tokens: float | Floats
    n_sequences: float | Floats


@dataclass(frozen=True, slots=True)
class DecodeWork:
    """Single queries of `n_sequences` that read `context_tokens` keys in total, the window applied."""

    n_sequences: float | Floats
    context_tokens: float | Floats


@dataclass(frozen=True, slots=True)
class ExpertSizes:
    """Experts of one layer: `width` columns on one device, spread over `ep` ranks; 3 matrices with a gate, else 2.

    `kernels` names the engine's own kernels, where it has others than those that a format is usually run with.
    """

    n_experts: int
    n_active_experts: int
    hidden_size: int
    width: float
    n_matrices: int
    ep: int = 1
    kernels: ExpertKernels = "triton"
