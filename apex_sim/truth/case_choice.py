"""Which measured cases are meant: of which file, and which of its rows?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from apex_sim import catalogue
from apex_sim.errors import InputError, UnknownNameError
from apex_sim.truth.case import Case

#: Where the measured cases lie that ship with the project.
FOLDER: Final = "workloads/served"


def cases_path(name: Path | str) -> Path:
    """Return the CSV that `name` stands for: a file, or cases that ship with the project by their name.

    Raises
    ------
    UnknownNameError : neither; the message lists the nearest names.

    Examples
    --------
    >>> cases_path("published").name
    'published.csv'
    """
    path = Path(name)
    if path.suffix or len(path.parts) != 1 or path.exists():
        return path
    return catalogue.resolve(FOLDER, str(name), "set of cases", ".csv")


def chosen_cases(
    cases: Sequence[Case], limit: int | None, wanted: Mapping[str, Collection[str] | None]
) -> tuple[list[Case], tuple[str, ...]]:
    """Return the cases that the user asks for, and a note when that is not all.

    Parameters
    ----------
    wanted : for "source", "engine", "model" and "device" the names of which a case must have one; None takes all.

    Raises
    ------
    InputError : `limit` is below 1.
    UnknownNameError : no case has the name; the message lists the nearest.
    """
    chosen = list(cases)
    for kind, names in wanted.items():
        if names is None:
            continue
        has = {case.case_id: (case.source if kind == "source" else getattr(case.deployment, kind)) for case in cases}
        for name in names:
            if name not in has.values():
                raise UnknownNameError(kind, name, set(has.values()))
        chosen = [case for case in chosen if has[case.case_id] in names]
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}", where="limit", remedy="give a whole number above 0")
    chosen = chosen[:limit]
    return chosen, (f"{len(chosen)} of {len(cases)} cases",) if len(chosen) < len(cases) else ()
