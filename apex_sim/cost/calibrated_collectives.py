"""How long do collectives take, by lines fitted inside one node and by the link's figures between nodes?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from apex_sim.cost.basis import Basis
from apex_sim.cost.cross_node import over_nodes
from apex_sim.cost.fits import Fits
from apex_sim.cost.forms.collectives import (
    CollectiveCoefficients,
    Operation,
    VllmAllReduceCoefficients,
    collective_time,
    vllm_all_reduce_time,
)
from apex_sim.cost.forms.shares import KernelTime
from apex_sim.cost.parts import Floats, Parts
from apex_sim.cost.roofline import Roofline
from apex_sim.hardware.device import Device
from apex_sim.hardware.link import Group
from apex_sim.preset.preset import OwnAllReduce


@dataclass(frozen=True, slots=True)
class CalibratedCollectives:
    """Collectives of one device type.

    Parameters
    ----------
    fits : lines of NCCL and of vLLM's own kernels.
    fallback : prices groups whose links were not measured.
    """

    fits: Fits
    fallback: Roofline

    def all_reduce(self, n_bytes: float | Floats, group: Group, own: OwnAllReduce) -> Parts:
        """Price the all-reduce that vLLM picks; without kernels of its `own`, and over several nodes, NCCL's.

        vLLM disables its kernels where the group spans nodes (vllm/distributed/device_communicators/
        custom_all_reduce.py).
        """
        vllm = self.fits.find("all_reduce", "vllm", VllmAllReduceCoefficients)
        nccl = self.fits.find("all_reduce", "nccl", CollectiveCoefficients)
        if (
            own == "none"
            or group.n_nodes > 1
            or vllm is None
            or nccl is None
            or not has_usual_links(self.fits.device, group)
        ):
            return self.nccl("all_reduce", n_bytes, group)
        device, n_devices = self.fits.device, group.n_devices
        time = vllm_all_reduce_time(
            vllm.coefficients, nccl.coefficients, device, n_bytes, n_devices, own == "symmetric"
        )
        inside = self.fits.basis(nccl, n_bytes=n_bytes, n_devices=n_devices).in_range  # NCCL does what is too large
        return _network(time, replace(self.fits.basis(vllm), in_range=inside), n_devices)

    def nccl(self, operation: Operation, n_bytes: float | Floats, group: Group) -> Parts:
        """Price NCCL's collective: fitted inside a node, derived between nodes."""
        fit = self.fits.find(operation, "nccl", CollectiveCoefficients)
        if fit is None or not has_usual_links(self.fits.device, group):
            return self.fallback.collective(operation, n_bytes, group)
        n_devices = group.n_devices_per_node
        time = collective_time(fit.coefficients, self.fits.device, n_bytes, n_devices)
        inside = _network(time, self.fits.basis(fit, n_bytes=n_bytes, n_devices=n_devices), n_devices)
        return over_nodes(operation, inside, n_bytes, group)


def has_usual_links(device: Device, group: Group) -> bool:
    """Whether devices inside a node talk, and over the links that the device was measured with, or faster ones."""
    usual = device.nvlink_bytes_per_s or device.pcie_bytes_per_s
    return group.n_devices_per_node > 1 and group.intra_node.bytes_per_s >= 0.9 * usual


def _network(time: KernelTime, basis: Basis, n_devices: int) -> Parts:
    zero = 0.0 * time.kernel_s
    return Parts(time.kernel_s, zero, zero, time.kernel_s, float(n_devices > 1), 0.0, basis)
