"""How did TensorRT-LLM behave with its C++ runtime?  Rules and figures of release 0.14, engines built by TensorRT.

The engine is one TensorRT plan for all steps: no CUDA graphs unless asked for (ExtendedRuntimePerfKnobConfig, off by
default) and no Python between kernels.  File names are those of https://github.com/NVIDIA/TensorRT-LLM.
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
        step_s=3e-3,
        sequence_s=3e-6,
        frontend_s=1e-3,
        prompt_token_s=0.0,
        source=(
            "step and sequence fitted (benchmarks/fit_trtllm.py) to 130 H100 rows of the release's "
            "docs/source/performance/perf-overview.md, which cannot tell them from kernels slower than priced; time "
            "before the queue assumed, requests hold tokens"
        ),
        kind="fitted",
        rank_s=0.0,
    ),
    slowdown=PromptSlowdown(
        base=1.0,
        growth=0.085,
        growth_of={"bf16": 0.2},
        half_tokens=5500.0,
        source="growth fitted as the host time; base and half assumed, kernels of a plan follow without gaps",
        kind="fitted",
    ),
    buffers=Buffers(
        logit_bytes=21.0,
        reserved_peak=True,
        communicator_bytes=2.1 * GIB,
        misc_bytes=512 * MIB,
        source=(
            "fitted by hand to Llama-70B on one and two H100 (tables of 0.14), whose pools are a tenth of a device: in "
            "bf16 at TP2 one held 4 requests of 4096 tokens with batch 2048, and some 10 of 4224 with batch 256"
        ),
        kind="fitted",
        pool_rule="share-of-rest",
        for_all_seqs=True,
    ),
    sources=(
        "cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp and microBatchScheduler.cpp, as for preset trtllm",
        "tensorrt_llm/builder.py: BuildConfig has tokens_per_block 64, max_batch_size 2048, max_num_tokens 8192",
        "cpp/include/tensorrt_llm/executor/executor.h: guaranteed not to evict, free_gpu_memory_fraction 0.9; "
        "enable_chunked_context and enable_block_reuse are off",
        "fused quantisation: scales are static, and TensorRT merges quantising into norm and activation kernels",
    ),
    ranks=None,
    fuses_quantisation=True,
    engine_settings={"enable_chunked_context": 0, "enable_block_reuse": 0},
)
