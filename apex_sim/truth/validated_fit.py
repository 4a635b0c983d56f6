"""What do replays of measured servers say about an engine, a device and a model family?

Groups of cases become rows of `validated.toml`.  How far intervals must be stretched is estimated by leaving out: each
group is predicted from the others without its source, without its family, without its device and without its engine,
and the stretch is what would have covered most of the left-out errors.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from apex_sim.truth.error_bar import LEVEL, Spread, terms_of
from apex_sim.truth.footing import Footing
from apex_sim.truth.metric_class import METRIC_CLASSES, class_of
from apex_sim.truth.operator_error import total_log_sd
from apex_sim.truth.validated import CIRCLES, Z_80, ClassErrors, Group, Scales, Validated
from apex_sim.truth.validation import CaseResult, Validation

#: A group's error is known no better than repeats of a measurement differ.
_LEAST_LOG_SD: Final = 0.005
#: Fewer pairs of layouts under one load tell nothing.
_LEAST_PAIRS: Final = 4
#: A throughput that answers less than this to slower steps is that of the load, not of the engine.
_LEAST_GAIN: Final = 0.5
#: Bounds of a stretch, and for how many sources the stretch of the wider kind counts.
_STRETCH: Final = (0.25, 4.0)
_PRIOR_SOURCES: Final = 1.0


@dataclass(frozen=True, slots=True)
class CaseError:
    """One error: log of predicted over measured of a metric of one case.

    `together` names all sources that are left out with the case's own, joined by "+"; empty if there is no other.
    """

    case: CaseResult
    spread: Spread
    name: str
    log_error: float
    together: str = ""

    @property
    def source(self) -> str:
        """The source, or all that belong together with it."""
        return self.together or self.case.source

    @property
    def group(self) -> tuple[str, str, str, str]:
        """Source and ground."""
        footing = self.spread.footing
        return self.source, footing.preset, footing.device, footing.family


def case_errors(validations: Iterable[Validation], together: Sequence[Sequence[str]] = ()) -> list[CaseError]:
    """Return all errors of metrics that have an interval.

    Parameters
    ----------
    together : sources that hold runs of one campaign, so that one says nothing new about the other.
    """
    name_of = {source: "+".join(sorted(sources)) for sources in together for source in sources}
    found = []
    for validation in validations:
        for case in validation.cases:
            spread = validation.spreads.get(case.case_id)
            for name, error in case.error.items():
                if spread is None or error is None or name not in spread.response:
                    continue
                steady = class_of(name) == "throughput" and abs(spread.response[name].gain) < _LEAST_GAIN
                if not steady:
                    found.append(CaseError(case, spread, name, math.log1p(error), name_of.get(case.source, "")))
    return found


def fit_validated(errors: Sequence[CaseError]) -> Validated:
    """Return the groups of `errors` and the stretch that intervals need, over all and without each source."""
    groups = _groups(errors)
    ratios = {key: _ratios(groups, errors, key) for key in ("", *sorted({group.source for group in groups}))}
    stretch = {key: _stretches(mine) for key, mine in ratios.items()}
    return Validated(tuple(groups), stretch.pop(""), stretch)


def _groups(errors: Sequence[CaseError]) -> list[Group]:
    members = defaultdict[tuple[str, str, str, str], list[CaseError]](list)
    for error in errors:
        members[error.group].append(error)
    return [_group(*key, members[key]) for key in sorted(members)]


def _group(source: str, preset: str, device: str, family: str, members: Sequence[CaseError]) -> Group:
    footings = [error.spread.footing for error in members]
    classes = {
        name: [e for e in members if class_of(e.name) == name]
        for name in METRIC_CLASSES
        if any(class_of(e.name) == name for e in members)
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


#: Error over half-width of one left-out case: class of metrics, count of circles, ratio, weight of the case in its
#: group, and in its source where nothing but that was left out (else 0).
_Ratio = tuple[str, int, float, float, float]


def _ratios(groups: Sequence[Group], errors: Sequence[CaseError], left_out: str) -> list[_Ratio]:
    """Return how far errors reach beyond intervals made without them; nothing is taken of the source `left_out`."""
    known = [group for group in groups if group.source != left_out]
    members = defaultdict[tuple[str, ...], list[CaseError]](list)
    for error in errors:
        if error.source != left_out:
            members[(*error.group, class_of(error.name) or "")].append(error)
    n_groups = Counter((key[0], key[-1]) for key in members)
    n_cases = Counter((key[0], key[-1]) for key, mine in members.items() for _ in mine)
    found: list[_Ratio] = []
    for key, mine in members.items():
        footing, name = mine[0].spread.footing, key[-1]
        for index, rest in enumerate(_rests(known, key[0], footing)):
            if any(name in group.errors for group in rest.groups):
                depth, scales = rest.depth(footing), rest.scales(footing)
                weight = 1.0 / len(mine) / n_groups[(key[0], name)]
                in_source = 0.0 if index else 1.0 / n_cases[(key[0], name)]
                found += [(name, depth, _ratio(error, scales), weight, in_source) for error in mine]
    return found


def _rests(groups: Sequence[Group], source: str, footing: Footing) -> list[Validated]:
    """Return what is known without the source, and without each circle around `footing` in turn."""
    rests = [[group.source != source for group in groups]]
    rests += [[key(group.footing) != key(footing) for group in groups] for _, key in CIRCLES]
    kept = dict.fromkeys(tuple(rest) for rest in rests)
    return [Validated(tuple(g for g, keep in zip(groups, rest, strict=True) if keep), {}) for rest in kept]


def _ratio(error: CaseError, scales: Scales) -> float:
    terms = terms_of(error.spread, error.name, scales)
    return abs(error.log_error) / terms.log_sd / Z_80 if terms else 0.0


def _stretches(ratios: Sequence[_Ratio]) -> dict[str, list[float]]:
    """Return the factors of each class, drawn to those over all circles, and these to those over all classes.

    What is left out with a device or an engine asks for more than a new source does.  So all factors are multiplied by
    one for each class that holds 80 % of the cases whose source alone was left out, sources weighing equally.
    """
    over_all = _stretch(ratios, 1.0)
    found: dict[str, list[float]] = {}
    for name in METRIC_CLASSES:
        mine = [ratio for ratio in ratios if ratio[0] == name]
        of_class = _stretch(mine, over_all)
        depths = range(len(CIRCLES) + 1)
        found[name] = [_stretch([r for r in mine if r[1] == depth], of_class) for depth in depths]
    left = [(name, r / found[name][depth], weight) for name, depth, r, _, weight in ratios if weight]
    whole = _quantile([(ratio, weight) for _, ratio, weight in left]) if left else 1.0
    for name, factors in found.items():
        own = [(ratio, weight) for each, ratio, weight in left if each == name]
        level = _drawn(_quantile(own), sum(weight for _, weight in own), whole) if own else whole
        found[name] = [round(_bounded(factor * level), 3) for factor in factors]
    return found


def _stretch(ratios: Sequence[_Ratio], prior: float) -> float:
    """Return the weighted quantile of error over half-width, drawn to `prior` where few sources tell."""
    if not ratios:
        return prior
    quantile = _quantile([(ratio[2], ratio[3]) for ratio in ratios])
    n_sources = sum(ratio[3] for ratio in ratios)
    return _bounded(_drawn(quantile, n_sources, prior))


def _drawn(value: float, n_sources: float, prior: float) -> float:
    """Return `value` drawn towards `prior`, in logs, as far as few sources tell it."""
    logs = n_sources * math.log(max(value, 1e-3)) + _PRIOR_SOURCES * math.log(prior)
    return math.exp(logs / (n_sources + _PRIOR_SOURCES))


def _bounded(stretch: float) -> float:
    return min(max(stretch, _STRETCH[0]), _STRETCH[1])


def _quantile(weighted: Sequence[tuple[float, float]]) -> float:
    """Return the value that 80 % of the weight lies below."""
    values, weights = (np.array(column) for column in zip(*weighted, strict=True))
    order = np.argsort(values)
    cumulated = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(cumulated, LEVEL)), len(values) - 1)])
