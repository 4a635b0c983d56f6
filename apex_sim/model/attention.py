"""Which weights, and how much memory of past tokens, does one attention cell hold?

Three kinds: grouped-query attention keeps keys and values of each KV head, latent attention one compressed vector a
token, linear attention a state whose size does not depend on the context.  All answer `n_params`, `n_matmul_params`,
`kv_numbers_per_token`, `state_numbers_per_sequence` and `attention_flop`; their shapes differ on purpose, so that code
which knows one kind only cannot price another by accident.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AttentionCell:
    """Grouped-query attention with its four projections.

    Parameters
    ----------
    n_q_heads, n_kv_heads, head_dim : shapes; keys and values have the same `head_dim`.
    window_tokens : how many tokens back a token sees, itself included; None = all.  Chunked attention (Llama 4) counts
        as a window of its chunk: exact up to one chunk, beyond it a bound from above, since a token sees its own chunk
        only, half of it on average.
    qkv_bias, o_bias : whether the projections add a bias.
    qk_norm : RMSNorm of queries and keys, by default one weight vector of `head_dim` for each.
    sinks : one learned logit per query head that takes part in the softmax (gpt-oss).
    output_gate : whether the query projection is twice as wide, the second half gating the output (Qwen3-Next).
    qk_norm_over_heads : the norm's weight vectors span all heads (MiniMax-M2).

    Examples
    --------
    >>> AttentionCell(32, 8, 128, None, False, False, False, False).n_params(4096)
    41943040
    """

    n_q_heads: int
    n_kv_heads: int
    head_dim: int
    window_tokens: int | None
    qkv_bias: bool
    o_bias: bool
    qk_norm: bool
    sinks: bool
    output_gate: bool = False
    qk_norm_over_heads: bool = False

    @property
    def kv_numbers_per_token(self) -> int:
        """Return how many numbers (keys and values) one token leaves in the KV cache."""
        return 2 * self.n_kv_heads * self.head_dim

    @property
    def state_numbers_per_sequence(self) -> int:
        """Return how many numbers a sequence holds whatever its length: none."""
        return 0

    @property
    def _n_qkv_columns(self) -> int:
        return self.head_dim * ((1 + self.output_gate) * self.n_q_heads + 2 * self.n_kv_heads)

    def n_matmul_params(self, hidden_size: int) -> int:
        """Return the weights of the Q, K, V and O projections."""
        return hidden_size * (self._n_qkv_columns + self.head_dim * self.n_q_heads)

    def n_params(self, hidden_size: int) -> int:
        """Return all parameters of the cell; the norm before it belongs to the layer."""
        bias = self.qkv_bias * self._n_qkv_columns + self.o_bias * hidden_size
        n_normed_heads = self.n_q_heads + self.n_kv_heads if self.qk_norm_over_heads else 2
        norm = self.qk_norm * self.head_dim * n_normed_heads
        return self.n_matmul_params(hidden_size) + bias + norm + self.sinks * self.n_q_heads

    def attention_flop(self, context_tokens: int) -> int:
        """Return the FLOP of one token's scores and weighted sum over `context_tokens`, itself included.

        4 * n_q_heads * head_dim per attended token: 2 for the scores, 2 for the sum (Kaplan et al. 2020,
        arXiv:2001.08361, table 1, which has d_attn for n_q_heads * head_dim).
        """
        return 4 * self.n_q_heads * self.head_dim * min(context_tokens, self.window_tokens or context_tokens)


@dataclass(frozen=True, slots=True)
class MlaCell:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1).

    A token leaves one latent vector and one rotary key for all heads together.  Tensor parallelism therefore splits
    heads and their projections, while the cache and the two down projections are replicated on every device.

    Parameters
    ----------
    n_heads : query heads; there are no KV heads.
    q_lora_rank : width of the compressed query; None = queries are projected directly (DeepSeek-V2-Lite).
    kv_lora_rank : width of the latent that keys and values are expanded from.
    qk_nope_head_dim, qk_rope_head_dim : parts of a query and key without and with rotary embedding.
    v_head_dim : width of a head's value.

    Examples
    --------
    >>> MlaCell(128, 1536, 512, 128, 64, 128).kv_numbers_per_token
    576
    """

    n_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int

    @property
    def window_tokens(self) -> None:
        """Return None: a token sees the full context."""
        return None

    @property
    def kv_numbers_per_token(self) -> int:
        """Return how many numbers one token leaves in the KV cache: latent and rotary key, once for all heads."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def state_numbers_per_sequence(self) -> int:
        """Return how many numbers a sequence holds whatever its length: none."""
        return 0

    def n_matmul_params(self, hidden_size: int) -> int:
        """Return the weights of the query, down, up and output projections."""
        query_columns = self.n_heads * (self.qk_nope_head_dim + self.qk_rope_head_dim)
        query = hidden_size * query_columns
        if self.q_lora_rank is not None:
            query = self.q_lora_rank * (hidden_size + query_columns)
        down = hidden_size * self.kv_numbers_per_token
        up = self.kv_lora_rank * self.n_heads * (self.qk_nope_head_dim + self.v_head_dim)
        return query + down + up + hidden_size * self.n_heads * self.v_head_dim

    def n_params(self, hidden_size: int) -> int:
        """Return all parameters of the cell, the norms of the compressed query and latent included."""
        return self.n_matmul_params(hidden_size) + (self.q_lora_rank or 0) + self.kv_lora_rank

    def attention_flop(self, context_tokens: int) -> int:
        """Return the FLOP of one token's attention as engines decode it: absorbed, over the latents.

        Each head scores against latent and rotary key and sums up latents: 2 * n_heads * (2 * kv_lora_rank +
        qk_rope_head_dim) per attended token.  The up projection is then applied to the query and to the summed
        latent, which costs what applying it to one token's latent does, so that `n_matmul_params` counts it either way.
        """
        return 2 * self.n_heads * (2 * self.kv_lora_rank + self.qk_rope_head_dim) * context_tokens

    def prefill_attention_flop(self, context_tokens: int) -> int:
        """Return the FLOP of one token's attention as engines prefill it: over expanded keys and values.

        2 * n_heads * (qk_nope_head_dim + qk_rope_head_dim + v_head_dim) per attended token; expanding earlier chunks'
        latents again is not included.
        """
        return 2 * self.n_heads * (self.qk_nope_head_dim + self.qk_rope_head_dim + self.v_head_dim) * context_tokens


@dataclass(frozen=True, slots=True)
class LinearAttentionCell:
    """Gated DeltaNet (Yang et al. 2024, arXiv:2412.06464) as Qwen3-Next has it: a state instead of a KV cache.

    It has no KV heads.

    Parameters
    ----------
    n_k_heads, n_v_heads : heads of queries and keys, and of values, gates and states.
    k_head_dim, v_head_dim : their widths; a state is one k_head_dim x v_head_dim matrix per value head.
    conv_kernel : taps of the causal convolution over queries, keys and values.

    Examples
    --------
    >>> LinearAttentionCell(16, 32, 128, 128, 4).state_numbers_per_sequence
    548864
    """

    n_k_heads: int
    n_v_heads: int
    k_head_dim: int
    v_head_dim: int
    conv_kernel: int

    @property
    def window_tokens(self) -> None:
        """Return None: the state has seen the full context."""
        return None

    @property
    def n_conv_channels(self) -> int:
        """Return the channels of the convolution: queries, keys and values."""
        return 2 * self.n_k_heads * self.k_head_dim + self.n_v_heads * self.v_head_dim

    @property
    def kv_numbers_per_token(self) -> int:
        """Return how many numbers one token leaves in the KV cache: none."""
        return 0

    @property
    def state_numbers_per_sequence(self) -> int:
        """Return how many numbers a sequence holds whatever its length: states and the convolution's last inputs."""
        return self.n_v_heads * self.k_head_dim * self.v_head_dim + (self.conv_kernel - 1) * self.n_conv_channels

    def n_matmul_params(self, hidden_size: int) -> int:
        """Return the weights of the projections to query, key, value, gate, beta and decay, and of the output."""
        value_columns = self.n_v_heads * self.v_head_dim
        return hidden_size * (self.n_conv_channels + 2 * value_columns + 2 * self.n_v_heads)

    def n_params(self, hidden_size: int) -> int:
        """Return all parameters: with convolution, output norm, and two numbers of decay for each value head."""
        small = self.conv_kernel * self.n_conv_channels + 2 * self.n_v_heads + self.v_head_dim
        return self.n_matmul_params(hidden_size) + small

    def attention_flop(self, context_tokens: int) -> int:
        """Return the FLOP of one token's convolution and state update, which `context_tokens` does not change.

        6 per number of state: read out with the key, rank-one update, read out with the query (2 each).
        """
        state_flop = 6 * self.n_v_heads * self.k_head_dim * self.v_head_dim
        return state_flop + 2 * self.conv_kernel * self.n_conv_channels
