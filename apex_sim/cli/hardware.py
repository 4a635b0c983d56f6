"""`apex-sim hardware`: which devices and clusters are known, and where do their figures come from?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from apex_sim.cli import run_flags
from apex_sim.cli.completion import complete_hardware
from apex_sim.cli.output import print_columns, print_json

if TYPE_CHECKING:
    from apex_sim.hardware.cluster import Cluster
    from apex_sim.hardware.device import Device
    from apex_sim.hardware.link import Link

#: Unit by the ending of a key, the longest first.
_UNITS: Final = {
    "_bytes_per_s": "B/s",
    "_usd_per_h": "USD/h",
    "_flops": "FLOP/s",
    "_bytes": "B",
    "_hz": "Hz",
    "_w": "W",
    "_s": "s",
}
_PREFIXES: Final = {"P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "": 1.0, "m": 1e-3, "u": 1e-6}
_COUNTED: Final = re.compile(r"(\d+x){1,2}.+", re.IGNORECASE)


@click.group("hardware", epilog="Example: apex-sim hardware show h100-sxm")
def hardware_group() -> None:
    """Look at devices and clusters: figures and their sources."""


@hardware_group.command("list", epilog="Example: apex-sim hardware list")
@run_flags.JSON
def list_command(as_json: bool) -> None:
    """List the devices, and the clusters that have a file of their own.

    Any device also makes clusters: 8xh100-sxm is one node of eight, 2x8xh100-sxm two such nodes.
    """
    from apex_sim.hardware.cluster import cluster_names, load_cluster
    from apex_sim.hardware.device import device_names, load_device

    devices = [load_device(name) for name in device_names()]
    clusters = [load_cluster(name) for name in cluster_names()]
    if as_json:
        print_json([*map(_device_summary, devices), *map(_cluster_summary, clusters)])
        return
    rows = [
        (
            device.name,
            f"{device.memory_bytes / 2**30:.1f} GiB",
            _readable(device.memory_bytes_per_s, "B/s"),
            _readable(device.peak_flops["bf16"], "FLOP/s") if "bf16" in device.peak_flops else "-",
            f"{device.price_usd_per_h:.2f}",
            device.calibration,
        )
        for device in devices
    ]
    columns = ("device", "memory", "bandwidth", "dense bf16", "USD/h", "costs from")
    print_columns(columns, rows, right=columns[1:5])
    if clusters:
        click.echo()
        print_columns(("cluster", ""), [(cluster.name, _cluster_text(cluster)) for cluster in clusters])


@hardware_group.command("show", epilog="Example: apex-sim hardware show 2x8xh100-sxm --json")
@click.argument("name", shell_complete=complete_hardware)
@run_flags.JSON
def show_command(name: str, as_json: bool) -> None:
    """Show every figure of a device or cluster, with its source.

    NAME is a device (h100-sxm), a cluster (8xh100-sxm, 2x8xh100-sxm, a name of the catalogue), or a TOML file of
    either.
    """
    from apex_sim.report.document import SCHEMA_VERSION

    hardware = _load(name)
    document = {"schema_version": SCHEMA_VERSION, **hardware}
    if as_json:
        print_json(document)
    else:
        _print_figures(hardware)


def _load(name: str) -> dict[str, Any]:
    from apex_sim.errors import UnknownNameError
    from apex_sim.files import read_toml
    from apex_sim.hardware.cluster import cluster_names, load_cluster
    from apex_sim.hardware.device import device_names, load_device

    devices, clusters = device_names(), cluster_names()
    if name.lower() in devices:
        return _device_document(load_device(name))
    if name.lower() in clusters or _COUNTED.fullmatch(name) or _is_park(name):
        return _cluster_document(load_cluster(name))
    if "/" in name or "\\" in name or name.endswith(".toml"):
        is_cluster = Path(name).is_file() and "device" in read_toml(Path(name))
        return _cluster_document(load_cluster(name)) if is_cluster else _device_document(load_device(name))
    raise UnknownNameError(
        "device or cluster", name, [*devices, *clusters], remedy="a cluster is written 8xh100-sxm or 2x8xh100-sxm"
    )


def _is_park(name: str) -> bool:
    return "+" in name and not ("/" in name or "\\" in name or name.endswith(".toml"))


def _device_summary(device: Device) -> dict[str, Any]:
    return {
        "name": device.name,
        "type": "device",
        "title": device.title,
        "vendor": device.vendor,
        "architecture": device.architecture,
        "memory_bytes": device.memory_bytes,
        "memory_bytes_per_s": device.memory_bytes_per_s,
        "peak_flops": dict(device.peak_flops),
        "price_usd_per_h": device.price_usd_per_h,
        "calibration": device.calibration,
    }


def _cluster_summary(cluster: Cluster) -> dict[str, Any]:
    return {
        "name": cluster.name,
        "type": "cluster",
        "title": _cluster_text(cluster),
        "device": cluster.device.name,
        "n_nodes": cluster.n_nodes,
        "n_devices_per_node": cluster.n_devices_per_node,
        "n_devices": cluster.n_devices,
        **({"pools": [_cluster_summary(pool) for pool in cluster.pools]} if cluster.others else {}),
    }


def _cluster_text(cluster: Cluster) -> str:
    if cluster.others:
        return ", ".join(_cluster_text(pool) for pool in cluster.pools)
    nodes = "node" if cluster.n_nodes == 1 else "nodes"
    return f"{cluster.n_nodes} {nodes} of {cluster.n_devices_per_node} {cluster.device.name}"


def _device_document(device: Device) -> dict[str, Any]:
    figures = {
        key: {"value": f.value, "unit": _unit_of(key), "kind": f.kind, "source": f.source, "note": f.note}
        for key, f in device.figures.items()
    }
    return {**_device_summary(device), "figures": figures}


def _cluster_document(cluster: Cluster) -> dict[str, Any]:
    if not cluster.others:
        return {**_cluster_summary(cluster), "figures": _pool_figures(cluster)}
    figures = {
        f"{pool.device.name}.{key}": figure for pool in cluster.pools for key, figure in _pool_figures(pool).items()
    }
    return {**_cluster_summary(cluster), "figures": figures}


def _pool_figures(cluster: Cluster) -> dict[str, Any]:
    links = {"intra_node": cluster.intra_node} | ({"inter_node": cluster.inter_node} if cluster.n_nodes > 1 else {})
    figures = {
        f"{place}.{key}": {"value": value, "unit": unit, "kind": link.kind, "source": link.source, "note": link.name}
        for place, link in links.items()
        for key, value, unit in _link_values(link)
    }
    device = _device_document(cluster.device)
    figures |= {f"device.{key}": figure for key, figure in device["figures"].items()}
    return figures


def _link_values(link: Link) -> tuple[tuple[str, float, str], ...]:
    shared = (("n_links_per_node", float(link.n_per_node), ""),) if link.n_per_node else ()
    return ("bytes_per_s", link.bytes_per_s, "B/s"), ("latency_s", link.latency_s, "s"), *shared


def _unit_of(key: str) -> str:
    """Return the unit that a key ends with; counts have none.

    Examples
    --------
    >>> _unit_of("memory_bytes_per_s"), _unit_of("peak_flops.bf16"), _unit_of("n_sms")
    ('B/s', 'FLOP/s', '')
    """
    name = f"_{key.partition('.')[0]}"
    if name.startswith("_n_"):
        return ""
    return next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), "")


def _readable(value: float, unit: str) -> str:
    """Return a figure for readers.

    Examples
    --------
    >>> _readable(3.35e12, "B/s"), _readable(2.7e-6, "s"), _readable(132, ""), _readable(2**30, "B")
    ('3.35 TB/s', '2.7 us', '132', '1 GiB')
    """
    if unit == "B":
        return f"{value / 2**30:.4g} GiB" if value >= 2**30 else f"{value / 2**20:.4g} MiB"
    if not unit or unit == "USD/h" or not value:
        return f"{value:g} {unit}".strip()
    prefix = next((prefix for prefix, scale in _PREFIXES.items() if value >= scale), "u")
    return f"{value / _PREFIXES[prefix]:.4g} {prefix}{unit}"


def _print_figures(hardware: dict[str, Any]) -> None:
    figures = hardware["figures"]
    sources = list(dict.fromkeys(_source_text(figure) for figure in figures.values()))
    rows = [
        (key, _readable(f["value"], f["unit"]), f["kind"], f"[{sources.index(_source_text(f)) + 1}]")
        for key, f in figures.items()
    ]
    click.echo(f"{hardware['name']}: {hardware['title']}\n")
    print_columns(("figure", "value", "kind", "source"), rows, right=("value",))
    click.echo()
    print_columns(("", "sources"), [(f"[{number}]", text) for number, text in enumerate(sources, start=1)])


def _source_text(figure: dict[str, Any]) -> str:
    return f"{figure['source']} ({figure['note']})" if figure["note"] else str(figure["source"])
