"""How long does it take to copy one KV block to the host's memory or back?"""

from __future__ import annotations

from typing import Final

from apex_sim.cost.operators import StageContext
from apex_sim.plan.weights import local_kv_numbers

#: Assumed: what issuing one asynchronous copy from C++ takes.
_COPY_S: Final = 2e-6


def swap_block_s(context: StageContext) -> float:
    """Return the seconds for one block of one stage: each layer's keys and its values are one copy.

    A copy takes what issuing it takes, or its bytes over PCIe (one direction, datasheet), whichever is longer; copies
    follow each other on the stream of the step that they precede (vLLM 0.6.0 csrc/cache_kernels.cu `swap_blocks`, and
    vllm/worker/cache_engine.py).  Small blocks make small copies, which cost by their number.
    """
    block_tokens, tp = context.shape.scheduler.block_size_tokens, context.stage.attention.tp
    total_s = 0.0
    for layer in context.layers:
        n_bytes = local_kv_numbers(layer, tp) / 2 * context.shape.precision.kv_bytes() * block_tokens
        total_s += 2 * max(_COPY_S, n_bytes / context.cluster.device.pcie_bytes_per_s)
    return total_s
