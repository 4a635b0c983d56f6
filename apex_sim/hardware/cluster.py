"""How many devices are there, in which nodes, and what joins them?

`8xh100-sxm` is one node, `2x8xh100-sxm` two nodes; both are composed from the device's file and the network of
`hardware_profiles/clusters/default.toml`.  A cluster with links of its own has its own file beside it.
`8xh100-sxm+16xl40s` is a park of two pools: an instance lies inside one of them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from apex_sim import catalogue
from apex_sim.errors import InputError, UnknownNameError
from apex_sim.files import StrictModel, check, read_toml
from apex_sim.hardware.device import Device, load_device
from apex_sim.hardware.figure import KINDS, Figure, FigureEntry, Plausible, Text
from apex_sim.hardware.link import Group, Link

FOLDER: Final = "hardware_profiles/clusters"
MAX_DEVICES: Final = 65_536

_DEFAULT: Final = "default"
_EXAMPLES: Final = "write MxDEVICE such as 8xh100-sxm, or NxMxDEVICE such as 2x8xh100-sxm for 2 nodes of 8"
_NAME: Final = re.compile(r"(?:([0-9]+)x)?([0-9]+)x(.+)", re.IGNORECASE)
_COUNT: Final = Plausible(1, MAX_DEVICES, f"give a number from 1 to {MAX_DEVICES}", whole=True)
_LATENCY: Final = Plausible(1e-9, 1e-2, "give seconds: 2.7 microseconds are 2.7e-6")
_BANDWIDTH: Final = Plausible(
    1e8, 1e14, "give bytes per second, per device, in one direction: 400 Gb/s InfiniBand is 50e9"
)


class LinkFile(StrictModel):
    """A link as a TOML table."""

    name: Text
    bytes_per_s: FigureEntry
    latency_s: FigureEntry


class NetworkFile(LinkFile):
    """What joins nodes as a TOML table; `n_links_per_node` where the devices of a node share fewer links."""

    n_links_per_node: FigureEntry | None = None


class DefaultsFile(StrictModel):
    """What completes a cluster that is given by name only."""

    n_devices_per_node_max: FigureEntry
    nvlink_latency_s: FigureEntry
    pcie_latency_s: FigureEntry
    inter_node: NetworkFile


class ClusterFile(StrictModel):
    """A cluster with its own links as a TOML file."""

    title: Text
    device: Text
    n_nodes: FigureEntry
    n_devices_per_node: FigureEntry
    intra_node: LinkFile
    inter_node: NetworkFile


@dataclass(frozen=True, slots=True)
class Cluster:
    """Equal nodes of equal devices, and in a park other such pools of other devices.

    Parameters
    ----------
    name : as the user wrote it, in its shortest form ("8xh100-sxm"), or the stem of its file; of a park the names of
        all pools, joined by "+".
    device : what every node of the first pool holds.
    n_nodes, n_devices_per_node : the size of the first pool; at most `MAX_DEVICES` devices in all.
    intra_node, inter_node : what joins the devices of a node, and the nodes, of the first pool.
    others : further pools, each of another device.  Nothing but requests passes between pools.

    Raises
    ------
    InputError : no devices, or too many; pools inside pools, or two of one device.
    """

    name: str
    device: Device
    n_nodes: int
    n_devices_per_node: int
    intra_node: Link
    inter_node: Link
    others: tuple[Cluster, ...] = ()

    def __post_init__(self) -> None:
        """Check the size and the pools."""
        if self.n_nodes < 1 or self.n_devices_per_node < 1:
            raise InputError(f"cluster {self.name!r} has no devices", remedy="give counts of 1 or more")
        if self.n_devices_in_all > MAX_DEVICES:
            raise InputError(
                f"cluster {self.name!r} has {self.n_devices_in_all} devices", remedy=f"use at most {MAX_DEVICES}"
            )
        devices = [self.device.name, *(pool.device.name for pool in self.others)]
        if len(set(devices)) < len(devices) or any(pool.others for pool in self.others):
            raise InputError(
                f"cluster {self.name!r} has pools of {', '.join(devices)}",
                remedy="give each device one pool: plans name the device, not the pool",
            )

    @property
    def n_devices(self) -> int:
        """Return the number of devices in all nodes of the first pool."""
        return self.n_nodes * self.n_devices_per_node

    @property
    def n_devices_in_all(self) -> int:
        """Return the number of devices in all pools."""
        return sum(pool.n_devices for pool in (self, *self.others))

    @property
    def pools(self) -> tuple[Cluster, ...]:
        """Return each pool as a cluster of its own."""
        if not self.others:
            return (self,)
        rest = "".join(f"+{pool.name}" for pool in self.others)
        return replace(self, name=self.name.removesuffix(rest), others=()), *self.others

    def pool(self, device_name: str) -> Cluster:
        """Return the pool of a device.

        Raises
        ------
        UnknownNameError : no pool has such devices.

        Examples
        --------
        >>> load_cluster("8xh100-sxm+2x8xl40s").pool("l40s").name
        '2x8xl40s'
        """
        for pool in self.pools:
            if pool.device.name == device_name:
                return pool
        known = [pool.device.name for pool in self.pools]
        raise UnknownNameError("pool", device_name, known, where=f"cluster {self.name!r}")

    def group(self, n_devices: int) -> Group:
        """Return a group of so many devices of the first pool.

        Groups sit on consecutive devices, starting at the first of a node: one that fits into a node stays inside it.

        Raises
        ------
        InputError : the cluster has no such group, or it would fill its nodes unevenly.

        Examples
        --------
        >>> load_cluster("2x8xh100-sxm").group(16).n_nodes
        2
        """
        per_node = self.n_devices_per_node
        if not 1 <= n_devices <= self.n_devices:
            raise InputError(f"a group of {n_devices} devices in {self.name!r}", remedy=f"use 1 to {self.n_devices}")
        if n_devices > per_node and n_devices % per_node:
            raise InputError(
                f"a group of {n_devices} devices fills nodes of {per_node} unevenly", remedy="use whole nodes"
            )
        inside = min(n_devices, per_node)
        return Group(inside, n_devices // inside, self.intra_node, self.inter_node.shared_by(inside))


def cluster_names() -> list[str]:
    """Return the names of the clusters that have files of their own, sorted.

    Examples
    --------
    >>> "hgx-h100-2-nodes" in cluster_names()
    True
    """
    return [name for name in catalogue.names(FOLDER) if name != _DEFAULT]


def load_cluster(name_or_path: str | Path) -> Cluster:
    """Return the cluster that `MxDEVICE`, `NxMxDEVICE`, a catalogue name or the path of a TOML file stands for.

    Names joined by "+" stand for a park with a pool for each; paths cannot be joined.

    Raises
    ------
    UnknownNameError : neither form, or no such device; the message gives examples or the nearest names.
    InputError : a count that is zero, padded with zeros, larger than a node or than `MAX_DEVICES`, a device in two
        pools, or a bad file.

    Examples
    --------
    >>> load_cluster("2x8xh100-sxm").n_devices
    16
    """
    text = str(name_or_path)
    is_path = isinstance(name_or_path, Path) or "/" in text or "\\" in text or text.endswith(".toml")
    if "+" in text and not is_path:
        first, *others = (load_cluster(part) for part in text.split("+"))
        name = "+".join(pool.name for pool in (first, *others))
        return replace(first, name=name, others=tuple(others))
    match = _NAME.fullmatch(text)
    if match and not isinstance(name_or_path, Path):
        return _composed(text, *match.groups())
    if not is_path and text.lower() not in cluster_names():
        raise UnknownNameError("cluster", text, cluster_names(), remedy=_EXAMPLES)
    return cluster_from_toml(catalogue.resolve(FOLDER, name_or_path, "cluster"))


def cluster_from_toml(path: Path) -> Cluster:
    """Return the cluster that the file at `path` describes; its name is the file's stem.

    Raises
    ------
    UnknownNameError : a key that the format lacks, or an unknown device.
    InputError : a missing, malformed, implausible or unsourced figure; the message names file and key.
    """
    where = str(path)
    content = check(ClusterFile, read_toml(path), where)
    return Cluster(
        name=path.stem,
        device=load_device(content.device),
        n_nodes=int(_COUNT.figure(content.n_nodes, where, "n_nodes").value),
        n_devices_per_node=int(_COUNT.figure(content.n_devices_per_node, where, "n_devices_per_node").value),
        intra_node=_link(content.intra_node, where, "intra_node"),
        inter_node=_link(content.inter_node, where, "inter_node"),
    )


def _composed(text: str, nodes: str | None, devices: str, device_name: str) -> Cluster:
    """Return the cluster that a name of the form `MxDEVICE` or `NxMxDEVICE` stands for."""
    n_nodes, n_devices_per_node = _count(nodes or "1", text), _count(devices, text)
    device = load_device(device_name)
    path = catalogue.folder(FOLDER) / f"{_DEFAULT}.toml"
    where = str(path)
    defaults = check(DefaultsFile, read_toml(path), where)
    usual = int(_COUNT.figure(defaults.n_devices_per_node_max, where, "n_devices_per_node_max").value)
    limit = device.n_devices_per_node_max or usual
    if n_devices_per_node > limit:
        raise InputError(
            f"{text!r} asks for {n_devices_per_node} devices in one node, and the largest node holds {limit}",
            where=f"{where if limit == usual else f'device {device.name!r}'}, key 'n_devices_per_node_max'",
            remedy=f"write NxMxDEVICE, as in {math.ceil(n_nodes * n_devices_per_node / limit)}x{limit}x{device_name}",
        )
    name = f"{n_devices_per_node}x{device.name}"
    return Cluster(
        name=name if n_nodes == 1 else f"{n_nodes}x{name}",
        device=device,
        n_nodes=n_nodes,
        n_devices_per_node=n_devices_per_node,
        intra_node=_intra_node(device, defaults, where),
        inter_node=_link(defaults.inter_node, where, "inter_node"),
    )


def _count(digits: str, text: str) -> int:
    if digits.startswith("0") or len(digits) > len(str(MAX_DEVICES)) or int(digits) > MAX_DEVICES:
        raise InputError(f"the count {digits[:12]!r} in cluster {text[:80]!r}", remedy=f"{_COUNT.remedy}; {_EXAMPLES}")
    return int(digits)


def _intra_node(device: Device, defaults: DefaultsFile, where: str) -> Link:
    """Return NVLink, or the vendor's counterpart, where the device has it, else PCIe."""
    key, entry = (
        ("nvlink", defaults.nvlink_latency_s) if device.nvlink_bytes_per_s else ("pcie", defaults.pcie_latency_s)
    )
    latency = _LATENCY.figure(entry, where, f"{key}_latency_s")
    name = "NVLink" if key == "nvlink" else "PCIe"
    if key == "nvlink" and device.vendor != "NVIDIA":
        name = f"{device.vendor} scale-up link"
        latency = replace(latency, source=f"assumed equal to NVLink's, {latency.source}", kind="assumed")
    return _join(name, device.figures[f"{key}_bytes_per_s"], latency)


def _link(content: LinkFile, where: str, key: str) -> Link:
    bandwidth = _BANDWIDTH.figure(content.bytes_per_s, where, f"{key}.bytes_per_s")
    link = _join(content.name, bandwidth, _LATENCY.figure(content.latency_s, where, f"{key}.latency_s"))
    if not isinstance(content, NetworkFile) or content.n_links_per_node is None:
        return link
    shared = _COUNT.figure(content.n_links_per_node, where, f"{key}.n_links_per_node")
    source, kind = f"{link.source}; links of a node: {shared.source}", max(link.kind, shared.kind, key=KINDS.index)
    return replace(link, n_per_node=int(shared.value), source=source, kind=kind)


def _join(name: str, bandwidth: Figure, latency: Figure) -> Link:
    return Link(
        bytes_per_s=bandwidth.value,
        latency_s=latency.value,
        name=name,
        source=f"bandwidth: {bandwidth.source}; latency: {latency.source}",
        kind=max(bandwidth.kind, latency.kind, key=KINDS.index),
    )
