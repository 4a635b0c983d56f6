"""What does one device send to another over, and which devices send to each other?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from apex_sim.hardware.figure import Kind


@dataclass(frozen=True, slots=True)
class Link:
    """What one device sends to another over.

    Parameters
    ----------
    bytes_per_s : per device, one direction; of each link where a node has `n_per_node`.
    latency_s : of one hop.
    name : for readers ("NVLink").
    source : where the figures come from.
    kind : the weakest of their kinds.
    n_per_node : links that all devices of a node share; None = each device has its own.
    """

    bytes_per_s: float
    latency_s: float
    name: str
    source: str
    kind: Kind
    n_per_node: int | None = None

    def shared_by(self, n_devices: int) -> Link:
        """Return the link as each of `n_devices` of one node has it when all of them send at once.

        Examples
        --------
        >>> Link(50e9, 5e-6, "InfiniBand", "example", "assumed", n_per_node=2).shared_by(8).bytes_per_s
        12500000000.0
        """
        if self.n_per_node is None or n_devices <= self.n_per_node:
            return self
        return replace(self, bytes_per_s=self.bytes_per_s * self.n_per_node / n_devices)


@dataclass(frozen=True, slots=True)
class Group:
    """Devices that communicate with each other, equally many in each of their nodes.

    Parameters
    ----------
    n_devices_per_node, n_nodes : the size.
    intra_node, inter_node : what joins the devices of a node, and the nodes; the latter as one device has it when all
        devices of the group send at once.
    """

    n_devices_per_node: int
    n_nodes: int
    intra_node: Link
    inter_node: Link

    @property
    def n_devices(self) -> int:
        """Return the number of devices in all nodes."""
        return self.n_nodes * self.n_devices_per_node

    @property
    def one_node(self) -> Group:
        """Return the group's devices in one of its nodes."""
        return replace(self, n_nodes=1)
