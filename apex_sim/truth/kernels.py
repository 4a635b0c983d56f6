"""How far are predicted kernel times from measured ones?"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from apex_sim.cost.coefficient_file import calibrated_devices, fitted_precisions
from apex_sim.cost.forms.shares import Floats
from apex_sim.cost.measured.csv_tables import read_csv_tables
from apex_sim.cost.measured.datasheet import datasheet_time
from apex_sim.cost.measured.fitted import fitted_device, form_time, in_fitted_range, load_form
from apex_sim.cost.measured.fitted_table import read_fitted_table
from apex_sim.cost.measured.interpolator import interpolate
from apex_sim.cost.measured.kernel_table import KernelTable, split_precision
from apex_sim.cost.measured.parquet_layouts import LAYOUTS, precisions_of
from apex_sim.cost.measured.parquet_tables import table_devices
from apex_sim.cost.measured.plausibility import Impossible, impossible_rows
from apex_sim.errors import InputError, NoAnswerError, UnknownNameError, UnsupportedError
from apex_sim.hardware.device import Device, device_names, load_device
from apex_sim.truth.held_out import held_out_rows
from apex_sim.truth.kernel_errors import KernelErrors, PooledErrors, errors_of, pooled_errors, work_deciles

CostModelName = Literal["calibrated", "roofline", "measured"]
COST_MODELS: Final[tuple[CostModelName, ...]] = ("calibrated", "roofline", "measured")

#: Told how many tables are done, out of how many.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class KernelScope:
    """What is compared with what.

    Parameters
    ----------
    devices, operators, precisions : the names to keep; None for all that there are.
    engine : "vllm", "sglang/0.5.14"; None for the back end whose kernels were fitted.
    held_out : only the reserved shape families, which nothing was fitted to; else all rows.
    cost_model : what predicts.
    """

    devices: Collection[str] | None = None
    operators: Collection[str] | None = None
    precisions: Collection[str] | None = None
    engine: str | None = None
    held_out: bool = True
    cost_model: CostModelName = "calibrated"

    def keeps(self, table: KernelTable) -> bool:
        """Return whether a table is asked for."""
        wanted = ((self.devices, table.device), (self.operators, table.operator), (self.precisions, table.precision))
        return all(names is None or name in names for names, name in wanted)


@dataclass(frozen=True, slots=True, eq=False)
class ComparedTable:
    """One table's rows with their predictions.

    `in_range` are the rows inside the data that the prediction rests on; `impossible` those that contradict the
    datasheet (they count like all others); `basis` says what predicted.
    """

    table: KernelTable
    predicted_s: Floats
    in_range: NDArray[np.bool_]
    work_s: Floats
    impossible: tuple[Impossible, ...]
    basis: str


@dataclass(frozen=True, slots=True, eq=False)
class KernelValidation:
    """All comparisons; `skipped` says which tables were left out and why, one sentence each."""

    source: str
    scope: KernelScope
    tables: tuple[ComparedTable, ...]
    errors: tuple[KernelErrors, ...]
    pooled: tuple[PooledErrors, ...]
    skipped: tuple[str, ...]


def validate_kernels(
    source: Path, scope: KernelScope | None = None, progress: Progress | None = None
) -> KernelValidation:
    """Compare predicted with measured kernel times.

    Parameters
    ----------
    source : a folder in aiconfigurator-core's layout, or a profile of apex_plus or Vidur in CSV.

    Raises
    ------
    InputError : a table is broken or wrongly scaled; the measured back end is asked about rows that it holds.
    UnknownNameError : a device, operator, precision or cost model that does not exist.
    NoAnswerError : nothing is left to compare.
    """
    scope = scope or KernelScope()
    _check(scope)
    compared, skipped = [], []
    for table in _tables(source, scope, progress):
        try:
            compared.append(_compare(table, scope))
        except UnsupportedError as error:
            skipped.append(f"{table.device} {table.operator} {table.precision}: {error.problem}")
    if not compared:
        raise NoAnswerError(f"{source}: nothing to compare. {' '.join(skipped)}".strip())
    errors = tuple(error for one in compared for error in _errors(one))
    return KernelValidation(str(source), scope, tuple(compared), errors, pooled_errors(errors), tuple(skipped))


def _check(scope: KernelScope) -> None:
    for kind, names, known in (
        ("device", scope.devices, device_names()),
        ("operator", scope.operators, [*LAYOUTS, "send"]),
        ("cost model", [scope.cost_model], COST_MODELS),
    ):
        for name in names or ():
            if name not in known:
                raise UnknownNameError(kind, name, known)
    formats = {name for operator in LAYOUTS for name in precisions_of(operator)}
    for name in scope.precisions or ():
        if split_precision(name)[0] not in formats:
            raise UnknownNameError("precision", name, formats)
    if scope.cost_model == "measured" and not scope.held_out:
        raise InputError(
            "the measured back end returns the rows of its tables, so that comparing all of them says nothing",
            remedy="compare the held-out families, which it then does not see",
        )


def _tables(source: Path, scope: KernelScope, progress: Progress | None) -> Iterator[KernelTable]:
    if not source.is_dir():
        (only,) = scope.devices if scope.devices is not None and len(scope.devices) == 1 else (None,)
        yield from filter(scope.keeps, read_csv_tables(source, only))
        return
    devices = [name for name in table_devices(source, device_names()) if scope.devices is None or name in scope.devices]
    operators = [name for name in LAYOUTS if scope.operators is None or name in scope.operators]
    wanted = [
        (device, operator, precision)
        for device in devices
        for operator in operators
        for precision in _precisions(device, operator)
        if scope.precisions is None or precision in scope.precisions
    ]
    seen = set()
    for done, (device, operator, precision) in enumerate(wanted, start=1):
        table = read_fitted_table(source, load_device(device), operator, precision, scope.engine)
        # A kernel that a fit names is also the main one of its number format, where there is no other.
        if table and (operator, table.source) not in seen:
            seen.add((operator, table.source))
            yield table
        if progress:
            progress(done, len(wanted))


def _precisions(device_name: str, operator: str) -> list[str]:
    """Return the fitted precisions, then the others that tables may have."""
    name = fitted_device(load_device(device_name))
    fitted = fitted_precisions(name, operator) if name in calibrated_devices() else []
    return list(dict.fromkeys([*fitted, *precisions_of(operator)]))


def _compare(table: KernelTable, scope: KernelScope) -> ComparedTable:
    device = load_device(table.device)
    impossible = impossible_rows(table, device)
    reserved = held_out_rows(table)
    asked = table.take(reserved) if scope.held_out else table
    if not len(asked):
        raise UnsupportedError("no shape family of it is held out", remedy="compare all rows")
    predicted_s, in_range, basis = _predict(asked, table.take(~reserved), device, scope.cost_model)
    work = datasheet_time(asked.operator, asked.precision, device, asked.sizes)
    shown = set(asked.rows.tolist())
    return ComparedTable(
        table=asked,
        predicted_s=predicted_s,
        in_range=in_range,
        work_s=np.maximum(work.compute_s, work.memory_s),
        impossible=tuple(row for row in impossible if row.row in shown),
        basis=basis,
    )


def _predict(
    asked: KernelTable, known: KernelTable, device: Device, cost_model: CostModelName
) -> tuple[Floats, NDArray[np.bool_], str]:
    """Return the predicted seconds as a benchmark's loop finds them, which are in range, and on what they rest."""
    n_rows = len(asked)
    if cost_model == "measured":
        if not len(known):
            raise UnsupportedError("every row of it is held out", remedy="use the calibrated back end")
        between = interpolate(known, device)
        time, inside = between.time(asked.sizes, cold=False)
        outside = "its form" if between.fit else "a roofline"
        return time.kernel_s, inside, f"interpolated between {len(known)} rows; outside their hull {outside}"
    if cost_model == "roofline":
        time = datasheet_time(asked.operator, asked.precision, device, asked.sizes)
        return time.kernel_s, np.ones(n_rows, dtype=bool), f"datasheet of {device.name}"
    fit = load_form(device, asked.operator, asked.precision)
    time = form_time(fit, asked.operator, asked.precision, device, asked.sizes, cold=False)
    predicted = fitted_device(device) != device.name
    in_range = in_fitted_range(fit, asked.sizes, n_rows) & (not predicted)
    kernel = "" if predicted or asked.source in fit.source else ", another kernel than measured here"
    scaled = f", with the datasheet of {device.name}" if predicted else ""
    return np.asarray(time.kernel_s), in_range, f"fitted {fit.date} to {fit.source}{scaled}{kernel}"


def _errors(compared: ComparedTable) -> Iterator[KernelErrors]:
    table = compared.table
    everything = np.ones(len(table), dtype=bool)
    parts = {"all": everything, "in range": compared.in_range, "out of range": ~compared.in_range}
    deciles = work_deciles(compared.work_s)
    parts |= {f"decile {number}": deciles == number for number in range(1, 11)}
    names = (table.device, table.operator, table.precision)
    for part, which in parts.items():
        if which.any():
            some = table.take(which)
            yield errors_of(names, part, compared.predicted_s[which], some.seconds, some.n_families())
