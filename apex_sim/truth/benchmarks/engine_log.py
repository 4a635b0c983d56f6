"""How many tokens of KV cache did a server say that it had?

Lines of vLLM 0.13 vllm/v1/core/kv_cache_utils.py ("GPU KV cache size: 1,234 tokens"), vLLM 0.6
vllm/executor/gpu_executor.py ("# GPU blocks: 123, # CPU blocks: 45"), SGLang 0.5 sglang/srt/managers/scheduler.py
("max_total_num_tokens=1234") and TensorRT-LLM cpp/tensorrt_llm/batch_manager/kvCacheManager.cpp ("Allocated 1.28 GiB
for max tokens in paged KV cache (5248)").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from apex_sim.errors import InputError
from apex_sim.files import read_text

_TOKENS: Final = re.compile(
    r"GPU KV cache size: ([\d,]{1,20}) tokens|max_total_num_tokens=(\d{1,18})\b"
    r"|for max tokens in paged KV cache \((\d{1,18})\)"
)
_BLOCKS: Final = re.compile(r"# (?:GPU|CUDA|cuda) blocks: (\d{1,15}),")
#: Ranks of one server differ by a few blocks; two servers differ by more.
_SAME_SERVER_FRAC: Final = 0.02


@dataclass(frozen=True, slots=True)
class LoggedPool:
    """The KV pool of one engine: in tokens or in blocks, as its log says."""

    where: str
    n_tokens: int | None
    n_blocks: int | None


def read_engine_log(path: Path) -> LoggedPool:
    """Return the pool that the log states; the smallest of its ranks.

    Raises
    ------
    InputError : no such line, more than 64 MiB, or pools that differ by more than the ranks of one server do.
    """
    text = read_text(path)
    tokens = [int("".join(match).replace(",", "")) for match in _TOKENS.findall(text)]
    blocks = [int(match) for match in _BLOCKS.findall(text)]
    found = [number for number in tokens or blocks if number]
    if not found:
        raise InputError(
            "no line says how large the KV cache is",
            where=str(path),
            remedy="give the start of the log of vLLM, SGLang or TensorRT-LLM",
        )
    if max(found) > min(found) * (1 + _SAME_SERVER_FRAC):
        unit = "tokens" if tokens else "blocks"
        raise InputError(
            f"contradictory: KV caches of {min(found)} and {max(found)} {unit}",
            where=str(path),
            remedy="give the log of one start of one server",
        )
    return LoggedPool(str(path), *((min(found), None) if tokens else (None, min(found))))
