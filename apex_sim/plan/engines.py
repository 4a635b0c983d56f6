"""Which serving engines can spread a model as a shape says, with flags that they document today?

Only the spread of cells is judged: neither whether an engine knows the model's architecture (but where the spread
depends on it), nor number formats.  Layers of stages may be split in any way: vLLM takes VLLM_PP_LAYER_PARTITION
(vllm/distributed/utils.py, get_pp_indices), SGLang SGLANG_PP_LAYER_PARTITION (sglang/srt/distributed/utils.py,
get_pp_indices), TensorRT-LLM `pp_partition` (https://github.com/NVIDIA/TensorRT-LLM/pull/9003 ).  Tensor parallelism
may span nodes in all three.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from apex_sim.errors import UnknownNameError
from apex_sim.model.attention import AttentionCell, MlaCell
from apex_sim.model.model import Model
from apex_sim.plan.shape import Shape

#: Dense models that SGLang runs with attention DP: https://github.com/sgl-project/sglang/pull/7681 (Qwen3) and 15268
#: (Llama).
_SGLANG_JOINT: Final = ("LlamaForCausalLM", "Qwen3ForCausalLM")


def engines_of(model: Model, shape: Shape) -> tuple[str, ...]:
    """Return the engines that can spread `model` as `shape` says.

    Examples
    --------
    >>> from apex_sim.model.load import load_model
    >>> from apex_sim.plan.precision import Precision
    >>> from apex_sim.plan.scheduler import resolve_settings
    >>> from apex_sim.plan.shape import CellParallelism, cell_stages
    >>> from apex_sim.hardware.device import load_device
    >>> from apex_sim.preset.load import load_preset
    >>> preset, device = load_preset("sglang"), load_device("h100-sxm")
    >>> stages = cell_stages((80,), CellParallelism(tp=2, attention_dp=4), CellParallelism(tp=8))
    >>> shape = Shape("h100-sxm", stages, Precision(), resolve_settings(preset, device, 4096), preset)
    >>> engines_of(load_model("llama-3.1-70b"), shape)
    ('sglang',)
    """
    return tuple(engine for engine in _RULES if not why_not(model, shape, engine))


def why_not(model: Model, shape: Shape, engine: str) -> str:
    """Return why `engine` cannot spread `model` as `shape` says; empty if it can.

    Raises
    ------
    UnknownNameError : no such engine.
    """
    if engine not in _RULES:
        raise UnknownNameError("engine", engine, _RULES)
    ffn = shape.stages[0].ffn
    if ffn.attention_dp > 1:
        return f"no engine runs {ffn.attention_dp} copies of the FFN beside attention over all devices"
    return _RULES[engine](model, shape)


def _vllm(model: Model, shape: Shape) -> str:
    """Return why vLLM cannot.

    Attention DP: docs.vllm.ai, serving/data_parallel_deployment (experts over DP x TP, or EP of that size; ranks of
    dense models are independent).  Context parallelism: vllm/config/model.py, verify_with_parallel_config.
    """
    if model.is_dense and shape.attention_dp > 1:
        return "vLLM runs the data-parallel ranks of a dense model as independent instances"
    if shape.ep > 1 and shape.stages[0].ffn.tp > 1:
        return "vLLM's experts are whole on one device (--enable-expert-parallel) or divided over all"
    heads = {layer.attention.n_kv_heads for layer in model.layers if isinstance(layer.attention, AttentionCell)}
    if shape.cp > 1 and any(shape.tp % n for n in heads):
        return "vLLM's decode context parallelism is at most TP over the KV heads"
    return ""


def _sglang(model: Model, shape: Shape) -> str:
    """Return why SGLang cannot.

    Attention DP (--enable-dp-attention, --tp-size a multiple of --dp-size): sglang/srt/server_args.py,
    _handle_data_parallelism.  Experts over --ep-size groups of tp / ep devices: docs.sglang.io,
    advanced_features/expert_parallelism.  Context parallelism (--dcp-size) of latent attention: docs.sglang.io,
    advanced_features/dcp.
    """
    if model.is_dense and shape.attention_dp > 1 and model.architecture not in _SGLANG_JOINT:
        return f"SGLang has no attention DP for {model.architecture}, only for {' and '.join(_SGLANG_JOINT)} of dense"
    if shape.cp > 1 and not _is_latent(model):
        return "SGLang's decode context parallelism is documented for latent attention only"
    return ""


def _trtllm(model: Model, shape: Shape) -> str:
    """Return why TensorRT-LLM cannot.

    Attention DP is all or nothing and keeps dense FFNs whole on each rank (enable_attention_dp;
    tensorrt_llm/_torch/models/modeling_qwen3.py).  Experts over moe_expert_parallel_size groups of
    moe_tensor_parallel_size devices: tensorrt_llm/mapping.py.  Helix shares contexts on generation servers:
    nvidia.github.io/TensorRT-LLM, features/helix; its grouped heads:
    https://github.com/NVIDIA/TensorRT-LLM/pull/11570 .
    """
    if shape.attention_dp > 1 and shape.n_shards > 1:
        return "TensorRT-LLM's attention DP has a rank on each device (enable_attention_dp)"
    if model.is_dense and shape.attention_dp > 1:
        return "TensorRT-LLM keeps the FFN of a dense model whole on each rank of attention DP"
    if shape.cp > 1 and shape.role != "decode":
        return "TensorRT-LLM shares contexts (Helix) on decode instances only"
    return ""


def _is_latent(model: Model) -> bool:
    return all(isinstance(layer.attention, MlaCell) for layer in model.layers)


_RULES: Final[dict[str, Callable[[Model, Shape], str]]] = {"vllm": _vllm, "sglang": _sglang, "trtllm": _trtllm}

#: Engines whose flags are known.
ENGINES: Final = tuple(_RULES)
