"""How did TensorRT-LLM behave with its C++ runtime?  Rules and figures of release 0.14, engines built by TensorRT.

The engine is one TensorRT plan for all steps: no CUDA graphs unless asked for (ExtendedRuntimePerfKnobConfig, off by
default) and no Python between kernels.
"""

from __future__ import annotations

from typing import Final

from apex_sim.preset.preset import Buffers, Defaults, Graphs, HostOverhead, Preset, PromptSlowdown
from apex_sim.units import GIB, MIB

_BUDGETS: Final = {"no-evict": 8192, "no-evict-chunked": 8192, "max-utilization": 8192}

TRTLLM_0_14: Final = Preset(
    name="trtllm-0.14",
    engine="trtllm",
    versions="0.10 to 0.18 (C++ runtime)",
    policy="no-evict",
    chunked_above_tokens=None,
    defaults=(Defaults(0.0, (), 2048, _BUDGETS),),
    block_size_tokens=64,
    gpu_memory_utilization_frac=0.90,
    watermark_frac=0.0,
    async_scheduling=False,
    queue_per_batch=False,
    frees_windows=False,
    own_all_reduce="custom",
    graphs=Graphs(
        sizes=(),
        decode_only=True,
        max_context_tokens=None,
        launch_s=2e-6,
        eager_launch_s=2e-6,
        source=(
            "none by default: cuda_graph_mode of ExtendedRuntimePerfKnobConfig, cpp/include/tensorrt_llm/executor/"
            "executor.h; a TensorRT plan enqueues its kernels from C++, launch times assumed"
        ),
        kind="assumed",
        pads=False,
    ),
    host=HostOverhead(
        step_s=1e-3,
        sequence_s=2e-6,
        frontend_s=1e-3,
        prompt_token_s=0.0,
        source="assumed: C++ batch manager, no overlap with the device beyond a step; tokens arrive as tokens",
        kind="assumed",
        rank_s=0.0,
    ),
    slowdown=PromptSlowdown(1.0, 0.0, {}, 5500.0, "assumed", "assumed"),
    buffers=Buffers(
        logit_bytes=21.0,
        reserved_peak=True,
        communicator_bytes=1.0 * GIB,
        misc_bytes=1024 * MIB,
        source="assumed",
        kind="assumed",
        pool_rule="share-of-rest",
        for_all_seqs=True,
    ),
    sources=(),
    ranks=None,
    fuses_quantisation=True,
    engine_settings={"enable_chunked_context": 0, "enable_block_reuse": 0},
)
