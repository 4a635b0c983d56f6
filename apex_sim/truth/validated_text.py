"""How is the table of measured servers written down?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from apex_sim.truth.validated import ClassErrors, Group, Validated

_HEAD = """\
# Written by benchmarks/interval_coverage.py --write from replays of measured servers; do not edit.
# Errors are logs of predicted over measured; apex_sim/truth/validated.py says what the keys mean.
"""


def validated_toml(validated: Validated, cases: Sequence[str]) -> str:
    """Return `validated` as TOML; `cases` names the files that it comes of."""
    lines = [_HEAD, f"cases = {_value(cases)}", "", "[stretch]", *_stretches(validated.stretch)]
    for source, stretch in validated.stretch_without.items():
        lines += ["", f"[stretch_without.{_value(source)}]", *_stretches(stretch)]
    for group in validated.groups:
        lines += ["", *_group(group)]
    return "\n".join(lines) + "\n"


def _stretches(stretch: Mapping[str, Sequence[float]]) -> list[str]:
    return [f"{name} = {_value(list(factors))}" for name, factors in stretch.items()]


def _group(group: Group) -> list[str]:
    fields = group.model_dump(exclude={"errors"})
    lines = ["[[group]]", *(f"{name} = {_value(value)}" for name, value in fields.items())]
    for name, errors in group.errors.items():
        lines.append(f"errors.{name} = {_inline(errors)}")
    return lines


def _inline(errors: ClassErrors) -> str:
    entries = errors.model_dump(exclude_none=True).items()
    return f"{{ {', '.join(f'{name} = {_value(value)}' for name, value in entries)} }}"


def _value(value: object) -> str:
    """Return a text, number or list as TOML, whose strings and lists are JSON's."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)
