"""What do replays of measured servers say about an engine, a device and a model family?

Groups of cases become rows of `validated.toml`.  How far intervals must be stretched is estimated by leaving out: each
group is predicted from the others without its source, without its family, without its device and without its engine,
and the stretch is what would have covered 80 % of the left-out errors.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from apex_sim.truth.error_bar import LEVEL, Spread, terms_of
from apex_sim.truth.footing import Footing
from apex_sim.truth.metric_class import METRIC_CLASSES, metric_class
from apex_sim.truth.operator_error import total_log_sd
from apex_sim.truth.validated import CIRCLES, Z_80, ClassErrors, Group, Validated
from apex_sim.truth.validation import CaseResult, Validation

#: A group's error is known no better than repeats of a measurement differ.
_LEAST_LOG_SD: Final = 0.005
#: Fewer pairs of layouts under one load tell nothing.
_LEAST_PAIRS: Final = 4
#: A throughput that answers less than this to slower steps is that of the load, not of the engine.
_LEAST_GAIN: Final = 0.5
#: Bounds of a stretch, and for how many groups a factor of 1 counts.
_STRETCH: Final = (0.5, 4.0)
_PRIOR_GROUPS: Final = 2.0


@dataclass(frozen=True, slots=True)
class CaseError:
    """One error: log of predicted over measured of a metric of one case."""

    case: CaseResult
    spread: Spread
    name: str
    log_error: float

    @property
    def group(self) -> tuple[str, str, str, str]:
        """Source and ground."""
        footing = self.spread.footing
        return self.case.source, footing.preset, footing.device, footing.family


def case_errors(validations: Iterable[Validation]) -> list[CaseError]:
    """Return all errors of metrics that have an interval."""
    found = []
    for validation in validations:
        for case in validation.cases:
            spread = validation.spreads.get(case.case_id)
            for name, error in case.error.items():
                if spread is None or error is None or name not in spread.response:
                    continue
                steady = metric_class(name) == "throughput" and abs(spread.response[name].gain) < _LEAST_GAIN
                if not steady:
                    found.append(CaseError(case, spread, name, math.log1p(error)))
    return found


def fit_validated(errors: Sequence[CaseError]) -> Validated:
    """Return the groups of `errors` and the stretch that intervals need, over all and without each source."""
    groups = tuple(_groups(errors))
    without = {
        source: _stretches(
            tuple(g for g in groups if g.source != source), [e for e in errors if e.case.source != source]
        )
        for source in sorted({group.source for group in groups})
    }
    return Validated(groups, _stretches(groups, errors), without)


def _groups(errors: Sequence[CaseError]) -> list[Group]:
    members = defaultdict[tuple[str, str, str, str], list[CaseError]](list)
    for error in errors:
        members[error.group].append(error)
    return [_group(*key, members[key]) for key in sorted(members)]


def _group(source: str, preset: str, device: str, family: str, members: Sequence[CaseError]) -> Group:
    footings = [error.spread.footing for error in members]
    classes = {
        name: [e for e in members if metric_class(e.name) == name]
        for name in METRIC_CLASSES
        if any(metric_class(e.name) == name for e in members)
    }
    return Group(
        source=source,
        preset=preset,
        device=device,
        family=family,
        models=sorted({footing.model for footing in footings}),
        engine_versions=sorted({error.case.engine_version for error in members}),
        n_cases=len({error.case.case_id for error in members}),
        tp=sorted({tp for footing in footings for tp in footing.tp}),
        n_at_once=_range(footing.n_at_once for footing in footings),
        prompt_tokens=_range(footing.prompt_tokens for footing in footings),
        errors={name: _class_errors(mine) for name, mine in classes.items()},
    )


def _range(values: Iterable[float]) -> list[float]:
    known = list(values)
    return [float(f"{min(known):.4g}"), float(f"{max(known):.4g}")]


def _class_errors(errors: Sequence[CaseError]) -> ClassErrors:
    logs = np.array([error.log_error for error in errors])
    costs = [total_log_sd(error.spread.cost(error.name)) for error in errors]
    log_sd = float(np.quantile(np.abs(logs), LEVEL)) / Z_80
    layout = _layout_log_sd(errors)
    return ClassErrors(
        n=len(errors),
        log_sd=round(max(log_sd, _LEAST_LOG_SD), 5),
        bias_log=round(float(np.median(logs)), 5),
        cost_log_sd=round(float(np.median(costs)), 5),
        layout_log_sd=None if layout is None else round(layout, 5),
    )


def _layout_log_sd(errors: Sequence[CaseError]) -> float | None:
    """Return what of the errors belongs to one layout: from pairs of layouts under the same load and engine version."""
    loads = defaultdict[tuple[object, ...], dict[str, float]](dict)
    for error in errors:
        footing = error.spread.footing
        loads[(footing.load, error.case.engine_version, error.name)][footing.layout] = error.log_error
    gaps = [
        abs(mine - other)
        for by_layout in loads.values()
        for index, mine in enumerate(by_layout.values())
        for other in list(by_layout.values())[index + 1 :]
    ]
    return float(np.quantile(gaps, LEVEL)) / Z_80 / math.sqrt(2.0) if len(gaps) >= _LEAST_PAIRS else None


def _stretches(groups: tuple[Group, ...], errors: Sequence[CaseError]) -> tuple[float, ...]:
    """Return the factor for each count of circles that hold a measured server, never narrower with fewer circles."""
    plain = Validated(groups, (1.0,) * (len(CIRCLES) + 1), {})
    ratios = defaultdict[int, list[tuple[float, float]]](list)
    members = defaultdict[tuple[object, ...], list[CaseError]](list)
    for error in errors:
        members[(*error.group, metric_class(error.name))].append(error)
    n_classes = defaultdict[tuple[object, ...], int](int)
    for key in members:
        n_classes[key[:4]] += 1
    for key, mine in members.items():
        footing = mine[0].spread.footing
        for known in _rests(plain, mine[0].case.source, footing):
            if not known.groups:
                continue
            depth = known.depth(footing)
            weight = 1.0 / len(mine) / n_classes[key[:4]]
            ratios[depth] += [(_ratio(error, known), weight) for error in mine]
    found, narrowest = [], _STRETCH[0]
    for depth in reversed(range(len(CIRCLES) + 1)):
        narrowest = max(narrowest, _stretch(ratios[depth]))
        found.append(round(narrowest, 3))
    return tuple(reversed(found))


def _rests(known: Validated, source: str, footing: Footing) -> list[Validated]:
    """Return what is known without the source, and without each circle around `footing` in turn."""
    rests = [[group.source != source for group in known.groups]]
    rests += [[key(group.footing) != key(footing) for group in known.groups] for _, key in CIRCLES]
    kept = dict.fromkeys(tuple(rest) for rest in rests)
    return [
        replace(known, groups=tuple(g for g, keep in zip(known.groups, rest, strict=True) if keep)) for rest in kept
    ]


def _ratio(error: CaseError, known: Validated) -> float:
    terms = terms_of(error.spread, error.name, known)
    return abs(error.log_error) / terms.log_sd / Z_80 if terms else 0.0


def _stretch(ratios: Sequence[tuple[float, float]]) -> float:
    """Return the weighted 80 % quantile of error over half-width, drawn to 1 where few groups tell."""
    if not ratios:
        return 1.0
    values, weights = (np.array(column) for column in zip(*ratios, strict=True))
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order]) / weights.sum()
    quantile = float(values[order][min(int(np.searchsorted(cumulated, LEVEL)), len(values) - 1)])
    n_groups = float(weights.sum())
    drawn = n_groups * math.log(max(quantile, 1e-3)) / (n_groups + _PRIOR_GROUPS)
    return min(max(math.exp(drawn), _STRETCH[0]), _STRETCH[1])
