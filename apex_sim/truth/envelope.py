"""Does a result lie where predictions were checked against measured servers, and what does it stand on?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from apex_sim.errors import shorten
from apex_sim.metrics.cost_basis import CostShare
from apex_sim.truth.footing import Footing
from apex_sim.truth.validated import CIRCLES, Group, Validated

#: Shares of kernel time below this are not worth a reason.
_LEAST_FRAC: Final = 0.05


@dataclass(frozen=True, slots=True)
class Standing:
    """What a result stands on.

    Parameters
    ----------
    inside : whether it lies where predictions were checked; `outside` holds a reason for each way in which not.
    kernel_frac : share of kernel time by the back end that priced it: from tables of measured kernels, from forms that
        were calibrated on them, or from the datasheet alone; also the share that is "unbacked" by any measured kernel,
        and the share at sizes "beyond" their data.
    checked_on : the measured servers of the same engine, device and model family.
    """

    inside: bool
    outside: tuple[str, ...]
    kernel_frac: Mapping[str, float]
    checked_on: tuple[str, ...]


def standing_of(footing: Footing, shares: Sequence[CostShare], validated: Validated) -> Standing:
    """Return what a simulated plan stands on."""
    back_ends: dict[str, float] = {}
    for share in shares:
        back_ends[share.back_end] = back_ends.get(share.back_end, 0.0) + share.kernel_frac
    unbacked = sum(share.kernel_frac for share in shares if share.expected_error_frac is None)
    beyond = sum(share.kernel_frac * share.outside_frac for share in shares)
    reasons, groups = _servers(footing, validated.groups)
    reasons += _loads(footing, groups) if groups else []
    if unbacked >= _LEAST_FRAC:
        reasons.append(f"{unbacked:.0%} of kernel time has prices that no measured kernel backs")
    if beyond >= _LEAST_FRAC:
        reasons.append(f"{beyond:.0%} of kernel time is at sizes beyond the measured kernels")
    checked = tuple(f"{group.source}: {', '.join(group.models)}, {group.n_cases} cases" for group in groups)
    return Standing(not reasons, tuple(reasons), {**back_ends, "unbacked": unbacked, "beyond": beyond}, checked)


def _servers(footing: Footing, groups: Sequence[Group]) -> tuple[list[str], list[Group]]:
    """Return why no measured server is close, or those that are."""
    members = list(groups)
    for text, key in CIRCLES:
        members = [group for group in members if key(group.footing) == key(footing)]
        if not members:
            what = text.format(footing.preset, footing.device, shorten(footing.family))
            return [f"no measured server of {what}"], []
    return [], members


def _loads(footing: Footing, groups: Sequence[Group]) -> list[str]:
    """Return in which respects the plan and its load differ from the servers of `groups`, all at the highest clock."""
    reasons = []
    if footing.clock_frac < 1.0:
        reasons.append(f"a clock of {footing.clock_frac:.0%} was not measured, only the highest")
    known = sorted({tp for group in groups for tp in group.tp})
    if new := sorted(set(footing.tp) - set(known)):
        reasons.append(f"TP{_listed(new)} was not measured, only TP{_listed(known)}")
    for what, value, range_of in _RANGES:
        low = min(range_of(group)[0] for group in groups)
        high = max(range_of(group)[1] for group in groups)
        mine = value(footing)
        if not low * 0.99 <= mine <= high * 1.01:
            reasons.append(f"{mine:.3g} {what}, measured servers had {low:.3g} to {high:.3g}")
    return reasons


_RANGES: Final[tuple[tuple[str, Callable[[Footing], float], Callable[[Group], list[float]]], ...]] = (
    ("requests at a time in an instance", lambda f: f.n_at_once, lambda g: g.n_at_once),
    ("prompt tokens on average", lambda f: f.prompt_tokens, lambda g: g.prompt_tokens),
)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)
