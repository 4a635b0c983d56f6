"""Which kernel times does a folder in the layout of aiconfigurator-core hold?

`<folder>/<gpu>/<family>/<back end>/<version>/<operator>_perf.parquet`, one row for each measured shape, `latency` in
milliseconds.  The package aiconfigurator-core (Apache-2.0) ships such a folder; another one of the same layout will do.
pyarrow is imported when a table is read, and only then.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from apex_sim.cost.forms.shares import Floats
from apex_sim.cost.measured.kernel_table import KernelTable, split_precision
from apex_sim.cost.measured.parquet_layouts import (
    CUSTOM_ALL_REDUCE,
    EVERY_GATED,
    GATED_KERNELS,
    KINDS,
    LAYOUTS,
    Columns,
    Layout,
    precisions_of,
)
from apex_sim.errors import InputError, UnknownNameError, UnsupportedError

#: A table of the package has 0.1 million rows; a stranger's must not fill the memory.
MAX_ROWS: Final = 5_000_000
#: Folders of our devices, where the name is not ours with underscores.
_FOLDERS: Final = {
    "h100-sxm": "h100_sxm",
    "h200-sxm": "h200_sxm",
    "b200": "b200_sxm",
    "b300": "b300_sxm",
    "a100-sxm-80gb": "a100_sxm",
    "rtx-pro-6000": "rtx_pro_6000_server",
}
_PACKAGE: Final = "aiconfigurator_core"
#: Wider heads run on other kernels than the table's main one.
_WIDEST_HEAD: Final = 256


def packaged_folder() -> Path:
    """Return the tables of the installed package aiconfigurator-core, which is not imported.

    Raises
    ------
    InputError : it is not installed.
    """
    found = importlib.util.find_spec(_PACKAGE)
    for place in (found.submodule_search_locations or []) if found else []:
        folder = Path(place) / "systems" / "data"
        if folder.is_dir():
            return folder
    raise InputError(
        "no measured kernel tables are installed",
        remedy="run pip install aiconfigurator-core, or give a folder of tables",
    )


def table_devices(folder: Path, known: Sequence[str]) -> list[str]:
    """Return those of the `known` devices that have a folder below `folder`.

    Raises
    ------
    InputError : none of them has one.
    """
    found = [name for name in known if (folder / _device_folder(name)).is_dir()]
    if not found:
        raise InputError(
            "no kernel tables of a known device",
            where=str(folder),
            remedy="give the folder that holds h100_sxm/gemm/vllm/0.24.0/gemm_perf.parquet and its like",
        )
    return found


def _device_folder(device_name: str) -> str:
    return _FOLDERS.get(device_name, device_name.replace("-", "_"))


def read_parquet_table(
    folder: Path, device_name: str, operator: str, precision: str, engine: str | None = None
) -> KernelTable | None:
    """Return the newest table of the preferred back end, its most frequent kernel only; None if nothing was measured.

    Parameters
    ----------
    precision : number format; "fp8-block-triton" asks for the most frequent kernel with that word in its name.
    engine : "vllm", "sglang", "trtllm" or "vllm/0.24.0", in place of the preferred ones.

    Raises
    ------
    UnknownNameError : no such operator or precision.
    InputError : pyarrow is missing, or a table is truncated, lacks a column, or holds a value that cannot be; the
        message names file, row and column.
    """
    if operator not in LAYOUTS:
        raise UnknownNameError("operator", operator, LAYOUTS)
    layout = CUSTOM_ALL_REDUCE if (operator, precision) == ("all_reduce", "vllm") else LAYOUTS[operator]
    number_format, _ = split_precision(precision)
    if number_format not in layout.precisions:
        raise UnknownNameError("precision", precision, precisions_of(operator))
    for back_end in (engine,) if engine else layout.back_ends[number_format]:
        path = _newest(folder / _device_folder(device_name), layout.place, back_end)
        table = path and _read(path, folder, layout, device_name, operator, precision)
        if table and len(table) >= (1 if engine else layout.fewest):
            return table
    return None


def _newest(device_folder: Path, place: str, back_end: str) -> Path | None:
    group, name = place.split("/")
    back_end, _, version = back_end.partition("/")
    found = (device_folder / group / back_end).glob(f"{version or '*'}/{name}_perf.parquet")
    released = [path for path in found if ".dev" not in path.parent.name]
    return max(released, key=lambda p: [int(part) for part in re.findall(r"\d+", p.parent.name)], default=None)


def _read(
    path: Path, folder: Path, layout: Layout, device_name: str, operator: str, precision: str
) -> KernelTable | None:
    texts, numbers = _columns(path, layout)
    number_format, word = split_precision(precision)
    kept = texts[layout.precision_column] == layout.precisions[number_format]
    for column, value in (layout.equal or {}).items():
        kept &= texts[column] == value if column in texts else True
    if "head_dim" in numbers:
        kept &= numbers["head_dim"] <= _WIDEST_HEAD
    if not kept.any():
        return None
    kernel = _kernel(texts["kernel_source"][kept], word)
    which = np.flatnonzero(kept & (texts["kernel_source"] == kernel))
    if not len(which):
        return None
    columns = {name: values[which] for name, values in numbers.items()}
    _check(path, which, columns)
    added = {EVERY_GATED: np.full(len(which), float(kernel in GATED_KERNELS))}
    return KernelTable(
        operator=operator,
        precision=precision,
        device=device_name,
        source=f"{path.relative_to(folder)}, {layout.precision_column} {layout.precisions[number_format]}, {kernel}",
        path=path,
        rows=which + 1,
        sizes=layout.sizes({**dict.fromkeys(layout.optional, np.zeros(len(which))), **added, **columns}),
        seconds=columns["latency"] * 1e-3,
        family={name: columns[name] for name in layout.family if name in columns},
    )


def _kernel(sources: np.ndarray[Any, Any], word: str) -> str:
    """Return the most frequent kernel of those whose name or kind has `word`; "" for none."""
    kernels, counts = np.unique(sources, return_counts=True)
    most_first = kernels[np.argsort(-counts, kind="stable")].tolist()
    return next((name for name in most_first if word in name or word == KINDS.get(name)), "")


def _columns(path: Path, layout: Layout) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, Floats]]:
    """Return the text and the number columns that the layout wants, as far as the file has them."""
    parquet = _pyarrow()
    where = str(path)
    texts = (layout.precision_column, "kernel_source", *(layout.equal or {}))
    try:
        file = parquet.ParquetFile(path)
        if file.metadata.num_rows > MAX_ROWS:
            raise InputError(f"{file.metadata.num_rows} rows, more than {MAX_ROWS}", where=where, remedy="split it")
        missing = {layout.precision_column, "kernel_source", "latency", *layout.needs} - set(file.schema_arrow.names)
        if missing:
            raise InputError(
                f"column {min(missing)!r} is missing",
                where=where,
                remedy="give a table in aiconfigurator-core's layout",
            )
        wanted = [
            name for name in file.schema_arrow.names if name in {*texts, "latency", *layout.needs, *layout.optional}
        ]
        content = file.read(columns=wanted)
        table = {name: content.column(name).to_numpy() for name in wanted}
    except (OSError, ValueError) as error:  # pyarrow's own errors are kinds of both
        raise InputError(
            f"not a readable parquet file: {str(error).splitlines()[0][:120]}", where=where, remedy="fetch it again"
        ) from None
    text = {name: values.astype(str) for name, values in table.items() if name in texts}
    return text, {name: _numbers(path, name, values) for name, values in table.items() if name not in texts}


def _numbers(path: Path, name: str, values: np.ndarray[Any, Any]) -> Floats:
    """Return a column as floats; a routing is its exponent."""
    if name == "distribution":
        kinds, kind_of = np.unique(values.astype(str), return_inverse=True)
        return np.array([_exponent(path, kind) for kind in kinds.tolist()])[kind_of]
    try:
        return values.astype(float)
    except (ValueError, TypeError):
        raise InputError(f"column {name!r} holds no numbers", where=str(path), remedy="mend the table") from None


def _exponent(path: Path, kind: str) -> float:
    if kind == "balanced":
        return 0.0
    try:
        return float(kind.removeprefix("power_law_"))
    except ValueError:
        raise UnsupportedError(
            f"column 'distribution' is {kind[:40]!r}", where=str(path), remedy="give balanced or power_law_EXPONENT"
        ) from None


def _check(path: Path, which: np.ndarray[Any, Any], columns: Columns) -> None:
    """Refuse values that cannot be; where heads, steps and windows may be 0, zero is fine."""
    may_be_zero = ("num_key_value_heads", "step", "window_size", "distribution")
    for name, values in columns.items():
        wrong = ~np.isfinite(values) | ((values < 0) if name in may_be_zero else (values <= 0))
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            raise InputError(
                f"{name} is {values[first]:g}",
                where=f"{path}, row {which[first] + 1}, column {name!r}",
                remedy="correct or remove the row",
            )


def _pyarrow() -> Any:
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UnsupportedError(
            "reading parquet tables needs pyarrow, which is not installed",
            remedy="run pip install 'apex-sim[measured]'",
        ) from None
