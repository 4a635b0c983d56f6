"""How does a value of dataclasses become JSON, and again the same value?

The types in the dataclasses' own annotations say what JSON stands for: the text holds no names of types that reading
would have to trust, and nothing that is not annotated can come back.  Every float comes back bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

#: JSON has no such numbers.
_NO_NUMBERS: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class MalformedError(ValueError):
    """JSON that is no value of the wanted type; the text says where."""


def encode(value: Any, hint: Any) -> Any:
    """Return `value`, which is of type `hint`, as JSON's lists, dicts, strings and numbers.

    Raises
    ------
    TypeError : it is not of that type, or that type cannot be read back.

    Examples
    --------
    >>> encode((1.0, float("inf")), tuple[float, ...])
    [1.0, {'number': 'inf'}]
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if isinstance(value, np.generic):
        value = value.item()
    kind: Any = type(value)
    if origin in (Union, types.UnionType):
        return None if value is None else encode(value, _not_none(hint))
    if _is_dataclass(hint) and kind is hint:
        return {name: encode(getattr(value, name), part) for name, part in fields_of(hint).items()}
    if hint is float and kind in (int, float):
        return _encode_number(value)
    if origin is Literal and value in arguments:
        return value
    if hint in (int, str, bool) and kind is hint:
        return value
    if origin is tuple and isinstance(value, tuple):
        return [encode(element, part) for element, part in _elements(value, arguments)]
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return [[encode(key, arguments[0]), encode(content, arguments[1])] for key, content in value.items()]
    if origin is np.ndarray and isinstance(value, np.ndarray) and value.dtype == np.float64:
        return {"shape": list(value.shape), "values": [_encode_number(number) for number in value.ravel().tolist()]}
    raise TypeError(f"{type(value).__qualname__} where {hint} is annotated cannot be written as JSON")


def decode(data: Any, hint: Any, where: str = "value") -> Any:
    """Return the value of type `hint` that `encode` made `data` of.

    Raises
    ------
    MalformedError : it made no such data.

    Examples
    --------
    >>> decode([1.0, {"number": "inf"}], tuple[float, ...])
    (1.0, inf)
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if data is None else decode(data, _not_none(hint), where)
    if _is_dataclass(hint):
        fields = fields_of(hint)
        _require(isinstance(data, dict) and data.keys() == fields.keys(), where, f"no {hint}")
        return hint(**{name: decode(data[name], part, f"{where}.{name}") for name, part in fields.items()})
    if hint is float:
        return _decode_number(data, where)
    if origin is Literal or hint in (int, str, bool):
        _require(data in arguments if origin is Literal else type(data) is hint, where, f"no {hint}")
        return data
    if origin is np.ndarray:
        return _decode_array(data, where)
    _require(isinstance(data, list), where, "no list")
    if origin is tuple:
        _require(arguments[-1] is Ellipsis or len(arguments) == len(data), where, "of another length")
        return tuple(decode(x, part, f"{where}[{i}]") for i, (x, part) in enumerate(_elements(data, arguments)))
    _require(all(isinstance(pair, list) and len(pair) == 2 for pair in data), where, "no pairs")
    return {decode(key, arguments[0], where): decode(x, arguments[1], f"{where}[{key}]") for key, x in data}


@cache
def fields_of(kind: Any) -> dict[str, Any]:
    """Return the type of each field of a dataclass by its name."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _is_dataclass(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint)


def _require(is_so: bool, where: str, problem: str) -> None:
    if not is_so:
        raise MalformedError(f"{where} is {problem}")


def _not_none(hint: Any) -> Any:
    """Return the one type of an optional one."""
    others = [part for part in get_args(hint) if part is not type(None)]
    if len(others) != 1:
        raise TypeError(f"{hint} cannot be told from JSON")
    return others[0]


def _elements(values: Any, hints: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    """Return each element of a tuple with its type."""
    parts = [hints[0]] * len(values) if hints[-1] is Ellipsis else list(hints)
    return list(zip(values, parts, strict=True))


def _encode_number(value: float) -> Any:
    return value if type(value) is int or math.isfinite(value) else {"number": repr(float(value))}


def _decode_number(data: Any, where: str) -> float:
    if isinstance(data, dict):
        _require(list(data) == ["number"] and str(data["number"]) in _NO_NUMBERS, where, "no number")
        return _NO_NUMBERS[str(data["number"])]
    _require(type(data) in (int, float), where, "no number")
    number: float = data
    return number


def _decode_array(data: Any, where: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    _require(isinstance(data, dict) and data.keys() == {"shape", "values"}, where, "no array")
    shape, values = data["shape"], data["values"]
    whole = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
    _require(whole and isinstance(values, list) and math.prod(shape) == len(values), where, "no array of its shape")
    return np.array([_decode_number(value, where) for value in values], dtype=np.float64).reshape(shape)
