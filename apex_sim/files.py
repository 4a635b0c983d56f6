"""How are strangers' files read and our own written?

Readers bound what they take in and turn every fault into an `InputError` that names file, key, value and remedy.
Writers are atomic: a reader never sees half a file, and an interrupted run leaves the old one.
"""

from __future__ import annotations

import json
import os
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from apex_sim.errors import InputError, UnknownNameError, shorten

#: Nobody's study, device or model config is larger; a stranger's file must not fill the memory.
MAX_TEXT_BYTES: Final = 64 * 2**20

Schema = TypeVar("Schema", bound=BaseModel)


class StrictModel(BaseModel):
    """Base of the file schemas: unknown keys, wrong types, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return the text of `path`.

    Raises
    ------
    InputError : missing, a folder, larger than `max_bytes`, unreadable, or not UTF-8.
    """
    try:
        size_bytes = path.stat().st_size
        if size_bytes > max_bytes:
            raise InputError(
                f"{size_bytes} bytes, more than the {max_bytes} accepted", where=str(path), remedy="split the file"
            )
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError("no such file", where=str(path), remedy="check the path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text (byte {error.start})", where=str(path), remedy="save it as UTF-8") from None
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror}", where=str(path), remedy="check path and permissions"
        ) from None


def read_toml(path: Path) -> dict[str, Any]:
    """Return the TOML document in `path`; a syntax error becomes an `InputError` with its line."""
    try:
        return tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"not valid TOML: {error}", where=str(path), remedy="mend the line") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand nested brackets
        raise InputError(f"not usable TOML: {error}", where=str(path), remedy="mend the value") from None


def read_json(path: Path) -> Any:
    """Return the JSON document in `path`; a syntax error becomes an `InputError` with its line."""
    try:
        return json.loads(read_text(path), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InputError(
            f"not valid JSON: {error.msg}", where=f"{path}, line {error.lineno}", remedy="mend the line"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not usable JSON: {error}", where=str(path), remedy="mend the value") from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def check(schema: type[Schema], data: dict[str, Any], where: str) -> Schema:
    """Return `data` as `schema`.

    Raises
    ------
    UnknownNameError : a key that the schema lacks, with the nearest keys.
    InputError : the first wrong or missing value, with its key.
    """
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False)
    unknown = [p for p in problems if p["type"] == "extra_forbidden"]
    first = (unknown or problems)[0]
    key = ".".join(str(part) for part in first["loc"])
    if unknown:
        known = _keys_beside(schema, first["loc"])
        raise UnknownNameError("key", str(first["loc"][-1]), known, where=f"{where}, key {key!r}") from None
    if first["type"] == "missing":
        raise InputError("missing", where=f"{where}, key {key!r}", remedy=f"add {key} with a value") from None
    raise InputError(
        f"{shorten(repr(first['input']))} is refused: {first['msg']}",
        where=f"{where}, key {key!r}",
        remedy="correct the value",
    ) from None


def _keys_beside(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that the (nested) schema knows at the place of `location`."""
    current: type[BaseModel] = schema
    for part in location[:-1]:
        field = current.model_fields.get(str(part))
        nested = [
            t
            for t in _types_in(field.annotation if field else None)
            if isinstance(t, type) and issubclass(t, BaseModel)
        ]
        if nested:
            current = nested[0]
    return [field.alias or name for name, field in current.model_fields.items()]


def _types_in(annotation: Any) -> list[Any]:
    arguments = getattr(annotation, "__args__", ())
    return [annotation, *(t for argument in arguments for t in _types_in(argument))]


def write_atomic(path: Path, text: str) -> Path:
    """Write `text` to `path` in one step, creating its folder; return the path.

    Raises
    ------
    InputError : the folder cannot be written.
    """
    return write_together({path: text})[0]


def write_together(texts: Mapping[Path, str]) -> tuple[Path, ...]:
    """Write all `texts` beside their places first, then put each there in one step; return the paths.

    An interrupt while they are written leaves what was there before, of all of them.

    Raises
    ------
    InputError : a folder cannot be written.
    """
    written: dict[Path, Path] = {}
    path = Path()
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            written[path] = Path(name)
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            written[path].chmod(0o644)
        for path, temporary in written.items():
            os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"cannot be written: {error.strerror}", where=str(path), remedy="choose another --out folder"
        ) from None
    finally:
        for temporary in written.values():  # still there only if something went wrong, an interrupt included
            temporary.unlink(missing_ok=True)
    return tuple(written)
