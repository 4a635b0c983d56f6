"""What stands under a key of a stranger's JSON document?  Every fault names file, key, value and remedy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from apex_sim.errors import InputError, shorten

MILLISECOND_S: Final = 1e-3
#: What tools call a unit of time, and how many seconds it has.
TIME_UNITS: Final = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "milliseconds": 1e-3, "us": 1e-6, "ns": 1e-9}
_TRUNCATED: Final = "give the file as the tool wrote it, whole"


@dataclass(frozen=True, slots=True)
class Fields:
    """One JSON object of a file, with its place for errors."""

    data: Mapping[str, Any]
    where: str
    path: str = ""

    def key(self, name: str) -> str:
        """Return the full name of a key, for errors."""
        return f"{self.where}, key '{self.path}{name}'"

    def has(self, *names: str) -> bool:
        """Return whether each key is there with a value."""
        return all(self.data.get(name) is not None for name in names)

    def table(self, name: str) -> Fields:
        """Return the object under `name`; an empty one where there is none."""
        value = self.data.get(name)
        if value is not None and not isinstance(value, dict):
            raise InputError(f"{shorten(repr(value))} is no object", where=self.key(name), remedy=_TRUNCATED)
        return Fields(value or {}, self.where, f"{self.path}{name}.")

    def number(self, name: str) -> float | None:
        """Return the finite number under `name`, None where there is none."""
        value = self.data.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{shorten(repr(value))} is no number", where=self.key(name), remedy=_TRUNCATED)
        return float(value)

    def needed(self, name: str) -> float:
        """Return the number under `name`, which must be there."""
        value = self.number(name)
        if value is None:
            raise InputError("missing", where=self.key(name), remedy=_TRUNCATED)
        return value

    def count(self, name: str) -> int:
        """Return the whole number above 0 under `name`, which must be there."""
        value = self.needed(name)
        if value < 1 or not value.is_integer():
            raise InputError(f"{value:g} is no whole number above 0", where=self.key(name), remedy=_TRUNCATED)
        return int(value)

    def text(self, name: str) -> str:
        """Return the text under `name`, empty where there is none; long ones are cut."""
        value = self.data.get(name)
        return shorten(value, 256) if isinstance(value, str) else ""

    def column(self, name: str, n: int | None = None) -> NDArray[np.float64]:
        """Return the list of numbers under `name`, of `n` entries if that is given."""
        value = self.data.get(name)
        try:
            array = np.array(value, dtype=np.float64)
        except (TypeError, ValueError):
            array = np.array([])
        if array.ndim != 1 or not array.size or not np.isfinite(array).all():
            raise InputError("not a list of numbers", where=self.key(name), remedy=_TRUNCATED)
        if n is not None and array.size != n:
            raise InputError(f"{array.size} entries, {n} requests", where=self.key(name), remedy=_TRUNCATED)
        return array


def require_close(stated: float, worked_out: float, what: str, where: str) -> None:
    """Check that a figure of a file agrees with what other figures of it amount to, within 2 %.

    Raises
    ------
    InputError : it does not.
    """
    if abs(stated - worked_out) > 0.02 * abs(worked_out):
        raise InputError(
            f"contradictory: {what} is {stated:g}, and the file's other figures give {worked_out:g}",
            where=where,
            remedy="give the file as the tool wrote it",
        )
