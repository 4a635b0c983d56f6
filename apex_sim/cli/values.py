"""What may stand behind a flag, and what is the user told when something else does?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from apex_sim.errors import ApexError

#: No cluster has more devices (`apex_sim.hardware.cluster.MAX_DEVICES`) and no model more layers.
MAX_DEGREE: Final = 65_536

if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:  # not generic before click 8.4
    _ParamType = click.ParamType


class _Value(_ParamType):
    """Base: a value from a study file or a default passes as it is, a text is read."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except (ValueError, ApexError) as error:
            self.fail(str(error), param, ctx)

    def read(self, text: str) -> Any:
        """Return the value that `text` stands for; raise ValueError or ApexError if it stands for none."""
        raise NotImplementedError


class Degrees(_Value):
    """Whole numbers from 1 (or from `least`), as in "1,2,4"."""

    name = "n[,n...]"

    def __init__(self, least: int = 1) -> None:
        self.least = least

    def read(self, text: str) -> list[int]:
        """Return the degrees."""
        return [_degree(part.strip(), self.least) for part in text.split(",")]


def _degree(text: str, least: int) -> int:
    is_number = text.isascii() and text.isdecimal() and len(text) < 10
    if not is_number or not least <= int(text) <= MAX_DEGREE:
        raise ValueError(
            f"{text[:40]!r} is not a whole number from {least} to {MAX_DEGREE}; write 4, or 1,2,4 for several."
        )
    return int(text)


class Names(_Value):
    """Names, as in "packed,spread"; those of a closed list are checked here."""

    name = "name[,name...]"

    def __init__(self, known: tuple[str, ...] = ()) -> None:
        self.known = known

    def read(self, text: str) -> list[str]:
        """Return the names."""
        names = [part.strip() for part in text.split(",")]
        for name in names:
            if self.known and name not in self.known:
                raise ValueError(f"{name[:40]!r} is none of {', '.join(self.known)}.")
        return names


class Switches(_Value):
    """Settings of a switch, as in "on,off"."""

    name = "on[,off]"

    def read(self, text: str) -> list[bool]:
        """Return the settings."""
        return [name == "on" for name in Names(("on", "off")).read(text)]


class Shares(_Value):
    """Numbers one after the other, as in "0.9,0.7"; their range is checked where they are used."""

    name = "frac[,frac...]"

    def read(self, text: str) -> list[float] | float:
        """Return the numbers, a single one by itself."""
        parts = [part.strip() for part in text.split(",")]
        for part in parts:
            if not _is_number(part) or not math.isfinite(float(part)):
                raise ValueError(f"{part[:40]!r} is not a number; write 0.8, or 0.9,0.7 for one after the other.")
        return [float(part) for part in parts] if len(parts) > 1 else float(parts[0])


class ShareList(Shares):
    """Such numbers as a list, also of one."""

    def read(self, text: str) -> list[float]:
        """Return the numbers."""
        read = super().read(text)
        return read if isinstance(read, list) else [read]


class NumberFormats(_Value):
    """Number formats, as in "bf16,fp8".

    Parameters
    ----------
    of : "weight" or "kv".
    """

    name = "dtype[,dtype...]"

    def __init__(self, of: str) -> None:
        self.of = of

    def read(self, text: str) -> list[str]:
        """Return the names of known formats."""
        from apex_sim.plan.precision import KV_DTYPES, WEIGHT_DTYPES

        known = WEIGHT_DTYPES if self.of == "weight" else KV_DTYPES
        names = [part.strip().lower() for part in text.split(",")]
        for name in names:
            if name not in known:
                raise ValueError(f"{name!r} is not a {self.of} format; choose from {', '.join(known)}.")
        return names


class PositiveNumber(_Value):
    """A finite number above 0, and at most `most` where that is given."""

    name = "number"

    def __init__(self, most: float = math.inf) -> None:
        self.most = most

    def read(self, text: str) -> float:
        """Return the number."""
        number = float(text) if _is_number(text) else math.nan
        if not (0 < number <= self.most and math.isfinite(number)):
            limit = f" up to {self.most:g}" if math.isfinite(self.most) else ""
            raise ValueError(f"{text!r} is not a finite number above 0{limit}.")
        return number


class SloLimit(_Value):
    """A limit on a metric, as in "ttft_p99_s=2"."""

    name = "metric=limit"

    def read(self, text: str) -> tuple[str, float]:
        """Return (metric, limit)."""
        from apex_sim.metrics.definitions import require_metric

        name, equals, limit = (part.strip() for part in text.partition("="))
        if not equals:
            raise ValueError(f"{text!r} has no '='; write METRIC=LIMIT, such as ttft_p99_s=2.")
        if require_metric(name).better == "neither":
            raise ValueError(f"{name} has no better direction, so it cannot have a limit.")
        if not _is_number(limit) or not 0 < float(limit) < math.inf:
            raise ValueError(f"the limit {limit!r} is not a finite number above 0.")
        return name, float(limit)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def flattened(ctx: click.Context, param: click.Parameter, value: tuple[list[str], ...]) -> list[str] | None:
    """Return the lists of a repeated flag as one without repetitions; None when it was not given."""
    return list(dict.fromkeys(name for names in value for name in names)) or None


def limits_by_metric(
    ctx: click.Context, param: click.Parameter, value: tuple[tuple[str, float], ...]
) -> dict[str, float] | None:
    """Return the limits of a repeated `--slo` by metric; None when it was not given."""
    limits = dict(value)
    for name, limit in value:
        if limits[name] != limit:
            _refuse(f"{name} has the limits {limit:g} and {limits[name]:g}; give one.", ctx, param)
    return limits or None


def _refuse(problem: str, ctx: click.Context, param: click.Parameter) -> NoReturn:
    raise click.BadParameter(problem, ctx=ctx, param=param)


class GapShare(_Value):
    """A share from 0, as in "5%" or "0.05"."""

    name = "share"

    def read(self, text: str) -> float:
        """Return the share."""
        number = text.strip().removesuffix("%")
        if not _is_number(number) or not 0.0 <= float(number) < math.inf:
            raise ValueError(f"{text[:40]!r} is no share; write 5% or 0.05.")
        return float(number) / (100.0 if text.strip().endswith("%") else 1.0)
