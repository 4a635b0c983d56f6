"""What happens first, of things that happen at one time?  SimPy's clock, made exact.

At one instant steps end first, then requests arrive, then routers and schedulers decide; what ends or decides on
several instances does so in their order.  Without this order a tie would fall to whichever event SimPy was told of
first; without exact wake-ups, to the last bit of a float.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any, Final

import simpy
from simpy.events import EventPriority

Process = Generator[simpy.Event, Any, None]

#: Ranks of what happens at one instant; everything else comes before, with SimPy's own rank of 1.
ENDS: Final = 1
ARRIVALS: Final = 2
DECISIONS: Final = 3
#: More than there are instances in any fleet.
_PLACES: Final = 1 << 20


class Turn(simpy.Event):
    """Comes now, but after everything of a lower rank, or of the same rank and a lower place, that happens now."""

    def __init__(self, env: simpy.Environment, rank: int, place: int = 0) -> None:
        super().__init__(env)
        self._ok = True
        self._value = None
        env.schedule(self, EventPriority(rank * _PLACES + place))


def wait_until(env: simpy.Environment, time_s: float) -> Process:
    """Wait until the clock reads exactly `time_s`; not at all if it is past.

    SimPy takes delays, and now + (time - now) can miss the time by a rounding: then wake early and wait for the rest,
    which is exact.
    """
    while env.now < time_s:
        delay_s = time_s - env.now
        yield env.timeout(delay_s if env.now + delay_s <= time_s else math.nextafter(delay_s, 0.0))


def start_process(env: simpy.Environment, process: Process) -> None:
    """Start `process`; its errors reach the caller as they were raised.

    SimPy by itself rebuilds an error from its `args`, which fails for errors with more to say.
    """
    env.process(process).callbacks.append(_pass_on)


def _pass_on(event: simpy.Event) -> None:
    if isinstance(event.value, BaseException):
        raise event.value
