"""What proposes tokens for a model to verify, and how does it lie on the instance's devices?"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from apex_sim.errors import InputError
from apex_sim.model.attention import LinearAttentionCell
from apex_sim.model.load import load_model
from apex_sim.model.model import Model
from apex_sim.plan.precision import Precision
from apex_sim.plan.shape import Shape, tensor_pipeline_stages
from apex_sim.plan.speculation import Speculation
from apex_sim.plan.weights import local_kv_numbers, stage_weight_bytes
from apex_sim.units import BYTES_PER_NUMBER

#: The model's own layers for multi-token prediction as draft.
MTP: Final = "mtp"


def draft_model_of(model: Model, speculation: Speculation, where: str = "draft") -> Model:
    """Return what proposes tokens for `model`.

    Multi-token prediction is one layer like the model's last, used once for each draft token (as vLLM's proposer does,
    0.13.0 vllm/v1/spec_decode/eagle.py), with the model's own embedding and head.

    Raises
    ------
    InputError : the model predicts one token only, linear attention (its state cannot go back by a rejected token), or
        a draft model with another vocabulary.
    UnknownNameError : no such draft model.
    """
    if speculation.draft == MTP:
        if not model.n_mtp_layers:
            raise InputError(
                f"draft {MTP!r}, and the config of {model.name} has no layers for multi-token prediction",
                where=where,
                remedy="name a draft model with the same vocabulary, or leave speculation out",
            )
        draft = replace(model, name=f"{model.name} MTP", layers=model.layers[-1:], n_mtp_layers=0)
    else:
        draft = load_model(speculation.draft)
    for each in (model, draft):
        if any(isinstance(layer.attention, LinearAttentionCell) for layer, _ in each.layer_groups()):
            raise InputError(
                f"speculation with linear attention ({each.name}), whose state cannot go back, is not simulated yet",
                where=where,
                remedy="leave speculation out, or choose models with attention over cached keys",
            )
    if draft.vocab_size != model.vocab_size:
        raise InputError(
            f"draft {draft.name} has a vocabulary of {draft.vocab_size} tokens, {model.name} of {model.vocab_size}",
            where=where,
            remedy="choose a draft model with the same tokenizer",
        )
    return draft


def draft_shape_of(draft: Model, shape: Shape) -> Shape:
    """Return the draft's own shape: one stage on the instance's devices, tensor-parallel as the model is.

    Layers for multi-token prediction are stored as the model's others, a draft model as its own checkpoint is.
    """
    speculation = shape.scheduler.speculation
    own = speculation is not None and speculation.draft == MTP
    return replace(
        shape,
        stages=tensor_pipeline_stages((draft.n_layers,), shape.tp),
        precision=shape.precision if own else Precision(draft.weight_dtype, shape.precision.kv),
        scheduler=replace(shape.scheduler, speculation=None),
    )


def draft_bytes(model: Model, shape: Shape) -> tuple[float, float]:
    """Return what a device holds of the draft: bytes of weights, and KV bytes for each token; 0 without speculation.

    Multi-token prediction shares embedding and head with the model; its input projection is on every device.
    """
    speculation = shape.scheduler.speculation
    if speculation is None:
        return 0.0, 0.0
    draft = draft_model_of(model, speculation)
    own = draft_shape_of(draft, shape)
    weight_bytes = stage_weight_bytes(draft, own.stages, 0, own.precision)
    if speculation.draft == MTP:
        shared = (2 - draft.tied_embeddings) * draft.vocab_size / shape.tp * draft.hidden_size
        joined = 2 * draft.hidden_size**2 + 2 * draft.hidden_size
        weight_bytes += (joined - shared) * BYTES_PER_NUMBER["bf16"]
    kv_numbers = sum(local_kv_numbers(layer, shape.tp) for layer in draft.layers)
    return weight_bytes, kv_numbers * own.precision.kv_bytes()
