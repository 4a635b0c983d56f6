"""Fit the MoE form of every device to measured kernel times: `python benchmarks/fit_moe.py SYSTEMS_DATA_FOLDER`.

Writes `apex_sim/cost/coefficients/<device>/moe.toml` and prints the held-out errors.  Options: `--device NAME` (may
be repeated) and `--precision NAME`, to see one fit; then nothing is written.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import fitting
import kernel_tables
import numpy as np
import pandas as pd

from apex_sim.cost import coefficient_file
from apex_sim.cost.forms.moe import MoeCoefficients, MoeShape, moe_time
from apex_sim.cost.forms.routing import ExpertLoad, Routing, expert_load
from apex_sim.hardware.device import Device, load_device

FAMILY = ["hidden_size", "inter_size", "topk", "num_experts"]
kernel_tables.FAMILY.setdefault("moe", FAMILY)


@dataclass(frozen=True)
class Operands:
    """How a precision is called in the tables, and what its elements weigh."""

    table_name: str
    peak: str
    activation_bytes: float
    weight_bytes: float


#: Scales included: 2 bytes per 128 for int4, one byte per 32 for mxfp4, one per 16 for nvfp4.
OPERANDS = {
    "bf16": Operands("bfloat16", "bf16", 2.0, 2.0),
    "fp8": Operands("fp8", "fp8", 1.0, 1.0),
    "fp8-block": Operands("fp8_block", "fp8", 1.0, 1.0),
    "nvfp4": Operands("nvfp4", "fp4", 0.5625, 0.5625),
    "w4a16": Operands("int4_wo", "bf16", 2.0, 0.515625),
    "mxfp4": Operands("w4a16_mxfp4", "bf16", 2.0, 0.53125),
    "mxfp4-fp8": Operands("w4a8_mxfp4_mxfp8", "fp8", 1.03125, 0.53125),
}
#: Experts without a gate (two matrices): the Nemotron 3 families; their rates with three would top the datasheet.
UNGATED = [(2688, 1856, 6, 128), (2048, 5120, 22, 512), (1024, 2688, 22, 512)]
#: What a reader of a table should know.
HOPPER_NOTES = {
    "fp8": "TensorRT-LLM's kernel; at EP 1 the Triton kernel of vLLM 0.19 takes 0.9 to 1.0 times as long on an H200",
    "fp8-triton": "what vLLM runs on Hopper; priced without expert parallelism only",
    "fp8-block": "what vLLM runs on Hopper with expert parallelism",
    "fp8-block-triton": "what vLLM runs on Hopper without expert parallelism",
    "bf16-trtllm": "what TensorRT-LLM runs on Hopper",
    "fp8-block-trtllm": "what TensorRT-LLM runs on Hopper",
}


@dataclass(frozen=True)
class Choice:
    """A kernel of another table than vLLM's newest: library and version, kernel, and our name of its fit."""

    back_end: str
    kernel: str
    table: str


_TRTLLM = ("trtllm/1.3.0rc20", "moe_torch_flow_cutlass")
#: Kernels that are fitted on Hopper beside those of vLLM's newest table.
HOPPER_CHOICES = {
    "bf16": (Choice(*_TRTLLM, "bf16-trtllm"),),
    "fp8": (Choice(*_TRTLLM, "fp8"), Choice("vllm/0.19.0", "vllm_fused_moe", "fp8-triton")),
    "fp8-block": (Choice(*_TRTLLM, "fp8-block-trtllm"),),
}
#: Formats for which vLLM 0.24's table on Hopper holds a FlashInfer kernel without its tuned tactics: 3 to 6 times
#: slower than what vLLM 0.19 and TensorRT-LLM run in the same layers, and slower than bf16.
HOPPER_UNTUNED = ("fp8",)
#: Table whose one training family cannot tell pairs from bytes of rows or numbers of experts: these coefficients are
#: those of the same kernel on a device where many families were measured.
BORROWING = "bf16-cutlass"
LENDER = ("rtx-pro-6000", "bf16")
BORROWED = ("pair_s", "local_expert_s", "hit_expert_s", "all_rows_ratio", "own_rows_ratio")
TILES = [(rows, columns) for rows in (16, 32, 64, 128) for columns in (64, 128)]
#: A kernel with fewer training rows is not fitted; the slowdown of odd widths needs this many rows of them.
MIN_ROWS = 700
MIN_MISALIGNED = 40
N_STARTS = 10
SEARCH: fitting.Search = {
    "launch_s": (2e-5, 3e-6, 2e-4),
    "map_s": (1e-5, 1e-7, 1e-4),
    "skipped_tile_s": (2e-7, 1e-10, 5e-6),
    "misaligned_ratio": (1.5, 1.0, 12.0),
    "pair_s": (1e-11, 1e-13, 1e-8),
    "local_expert_s": (1e-9, 1e-11, 1e-6),
    "hit_expert_s": (1e-8, 1e-10, 3e-6),
    "all_rows_ratio": (0.5, 1e-3, 20.0),
    "own_rows_ratio": (0.5, 1e-3, 20.0),
    "math_frac": (0.7, 0.05, 1.2),
    "tile_exponent": (0.2, 0.005, 1.0),
    "cache_ratio": (3.5, 0.2, 20.0),
    "prologue_k": (60.0, 0.3, 3000.0),
    "tile_s": (3e-7, 1e-8, 1e-5),
    "tail_waves": (0.5, 0.01, 1.0),
    "memory_frac": (0.85, 0.05, 0.95),
    "idle_frac": (0.1, 1e-3, 5.0),
    "again_frac": (0.3, 1e-3, 1.0),
    "again_cached_frac": (1.0, 0.05, 10.0),
    "sharpness": (3.0, 1.0, 20.0),
    "cached_ratio": (1.5, 1.0, 12.0),
    "cached_frac": (0.3, 0.03, 1.0),
    "rows_cached_ratio": (1.5, 1.0, 12.0),
    "rows_cached_frac": (0.5, 0.03, 4.0),
    "throttle_frac": (0.1, 1e-4, 1.0),
}


def routing_of(name: str) -> Routing:
    """Return the routing behind a table's `distribution` ("balanced", "power_law_1.2")."""
    return "balanced" if name == "balanced" else float(name.removeprefix("power_law_"))


def loads(rows: pd.DataFrame) -> ExpertLoad:
    """Return the fullest rank's load of every row."""
    parts: dict[str, np.ndarray] = {}
    for key, group in rows.groupby(["num_experts", "topk", "moe_ep_size", "distribution"]):
        n_experts, top_k, ep = (int(str(value)) for value in key[:3])
        load = expert_load(group.num_tokens.to_numpy(float), n_experts, top_k, ep, routing_of(str(key[3])))
        for part in ("n_rows", "n_hit", "n_tiles", "n_fullest_rows", "n_all_hit"):
            value = getattr(load, part)
            target = parts.setdefault(part, np.empty((*value.shape[:-1], len(rows))))
            target[..., group.index] = value
    return ExpertLoad(**parts)


@dataclass(frozen=True)
class Rows:
    """The measured rows of one kernel, as the form wants them."""

    frame: pd.DataFrame
    tokens: np.ndarray
    shape: MoeShape
    load: ExpertLoad

    @property
    def seconds(self) -> np.ndarray:
        """Measured times."""
        return self.frame.seconds.to_numpy()

    @property
    def work(self) -> np.ndarray:
        """Multiplications, to find the largest shapes."""
        return self.load.n_rows * self.shape.hidden_size * self.shape.width * self.shape.n_matrices

    def predict(self, coefficients: MoeCoefficients, device: Device, which: np.ndarray) -> np.ndarray:
        """Return the form's times of the chosen rows."""
        shape = MoeShape(**{field.name: getattr(self.shape, field.name)[which] for field in fields(MoeShape)})
        load = ExpertLoad(**{field.name: getattr(self.load, field.name)[..., which] for field in fields(ExpertLoad)})
        return moe_time(coefficients, device, shape, self.tokens[which], load, cold=False).kernel_s


def rows_of(frame: pd.DataFrame) -> Rows:
    """Return the rows of a table; tables of old collectors hold gated experts only."""
    old = frame.kernel_source.isin(["vllm_fused_moe"]).to_numpy()
    ungated = pd.MultiIndex.from_frame(frame[FAMILY]).isin(UNGATED) & ~old
    ep, tp = frame.moe_ep_size.to_numpy(float), frame.moe_tp_size.to_numpy(float)
    shape = MoeShape(
        hidden_size=frame.hidden_size.to_numpy(float),
        width=frame.inter_size.to_numpy(float) / tp,
        n_experts=frame.num_experts.to_numpy(float),
        top_k=frame.topk.to_numpy(float),
        ep=ep,
        n_matrices=np.where(ungated, 2.0, 3.0),
    )
    return Rows(frame, frame.num_tokens.to_numpy(float), shape, loads(frame))


def kernel_names(sources: pd.Series, precision: str) -> dict[str, str]:
    """Return our table name of each kernel: the precision for the main one, with the kernel's kind for the others.

    The main kernel is the one that runs gpt-oss, else the one with the most rows.
    """
    kernels = list(sources.value_counts().index)
    main = next((kernel for kernel in kernels if "gptoss" in kernel), kernels[0])
    kinds = ("marlin", "cutlass", "modular", "triton")
    others = {k: f"{precision}-{next((kind for kind in kinds if kind in k), 'other')}" for k in kernels if k != main}
    return {main: precision} | others


def fit_kernel(rows: Rows, device: Device, table: str, operands: Operands, source: str) -> dict[str, Any]:
    """Return the table of one kernel.

    Where no family of a kernel is reserved, the error figures come from refits that leave out one family at a time
    (one tensor- and expert-parallel configuration in three, if there is only one family); the note says so.
    """
    frame, work, everything = rows.frame, rows.work, np.arange(len(rows.frame))
    held = kernel_tables.held_out(frame, "moe")
    lent = borrowed(table)
    values = fit_coefficients(rows, device, operands, ~held, N_STARTS, lent)
    predicted, tested, note = np.empty(len(frame)), held, ""
    predicted[:] = rows.predict(MoeCoefficients(**values), device, everything)
    n_families = kernel_tables.n_families(frame[held], "moe")
    if not held.any():
        names, folds = ["family", "families"], frame.groupby(FAMILY).ngroup().to_numpy()
        n_families, tested = folds.max() + 1, np.full(len(frame), True)
        if n_families == 1:
            names = ["parallel configuration in three"] * 2
            folds = frame.groupby(["moe_tp_size", "moe_ep_size"]).ngroup().to_numpy() % 3
        note = f"no family is reserved: errors are those of refits that leave out one {names[0]} at a time"
        for fold in np.unique(folds):
            left = fit_coefficients(rows, device, operands, folds != fold, N_STARTS // 2, lent)
            out = np.flatnonzero(folds == fold)
            predicted[out] = rows.predict(MoeCoefficients(**left), device, out)
    note = "; ".join(
        part for part in (HOPPER_NOTES.get(table, "") if device.architecture == "hopper" else "", note) if part
    )
    if lent:
        note = f"{', '.join(lent)} are those of {LENDER[0]}, where the kernel was fitted to many families"
    errors = fitting.errors(predicted[tested], rows.seconds[tested], work[tested], int(n_families))
    train = frame[~held]
    ranges = {
        "n_tokens": rows.tokens[~held],
        "hidden_size": train.hidden_size.to_numpy(),
        "width": train.inter_size.to_numpy() / train.moe_tp_size.to_numpy(),
        "n_experts": train.num_experts.to_numpy(),
        "top_k": train.topk.to_numpy(),
        "ep": train.moe_ep_size.to_numpy(),
    }
    return fitting.table(source, note, ranges, len(train), kernel_tables.n_families(train, "moe"), errors, values)


def borrowed(table: str) -> dict[str, float]:
    """Return the coefficients that a table takes from another device."""
    if table != BORROWING:
        return {}
    lender = coefficient_file.load_fit(LENDER[0], "moe", LENDER[1], MoeCoefficients).coefficients
    return {name: getattr(lender, name) for name in BORROWED}


def fit_coefficients(
    rows: Rows, device: Device, operands: Operands, train: np.ndarray, n_starts: int, lent: dict[str, float]
) -> dict[str, Any]:
    """Return the coefficients that best explain the training rows."""
    padded = "trtllm" in rows.frame.kernel_source.iloc[0]
    fixed: dict[str, Any] = {
        "peak": operands.peak if operands.peak in device.peak_flops else "bf16",
        "activation_bytes": operands.activation_bytes, "weight_bytes": operands.weight_bytes,
        "padded_to": 128.0 if padded else 1.0, "tiles": tuple(TILES),
    }  # fmt: skip
    search = dict(SEARCH)
    if padded or ((rows.shape.width % 16 != 0) & train).sum() < MIN_MISALIGNED:
        fixed["misaligned_ratio"] = 1.0
        del search["misaligned_ratio"]
    fixed |= lent
    search = {name: bounds for name, bounds in search.items() if name not in lent}

    def predict(values: dict[str, float], which: np.ndarray) -> np.ndarray:
        coefficients: dict[str, Any] = fixed | values
        return rows.predict(MoeCoefficients(**coefficients), device, which)

    settings = fitting.Settings(n_rows=4000, n_starts=n_starts, n_evaluations=40)
    return fixed | fitting.fit(search, predict, rows.seconds, rows.work, train, settings)


def fit_device(data: Path, device_name: str, precisions: list[str]) -> dict[str, dict[str, Any]]:
    """Return the tables of a device's kernels by name, printing each."""
    device = load_device(device_name)
    tables: dict[str, dict[str, Any]] = {}
    for precision in precisions:
        for table, source, frame in chosen_rows(data, device, precision):
            rows = rows_of(frame.reset_index(drop=True))
            reserved = kernel_tables.held_out(rows.frame, "moe")
            if (~reserved).sum() < MIN_ROWS:
                continue
            tables[table] = fit_kernel(rows, device, table, OPERANDS[precision], source)
            print(fitting.report(device_name, "moe", table, tables[table]), flush=True)
    return tables


def chosen_rows(data: Path, device: Device, precision: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield (name of the fit, source, rows) of each kernel to fit: those of vLLM's newest table and those chosen."""
    number_format, hopper = OPERANDS[precision].table_name, device.architecture == "hopper"
    choices = HOPPER_CHOICES.get(precision, ()) if hopper else ()
    back_ends = [] if hopper and precision in HOPPER_UNTUNED else ["vllm"]
    for back_end in dict.fromkeys([*back_ends, *(choice.back_end for choice in choices)]):
        found = kernel_tables.load(data, kernel_tables.DEVICES[device.name], "moe/moe", back_end)
        if found is None:
            continue
        frame, path = found
        frame = frame[frame.moe_dtype == number_format]
        names = {choice.kernel: choice.table for choice in choices if choice.back_end == back_end}
        for kernel, table in (names or kernel_names(frame.kernel_source, precision)).items() if len(frame) else ():
            source = f"{kernel_tables.PACKAGE}, {path}, moe_dtype {number_format}, {kernel}"
            yield table, source, frame[frame.kernel_source == kernel]


def main() -> None:
    """Fit, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder aiconfigurator_core/systems/data")
    parser.add_argument("--device", action="append", choices=list(kernel_tables.DEVICES))
    parser.add_argument("--precision", action="append", choices=list(OPERANDS))
    arguments = parser.parse_args()
    print(fitting.HEADER)
    for device in arguments.device or kernel_tables.DEVICES:
        tables = fit_device(arguments.data, device, arguments.precision or list(OPERANDS))
        if tables and not arguments.precision:
            path = coefficient_file.FOLDER / device / "moe.toml"
            fitting.write(path, "Written by benchmarks/fit_moe.py; do not edit.", {"moe": tables})


if __name__ == "__main__":
    main()
