"""How does vLLM behave?  The v0 engine as of 0.6, and the v1 engine from 0.11 on.

File names are those of the cited release of https://github.com/vllm-project/vllm .
"""

from __future__ import annotations

from typing import Final

from apex_sim.preset.expert_kernel import ExpertKernel
from apex_sim.preset.preset import Buffers, Defaults, Graphs, HostOverhead, Preset, PromptSlowdown, Ranks
from apex_sim.units import GIB, MIB

_V0_GRAPH_SIZES: Final = (1, 2, 4, *range(8, 257, 8))
_V1_GRAPH_SIZES: Final = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
_LOGIT_BYTES_SOURCE: Final = (
    "for each logit: bf16 and fp32 copies, a sorted fp32 copy with its int64 index, probabilities, log-probabilities "
    "and a mask (sampler's top-k/top-p path)"
)

_INFERENCEX: Final = "https://github.com/SemiAnalysisAI/InferenceX, benchmarks"
_V0_FIT: Final = (
    "fitted by benchmarks/fit_presets.py to the 46 vLLM 0.6.0 servers that apex_plus published (Llama-3.1-70B bf16 on "
    "H100, TP2 to TP8)"
)
_V1_FIT: Final = (
    "fitted by benchmarks/fit_presets.py to the closed loops of vLLM 0.11.2, 0.13.0 and 0.22.0 that InferenceX and "
    "Nebius published (gpt-oss-120b mxfp4 on H200; TP1 to TP8, 1 to 256 users)"
)

VLLM_0_6: Final = Preset(
    name="vllm-0.6",
    engine="vllm",
    versions="0.6.x (v0 engine)",
    policy="prefill-first",
    chunked_above_tokens=32_768,
    defaults=(Defaults(0.0, (), 256, {"prefill-first": None, "chunked": 512}),),
    block_size_tokens=16,
    gpu_memory_utilization_frac=0.90,
    watermark_frac=0.01,
    async_scheduling=False,
    queue_per_batch=True,
    frees_windows=False,
    own_all_reduce="custom",
    graphs=Graphs(
        sizes=_V0_GRAPH_SIZES,
        decode_only=True,
        max_context_tokens=8192,
        launch_s=2e-6,
        eager_launch_s=25e-6,
        source=(
            "sizes, decode-only rule and max_seq_len_to_capture: 0.6.0 vllm/worker/model_runner.py and vllm/config.py; "
            "launch times assumed: about 2 us between kernels of a graph, 300 us of Python and launches for the dozen "
            "kernels of an eager layer"
        ),
        kind="assumed",
    ),
    host=HostOverhead(
        step_s=4.3e-3,
        sequence_s=210e-6,
        frontend_s=6.5e-3,
        prompt_token_s=4e-6,
        source=f"{_V0_FIT}; https://github.com/vllm-project/vllm/issues/6854 sees about 4 ms a step as well",
        kind="fitted",
    ),
    slowdown=PromptSlowdown(1.05, 0.4, {}, 5500.0, _V0_FIT, "fitted"),
    buffers=Buffers(
        logit_bytes=32.0,
        reserved_peak=True,
        communicator_bytes=1.0 * GIB,
        misc_bytes=100 * MIB,
        source=(
            "0.6.0 vllm/worker/worker.py determine_num_available_blocks counts what is no longer free after the "
            f"profiling run, reserved memory included; {_LOGIT_BYTES_SOURCE}; communicators and misc assumed"
        ),
        kind="assumed",
    ),
    sources=(
        "0.6.0 vllm/core/scheduler.py: _schedule_default, _schedule_chunked_prefill, _schedule_prefills, _preempt",
        "0.6.0 vllm/core/block_manager_v1.py: watermark, can_allocate, can_append_slots",
        "0.6.0 vllm/engine/arg_utils.py and vllm/config.py: defaults, chunked prefill above 32,768 tokens",
        "0.6.0 vllm/engine/llm_engine.py: one scheduler for each virtual engine, num_gpu_blocks // PP each",
    ),
)

VLLM_1: Final = Preset(
    name="vllm-1",
    engine="vllm",
    versions="0.11 and later (v1 engine)",
    policy="unified",
    chunked_above_tokens=None,
    defaults=(
        Defaults(70 * GIB, ("a100",), 1024, {"unified": 8192}),
        Defaults(0.0, (), 256, {"unified": 2048}),
    ),
    block_size_tokens=16,
    gpu_memory_utilization_frac=0.90,
    watermark_frac=0.0,
    async_scheduling=True,
    queue_per_batch=False,
    frees_windows=True,
    caches_prefixes=True,
    ranks=Ranks(
        eager="own",
        dummy_tokens=1,
        waiting_weight=4,
        source=(
            "padding: 0.21.0 vllm/v1/worker/dp_utils.py (0.12 pads eager steps to the largest rank as well); dummy "
            "batches: 0.12.0 vllm/v1/engine/core.py DPEngineCoreProc, here none after the last request; choice of "
            "rank: 0.12.0 vllm/v1/engine/core_client.py, here without the 100 ms by which its counts are old"
        ),
        kind="assumed",
    ),
    own_all_reduce="symmetric",
    graphs=Graphs(
        sizes=_V1_GRAPH_SIZES,
        decode_only=False,
        max_context_tokens=None,
        launch_s=2e-6,
        eager_launch_s=10e-6,
        source=(
            "sizes and dispatch: 0.13.0 vllm/config/vllm.py and vllm/v1/cudagraph_dispatcher.py; launch times assumed: "
            "about 2 us between kernels of a graph, 10 us for a launch from compiled code without one"
        ),
        kind="assumed",
    ),
    host=HostOverhead(
        step_s=1.5e-3,
        sequence_s=20e-6,
        frontend_s=5.8e-3,
        prompt_token_s=4e-6,
        between_steps_s=0.53e-3,
        source=f"between steps and before the queue: {_V1_FIT}; the rest orders of magnitude, hidden by asynchronous "
        "scheduling",
        kind="fitted",
    ),
    expert_kernels={
        "mxfp4": (
            ExpertKernel(
                "marlin",
                ("ampere", "ada", "hopper"),
                "0.13.0 vllm/model_executor/layers/quantization/mxfp4.py with VLLM_MXFP4_USE_MARLIN=1, as the servers "
                f"that were measured on Hopper: {_INFERENCEX}/gptoss_fp4_h200.sh; without it vLLM runs Triton kernels "
                "there",
                hidden_multiple=256,
                width_multiple=128,
            ),
            ExpertKernel(
                "fp8",
                ("blackwell", "blackwell-ultra"),
                "the same file with VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8=1 (activations in mxfp8), as the servers that "
                f"were measured on B200: {_INFERENCEX}/gptoss_fp4_b200.sh",
                hidden_multiple=256,
                width_multiple=256,
            ),
        ),
        "w4a16": (
            ExpertKernel(
                "marlin",
                ("ampere", "ada", "hopper"),
                "0.13.0 vllm/model_executor/layers/quantization/compressed_tensors/compressed_tensors_moe.py",
            ),
        ),
    },
    slowdown=PromptSlowdown(
        base=1.0,
        growth=0.0,
        growth_of={},
        half_tokens=5500.0,
        source=f"none is seen in compiled steps once the kernels are those that ran; {_V1_FIT}",
        kind="fitted",
    ),
    buffers=Buffers(
        logit_bytes=32.0,
        reserved_peak=False,
        communicator_bytes=1.0 * GIB,
        misc_bytes=100 * MIB,
        source=(
            "0.13.0 vllm/v1/worker/gpu_worker.py determine_available_memory counts the peak of allocated bytes; "
            f"{_LOGIT_BYTES_SOURCE}; communicators and misc assumed"
        ),
        kind="assumed",
    ),
    sources=(
        "0.13.0 vllm/v1/core/sched/scheduler.py: running first, then waiting; preemption of the youngest",
        "0.13.0 vllm/v1/core/sched/async_scheduler.py and vllm/v1/engine/core.py step_with_batch_queue: two batches in "
        "flight with asynchronous scheduling, otherwise PP",
        "0.13.0 vllm/v1/core/kv_cache_manager.py: blocks as tokens are scheduled, no watermark",
        "0.11.0 to 0.22.0 vllm/envs.py: VLLM_ALLREDUCE_USE_SYMM_MEM is on by default",
        "0.22.0 vllm/v1/core/kv_cache_utils.py: one list of blocks for each group of layers, windows freed",
        "0.13.0 vllm/engine/arg_utils.py: defaults of the API server by device memory; asynchronous scheduling became "
        "the default in 0.14.0",
    ),
)
