"""Does a column hold a known quantity in an unknown unit?

A column that is not known is left unread, which is right for remarks and wrong for `ttft_mean_ms`: its cells would be
taken as not measured.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

from apex_sim.errors import InputError, shorten

#: Last word of a column -> what it stands for.
_UNITS: Final = {"s": "seconds", "w": "watts", "j": "joules", "tokens": "tokens", "frac": "a share from 0 to 1"}
#: Words that say a unit, and nothing of what is measured.
_UNIT_WORDS: Final = frozenset(
    (
        *("s", "sec", "secs", "second", "seconds", "ms", "msec", "millisecond", "milliseconds", "us", "usec", "ns"),
        *(
            "microsecond",
            "microseconds",
            "min",
            "minutes",
            "h",
            "w",
            "watt",
            "watts",
            "kw",
            "mw",
            "j",
            "joule",
            "joules",
        ),
        *("kj", "mj", "wh", "kwh", "tok", "toks", "token", "tokens", "k", "frac", "percent", "pct"),
    )
)


def require_known_units(columns: Collection[str], known: Iterable[str], where: str) -> None:
    """Check that no column is a known one but for its unit, or for the order of its words.

    Raises
    ------
    InputError : with the column, the known one and its unit.

    Examples
    --------
    >>> require_known_units(["mean_ttft_ms"], ["ttft_mean_s"], "cases.csv")
    Traceback (most recent call last):
    ...
    apex_sim.errors.InputError: cases.csv: column 'mean_ttft_ms' is ttft_mean_s without its unit or in another one. \
Convert it to seconds and name it ttft_mean_s.
    """
    wanted = {_words(name): name for name in known if name.rpartition("_")[2] in _UNITS}
    for column in columns:
        name = wanted.get(_words(column))
        if name is None or column == name or name in columns:
            continue
        unit = "per second" if name.endswith("_per_s") else _UNITS[name.rpartition("_")[2]]
        remedy = f"convert it to {unit} and name it {name}"
        if sorted(column.split("_")) == sorted(name.split("_")):
            problem, remedy = f"is not known, but {name} is", f"name it {name}"
        else:
            problem = f"is {name} without its unit or in another one"
        raise InputError(f"column {shorten(column)!r} {problem}", where=where, remedy=remedy)


def _words(column: str) -> frozenset[str]:
    """Return the words of a column that say what it holds, its unit left out; a rate keeps its "per"."""
    words = [word for word in re.split(r"[^a-z0-9]+", column.lower()) if word]
    return frozenset(word for word in words if word not in _UNIT_WORDS)
