"""How did trtllm-bench set up the runs of TensorRT-LLM's published throughput tables?

A row of those tables names model, devices and lengths; batch, token budget and the share of memory for keys and values
are the benchmark's choice, and they decide a saturated run as much as kernels do.

0.14 (docs/source/performance/perf-overview.md): `trtllm-bench build` takes batch and budget from a table
(tensorrt_llm/bench/build/benchmark_config.yml, read at commit 8fcf9fc2) and turns paged context attention on; the run
is guaranteed not to evict, cuts prompts to the budget (`chunking` of ExecutorSettingsConfig,
tensorrt_llm/bench/dataclasses/configuration.py) and gives 0.90 of free memory to keys and values.

1.0 (the same page at commit 00f37686): PyTorch back end, CUDA graphs padded to the sizes below, "in many cases" 0.95 of
free memory, prompts whole; batch and budget from the KV capacity (tensorrt_llm/bench/build/tuning.py
`calc_engine_setting` and `finetune_setting`; tensorrt_llm/bench/benchmark/utils/general.py `get_settings`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Final

from apex_sim.hardware.device import Device
from apex_sim.model.attention import AttentionCell
from apex_sim.model.cells import MoeCell
from apex_sim.model.model import Model
from apex_sim.plan.precision import Precision
from apex_sim.preset.preset import Preset
from apex_sim.truth.case import Case, EngineSettings
from apex_sim.units import BYTES_PER_NUMBER

#: By model family and TP: max_batch_size and max_num_tokens; 0 tokens stand for any length, and a plan without an entry
#: takes that of the family's largest TP.
_BUILDS: Final = {
    ("llama-70b", 1): {0: (2048, 2048)},
    ("llama-70b", 2): {0: (256, 1024), 4096: (2048, 1024)},
    ("llama-70b", 4): {0: (2048, 1024)},
    ("llama-70b", 8): {0: (8192, 16_384)},
    ("llama-8b", 1): {0: (2048, 8192)},
    ("mixtral", 2): {0: (2048, 3072)},
    ("mixtral", 4): {0: (8192, 8192)},
}
_GRAPH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 384, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True, slots=True)
class BenchRun:
    """Settings of a row where the benchmark chose them, the preset with its graphs, and what to say of both."""

    settings: EngineSettings
    preset: Preset
    policy: str | None
    notes: tuple[str, ...]


def bench_run(case: Case, preset: Preset, model: Model, device: Device, precision: Precision) -> BenchRun | None:
    """Return how trtllm-bench ran `case`; None if it is no offline run of TensorRT-LLM with known lengths."""
    load, tp = case.load, case.deployment.tp
    if preset.engine != "trtllm" or load.load_kind != "offline" or not (load.isl_tokens and load.osl_tokens):
        return None
    isl_tokens, osl_tokens = load.isl_tokens, load.osl_tokens
    if preset.ranks is None:  # the C++ runtime
        n_seqs, budget, whose = _build(model, tp, isl_tokens + osl_tokens)
        share_frac, policy = 0.90, "no-evict-chunked"
    else:
        share_frac, policy, whose = 0.95, "no-evict", "from the KV capacity, tensorrt_llm/bench/build/tuning.py"
        n_seqs, budget = _tuned(model, device, precision, tp, isl_tokens, osl_tokens, share_frac)
        graphs = replace(preset.graphs, sizes=_GRAPH_SIZES, pads=True)
        defaults = tuple(replace(entry, max_graph_sequences=None) for entry in preset.defaults)
        preset = replace(preset, graphs=graphs, defaults=defaults)
    every: dict[str, Any] = {
        "max_num_seqs": n_seqs,
        "max_num_batched_tokens": budget,
        "max_model_len": isl_tokens + osl_tokens,
        "gpu_memory_utilization_frac": share_frac,
    }
    chosen = {name: value for name, value in every.items() if getattr(case.settings, name) is None}
    notes = [f"{name}: trtllm-bench's choice, {value}" for name, value in chosen.items()]
    notes.append(f"batch and budget of trtllm-bench: {whose}")
    chunks = case.settings.chunked_prefill is None
    if chunks:
        notes.append(f"chunked_prefill: trtllm-bench's choice, {policy}")
    return BenchRun(replace(case.settings, **chosen), preset, policy if chunks else None, tuple(notes))


def _build(model: Model, tp: int, n_tokens: int) -> tuple[int, int, str]:
    """Return max_batch_size, max_num_tokens and where they stand, for an engine that holds `n_tokens` a request."""
    family = _family(model)
    known = [n for name, n in _BUILDS if name == family]
    row = tp if tp in known else max(known)
    entry = _BUILDS[family, row]
    source = f"benchmark_config.yml, {family} tp{row}_pp1"
    return *entry.get(n_tokens, entry[0]), source if row == tp else f"{source}, which has no tp{tp}_pp1"


def _family(model: Model) -> str:
    """Return under which of the benchmark's models this one was built."""
    if any(isinstance(layer.ffn, MoeCell) for layer in model.layers):
        return "mixtral"
    return "llama-70b" if model.n_params > 3e10 else "llama-8b"


def _tuned(
    model: Model, device: Device, precision: Precision, tp: int, isl_tokens: int, osl_tokens: int, share_frac: float
) -> tuple[int, int]:
    """Return max_batch_size and max_num_tokens: what the KV cache would hold, rounded up.

    Prompts are not cut, so that the budget holds a prompt beside a full batch.
    """
    weight_bytes = model.n_params * BYTES_PER_NUMBER[precision.weight]
    cells = [layer.attention for layer in model.layers]
    kv_numbers = sum(2 * max(tp, cell.n_kv_heads) * cell.head_dim for cell in cells if isinstance(cell, AttentionCell))
    free_bytes = device.memory_bytes * tp - weight_bytes
    n_requests = share_frac * free_bytes / (kv_numbers * precision.kv_bytes() * (isl_tokens + osl_tokens))
    n_seqs = min(n_requests, 4096)
    n_tokens = min(n_seqs * (1 + isl_tokens / osl_tokens), 32_768)
    if n_seqs < 256:
        batch = max(64, 32 * ceil(n_seqs / 32))
    elif n_seqs < 1024:
        batch = 128 * ceil(n_seqs / 128)
    else:
        batch = 256 * ceil(n_seqs / 256)
    if n_tokens < 4096:
        budget = max(2048, 256 * ceil(n_tokens / 256))
    elif n_tokens < 8192:
        budget = 512 * ceil(n_tokens / 512)
    else:
        budget = 1024 * ceil(n_tokens / 1024)
    return batch, max(budget, isl_tokens + batch)
