"""What must a fleet carry, and what may it hold?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from apex_sim.errors import InputError
from apex_sim.planner.programs.shape_option import ShapeOption

#: What a composition can be least in.
Objective = Literal["usd_per_h", "power_w", "n_devices", "mean_loss"]


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests per second of each size class, all of which must be served; a class that never comes is no class."""

    rate_per_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.rate_per_s or not all(0 < rate < math.inf for rate in self.rate_per_s):
            raise InputError(
                f"rates per class are {self.rate_per_s}",
                where="demand",
                remedy="give a rate above 0 for each class and leave out classes without requests",
            )

    @property
    def parts(self) -> tuple[float, ...]:
        """Part of all requests that each class holds."""
        return tuple(rate / sum(self.rate_per_s) for rate in self.rate_per_s)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a fleet may hold; None = no limit.

    Attributes
    ----------
    devices : how many of each device type there are; a type that is not named is not to be had.
    n_devices : of all types together.
    usd_per_h, power_w : of the whole fleet.
    mean_loss : over all requests.
    utilisation_frac : how much of its capacity an instance may be loaded with.
    use_all_devices : hold exactly what `devices` says, no device less.
    """

    devices: Mapping[str, int] | None = None
    n_devices: int | None = None
    usd_per_h: float | None = None
    power_w: float | None = None
    mean_loss: float | None = None
    utilisation_frac: float = 1.0
    use_all_devices: bool = False

    def __post_init__(self) -> None:
        if self.use_all_devices and self.devices is None:
            raise InputError("all devices are to be used, but none are named", where="limits", remedy="give 'devices'")
        if not 0 < self.utilisation_frac <= 1:
            raise InputError(
                f"utilisation_frac is {self.utilisation_frac}", where="limits", remedy="give a part above 0, at most 1"
            )


def check_options(options: Sequence[ShapeOption], demand: Demand) -> None:
    """Refuse options that share a name or that do not know the demand's classes.

    Raises
    ------
    InputError : names the option.
    """
    names = [option.name for option in options]
    for option in options:
        if names.count(option.name) > 1:
            raise InputError("two shapes have this name", where=f"shape {option.name!r}", remedy="rename one")
        if len(option.capacity_per_s) != len(demand.rate_per_s):
            raise InputError(
                f"capacities of {len(option.capacity_per_s)} classes, but the demand has {len(demand.rate_per_s)}",
                where=f"shape {option.name!r}",
                remedy="give one capacity per class",
            )


def most_needed(option: ShapeOption, demand: Demand, limits: Limits) -> int:
    """Return how many instances of `option` carry everything that it can carry: nothing needs more of them.

    Examples
    --------
    >>> option = ShapeOption("tp2", "h100-sxm", 2, 6.0, 900.0, (4.0, 0.0))
    >>> most_needed(option, Demand((10.0, 3.0)), Limits(utilisation_frac=0.9))
    3
    """
    pairs = zip(demand.rate_per_s, option.capacity_per_s, strict=True)
    return math.ceil(sum(rate / capacity for rate, capacity in pairs if capacity) / limits.utilisation_frac)
