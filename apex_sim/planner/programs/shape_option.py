"""What does one instance of a shape cost, and how much of each class of requests does it carry?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apex_sim.errors import InputError


@dataclass(frozen=True, slots=True)
class ShapeOption:
    """One shape on one device type, as the fleet's program sees it.

    Attributes
    ----------
    name : tells the options apart.
    device, n_devices : device type, and how many of it one instance holds.
    usd_per_h, power_w : of one instance.
    capacity_per_s : per size class the highest rate at which one instance serves that class alone within its SLOs;
        0 where it never does.
    loss : what a request of each class loses here (such as its mean latency); one figure stands for all classes.
    """

    name: str
    device: str
    n_devices: int
    usd_per_h: float
    power_w: float
    capacity_per_s: tuple[float, ...]
    loss: tuple[float, ...] | float = 0.0

    def __post_init__(self) -> None:
        losses = self.loss if isinstance(self.loss, tuple) else ()
        if self.n_devices < 1 or min(self.usd_per_h, self.power_w, *self.capacity_per_s) < 0:
            raise InputError("a negative figure, or no device at all", where=f"shape {self.name!r}")
        if losses and len(losses) != len(self.capacity_per_s):
            raise InputError(
                f"{len(losses)} losses for {len(self.capacity_per_s)} size classes",
                where=f"shape {self.name!r}",
                remedy="give one loss per class, or one figure for all",
            )

    def loss_of(self, size_class: int) -> float:
        """Return the loss of one request of the class."""
        return self.loss[size_class] if isinstance(self.loss, tuple) else self.loss


def dominates(better: ShapeOption, worse: ShapeOption, *, same_n_devices: bool = False) -> bool:
    """Return whether an instance of `better` can replace one of `worse` at no disadvantage in anything."""
    if better.device != worse.device or len(better.capacity_per_s) != len(worse.capacity_per_s):
        return False
    if better.n_devices > worse.n_devices or (same_n_devices and better.n_devices != worse.n_devices):
        return False
    if better.usd_per_h > worse.usd_per_h or better.power_w > worse.power_w:
        return False
    pairs = zip(better.capacity_per_s, worse.capacity_per_s, strict=True)
    return all(
        more >= less and (less == 0 or better.loss_of(c) <= worse.loss_of(c)) for c, (more, less) in enumerate(pairs)
    )


def undominated(options: Sequence[ShapeOption], *, use_all_devices: bool = False) -> list[ShapeOption]:
    """Return the options that no other option can replace; of equals the first stays.

    Leaving out the others changes no optimum.  Proof: let a fleet hold n instances of `worse`, which `better`
    dominates.  Replace them by n instances of `better` and let those take over the requests.  For each class the same
    rate now loads them by rate / (a capacity that is no smaller), so load <= utilisation x n still holds; price, power
    and devices of the same type have not grown; no request loses more.  So every limit still holds and no objective
    has grown.  Domination is transitive and ties go to the first, so repeating this ends with kept options only.
    Where all devices must be used, `better` must hold as many devices as `worse`, or that equation would break.

    Examples
    --------
    >>> slow, fast = (ShapeOption(name, "h100-sxm", 2, 6.0, 900.0, (rate,)) for name, rate in [("a", 3.0), ("b", 5.0)])
    >>> [option.name for option in undominated([slow, fast])]
    ['b']
    """
    kept: list[ShapeOption] = []
    for option in options:
        if any(dominates(other, option, same_n_devices=use_all_devices) for other in kept):
            continue
        kept = [other for other in kept if not dominates(option, other, same_n_devices=use_all_devices)]
        kept.append(option)
    return kept
