"""How does SGLang behave?  Rules and figures as of 0.5.6.

File names are those of the wheel of the cited release, https://pypi.org/project/sglang/0.5.6/ .
"""

from __future__ import annotations

from typing import Final

from apex_sim.preset.preset import (
    Buffers,
    Defaults,
    Graphs,
    HostOverhead,
    Preset,
    PromptSlowdown,
    Ranks,
    Reservation,
    Reserve,
)
from apex_sim.units import GIB, MIB

_FIT: Final = (
    "fitted by benchmarks/fit_presets.py to the closed loops of SGLang 0.5.6 that InferenceX published (DeepSeek-R1 "
    "fp8 in blocks on 8 H200, 4 to 64 users)"
)
_GRAPH_SIZES: Final = (1, 2, 4, 8, 12, *range(16, 257, 8), *range(272, 513, 16))
#: `max_running_requests` is 512 x pool tokens / context length, at least this and at most 4096.
_LEAST_RUNNING: Final = 2048


def _defaults(min_memory_bytes: float, chunk_tokens: int, small_tp_graph: int, large_tp_graph: int) -> list[Defaults]:
    """Return the entries of one class of device memory, for four tensor-parallel ranks and more, and for fewer."""
    budget = {"sglang": chunk_tokens}
    return [
        Defaults(min_memory_bytes, (), _LEAST_RUNNING, budget, min_tp=4, max_graph_sequences=large_tp_graph),
        Defaults(min_memory_bytes, (), _LEAST_RUNNING, budget, max_graph_sequences=small_tp_graph),
    ]


SGLANG: Final = Preset(
    name="sglang",
    engine="sglang",
    versions="0.5.6",
    policy="sglang",
    chunked_above_tokens=None,
    defaults=(
        *_defaults(160 * GIB, 16_384, 512, 512),
        *_defaults(60 * GIB, 8192, 256, 512),
        *_defaults(35 * GIB, 4096, 32, 160),
        *_defaults(20 * GIB, 2048, 24, 80),
        *_defaults(0.0, 2048, 8, 8),
    ),
    block_size_tokens=1,
    gpu_memory_utilization_frac=0.88,
    watermark_frac=0.0,
    async_scheduling=True,
    queue_per_batch=False,
    frees_windows=True,
    ranks=Ranks(
        eager="cheaper",
        dummy_tokens=0,
        waiting_weight=None,
        source=(
            "padding: 0.5.5 sglang/srt/layers/dp_attention.py DpPaddingMode, managers/scheduler.py "
            "prepare_mlp_sync_batch; ranks in turn: sglang/srt/managers/data_parallel_controller.py; chunk and "
            "conservativeness: sglang/srt/server_args.py; memory kept free is that without attention DP"
        ),
        kind="assumed",
        shares_budget=True,
        reservation_frac=0.3,
    ),
    own_all_reduce="custom",
    fuses_shared_expert=True,
    graphs=Graphs(
        sizes=_GRAPH_SIZES,
        decode_only=True,
        max_context_tokens=None,
        launch_s=2e-6,
        eager_launch_s=10e-6,
        source=(
            "sizes: 0.5.6 sglang/srt/server_args.py _generate_cuda_graph_batch_sizes, cut at cuda_graph_max_bs; "
            "padding: sglang/srt/model_executor/cuda_graph_runner.py can_run, replay_prepare; launch times assumed, as "
            "in vllm-1"
        ),
        kind="assumed",
    ),
    host=HostOverhead(
        step_s=1.5e-3,
        sequence_s=10e-6,
        frontend_s=40e-3,
        prompt_token_s=4e-6,
        between_steps_s=0.41e-3,
        source=(
            f"between steps and before the queue: {_FIT}; the latter holds what prompt steps take to launch as well. "
            "The rest orders of magnitude: https://lmsys.org/blog/2024-12-04-sglang-v0-4/ sees no idle GPU between the "
            "overlapped decode steps of 0.4 and gives no times of the processor"
        ),
        kind="fitted",
        rank_s=50e-6,
    ),
    slowdown=PromptSlowdown(1.0, 0.0, {}, 5500.0, f"none is seen; {_FIT}", "fitted"),
    buffers=Buffers(
        logit_bytes=0.0,
        reserved_peak=False,
        communicator_bytes=1.0 * GIB,
        misc_bytes=384 * MIB,
        source=(
            "pool: 0.5.6 sglang/srt/model_executor/model_runner.py profile_max_num_token runs no profiling step; "
            "reserve: sglang/srt/server_args.py _handle_gpu_memory_settings; communicators assumed, and misc, which is "
            "the workspace that sglang/srt/environ.py gives FlashInfer and other attention back ends lack"
        ),
        kind="assumed",
        pool_rule="share-of-free",
        reserve=Reserve(
            fixed_bytes=512 * MIB,
            budget_token_bytes=1.5 * MIB,
            least_budget_tokens=2048,
            graph_sequence_bytes=2.0 * MIB,
            device_bytes=GIB / 8,
            least_bytes=10.0 * GIB,
            least_above_bytes=60.0 * GIB,
        ),
    ),
    sources=(
        "0.5.6 sglang/srt/server_args.py: _handle_gpu_memory_settings (chunk, graphs and mem_fraction_static by memory "
        "and TP), _handle_page_size, _handle_pipeline_parallelism (no overlap with stages), field defaults",
        "0.5.6 sglang/srt/model_executor/model_runner.py: init_memory_pool (max_running_requests)",
        "0.5.6 sglang/srt/managers/scheduler.py: event_loop_overlap, new_token_ratio; recv_requests broadcasts to the "
        "ranks; sglang/srt/managers/scheduler_pp_mixin.py: one running batch for each micro-batch, one waiting queue",
        "0.5.6 sglang/srt/environ.py: new-token ratio, its decay, retraction steps, clip of max_new_tokens",
    ),
    reservation=Reservation(
        first_ratio=0.7,
        least_ratio=0.7 * 0.14,
        decay_steps=600,
        retract_steps=20,
        clip_tokens=4096,
        max_prefill_tokens=16_384,
    ),
)
