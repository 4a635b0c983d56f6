"""Fit the GEMM form of every device to measured kernel times: `python benchmarks/fit_gemm.py SYSTEMS_DATA_FOLDER`.

Writes `apex_sim/cost/coefficients/<device>/gemm.toml` and prints the held-out errors.  Options: `--device NAME` (may
be repeated) and `--precision NAME`, for some of the tables; the others stay.
"""

from __future__ import annotations

import argparse
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fitting
import kernel_tables
import numpy as np

from apex_sim.cost import coefficient_file
from apex_sim.cost.forms.gemm import GemmCoefficients, gemm_time, quantise_time
from apex_sim.hardware.device import load_device

INF = math.inf
Schedule = tuple[float, ...]


def schedules(
    tile_m: int, tile_n: int, m: tuple[float, float] = (0, INF), n: tuple[float, float] = (0, INF),
    k: tuple[float, float] = (0, INF), splits: tuple[int, ...] = (1,),
) -> list[Schedule]:  # fmt: skip
    """Return the rows of one tile, for sizes above the first and up to the second bound."""
    return [(tile_m, tile_n, split, *m, *n, *k) for split in splits]


#: Libraries that search or rank kernels (cuBLAS and its peers): any tile, any split of k.
TILES = [(16, 64), (16, 128), (32, 64), (32, 128), (64, 64), (64, 128), (64, 256), (128, 64), (128, 128), (128, 256),
         (256, 64), (256, 128)]  # fmt: skip
ANY = [row for tile in TILES for row in schedules(*tile, splits=(1, 2, 3, 4, 6, 8, 16))]
#: The same without a split.
UNSPLIT = [row for row in ANY if row[2] == 1]
#: vLLM's CUTLASS fp8 kernels choose by shape alone: c3x/scaled_mm_sm90_fp8_dispatch.cuh, its sm100 sibling and
#: scaled_mm_c2x_sm89_fp8_dispatch.cuh under csrc/**/quantization/w8a8/cutlass of https://github.com/vllm-project/vllm.
SM90 = [
    *schedules(16, 64, m=(0, 16)),
    *schedules(16, 64, m=(16, 64), n=(0, 1280)),
    *schedules(64, 64, m=(16, 64), n=(1280, INF)),
    *schedules(64, 128, m=(64, 128)),
    *schedules(128, 128, m=(128, 8191)),
    *schedules(128, 128, m=(8191, INF), k=(0, 6143)),
    *schedules(256, 128, m=(8191, INF), k=(6143, INF)),
]
SM100 = [
    *schedules(32, 128, m=(0, 16)),
    *schedules(64, 128, m=(16, 64)),
    *schedules(128, 128, m=(64, 256)),
    *schedules(256, 128, m=(256, INF)),
]
SM89 = [
    *schedules(16, 64, m=(0, 16), n=(0, 8192)),
    *schedules(16, 128, m=(0, 16), n=(8192, 16384)),
    *schedules(32, 64, m=(0, 16), n=(16384, INF)),
    *schedules(32, 64, m=(16, 32), n=(0, 8192)),
    *schedules(32, 128, m=(16, 32), n=(8192, 16384)),
    *schedules(32, 64, m=(16, 32), n=(16384, INF)),
    *schedules(64, 64, m=(32, 64), n=(0, 8192)),
    *schedules(64, 128, m=(32, 64), n=(8192, 16384)),
    *schedules(64, 64, m=(32, 64), n=(16384, INF)),
    *schedules(64, 128, m=(64, 128), n=(0, 8192)),
    *schedules(128, 128, m=(64, 128), n=(8192, 16384)),
    *schedules(128, 64, m=(64, 128), n=(16384, INF)),
    *schedules(64, 128, m=(128, 256), n=(0, 4096)),
    *schedules(128, 128, m=(128, 256), n=(4096, INF)),
    *schedules(128, 128, m=(256, INF), n=(0, 4096)),
    *schedules(256, 128, m=(256, INF), n=(4096, 8192)),
    *schedules(128, 128, m=(256, INF), n=(8192, INF)),
]
FP8_DISPATCH = {"hopper": SM90, "blackwell": SM100, "ada": SM89}
#: FlashInfer's nvfp4 product on SM120 runs one tile unless it is tuned beforehand: csrc/fp4_gemm_cutlass_sm120.cu of
#: https://github.com/flashinfer-ai/flashinfer.
SM120_FP4 = schedules(128, 128)


@dataclass(frozen=True)
class Operands:
    """How a precision is called in the tables, and what its elements weigh."""

    table_name: str
    peak: str
    activation_bytes: float
    weight_bytes: float


#: Scales included: one per 128 values for fp8 blocks (fp32), one byte per 16 for nvfp4, 2 bytes per 128 for int4.
OPERANDS = {
    "bf16": Operands("bfloat16", "bf16", 2.0, 2.0),
    "fp8": Operands("fp8", "fp8", 1.0, 1.0),
    "fp8-block": Operands("fp8_block", "fp8", 1.03125, 1.0),
    "nvfp4": Operands("nvfp4", "fp4", 0.5625, 0.5625),
    "int8": Operands("sq", "int8", 1.0, 1.0),
    "w8a16": Operands("int8_wo", "bf16", 2.0, 1.0),
    "w4a16": Operands("int4_wo", "bf16", 2.0, 0.515625),
}
#: The back ends whose rows are used, in order of preference: what vLLM runs, except that vLLM 0.24's fp8-block rows are
#: bound by the host's launches.
BACKENDS = {
    "bf16": ("vllm",),
    "fp8": ("vllm",),
    "fp8-block": ("sglang", "trtllm"),
    "nvfp4": ("vllm",),
    "int8": ("trtllm",),
    "w8a16": ("trtllm",),
    "w4a16": ("trtllm",),
}
SEARCH: fitting.Search = {
    "launch_s": (2.5e-6, 3e-7, 6e-5),
    "math_frac": (0.85, 0.2, 1.2),
    "tile_exponent": (0.1, 0.005, 1.0),
    "cache_ratio": (3.5, 0.3, 20.0),
    "prologue_k": (60.0, 0.3, 2000.0),
    "tile_s": (3e-7, 1e-8, 1e-5),
    "exposed_frac": (0.3, 0.01, 1.0),
    "split_s": (2.5e-6, 5e-7, 5e-5),
    "split_frac": (0.1, 0.01, 5.0),
    "memory_frac": (0.85, 0.2, 0.95),
    "ramp_bytes": (2e6, 1e3, 5e7),
    "store_frac": (0.2, 1e-3, 2.0),
    "sharpness": (4.0, 1.0, 20.0),
    "cached_ratio": (1.5, 1.0, 8.0),
    "cached_frac": (0.2, 0.03, 1.0),
    "throttle_frac": (0.1, 1e-4, 1.0),
    "spill_frac": (0.2, 1e-3, 2.0),
    "resident_frac": (0.8, 0.5, 1.2),
}
#: What only some tables show, and its size where it is not fitted.
ABSENT = {"settle_s": 5e-4, "settle_exponent": 1.0, "row_spill_frac": 0.0, "padding_ratio": 0.0, "cluster_tiles": 1.0}
#: GB200's clock falls steeply in loops over long kernels, to 0.6 of its rate in bf16 and 0.4 in fp8 blocks.
POWER_LIMIT: fitting.Search = {
    "throttle_frac": (0.4, 1e-4, 3.0),
    "settle_s": (5e-4, 5e-5, 1e-2),
    "settle_exponent": (2.0, 1.0, 5.0),
}
#: A is read again by every wave once it outgrows L2; elsewhere only B shows, or neither.
ROW_SPILL: fitting.Search = {"row_spill_frac": (0.2, 1e-3, 2.0)}
#: Kernels of one fixed tile, whose rows beyond m take longer than real ones.
PADDING: fitting.Search = {"padding_ratio": (0.6, 0.05, 5.0)}
SHOWN: dict[tuple[str, str], fitting.Search] = {
    ("h100-sxm", "fp8"): ROW_SPILL | PADDING,
    ("h200-sxm", "fp8"): ROW_SPILL | PADDING,
    ("gb200", "bf16"): POWER_LIMIT,
    ("gb200", "fp8-block"): POWER_LIMIT,
    ("l40s", "fp8-block"): ROW_SPILL,
    ("rtx-pro-6000", "nvfp4"): ROW_SPILL | PADDING,
}
QUANTISE: fitting.Search = {
    "quantise_row_s": (2e-9, 1e-12, 1e-7),
    "quantise_pass_s": (2e-9, 1e-12, 1e-7),
    "quantise_ratio": (1.0, 0.05, 20.0),
}


def fit_one(data: Path, device_name: str, precision: str) -> dict[str, Any] | None:
    """Return the table of one device and precision, None where nothing was measured."""
    device, operands = load_device(device_name), OPERANDS[precision]
    if operands.peak not in device.peak_flops:
        return None
    found = _rows(data, device_name, precision)
    if found is None:
        return None
    rows, source = found
    reserved = kernel_tables.held_out(rows, "gemm")
    m, n, k = (rows[column].to_numpy(dtype=float) for column in "mnk")
    seconds, work = rows.seconds.to_numpy(), m * n * k
    fixed: dict[str, Any] = {"peak": operands.peak, "activation_bytes": operands.activation_bytes,
                             "weight_bytes": operands.weight_bytes}  # fmt: skip
    quantised = operands.activation_bytes < 2.0 and precision != "int8"  # SmoothQuant's rows start from int8
    search = SEARCH | SHOWN.get((device_name, precision), {}) | (QUANTISE if quantised else {})
    if not quantised:
        fixed |= dict.fromkeys(QUANTISE, 0.0)
    fixed |= {name: size for name, size in ABSENT.items() if name not in search}
    if device.architecture == "hopper" and precision == "fp8":
        fixed["cluster_tiles"] = 2.0

    def predict(options: list[Schedule], values: dict[str, float], which: np.ndarray) -> np.ndarray:
        c = GemmCoefficients(**fixed, schedules=tuple(options), **values)
        product = gemm_time(c, device, m[which], n[which], k[which], cold=False).kernel_s
        return np.asarray(product + quantise_time(c, device, m[which], k[which], cold=False).kernel_s)

    options = _options(device.architecture, precision)
    if options is ANY:
        quick = fitting.Settings(n_starts=2, n_rows=2000)
        rough = fitting.fit(search, lambda v, i: predict(options, v, i), seconds, work, ~reserved, quick)
        options = _used(options, lambda o: predict(o, rough, np.flatnonzero(~reserved)[::7]))
    values = fitting.fit(search, lambda v, i: predict(options, v, i), seconds, work, ~reserved, fitting.Settings())
    test, train = np.flatnonzero(reserved), rows[~reserved]
    held = fitting.errors(
        predict(options, values, test), seconds[test], work[test], kernel_tables.n_families(rows[reserved], "gemm")
    )
    return fitting.table(
        source, "", {"m": m[~reserved], "n": n[~reserved], "k": k[~reserved]}, len(train),
        kernel_tables.n_families(train, "gemm"), held, {**fixed, "schedules": options, **values},
    )  # fmt: skip


def _rows(data: Path, device_name: str, precision: str) -> tuple[Any, str] | None:
    for backend in BACKENDS[precision]:
        found = kernel_tables.load(data, kernel_tables.DEVICES[device_name], "gemm/gemm", backend)
        if found is None:
            continue
        rows, path = found
        rows = rows[rows.gemm_dtype == OPERANDS[precision].table_name]
        if len(rows) > 2000:
            kernel = rows.kernel_source.value_counts().index[0]
            rows = rows[rows.kernel_source == kernel].reset_index(drop=True)
            return rows, f"{kernel_tables.PACKAGE}, {path}, gemm_dtype {OPERANDS[precision].table_name}, {kernel}"
    return None


def _options(architecture: str, precision: str) -> list[Schedule]:
    if (architecture, precision) == ("blackwell-rtx", "nvfp4"):
        return SM120_FP4
    if precision == "fp8":
        return FP8_DISPATCH.get(architecture, UNSPLIT)
    return UNSPLIT if precision in ("fp8-block", "nvfp4") else ANY


def _used(options: list[Schedule], predict: Any) -> list[Schedule]:
    """Return the schedules that earn their place: dropping one must cost somewhere, else it only costs time."""
    kept = list(options)
    times = {row: predict([row]) for row in options}
    best = np.min(np.stack(list(times.values())), axis=0)
    for row in sorted(options, key=lambda row: float(np.mean(times[row] <= best * 1.001))):
        rest = [other for other in kept if other != row]
        if rest and np.mean(np.min(np.stack([times[o] for o in rest]), axis=0) / best - 1.0) < 0.002:
            kept = rest
    return kept


def main() -> None:
    """Fit, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder aiconfigurator_core/systems/data")
    parser.add_argument("--device", action="append", choices=list(kernel_tables.DEVICES))
    parser.add_argument("--precision", action="append", choices=list(OPERANDS))
    arguments = parser.parse_args()
    print(fitting.HEADER)
    devices = arguments.device or kernel_tables.DEVICES
    tables: dict[str, dict[str, Any]] = {}
    for device, precision in itertools.product(devices, arguments.precision or OPERANDS):
        entry = fit_one(arguments.data, device, precision)
        if entry:
            tables.setdefault(device, {})[precision] = entry
            print(fitting.report(device, "gemm", precision, entry), flush=True)
    for device, precisions in tables.items():
        path = coefficient_file.FOLDER / device / "gemm.toml"
        fitting.write(path, "Written by benchmarks/fit_gemm.py; do not edit.", {"gemm": precisions})


if __name__ == "__main__":
    main()
