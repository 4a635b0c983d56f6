"""Fit the attention forms to measured kernel times: `python benchmarks/fit_attention.py SYSTEMS_DATA_FOLDER`.

Writes `apex_sim/cost/coefficients/<device>/attention.toml` and prints the held-out errors.  Options: `--device NAME`,
`--operator NAME` and `--table NAME` (all may be repeated), for some of the tables; the others stay.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fitting
import kernel_tables
import latent_kernels
import numpy as np
import pandas as pd

from apex_sim.cost import coefficient_file
from apex_sim.cost.forms.decode_attention import DecodeCoefficients, decode_attention_time
from apex_sim.cost.forms.mla_attention import LatentDecodeCoefficients, mla_decode_time, mla_prefill_time
from apex_sim.cost.forms.prefill_attention import (
    Heads,
    PrefillCoefficients,
    prefill_attention_time,
    uniform_batch,
)
from apex_sim.hardware.device import load_device

INF = math.inf

#: Catalogue precision of the cache, its name in the tables and the bytes of one cached number.
CACHES = {"bf16-kv": ("bfloat16", 2.0), "fp8-kv": ("fp8", 1.0)}
#: Engines whose kernels differ from vLLM's on the same device, and by operator the caches that are fitted for them as
#: "<cache>-<engine>".  In decode with a bf16 cache TensorRT-LLM's kernel takes within 5 % as long from 256 sequences
#: on, and the form describes it worse than vLLM's fit does.
OTHER_ENGINES = ("trtllm",)
OTHER_CACHES = {"prefill_attention": ("bf16-kv", "fp8-kv"), "decode_attention": ("fp8-kv",)}
#: Largest head that the tables' main kernels serve; wider ones run on other kernels.
WIDEST_HEAD = 256
#: Smaller tables are not fitted.
FEWEST_ROWS = 400
#: The kernel tables of latent attention; vLLM has only whole modules with their projections.  TRT-LLM prefills with
#: expanded heads, as vLLM does, and SGLang on the latent.  In decode on Hopper SGLang runs FlashAttention-3, as vLLM
#: does, but converts an fp8 cache ahead of each launch; TRT-LLM's fp8 kernel differs from its bf16 one by as much as
#: vLLM's modules do.
MLA_PREFILL_BACKENDS = ("trtllm", "sglang")
MLA_DECODE_BACKENDS = ("sglang", "trtllm")

PREFILL: fitting.Search = {
    "launch_s": (1e-5, 5e-7, 1e-4),
    "math_frac": (0.65, 0.1, 1.2),
    "narrow_exponent": (0.4, 0.01, 3.0),
    "wide_exponent": (0.1, 0.01, 3.0),
    "tile_s": (1e-6, 1e-8, 2e-5),
    "mask_frac": (0.5, 0.01, 3.0),
    "tail_frac": (0.5, 0.01, 1.0),
    "memory_frac": (0.8, 0.05, 0.95),
    "sharpness": (2.0, 1.0, 20.0),
    "append_token_s": (5e-9, 1e-12, 1e-7),
    "append_exponent": (2.0, 0.1, 3.0),
    "append_frac": (0.5, 0.02, 0.95),
    "window_tiles": (2.0, 0.01, 60.0),
    "cached_ratio": (1.5, 1.0, 8.0),
    "cached_frac": (0.7, 0.05, 2.0),
    "throttle_frac": (0.05, 1e-4, 1.0),
    "split_s": (3e-6, 1e-8, 3e-5),
}
DECODE: fitting.Search = {
    "launch_s": (9e-6, 5e-7, 1e-4),
    "unit_s": (3e-6, 1e-8, 5e-5),
    "first_frac": (0.5, 0.01, 1.0),
    "block_s": (5e-7, 1e-9, 1e-5),
    "math_frac": (0.4, 0.005, 1.5),
    "blocks_per_sm": (1.0, 0.5, 4.0),
    "part_keys": (500.0, 32.0, 8192.0),
    "least_rows": (32.0, 1.0, 128.0),
    "repack_s": (1e-6, 1e-9, 2e-5),
    "plan_s": (1e-8, 1e-11, 1e-7),
    "split_s": (1e-6, 1e-8, 5e-5),
    "part_s": (1e-8, 1e-10, 1e-6),
    "memory_frac": (0.9, 0.2, 0.95),
    "ramp_bytes": (1e6, 1e3, 2e7),
    "narrow_exponent": (0.05, 0.001, 3.0),
    "sharpness": (3.0, 1.0, 20.0),
    "query_frac": (0.5, 0.02, 2.0),
    "window_s": (1e-6, 1e-9, 2e-5),
    "window_keys": (100.0, 1.0, 600.0),
    "window_unit_s": (1e-6, 1e-9, 2e-5),
    "cached_ratio": (2.0, 1.0, 8.0),
    "cached_frac": (0.8, 0.05, 2.0),
}


@dataclass(frozen=True)
class Problem:
    """Rows to fit, and the form that predicts them; `weight` finds the rows that the fit sees more of, else `work`."""

    rows: pd.DataFrame
    source: str
    family: str
    search: fitting.Search
    predict: fitting.Predict
    work: np.ndarray
    sizes: list[str]
    fixed: dict[str, Any]
    settings: fitting.Settings = field(default_factory=fitting.Settings)
    weight: np.ndarray | None = None


def prefill(data: Path, device_name: str, cache: str) -> Problem | None:
    """Return the prefill rows of the kernel that vLLM, or the engine named with the cache, runs most."""
    cache, engine = _engine(cache)
    found = _rows(data, device_name, "attention/context_attention", cache, (engine,))
    if found is None:
        return None
    rows, source = found
    device = load_device(device_name)
    b, s, past, window = (_column(rows, name) for name in ("batch_size", "isl", "step", "window_size"))
    heads, batch = _heads(rows, CACHES[cache][1]), uniform_batch(b, s, past, window)
    windowed = (window > 0) & (s + past > window)
    # FlashAttention-3 packs grouped heads and splits the keys of few tiles: should_pack_gqa and num_splits_heuristic of
    # hopper/heuristics.h in https://github.com/Dao-AILab/flash-attention.
    flash3 = "fa3" in source
    fixed = {"packs_heads": flash3, "split_below": 0.8 if flash3 else 0.0}

    def predict(values: dict[str, float], i: np.ndarray) -> np.ndarray:
        part = type(batch)(*(np.asarray(v)[i] for v in _fields(batch)))
        some = Heads(heads.n_q_heads[i], heads.n_kv_heads[i], heads.head_dim[i], heads.kv_bytes)
        return np.asarray(
            prefill_attention_time(PrefillCoefficients(**fixed, **values), device, part, some, windowed[i]).kernel_s
        )

    work = np.asarray(batch.pairs) * heads.n_q_heads * heads.head_dim
    sizes = ["batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim", "window_size"]
    return Problem(rows, source, "context_attention", PREFILL, predict, work, sizes, fixed)


def decode(data: Path, device_name: str, cache: str) -> Problem | None:
    """Return the decode rows of the kernel that vLLM, or the engine named with the cache, runs most.

    The cache holds isl + step keys.
    """
    cache, engine = _engine(cache)
    found = _rows(data, device_name, "attention/generation_attention", cache, (engine,))
    if found is None:
        return None
    rows, source = found
    device, heads = load_device(device_name), _heads(rows, CACHES[cache][1])
    b, context, window = (
        _column(rows, "batch_size"),
        _column(rows, "isl") + _column(rows, "step"),
        _column(rows, "window_size"),
    )
    beyond = ((window > 0) & (context > window)).astype(float)
    # FlashAttention-3 plans the split of up to 992 sequences on the GPU (prepare_varlen_num_blocks).
    # vLLM's FlashAttention-2 packs grouped heads by a copy, and neither packs nor splits with a window or without GQA.
    flash2 = "fa2" in source or source.endswith("vllm_flash_attn")
    fixed = {"packs_always": not flash2, "plan_upto": 992.0 if "fa3" in source else INF}
    seen = np.where(beyond > 0, window, context) * b

    def predict(values: dict[str, float], i: np.ndarray) -> np.ndarray:
        some = Heads(heads.n_q_heads[i], heads.n_kv_heads[i], heads.head_dim[i], heads.kv_bytes)
        c = DecodeCoefficients(**fixed, **values)
        return np.asarray(
            decode_attention_time(c, device, b[i], seen[i], some, window[i] > 0, beyond[i], cold=False).kernel_s
        )

    work = seen * heads.n_kv_heads * heads.head_dim
    sizes = ["batch_size", "step", "num_heads", "num_key_value_heads", "head_dim", "window_size"]
    return Problem(rows, source, "generation_attention", DECODE, predict, work, sizes, fixed)


def _engine(cache: str) -> tuple[str, str]:
    """Return the cache's format and the engine of a table's name."""
    for engine in OTHER_ENGINES:
        if cache.endswith(f"-{engine}"):
            return cache.removesuffix(f"-{engine}"), engine
    return cache, "vllm"


def _fields(value: Any) -> list[Any]:
    return [getattr(value, name) for name in value.__dataclass_fields__]


def _column(rows: pd.DataFrame, name: str) -> np.ndarray:
    return rows[name].to_numpy(dtype=float) if name in rows else np.zeros(len(rows))


def _heads(rows: pd.DataFrame, kv_bytes: float) -> Heads:
    q, kv = _column(rows, "num_heads"), _column(rows, "num_key_value_heads")
    return Heads(q, np.where(kv > 0, kv, q), _column(rows, "head_dim"), kv_bytes)


def _rows(
    data: Path, device_name: str, table: str, cache: str, backends: tuple[str, ...]
) -> tuple[pd.DataFrame, str] | None:
    """Return the first back end's rows with bf16 attention arithmetic, those of the most frequent kernel."""
    for backend in backends:
        found = kernel_tables.load(data, kernel_tables.DEVICES[device_name], table, backend)
        if found is None:
            continue
        rows, path = found
        kept = rows.kv_cache_dtype == CACHES[cache][0]
        for column in ("attn_dtype", "mla_dtype"):
            kept &= rows[column] == "bfloat16" if column in rows else True
        rows = rows[kept & (rows.head_dim <= WIDEST_HEAD)] if "head_dim" in rows else rows[kept]
        if len(rows) < FEWEST_ROWS:
            continue
        kernel = rows.kernel_source.value_counts().index[0]
        rows = rows[rows.kernel_source == kernel].reset_index(drop=True)
        return rows, f"{kernel_tables.PACKAGE}, {path}, kv_cache_dtype {CACHES[cache][0]}, {kernel}"
    return None


def mla_prefill(data: Path, device_name: str, cache: str) -> Problem | None:
    """Return the prefill rows of latent attention."""
    found = _rows(data, device_name, "mla/context_mla", cache, MLA_PREFILL_BACKENDS)
    if found is None:
        return None
    rows, source = found
    device, h = load_device(device_name), _column(rows, "num_heads")
    fixed = {"packs_heads": False, "split_below": 0.0}
    batch = uniform_batch(_column(rows, "batch_size"), _column(rows, "isl"), _column(rows, "step"))

    def predict(values: dict[str, float], i: np.ndarray) -> np.ndarray:
        part = type(batch)(*(np.asarray(v)[i] for v in _fields(batch)))
        return np.asarray(mla_prefill_time(PrefillCoefficients(**fixed, **values), device, part, h[i]).kernel_s)

    work = np.asarray(batch.pairs) * h
    return Problem(rows, source, "mla", PREFILL, predict, work, ["batch_size", "isl", "num_heads"], fixed)


def mla_decode(data: Path, device_name: str, cache: str) -> Problem | None:
    """Return the decode rows of latent attention."""
    converts = load_device(device_name).architecture == "hopper" and cache == "fp8-kv"
    backends = MLA_DECODE_BACKENDS[1:] if converts else MLA_DECODE_BACKENDS
    found = _rows(data, device_name, "mla/generation_mla", cache, backends)
    if found is None:
        return None
    rows, source = found
    if "triton" in source:  # one head alone runs another kernel
        rows = rows[rows.num_heads > 1].reset_index(drop=True)
    device, h, b = load_device(device_name), _column(rows, "num_heads"), _column(rows, "batch_size")
    context = b * (_column(rows, "isl") + _column(rows, "step"))
    fixed = latent_kernels.layout(source, device.architecture)

    def predict(values: dict[str, float], i: np.ndarray) -> np.ndarray:
        parameters: dict[str, Any] = values | fixed
        c = LatentDecodeCoefficients(**parameters)
        time = mla_decode_time(c, device, b[i], context[i], h[i], CACHES[cache][1], cold=False)
        return np.asarray(time.kernel_s)

    search = {name: bounds for name, bounds in latent_kernels.SEARCH.items() if name not in fixed}
    sizes = ["batch_size", "step", "num_heads"]
    # Long contexts of all numbers of heads alike: with few heads they are bound by memory, with many by arithmetic.
    return Problem(rows, source, "mla", search, predict, context * h, sizes, fixed, latent_kernels.SETTINGS, context)


OPERATORS: dict[str, Callable[[Path, str, str], Problem | None]] = {
    "prefill_attention": prefill,
    "decode_attention": decode,
    "mla_prefill_attention": mla_prefill,
    "mla_decode_attention": mla_decode,
}


def fit_one(problem: Problem) -> dict[str, Any]:
    """Return the table of one fit."""
    rows, seconds = problem.rows, problem.rows.seconds.to_numpy()
    reserved = kernel_tables.held_out(rows, problem.family)
    weight = problem.work if problem.weight is None else problem.weight
    values = fitting.fit(problem.search, problem.predict, seconds, weight, ~reserved, problem.settings)
    test, train = np.flatnonzero(reserved), rows[~reserved]
    held = fitting.errors(
        problem.predict(values, test), seconds[test], problem.work[test],
        kernel_tables.n_families(rows[reserved], problem.family),
    )  # fmt: skip
    ranges = {name: train[name].to_numpy(dtype=float) for name in problem.sizes if name in train}
    families = kernel_tables.n_families(train, problem.family)
    return fitting.table(problem.source, "", ranges, len(train), families, held, {**problem.fixed, **values})


def main() -> None:
    """Fit, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder aiconfigurator_core/systems/data")
    parser.add_argument("--device", action="append", choices=list(kernel_tables.DEVICES))
    parser.add_argument("--operator", action="append", choices=list(OPERATORS))
    parser.add_argument("--table", action="append")
    arguments = parser.parse_args()
    print(fitting.HEADER)
    for device in arguments.device or kernel_tables.DEVICES:
        tables: dict[str, dict[str, Any]] = {}
        for operator in arguments.operator or OPERATORS:
            others = [f"{cache}-{engine}" for cache in OTHER_CACHES.get(operator, ()) for engine in OTHER_ENGINES]
            for cache in (*CACHES, *others):
                if arguments.table and cache not in arguments.table:
                    continue
                problem = OPERATORS[operator](arguments.data, device, cache)
                if problem is None:
                    continue
                entry = fit_one(problem)
                tables.setdefault(operator, {})[cache] = entry
                print(fitting.report(device, operator, cache, entry), flush=True)
        if tables:
            path = coefficient_file.FOLDER / device / "attention.toml"
            fitting.write(path, "Written by benchmarks/fit_attention.py; do not edit.", tables)


if __name__ == "__main__":
    main()
