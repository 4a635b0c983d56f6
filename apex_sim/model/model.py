"""What does a model weigh, remember and compute, layer by layer?

Exact counts, no estimates: they equal the tensors of the checkpoint, so that memory and time start from what an engine
loads.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from apex_sim.errors import InputError, UnknownNameError
from apex_sim.model.cells import AttentionCell, FfnCell, LinearAttentionCell, MlaCell, MoeCell
from apex_sim.units import BYTES_PER_NUMBER


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer: attention and a feed-forward cell, one after the other or side by side (Falcon).

    Parameters
    ----------
    n_norms : norms of the hidden size: 2 = one before each cell, 4 = one after each as well (Gemma), 1 = one for both.
    norm_bias : whether they add a bias, that is, are LayerNorm and not RMSNorm; the model's last norm is then one too.
    """

    attention: AttentionCell | MlaCell | LinearAttentionCell
    ffn: FfnCell | MoeCell
    n_norms: int = 2
    norm_bias: bool = False

    def n_norm_params(self, hidden_size: int) -> int:
        """Return the parameters of the layer's norms."""
        return self.n_norms * (1 + self.norm_bias) * hidden_size

    def n_params(self, hidden_size: int) -> int:
        """Return all parameters of the layer, its norms included."""
        cells = self.attention.n_params(hidden_size) + self.ffn.n_params(hidden_size)
        return cells + self.n_norm_params(hidden_size)

    def n_active_params(self, hidden_size: int) -> int:
        """Return the parameters that one token uses."""
        cells = self.attention.n_params(hidden_size) + self.ffn.n_active_params(hidden_size)
        return cells + self.n_norm_params(hidden_size)

    def n_active_matmul_params(self, hidden_size: int) -> int:
        """Return the weights that one token is multiplied with."""
        return self.attention.n_matmul_params(hidden_size) + self.ffn.n_active_matmul_params(hidden_size)

    def n_quantized_params(self, hidden_size: int, parts: frozenset[str]) -> int:
        """Return the weights that a quantization of `parts` covers; biases, norms and routers stay as they are."""
        n = self.attention.n_matmul_params(hidden_size) if "attention" in parts else 0
        if isinstance(self.ffn, MoeCell):
            n += self.ffn.n_experts * self.ffn.expert.n_matmul_params(hidden_size) if "experts" in parts else 0
            n += self.ffn.shared.n_matmul_params(hidden_size) if "ffn" in parts else 0
        elif "ffn" in parts:
            n += self.ffn.n_matmul_params(hidden_size)
        return n


@dataclass(frozen=True, slots=True)
class Model:
    """A decoder-only language model.

    Parameters
    ----------
    name, architecture : how the user and how Hugging Face call it.
    layers : in order; usually few distinct ones, see `layer_groups`.
    tied_embeddings : whether the LM head is the embedding table, stored once.
    max_context_tokens : longest context that the model was made for, position scaling included.
    weight_dtype : number format of the checkpoint ("bf16" also stands for float16: same bytes, same speed).
    quantized_parts : which of "attention", "ffn" and "experts" are stored as `weight_dtype`, while everything else is
        bf16; empty = the whole checkpoint is stored as `weight_dtype`.
    source : where the shapes were read.
    n_mtp_layers : layers for multi-token prediction that the checkpoint holds beside the model.  Engines load them only
        for speculation, so that no count includes them but `n_mtp_params` (DeepSeek-V3: 671B without, 685B with).
    notes : what a user should know of how the config was read, such as parts that are left out.
    """

    name: str
    architecture: str
    hidden_size: int
    vocab_size: int
    layers: tuple[Layer, ...]
    tied_embeddings: bool
    max_context_tokens: int
    weight_dtype: str
    quantized_parts: frozenset[str]
    source: str
    n_mtp_layers: int = 0
    notes: tuple[str, ...] = ()

    @property
    def n_layers(self) -> int:
        """Return the number of layers."""
        return len(self.layers)

    @property
    def is_dense(self) -> bool:
        """Return whether no layer has experts."""
        return all(isinstance(layer.ffn, FfnCell) for layer in self.layers)

    @property
    def n_embedding_params(self) -> int:
        """Return the size of the embedding table."""
        return self.vocab_size * self.hidden_size

    @property
    def n_head_params(self) -> int:
        """Return what the LM head stores beside the embedding table: 0 if tied."""
        return 0 if self.tied_embeddings else self.n_embedding_params

    @property
    def n_params(self) -> int:
        """Return how many parameters the checkpoint stores; tied tables count once."""
        layers = sum(n * layer.n_params(self.hidden_size) for layer, n in self.layer_groups())
        return layers + self._n_last_norm_params + self.n_embedding_params + self.n_head_params

    @property
    def _n_last_norm_params(self) -> int:
        return (1 + self.layers[-1].norm_bias) * self.hidden_size

    @property
    def n_mtp_params(self) -> int:
        """Return the parameters that are the multi-token prediction layers' own.

        Each is a layer like the model's last, a projection of two hidden states to one, and three norms (DeepSeek-V3,
        arXiv:2412.19437, section 2.2).  Embedding and head are the model's, though checkpoints may store them again.
        """
        layer = self.layers[-1].n_params(self.hidden_size)
        return self.n_mtp_layers * (layer + 2 * self.hidden_size**2 + 3 * self.hidden_size)

    @property
    def state_numbers_per_sequence(self) -> int:
        """Return how many numbers a sequence holds beside its KV cache, whatever its length: linear attention's."""
        return sum(layer.attention.state_numbers_per_sequence for layer in self.layers)

    @property
    def n_active_params(self) -> int:
        """Return the parameters that one token is computed with.

        The LM head counts, tied or not; the embedding table does not, because a token looks up one of its rows.
        Publishers differ: OpenAI counts this way (gpt-oss model card, table 1), Qwen and Mistral add
        `n_embedding_params`.
        """
        layers = sum(n * layer.n_active_params(self.hidden_size) for layer, n in self.layer_groups())
        return layers + self._n_last_norm_params + self.n_embedding_params

    @property
    def unquantized_dtype(self) -> str:
        """Return the number format of what `quantized_parts` leaves out."""
        return "bf16" if self.quantized_parts else self.weight_dtype

    def weight_bytes(self) -> float:
        """Return the bytes of all weights as the checkpoint stores them."""
        groups = self.layer_groups()
        n_packed = sum(n * layer.n_quantized_params(self.hidden_size, self.quantized_parts) for layer, n in groups)
        packed_bytes = n_packed * BYTES_PER_NUMBER[self.weight_dtype]
        return packed_bytes + (self.n_params - n_packed) * BYTES_PER_NUMBER[self.unquantized_dtype]

    def kv_bytes_per_token(self, kv_dtype: str) -> float:
        """Return the bytes that one token leaves in the KV cache over all layers, sliding windows ignored.

        Raises
        ------
        UnknownNameError : `kv_dtype` is not in `units.BYTES_PER_NUMBER`.
        """
        if kv_dtype not in BYTES_PER_NUMBER:
            raise UnknownNameError("number format", kv_dtype, BYTES_PER_NUMBER, where="kv_dtype")
        return sum(layer.attention.kv_numbers_per_token for layer in self.layers) * BYTES_PER_NUMBER[kv_dtype]

    def layer_groups(self) -> tuple[tuple[Layer, int], ...]:
        """Return each distinct layer with its count, in order of first appearance."""
        return tuple(Counter(self.layers).items())

    def attention_classes(self) -> tuple[int | None, ...]:
        """Return the distinct attention windows in tokens (None = full), in order of first appearance.

        Linear attention belongs to none: it does not look back.
        """
        cells = (layer.attention for layer in self.layers)
        return tuple(dict.fromkeys(c.window_tokens for c in cells if not isinstance(c, LinearAttentionCell)))

    def flop_per_token(self, context_tokens: int) -> int:
        """Return the FLOP of one token's forward pass while it attends to `context_tokens` tokens, itself included.

        Two per weight that the token is multiplied with, LM head included, embedding look-up excluded, and each cell's
        `attention_flop`; latent attention counts as it is decoded.  Norms, softmax and activations are left out.

        Raises
        ------
        InputError : `context_tokens` is below 1.
        """
        if context_tokens < 1:
            raise InputError(f"context_tokens is {context_tokens}", remedy="a token attends at least to itself")
        flop = 2 * self.n_embedding_params
        for layer, n in self.layer_groups():
            attention_flop = layer.attention.attention_flop(context_tokens)
            flop += n * (2 * layer.n_active_matmul_params(self.hidden_size) + attention_flop)
        return flop
