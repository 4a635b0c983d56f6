"""By which key is an outcome found again?  A digest of everything that it was computed from.

Values are put down in one canonical way: floats by their shortest exact form, values of the package by type and fields,
arrays and files by their bytes.  What cannot be put down so is refused: a key that leaves something out would give the
answer to another question.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from apex_sim.errors import InputError


def content_key(*parts: object) -> str:
    """Return a digest of `parts`, equal if and only if their contents are.

    Raises
    ------
    TypeError : a part holds a function, or an object whose content this does not know how to read.
    InputError : a file that a path names cannot be read.

    Examples
    --------
    >>> content_key({"a": 1, "b": 2.0}) == content_key({"b": 2.0, "a": 1})
    True
    >>> content_key(1) == content_key(1.0)
    False
    """
    text = json.dumps([_canonical(part) for part in parts], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: object) -> Any:
    """Return `value` as lists and strings, the first of each list saying what it is of."""
    match value:
        case None | bool():
            return value
        case Enum():
            return ["enum", _type_name(type(value)), value.name]
        case str():
            return str(value)
        case int():
            return ["int", int.__repr__(value)]
        case float():
            return ["float", float.__repr__(value)]
        case bytes():
            return ["bytes", hashlib.sha256(value).hexdigest()]
        case np.generic():
            return ["scalar", value.dtype.str, _canonical(value.item())]
        case np.ndarray():
            return _array(value)
        case Path():
            return ["path", value.name, _file_digest(value)]
        case type():
            raise TypeError(f"a class, {value.__qualname__}, has no content for a key")
    if isinstance(value, BaseModel) or dataclasses.is_dataclass(value):
        fields = [[name, _canonical(content)] for name, content in _fields(value)]
        kind: type = type(value)
        return ["value", _type_name(kind), fields]
    return _collection(value)


def _collection(value: object) -> Any:
    match value:
        case Mapping():
            items = [[_canonical(key), _canonical(content)] for key, content in value.items()]
            return ["mapping", sorted(items, key=json.dumps)]
        case Set():
            return ["set", sorted((_canonical(element) for element in value), key=json.dumps)]
        case Sequence():
            return ["tuple" if isinstance(value, tuple) else "list", [_canonical(element) for element in value]]
        case _:
            raise TypeError(
                f"an object of {type(value).__module__}.{type(value).__qualname__} has no content for a key"
            )


def _fields(value: Any) -> Iterator[tuple[str, object]]:
    """Yield name and content of each field, but of those that only keep what was computed before."""
    if isinstance(value, BaseModel):
        yield from ((name, getattr(value, name)) for name in type(value).model_fields)
        yield from sorted((value.model_extra or {}).items())
        return
    for field in dataclasses.fields(value):
        if field.compare or not field.name.startswith("_"):
            yield field.name, getattr(value, field.name)


def _array(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.hasobject:
        raise TypeError("an array of objects has no content for a key")
    return ["array", str(array.dtype.descr), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]


@cache
def _type_name(kind: type) -> str:
    """Return a name that changes with the type's code, of which `code_version` knows no more than the package's own.

    Raises
    ------
    TypeError : the code of a stranger's type is in no file.
    """
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind.__module__.partition(".")[0] == "apex_sim":
        return name
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if file is None:
        raise TypeError(f"{name} is defined in no file, so that a key cannot follow changes of its code")
    return f"{name} {_file_digest(Path(file))}"


def _file_digest(path: Path) -> str:
    """Return a digest of a file, or of all files of a folder with their names.

    Raises
    ------
    InputError : it cannot be read.
    """
    try:
        if path.is_dir():
            files = sorted(each for each in path.rglob("*") if each.is_file())
            return content_key([(each.relative_to(path).as_posix(), _file_digest(each)) for each in files])
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the path") from None
