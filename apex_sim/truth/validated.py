"""On which measured servers were an engine, a device and a model family checked, and how far off were predictions?

`validated.toml` is written by `benchmarks/interval_coverage.py` from replays of measured servers, never by hand.
Errors are logs of predicted over measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

from pydantic import Field

from apex_sim.files import StrictModel, check, read_toml
from apex_sim.truth.footing import Footing
from apex_sim.truth.metric_class import METRIC_CLASSES

TABLE: Final = Path(__file__).parent / "validated.toml"
#: Ratio of the 80 % quantile of the absolute value of a normal variable to its standard deviation.
Z_80: Final = 1.2815515655446004
#: Assumed where no measured server says anything about a class of metrics.
UNKNOWN_LOG_SD: Final = 0.30
#: How many sources of servers the next wider circle counts for.
_PRIOR_WEIGHT: Final = 0.5

#: What a prediction shares with a group, the narrowest circle last; reasons are given for the first that is missing.
CIRCLES: Final[tuple[tuple[str, Callable[[Footing], tuple[str, ...]]], ...]] = (
    ("engine preset {0}", lambda f: (f.preset,)),
    ("{0} on {1}", lambda f: (f.preset, f.device)),
    ("{2} with {0} on {1}", lambda f: (f.preset, f.device, f.family)),
)


class ClassErrors(StrictModel):
    """Errors of one class of metrics in one group.

    `log_sd` is the 80 % quantile of the absolute error over 1.28, `bias_log` the median; `cost_log_sd` is what kernel
    prices alone were expected to contribute; `layout_log_sd` is what of the error belongs to a single layout (None:
    too few layouts under one load to tell).
    """

    n: int
    log_sd: float
    bias_log: float
    cost_log_sd: float
    layout_log_sd: float | None = None


class Group(StrictModel):
    """Measured servers of one source that share engine preset, device and model family.

    `source` joins the names of sources that hold runs of one campaign with "+".
    """

    source: str
    preset: str
    device: str
    family: str
    models: list[str]
    engine_versions: list[str]
    n_cases: int
    tp: list[int]
    n_at_once: list[float]
    prompt_tokens: list[float]
    errors: dict[str, ClassErrors]

    @property
    def footing(self) -> Footing:
        """The ground that the group stands on."""
        return Footing(self.preset, self.device, self.family, self.models[0], tuple(self.tp), "", 0.0, 0.0)


class _Table(StrictModel):
    cases: list[str] = Field(default_factory=list)
    stretch: dict[str, list[float]]
    stretch_without: dict[str, dict[str, list[float]]] = Field(default_factory=dict)
    group: list[Group] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PresetScale:
    """How far off an engine's predictions are where it was checked as closely as here.

    `log_sd` is what is expected of the whole error, `cost_log_sd` how much of it kernel prices were expected to be in
    the groups that it comes of, `layout_share` the share of its variance that belongs to one layout alone; `stretch` is
    the factor by which intervals of this make must be wider to hold what was left out.
    """

    log_sd: float
    cost_log_sd: float
    layout_share: float
    stretch: float


#: By class of metrics.
Scales = Mapping[str, PresetScale]


@dataclass(frozen=True, slots=True)
class Validated:
    """All groups, and by how much intervals must be stretched to cover what was left out.

    `stretch` has for each class of metrics one factor for each count of circles (0 to 3) that hold a measured server;
    `stretch_without` the same as estimated without one source.
    """

    groups: tuple[Group, ...]
    stretch: Mapping[str, Sequence[float]]
    stretch_without: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)

    def without(self, source: str) -> Validated:
        """Return what is known from other sources than this one and those that belong together with it."""
        groups = tuple(group for group in self.groups if source not in group.source.split("+"))
        mine = [stretch for name, stretch in self.stretch_without.items() if source in name.split("+")]
        return Validated(groups, mine[0] if mine else self.stretch, self.stretch_without)

    def depth(self, footing: Footing) -> int:
        """Return how many circles around `footing` hold a measured server: 0 none, 1 engine, 2 device, 3 family."""
        return sum(bool(_inside(self.groups, footing, circle)) for circle in range(len(CIRCLES)))

    def scales(self, footing: Footing) -> Scales:
        """Return the expected error of each class of metrics.

        Each circle is drawn towards what it holds and away from the next wider one, in logs; one source of servers
        weighs twice as much as all that lies beyond.  Without any server of a class an assumed 30 % stands.
        """
        circles = [self.groups, *(_inside(self.groups, footing, circle) for circle in range(len(CIRCLES)))]
        return {name: self._scale(name, circles) for name in METRIC_CLASSES}

    def _scale(self, name: str, circles: Sequence[Sequence[Group]]) -> PresetScale:
        log_sd, cost, share, depth = math.log(UNKNOWN_LOG_SD), 0.0, 0.5, 0
        for circle, groups in enumerate(circles):
            errors = [group.errors[name] for group in groups if name in group.errors]
            if not errors:
                break
            prior = _PRIOR_WEIGHT if circle else 0.0
            weight, depth = len(errors) + prior, circle
            log_sd = (sum(math.log(e.log_sd) for e in errors) + prior * log_sd) / weight
            cost = (sum(e.cost_log_sd for e in errors) + prior * cost) / weight
            share = _layout_share(errors, share)
        known = name in self.stretch and any(name in group.errors for group in circles[0])
        stretch = self.stretch[name][depth] if known else 1.0
        return PresetScale(math.exp(log_sd), cost, share, stretch)


def _layout_share(errors: Sequence[ClassErrors], share: float) -> float:
    shares = [min(1.0, (e.layout_log_sd / e.log_sd) ** 2) for e in errors if e.layout_log_sd is not None]
    return (sum(shares) + _PRIOR_WEIGHT * share) / (len(shares) + _PRIOR_WEIGHT)


def _inside(groups: Sequence[Group], footing: Footing, circle: int) -> list[Group]:
    """Return the groups that lie in the circle around `footing`."""
    key = CIRCLES[circle][1]
    return [group for group in groups if key(group.footing) == key(footing)]


@lru_cache(maxsize=4)
def load_validated(path: Path = TABLE) -> Validated:
    """Return the shipped table, or one at `path`.

    Raises
    ------
    InputError : the table is broken.
    """
    table = check(_Table, read_toml(path), str(path))
    return Validated(tuple(table.group), table.stretch, table.stretch_without)
