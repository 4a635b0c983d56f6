"""Which names does the shell offer behind TAB?

Each function is a `shell_complete` callback of click: names that begin with what was typed, or else files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem

from apex_sim import catalogue


def complete_study(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the catalogue's studies."""
    return _offer(catalogue.names("search"), incomplete)


def complete_model(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the catalogue's models."""
    from apex_sim.model.load import model_names

    return _offer(model_names(), incomplete)


def complete_workload(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the catalogue's workloads."""
    return _offer(catalogue.names("workloads"), incomplete)


def complete_cases(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the sets of measured cases that ship with the project."""
    return _offer(catalogue.names("workloads/served", ".csv"), incomplete)


def complete_cluster(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer clusters with a file of their own and, behind a count such as "8x", devices."""
    return _offer([*_cluster_names(), *_counted_devices(incomplete)], incomplete)


def complete_hardware(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer devices and clusters."""
    names = [*catalogue.names("hardware_profiles/devices"), *_cluster_names(), *_counted_devices(incomplete)]
    return _offer(names, incomplete)


def complete_preset(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the engine presets."""
    from apex_sim.preset.load import PRESETS

    return _offer(PRESETS, incomplete)


def complete_router(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the routers."""
    from apex_sim.fleet.router import ROUTERS

    return _offer(ROUTERS, incomplete)


def complete_engine(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the serving engines whose plans are known."""
    from apex_sim.plan.engines import ENGINES

    return _offer(ENGINES, incomplete)


def complete_policy(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the batching policies."""
    from apex_sim.instance.policies import POLICIES

    return _offer(POLICIES, incomplete)


def complete_slo(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the metrics that can have a limit."""
    from apex_sim.metrics.definitions import METRICS

    return _offer([f"{name}=" for name, metric in METRICS.items() if metric.better != "neither"], incomplete)


def _cluster_names() -> list[str]:
    return [name for name in catalogue.names("hardware_profiles/clusters") if name != "default"]


def _counted_devices(incomplete: str) -> list[str]:
    count = re.match(r"(\d+x){1,2}", incomplete)
    return [f"{count[0]}{device}" for device in catalogue.names("hardware_profiles/devices")] if count else []


def _offer(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    items = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return items or [CompletionItem(incomplete, type="file")]
