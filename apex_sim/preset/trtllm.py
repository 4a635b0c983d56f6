"""How does TensorRT-LLM behave?  Rules and figures of its PyTorch back end, 1.x.

File names are those of https://github.com/NVIDIA/TensorRT-LLM at commit 0004396720054fd8e205cbf616f21f0b57c6b412, of
2026; the documentation of release 1.3.0rc27 states the same defaults of the KV cache.
"""

from __future__ import annotations

from typing import Final

from apex_sim.preset.preset import Buffers, Defaults, Graphs, HostOverhead, Preset, PromptSlowdown, Ranks
from apex_sim.units import GIB, MIB

#: `enable_padding` is off by default: a decode batch of 33 to 63 or of 65 to 127 runs without a graph.
_GRAPH_SIZES: Final = (*range(1, 33), 64, 128)

_BUDGETS: Final = {"no-evict": 8192, "no-evict-chunked": 8192, "max-utilization": 8192}

TRTLLM: Final = Preset(
    name="trtllm",
    engine="trtllm",
    versions="1.x (PyTorch back end)",
    policy="no-evict",
    chunked_above_tokens=None,
    defaults=(Defaults(0.0, (), 2048, _BUDGETS, max_graph_sequences=128),),
    block_size_tokens=32,
    gpu_memory_utilization_frac=0.90,
    watermark_frac=0.0,
    async_scheduling=True,
    queue_per_batch=False,
    frees_windows=False,
    ranks=Ranks(
        eager="own",
        dummy_tokens=1,
        waiting_weight=1,
        source=(
            "dummy requests and choice of rank: tensorrt_llm/_torch/pyexecutor/executor_request_queue.py, here the "
            "fewest unfinished requests, one after the other, instead of all that wait sorted by prompt"
        ),
        kind="assumed",
    ),
    own_all_reduce="custom",
    expert_kernels="trtllm",
    graphs=Graphs(
        sizes=_GRAPH_SIZES,
        decode_only=True,
        max_context_tokens=None,
        launch_s=2e-6,
        eager_launch_s=10e-6,
        source=(
            "sizes and padding: tensorrt_llm/llmapi/llm_args.py BaseCudaGraphConfig; decode-only, up to 200 MB a "
            "graph: cuda_graph_config of TorchLlmArgs; launch times assumed, as in vllm-1"
        ),
        kind="assumed",
        pads=False,
    ),
    host=HostOverhead(
        step_s=2e-3,
        sequence_s=15e-6,
        frontend_s=4e-3,
        prompt_token_s=4e-6,
        source=(
            "orders of magnitude; https://nvidia.github.io/TensorRT-LLM/features/overlap-scheduler.html says what "
            "overlaps and gives no times"
        ),
        kind="assumed",
        rank_s=50e-6,
    ),
    slowdown=PromptSlowdown(
        base=1.0,
        growth=0.0,
        growth_of={},
        half_tokens=5500.0,
        source=(
            "none: with it the 20 H200 rows of docs/source/performance/perf-overview.md of release 1.0 are met within "
            "2 % in the median without a fit"
        ),
        kind="assumed",
    ),
    fuses_quantisation=True,
    buffers=Buffers(
        logit_bytes=32.0,
        reserved_peak=False,
        communicator_bytes=1.0 * GIB,
        misc_bytes=100 * MIB,
        source=(
            "pool: tensorrt_llm/_torch/pyexecutor/_util.py configure_kv_cache_capacity runs max_num_tokens prompt "
            "tokens and subtracts the peak of allocated bytes and all that lies outside the allocator, NCCL and graphs "
            "included; logits, communicators and misc assumed as in vllm-1"
        ),
        kind="assumed",
        pool_rule="share-of-rest",
    ),
    sources=(
        "fused quantisation: swiglu with quant_scale in tensorrt_llm/_torch/modules/gated_mlp.py, fp8 output of "
        "attention in modules/attention.py; that of the norms' outputs has a kernel of its own at TP1, left out",
        "tensorrt_llm/llmapi/llm_args.py: max_batch_size, max_num_tokens and enable_chunked_prefill of BaseLlmArgs; "
        "free_gpu_memory_fraction, tokens_per_block and enable_block_reuse of KvCacheConfig",
        "tensorrt_llm/llmapi/llm_args.py: disable_overlap_scheduler and prefill_cuda_graph_backend of TorchLlmArgs",
        "tensorrt_llm/_torch/pyexecutor/py_executor.py: a loop of its own with pipeline stages, else the overlapped "
        "one; requests are broadcast to the ranks",
    ),
    engine_settings={"enable_chunked_prefill": 0, "enable_block_reuse": 1},
)
