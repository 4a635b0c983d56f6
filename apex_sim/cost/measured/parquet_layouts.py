"""Where does a folder of aiconfigurator-core's layout keep an operator, and what do its columns mean?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from apex_sim.cost.forms.shares import Floats
from apex_sim.cost.measured.kernel_table import Sizes, decode_sizes, prefill_sizes

Columns = Mapping[str, Floats]

#: Experts without a gate, by hidden and inner size, active experts and experts: the Nemotron 3 family.  Its times
#: would beat the datasheet with three matrices.  Not so in the tables of vLLM's old collector (A100): there one of
#: these layers takes what gated layers of its size take, and reaches the same share of bandwidth, with three.
_UNGATED: Final = ((2688, 1856, 6, 128), (2048, 5120, 22, 512), (1024, 2688, 22, 512))


#: Column that a reader adds: 1 where the kernel is of a collector that measured every layer with a gate.
EVERY_GATED: Final = "every_gated"
#: Kernels of that collector.
GATED_KERNELS: Final = ("vllm_fused_moe",)
#: Kernels whose kind their names do not say: vLLM's fused_moe is its Triton kernel.
KINDS: Final = {"vllm_fused_moe": "triton", "moe_torch_flow_cutlass": "trtllm"}


def _heads(c: Columns) -> dict[str, Floats]:
    kv = c["num_key_value_heads"]
    every = {"n_q_heads": c["num_heads"], "n_kv_heads": np.where(kv > 0, kv, c["num_heads"])}
    return {**every, "head_dim": c["head_dim"], "window": c["window_size"]}


def _moe(c: Columns) -> Sizes:
    shapes = np.stack([c[name] for name in ("hidden_size", "inter_size", "topk", "num_experts")], axis=1)
    ungated = (shapes[:, None, :] == np.array(_UNGATED, dtype=float)).all(axis=2).any(axis=1) & (c[EVERY_GATED] == 0.0)
    return {
        "n_tokens": c["num_tokens"],
        "hidden_size": c["hidden_size"],
        "width": c["inter_size"] / c["moe_tp_size"],
        "n_experts": c["num_experts"],
        "n_active_experts": c["topk"],
        "ep": c["moe_ep_size"],
        "n_matrices": np.where(ungated, 2.0, 3.0),
        "routing_exponent": c["distribution"],
    }


def _prefill(c: Columns) -> Sizes:
    return {**prefill_sizes(c["batch_size"], c["isl"], c["step"], c["window_size"]), **_heads(c)}


def _decode(c: Columns) -> Sizes:
    return {**decode_sizes(c["batch_size"], c["isl"] + c["step"], c["window_size"]), **_heads(c)}


def _mla_prefill(c: Columns) -> Sizes:
    return {**prefill_sizes(c["batch_size"], c["isl"], c["step"], 0.0 * c["isl"]), "n_heads": c["num_heads"]}


def _mla_decode(c: Columns) -> Sizes:
    return {**decode_sizes(c["batch_size"], c["isl"] + c["step"], 0.0 * c["isl"]), "n_heads": c["num_heads"]}


def _messages(c: Columns) -> Sizes:
    return {"n_bytes": 2.0 * c["message_size"], "n_devices": c["num_gpus"]}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an operator's tables are and what their columns mean.

    `equal` are texts that columns must have where they exist; `optional` columns count as 0 where they are missing.
    `back_ends` are in order of preference; one with fewer rows than `fewest` is passed over.
    """

    place: str
    precision_column: str
    precisions: Mapping[str, str]
    back_ends: Mapping[str, tuple[str, ...]]
    sizes: Callable[[Columns], Sizes]
    needs: tuple[str, ...]
    family: tuple[str, ...]
    optional: tuple[str, ...] = ()
    equal: Mapping[str, str] | None = None
    fewest: int = 400


_CACHES: Final = {"bf16-kv": "bfloat16", "fp8-kv": "fp8"}
_BF16_MATH: Final = {"attn_dtype": "bfloat16", "mla_dtype": "bfloat16"}
_HEADS: Final = ("num_heads", "num_key_value_heads", "head_dim", "window_size")
_EVERY: Final = ("vllm", "sglang", "trtllm")
_EXPERTS: Final = {
    "bf16": "bfloat16",
    "fp8": "fp8",
    "fp8-block": "fp8_block",
    "nvfp4": "nvfp4",
    "w4a16": "int4_wo",
    "mxfp4": "w4a16_mxfp4",
    "mxfp4-fp8": "w4a8_mxfp4_mxfp8",
}
#: vLLM has latent attention only as whole modules with their projections.
_MLA_BACK_ENDS: Final = dict.fromkeys(_CACHES, ("sglang", "trtllm"))

LAYOUTS: Final[dict[str, Layout]] = {
    "gemm": Layout(
        "gemm/gemm",
        "gemm_dtype",
        {"bf16": "bfloat16", "fp8": "fp8", "fp8-block": "fp8_block", "nvfp4": "nvfp4", "int8": "sq",
         "w8a16": "int8_wo", "w4a16": "int4_wo"},
        # vLLM 0.24's block-scaled rows are bound by the host's launches on Hopper and Blackwell.
        {"bf16": _EVERY, "fp8": _EVERY, "fp8-block": ("sglang", "vllm", "trtllm"), "nvfp4": _EVERY,
         "int8": ("trtllm",), "w8a16": ("trtllm", "sglang", "sglang/0.5.6.post2"), "w4a16": ("trtllm",)},
        lambda c: {"m": c["m"], "n": c["n"], "k": c["k"]},
        ("m", "n", "k"),
        ("n", "k"),
        fewest=2000,
    ),
    "prefill_attention": Layout(
        "attention/context_attention", "kv_cache_dtype", _CACHES, dict.fromkeys(_CACHES, _EVERY), _prefill,
        ("batch_size", "isl", *_HEADS[:3]), _HEADS, ("step", "window_size"), _BF16_MATH,
    ),
    "decode_attention": Layout(
        "attention/generation_attention", "kv_cache_dtype", _CACHES, dict.fromkeys(_CACHES, _EVERY), _decode,
        ("batch_size", "isl", "step", *_HEADS[:3]), _HEADS, ("window_size",), _BF16_MATH,
    ),
    "mla_prefill_attention": Layout(
        "mla/context_mla", "kv_cache_dtype", _CACHES, _MLA_BACK_ENDS, _mla_prefill,
        ("batch_size", "isl", "num_heads"), ("num_heads",), ("step",), _BF16_MATH,
    ),
    "mla_decode_attention": Layout(
        "mla/generation_mla", "kv_cache_dtype", _CACHES, _MLA_BACK_ENDS, _mla_decode,
        ("batch_size", "isl", "step", "num_heads"), ("num_heads",), (), _BF16_MATH,
    ),
    "moe": Layout(
        "moe/moe",
        "moe_dtype",
        _EXPERTS,
        dict.fromkeys(_EXPERTS, _EVERY),
        _moe,
        ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size",
         "distribution"),
        ("hidden_size", "inter_size", "topk", "num_experts"),
    ),
    **{
        ours: Layout(
            "comm/nccl", "nccl_dtype", {"nccl": "half"}, {"nccl": ("nccl",)}, _messages,
            ("num_gpus", "message_size"), ("message_size",), (), {"op_name": theirs}, fewest=1,
        )
        for ours, theirs in (("all_gather", "all_gather"), ("reduce_scatter", "reduce_scatter"),
                             ("all_to_all", "alltoall"), ("all_reduce", "all_reduce"))
    },
}  # fmt: skip
#: The engines' own all-reduce inside a CUDA graph; the eager rows have a floor of the host's.
CUSTOM_ALL_REDUCE: Final = Layout(
    "comm/custom_allreduce", "allreduce_dtype", {"vllm": "bfloat16"}, {"vllm": ("vllm",)}, _messages,
    ("num_gpus", "message_size"), ("message_size",), (), {"backend": "vllm_graph"}, fewest=1,
)  # fmt: skip


def precisions_of(operator: str) -> list[str]:
    """Return the precisions at which an operator may have tables, in the order of reports.

    Examples
    --------
    >>> precisions_of("all_reduce")
    ['nccl', 'vllm']
    """
    return [*LAYOUTS[operator].precisions, *(["vllm"] if operator == "all_reduce" else [])]
