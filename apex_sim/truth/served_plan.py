"""Which measured plans served the same load, and what came out of each as a whole?

A group of plans shares source, engine, release, model, device, number formats and load; plans may differ in their
number of devices, because hardly any published group holds it fixed.  What one group asked:

* without a request file: lengths, load form, users or rate;
* with one: the prompts, whatever their order, and the mean rate within 10 %.  Outputs and arrivals may differ, since a
  model that stops by itself and a clock that is drawn give others in each run; E2E then differs by its outputs too.

Data parallel copies that were measured one by one are parts of one plan where their rows say so: the note reads "one of
N servers", all N rows are there, and their request files differ in a last number only.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from apex_sim.truth.axes import layout_label
from apex_sim.truth.case import Case
from apex_sim.truth.replay import Replay

_SHARE: Final = re.compile(r"one of (\d{1,4}) servers")
_LAST_NUMBER: Final = re.compile(r"_\d+(\.\w+)$")
#: Mean rates of drawn arrivals differ by less; the next load of any published run is at least twice as high.
_SAME_RATE: Final = 1.1

#: How the columns of several servers become that of their plan: mean over requests, mean over tokens after the first,
#: or sum.  Medians and tails cannot be had from those of the parts.
_BY_REQUEST: Final = ("ttft_mean_s", "tpot_mean_s", "e2e_mean_s")
_BY_TOKEN: Final = ("itl_mean_s",)
_SUMS: Final = ("output_tokens_per_s", "total_tokens_per_s", "power_mean_w")


@dataclass(frozen=True, slots=True)
class ServedCase:
    """One replayed case with its prediction."""

    case: Case
    replay: Replay
    predicted: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class ServedPlan:
    """One plan under one load: its servers together, its repeats averaged; throughput is over all its devices."""

    label: str
    n_devices: int
    case_ids: tuple[str, ...]
    measured: Mapping[str, float]
    predicted: Mapping[str, float]
    noise: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class PlanGroup:
    """At least two plans that served one load."""

    source: str
    label: str
    plans: tuple[ServedPlan, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Server:
    """A plan's cases in one run, before repeats meet; `prompts` and `rate_per_s` are those of all together."""

    cases: tuple[ServedCase, ...]

    @property
    def first(self) -> ServedCase:
        return self.cases[0]

    def load_key(self) -> Hashable:
        load, workload = self.first.case.load, self.first.replay.workload
        if load.workload is None:
            asked = (load.isl_tokens, load.osl_tokens, load.length_low_frac, load.concurrency, load.rate_per_s)
            return (workload.load.kind, *asked)
        prompts = np.concatenate([one.replay.workload.requests.prompt_tokens for one in self.cases])
        return workload.load.kind, np.sort(prompts).tobytes()

    def rate_per_s(self) -> float:
        """Return the mean rate over all servers; 0 where the load has none or is told apart by its columns."""
        if self.first.case.load.workload is None:
            return 0.0
        return sum(one.replay.workload.rate_per_s or 0.0 for one in self.cases)


def plan_groups(served: Sequence[ServedCase]) -> tuple[PlanGroup, ...]:
    """Return the groups of at least two plans, in the order of their first cases."""
    groups: dict[Hashable, list[_Server]] = defaultdict(list)
    for server in _servers(served):
        case = server.first.case
        d = case.deployment
        formats = (d.weight_dtype, d.act_dtype, d.kv_dtype)
        who = (case.source, d.engine.lower(), d.engine_version, d.model.lower(), d.device.lower(), formats)
        groups[(who, server.load_key())].append(server)
    found = []
    for members in groups.values():
        for servers in _by_rate(members):
            plans = _plans(servers)
            if len(plans) > 1:
                found.append(PlanGroup(servers[0].first.case.source, _group_label(servers[0]), plans))
    return tuple(found)


def _servers(served: Sequence[ServedCase]) -> list[_Server]:
    """Return single cases, and the servers of a plan together; plans of which a server is missing are left out."""
    parts: dict[tuple[Hashable, int], list[ServedCase]] = defaultdict(list)  # what they share -> how many there are
    for index, one in enumerate(served):
        share, load = _SHARE.fullmatch(one.case.note), one.case.load
        if share is None:
            parts[(index, 1)].append(one)
        elif load.workload is not None:
            stem = _without_last_number(load.workload)
            plan = (one.case.source, one.case.deployment, one.case.settings, stem)
            parts[(plan, int(share[1]))].append(one)
    return [_Server(tuple(ones)) for (_, n_servers), ones in parts.items() if len(ones) == n_servers]


def _by_rate(servers: Sequence[_Server]) -> Iterable[list[_Server]]:
    """Yield the servers in runs whose mean rates are the same."""
    ordered = sorted(servers, key=_Server.rate_per_s)
    start = 0
    for index, server in enumerate(ordered):
        if server.rate_per_s() > _SAME_RATE * ordered[start].rate_per_s():
            yield ordered[start:index]
            start = index
    yield ordered[start:]


def _plans(servers: Sequence[_Server]) -> tuple[ServedPlan, ...]:
    """Return one plan for each layout and settings, its repeats averaged."""
    repeats: dict[Hashable, list[_Server]] = defaultdict(list)
    for server in servers:
        repeats[(server.first.replay.plan, len(server.cases))].append(server)
    return tuple(_plan(members) for members in repeats.values())


def _plan(repeats: Sequence[_Server]) -> ServedPlan:
    first, n_servers = repeats[0].first, len(repeats[0].cases)
    measured = [_together(server.cases, [one.case.measured for one in server.cases]) for server in repeats]
    predicted = [_together(server.cases, [one.predicted for one in server.cases]) for server in repeats]
    cases = [one.case for server in repeats for one in server.cases]
    label = layout_label(first.replay)
    return ServedPlan(
        label=f"{label} DP{n_servers}" if n_servers > 1 else label,
        n_devices=first.replay.plan.n_devices * n_servers,
        case_ids=tuple(case.case_id for case in cases),
        measured=_means(measured),
        predicted=_means(predicted),
        noise=tuple(case.noise_frac for case in cases),
    )


def _together(cases: Sequence[ServedCase], values: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """Return the metrics of several servers as one, those that all of them have."""
    shared = {name: [v for one in values if (v := one.get(name)) is not None] for name in values[0]}
    shared = {name: column for name, column in shared.items() if len(column) == len(values)}
    if len(values) == 1:
        return {name: column[0] for name, column in shared.items()}
    requests = [one.replay.workload.requests for one in cases]
    n_requests = [r.n for r in requests]
    n_gaps = [int((r.output_tokens - 1).sum()) for r in requests]
    whole: dict[str, float] = {}
    for name, column in shared.items():
        if name in _SUMS:
            whole[name] = sum(column)
        elif name in _BY_REQUEST:
            whole[name] = float(np.average(column, weights=n_requests))
        elif name in _BY_TOKEN and any(n_gaps):
            whole[name] = float(np.average(column, weights=n_gaps))
    return whole


def _means(repeats: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = [name for name in repeats[0] if all(name in one for one in repeats)]
    return {name: float(np.mean([one[name] for one in repeats])) for name in names}


def _without_last_number(file_name: str) -> str:
    return _LAST_NUMBER.sub(r"\1", file_name)


def _group_label(server: _Server) -> str:
    case, workload = server.first.case, server.first.replay.workload
    load, d = case.load, case.deployment
    if load.workload is None:
        asked = f"{load.isl_tokens}/{load.osl_tokens} tokens"
    else:
        n = sum(one.replay.workload.requests.n for one in server.cases)
        asked = f"{n} requests of {_without_last_number(load.workload)}"
    rate = server.rate_per_s() or workload.rate_per_s
    users = f"{load.concurrency} users" if load.concurrency else f"{rate:.2g}/s" if rate else workload.load.kind
    return f"{d.model} {d.device}, {d.engine} {d.engine_version}, {asked}, {users}"
