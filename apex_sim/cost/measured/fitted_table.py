"""Which table of measured kernels stands behind an operator's price?"""

from __future__ import annotations

import re
from pathlib import Path

from apex_sim.cost.measured.fitted import load_form
from apex_sim.cost.measured.kernel_table import KernelTable
from apex_sim.cost.measured.parquet_tables import read_parquet_table
from apex_sim.errors import UnsupportedError
from apex_sim.hardware.device import Device


def read_fitted_table(
    folder: Path, device: Device, operator: str, precision: str, engine: str | None = None
) -> KernelTable | None:
    """Return the table of the engine asked for, else the one that was fitted, else the preferred one; None if none.

    A table is also of a kernel that nobody serves: the newest one of an engine may hold an untuned kernel, and which
    table describes what runs was decided when the form was fitted.

    Raises
    ------
    UnknownNameError, InputError : as `read_parquet_table`.
    """
    fitted = None if engine else _fitted_engine(device, operator, precision)
    table = read_parquet_table(folder, device.name, operator, precision, fitted) if fitted else None
    return table or read_parquet_table(folder, device.name, operator, precision, engine)


def _fitted_engine(device: Device, operator: str, precision: str) -> str | None:
    """Return "engine/version" of the table that the form was fitted to; None without a fit."""
    try:
        fit = load_form(device, operator, precision)
    except UnsupportedError:
        return None
    found = re.search(r"([^/ ]+/[^/]+)/[^/]+_perf\.parquet", fit.source)
    return found[1] if found else None
