"""What does a collective over several nodes cost, given what it costs inside one of them?"""

from __future__ import annotations

from apex_sim.cost.basis import Basis
from apex_sim.cost.forms.collectives import Operation, cross_node_time
from apex_sim.cost.parts import Floats, Parts
from apex_sim.hardware.link import Group


def over_nodes(operation: Operation, inside: Parts, n_bytes: float | Floats, group: Group) -> Parts:
    """Return the cost of a collective over `group`: `inside` a node, then between the nodes.

    The part between nodes is derived from the link, never measured: no error is expected of the sum, and no size is in
    range.  It is one launch, also where a node has one device only and nothing runs `inside`.

    Parameters
    ----------
    inside : the same collective of as many bytes over the devices of one node.
    n_bytes : as the collective counts them (`CostModel`).
    """
    if group.n_nodes == 1:
        return inside
    link = group.inter_node
    kernel_s = cross_node_time(operation, inside.kernel_s, n_bytes, group.n_devices_per_node, group.n_nodes, link)
    source = f"between nodes derived from the figures of {link.name}"
    gap_launches = 1.0
    if group.n_devices_per_node > 1:
        source, gap_launches = f"{inside.basis.source}; {source}", inside.gap_launches
    basis = Basis(inside.basis.back_end, source, None, in_range=False)
    zero = 0.0 * kernel_s
    return Parts(kernel_s, zero, zero, kernel_s, 1.0, gap_launches, basis)
