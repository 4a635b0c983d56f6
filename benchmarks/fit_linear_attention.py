"""Fit linear attention (gated delta rule): `python benchmarks/fit_linear_attention.py SYSTEMS_DATA_FOLDER`.

Writes `apex_sim/cost/coefficients/<device>/linear_attention.toml` and prints the held-out errors: one pair of key and
value heads in five.  `--device NAME` (may be repeated) limits the devices.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import fitting
import kernel_tables
import numpy as np
import pandas as pd

from apex_sim.cost import coefficient_file
from apex_sim.cost.forms.linear_attention import (
    LinearDecodeCoefficients,
    LinearHeads,
    LinearPrefillCoefficients,
    decode_work,
    linear_decode_time,
    linear_prefill_time,
    prefill_work,
)
from apex_sim.hardware.device import load_device

DECODE: fitting.Search = {
    "launch_s": (6e-6, 1e-6, 5e-5),
    "state_frac": (0.45, 0.1, 0.95),
    "conv_frac": (0.6, 0.1, 0.95),
    "cached_ratio": (2.0, 1.0, 8.0),
    "cached_frac": (0.5, 0.05, 2.0),
}
PREFILL: fitting.Search = {
    "launch_s": (1e-5, 1e-6, 1e-4),
    "unit_s": (6e-6, 1e-7, 1e-4),
    "chunk_s": (3e-6, 1e-7, 5e-5),
    "crowd_frac": (0.1, 1e-3, 1.0),
    "sms_frac": (0.98, 0.5, 8.0),
    "token_bytes": (500.0, 10.0, 20_000.0),
    "conv_frac": (0.6, 0.1, 0.95),
    "cached_ratio": (1.5, 1.0, 8.0),
    "cached_frac": (0.7, 0.05, 2.0),
    "sharpness": (3.0, 1.0, 20.0),
}
SHAPE = ["num_k_heads", "num_v_heads", "head_k_dim", "head_v_dim", "d_conv", "batch_size", "seq_len"]
FAMILY = "linear_attention"


def rows_of(data: Path, device_name: str, phase: str) -> tuple[pd.DataFrame, str] | None:
    """Return one row for each shape, the time of convolution and rule together; the median over equal shapes."""
    found = kernel_tables.load(data, kernel_tables.DEVICES[device_name], "linear_attention/gdn", "vllm")
    if found is None:
        return None
    rows, path = found
    rows = rows[rows.phase == phase]
    times = rows.groupby([*SHAPE, "kernel_source"]).seconds.median().unstack()
    times = times.dropna()  # both kernels were measured
    names = " and ".join(times.columns)
    return times.sum(axis=1).rename("seconds").reset_index(), f"{kernel_tables.PACKAGE}, {path}, {names}"


def _heads(rows: pd.DataFrame, which: np.ndarray) -> LinearHeads:
    columns = (rows[name].to_numpy(float)[which] for name in SHAPE[:5])
    return LinearHeads(*columns)  # type: ignore[arg-type]


def fit_one(data: Path, device_name: str, phase: str) -> dict[str, Any] | None:
    """Return the table of one fit, None without data."""
    found = rows_of(data, device_name, phase)
    if found is None:
        return None
    (rows, source), device = found, load_device(device_name)
    n, seconds = rows.batch_size.to_numpy(float), rows.seconds.to_numpy()
    tokens, every = n * rows.seq_len.to_numpy(float), np.arange(len(rows))

    def predict(values: dict[str, float], which: np.ndarray) -> np.ndarray:
        heads = _heads(rows, which)
        if phase == "generation":
            c = LinearDecodeCoefficients(**values)
            return np.asarray(linear_decode_time(c, device, heads, n[which], cold=False).kernel_s)
        p = LinearPrefillCoefficients(**values)
        return np.asarray(linear_prefill_time(p, device, heads, tokens[which], n[which]).kernel_s)

    heads = _heads(rows, every)
    work = decode_work(heads, n)[1] if phase == "generation" else prefill_work(heads, tokens, n)[0]
    held = kernel_tables.held_out(rows, FAMILY)
    search = DECODE if phase == "generation" else PREFILL
    values = fitting.fit(search, predict, seconds, np.asarray(work), ~held, fitting.Settings())
    test, train = np.flatnonzero(held), rows[~held]
    errors = fitting.errors(
        predict(values, test), seconds[test], np.asarray(work)[test], kernel_tables.n_families(rows[held], FAMILY)
    )
    ranges = {name: train[name].to_numpy(float) for name in SHAPE[:-1]} | {"n_tokens": tokens[~held]}
    note = "convolution and delta rule together; states in bf16"
    return fitting.table(source, note, ranges, len(train), kernel_tables.n_families(train, FAMILY), errors, values)


def main() -> None:
    """Fit, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder aiconfigurator_core/systems/data")
    parser.add_argument("--device", action="append", choices=list(kernel_tables.DEVICES))
    arguments = parser.parse_args()
    print(fitting.HEADER)
    for device in arguments.device or kernel_tables.DEVICES:
        tables: dict[str, dict[str, Any]] = {}
        for operator, phase in (("linear_decode", "generation"), ("linear_prefill", "context")):
            entry = fit_one(arguments.data, device, phase)
            if entry is not None:
                tables[operator] = {"bf16": entry}
                print(fitting.report(device, operator, "bf16", entry), flush=True)
        if tables:
            path = coefficient_file.FOLDER / device / "linear_attention.toml"
            fitting.write(path, "Written by benchmarks/fit_linear_attention.py; do not edit.", tables)


if __name__ == "__main__":
    main()
