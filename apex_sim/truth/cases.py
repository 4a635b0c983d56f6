"""Which measured cases does a CSV hold?  One row each; columns: docs/design.md, section 8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from apex_sim.errors import InputError
from apex_sim.truth.case import LOAD_KINDS, MEASURED, Case, Deployment, EngineSettings, OfferedLoad
from apex_sim.truth.column_unit import require_known_units
from apex_sim.workload.cell import MAX_NAME_CHARS, real, whole
from apex_sim.workload.trace_file import columns_of, rows

MAX_CASES: Final = 100_000
#: Beyond any time, rate or power of a server, and its inverse below any.
_LARGEST: Final = 1e12


@dataclass(frozen=True, slots=True)
class CaseFile:
    """All cases of a file; `notes` names the columns that were absent or not used."""

    path: Path
    cases: tuple[Case, ...]
    notes: tuple[str, ...]


Parser = Callable[[str], Any]


def _text(cell: str) -> str:
    if len(cell) > MAX_NAME_CHARS:
        raise ValueError(f"longer than {MAX_NAME_CHARS} characters")
    return cell


def _count(cell: str) -> int:
    number = whole(cell)
    if number < 1:
        raise ValueError("not a whole number above 0")
    return number


def _natural(cell: str) -> int:
    number = whole(cell)
    if number < 0:
        raise ValueError("not a whole number of 0 or more")
    return number


def _flag(cell: str) -> int:
    number = whole(cell)
    if number not in (0, 1):
        raise ValueError("not 0 or 1")
    return number


def _positive(cell: str) -> float:
    number = real(cell)
    if number <= 0:
        raise ValueError("not above 0")
    if not 1 / _LARGEST <= number <= _LARGEST:
        raise ValueError(f"not from {1 / _LARGEST:g} to {_LARGEST:g}, as every measured value is")
    return number


def _share(cell: str) -> float:
    number = real(cell)
    if not 0 <= number <= 1:
        raise ValueError("not a share from 0 to 1")
    return number


def _positive_share(cell: str) -> float:
    number = _share(cell)
    if not number:
        raise ValueError("not above 0")
    return number


def _load_kind(cell: str) -> str:
    if cell not in LOAD_KINDS:
        raise ValueError(f"not one of {', '.join(LOAD_KINDS)}")
    return cell


_PARSERS: Final[dict[str, Parser]] = {
    **dict.fromkeys(("n_devices", "tp", "pp", "ep", "dp"), _count),
    **dict.fromkeys(("max_model_len", "max_num_seqs", "max_num_batched_tokens", "block_size", "n_gpu_blocks"), _count),
    **dict.fromkeys(("isl_tokens", "osl_tokens", "concurrency", "n_requests"), _count),
    **dict.fromkeys(("n_warmup", "seed"), _natural),
    **dict.fromkeys(("attention_dp", "chunked_prefill", "prefix_cache", "cuda_graphs", "async_scheduling"), _flag),
    "custom_all_reduce": _flag,
    "gpu_memory_utilization_frac": _positive_share,
    "length_low_frac": _share,
    "rate_per_s": _positive,
    "load_kind": _load_kind,
    **dict.fromkeys(MEASURED, _positive),
    "noise_frac": _share,
}
_COLUMNS: Final = (
    "case_id",
    "source",
    *(field.name for part in (Deployment, EngineSettings, OfferedLoad) for field in fields(part)),
    *MEASURED,
    "noise_frac",
    "note",
)
#: Without these a row says neither what ran nor how.
_REQUIRED: Final = ("case_id", "source", "engine", "engine_version", "model", "device", "tp")


def read_cases(path: Path) -> CaseFile:
    """Return the measured cases of the CSV at `path`.

    Columns beyond the known ones are ignored, absent ones are read as empty; both are noted.

    Raises
    ------
    InputError : not a CSV, no case, a required column or cell missing, no measured column at all, a value that cannot
        be (a negative latency, a flag other than 0 and 1, a quantile below a smaller one, E2E below TTFT), a known
        quantity without its unit or in another one, a case_id used twice; with line and column.
    """
    layout, columns = columns_of(path)
    if layout != "csv":
        raise InputError("not a CSV file", where=str(path), remedy="give measured cases as CSV")
    for name in _REQUIRED:
        if name not in columns:
            raise InputError(f"column {name!r} is missing", where=str(path), remedy="add it: docs/design.md, section 8")
    require_known_units(columns, _COLUMNS, str(path))
    if not set(MEASURED) & set(columns):
        raise InputError("no measured column", where=str(path), remedy=f"add one of {', '.join(MEASURED)}")
    cases: dict[str, Case] = {}
    for line, row in rows(path, "csv"):
        case = _case(row, f"{path}, line {line}")
        if case.case_id in cases:
            raise InputError(f"case_id {case.case_id!r} occurs twice", where=case.where, remedy="rename one of them")
        if len(cases) == MAX_CASES:
            raise InputError(f"more than {MAX_CASES} cases", where=case.where, remedy="split the file")
        cases[case.case_id] = case
    if not cases:
        raise InputError("a header and no cases", where=str(path), remedy="give at least one case")
    return CaseFile(path, tuple(cases.values()), _notes(columns))


def _notes(columns: tuple[str, ...]) -> tuple[str, ...]:
    ignored = [name for name in columns if name not in _COLUMNS]
    absent = [name for name in _COLUMNS if name not in columns]
    notes = [("columns not used", ignored), ("columns absent and read as empty", absent)]
    return tuple(f"{text}: {', '.join(names)[:400]}" for text, names in notes if names)


def _case(row: Mapping[str, object], where: str) -> Case:
    values = {name: _value(row, name, where) for name in _COLUMNS}
    measured = {name: values[name] for name in MEASURED if values[name] is not None}
    _require_order(measured, where)
    return Case(
        case_id=values["case_id"],
        source=values["source"],
        where=where,
        deployment=_part(Deployment, values),
        settings=_part(EngineSettings, values),
        load=_part(OfferedLoad, values),
        measured=measured,
        noise_frac=values["noise_frac"],
        note=values["note"] or "",
    )


#: Of each pair the first is never above the second: a quantile, a part of the time, a part of the tokens.
_ORDER: Final = (
    ("ttft_median_s", "ttft_p99_s"),
    ("tpot_median_s", "tpot_p99_s"),
    ("ttft_mean_s", "e2e_mean_s"),
    ("output_tokens_per_s", "total_tokens_per_s"),
)


def _require_order(measured: Mapping[str, float], where: str) -> None:
    for smaller, larger in _ORDER:
        if measured.get(smaller, 0.0) > measured.get(larger, float("inf")):
            raise InputError(
                f"{smaller} {measured[smaller]} is above {larger} {measured[larger]}",
                where=where,
                remedy="correct the row or remove it",
            )


Part = TypeVar("Part", Deployment, EngineSettings, OfferedLoad)


def _part(part: type[Part], values: Mapping[str, Any]) -> Part:
    return part(**{field.name: values[field.name] for field in fields(part)})


def _value(row: Mapping[str, object], name: str, where: str) -> Any:
    """Return the cell in column `name` as its type; None where it is absent or empty."""
    cell = str(row.get(name, "")).strip()
    if not cell:
        if name in _REQUIRED:
            raise InputError(f"{name} is empty", where=where, remedy="fill it in or remove the row")
        return None
    try:
        return cell if name == "note" else _PARSERS.get(name, _text)(cell)
    except ValueError as error:
        raise InputError(
            f"{name} is {cell[:80]!r}: {error}", where=where, remedy="correct the value or remove the row"
        ) from None
