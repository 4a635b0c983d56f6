"""Collectives: alpha-beta lines by hand, vLLM's choice among all-reduces, nodes, and the committed fits' errors."""

from __future__ import annotations

import numpy as np
import pytest

from apex_sim.cost.coefficient_file import calibrated_devices, fitted_precisions, load_fit
from apex_sim.cost.forms.collectives import (
    CollectiveCoefficients,
    Operation,
    VllmAllReduceCoefficients,
    collective_time,
    cross_node_time,
    exchanged_bytes,
    send_time,
    traffic_frac,
    vllm_all_reduce_time,
)
from apex_sim.errors import InputError
from apex_sim.hardware.device import load_device
from apex_sim.hardware.link import Link
from apex_sim.units import KIB, MIB

H100, L40S, B200 = (load_device(name) for name in ("h100-sxm", "l40s", "b200"))
#: Two protocols: 10 us and 1 GB/s, 30 us and 4 GB/s, at 2 devices; half as fast at 4.
NCCL = CollectiveCoefficients(
    "all_reduce", ((2, 10e-6, 1e-9), (2, 30e-6, 0.25e-9), (4, 20e-6, 2e-9), (4, 60e-6, 0.5e-9))
)
#: Times that tell which algorithm ran, whatever the size.
OWN = VllmAllReduceCoefficients(
    one_shot=((2, 1.0, 0.0), (8, 1.0, 0.0)), two_shot=((4, 2.0, 0.0), (8, 2.0, 0.0)),
    symmetric=((2, 3.0, 0.0), (8, 3.0, 0.0)),
)  # fmt: skip
SLOW_NCCL = CollectiveCoefficients("all_reduce", ((2, 4.0, 0.0), (8, 4.0, 0.0)))


def test_a_library_is_the_lower_envelope_of_its_protocols() -> None:
    time_of = collective_time(NCCL, H100, np.array([1000.0, 1e6]), 2)
    assert time_of.kernel_s == pytest.approx([11e-6, 280e-6])
    assert time_of.memory_s == pytest.approx([2000 / 3.35e12, 2e6 / 3.35e12])
    assert float(collective_time(NCCL, H100, 1e6, 1).kernel_s) == 0.0


def test_unmeasured_degrees_interpolate_and_extrapolate() -> None:
    assert float(collective_time(NCCL, H100, 0.0, 3).kernel_s) == pytest.approx(15e-6)
    # 16 devices: 15 hops instead of 3; 2 x 15/16 of the bytes instead of 2 x 3/4.
    assert float(collective_time(NCCL, H100, 0.0, 16).kernel_s) == pytest.approx(100e-6)
    assert float(collective_time(NCCL, H100, 1e9, 16).kernel_s) == pytest.approx(300e-6 + 0.5 * 1.25, rel=1e-6)


def test_traffic_is_that_of_bandwidth_optimal_algorithms() -> None:
    assert [traffic_frac("all_reduce", 2), traffic_frac("all_reduce", 8)] == [1.0, 1.75]
    assert traffic_frac("all_gather", 8) == traffic_frac("all_to_all", 8) == 0.875


@pytest.mark.parametrize(
    ("device", "n_devices", "n_bytes", "algorithm"),
    [
        (H100, 2, 4 * MIB, 1.0),  # two devices: always one shot below 8 MiB
        (H100, 4, 512 * KIB - 16, 1.0),
        (H100, 4, 512 * KIB, 2.0),
        (H100, 4, 8 * MIB, 3.0),  # symmetric memory
        (H100, 8, 256 * KIB - 16, 1.0),
        (H100, 8, 256 * KIB, 3.0),
        (H100, 8, 128 * MIB, 4.0),  # NCCL
        (H100, 3, KIB, 4.0),  # vLLM's kernels know 2, 4, 6 and 8 devices
        (B200, 8, 512 * KIB, 2.0),
        (B200, 8, MIB, 3.0),
        (L40S, 2, MIB, 1.0),
        (L40S, 4, KIB, 4.0),  # more than two devices over PCIe
    ],
)
def test_vllm_picks_the_all_reduce_by_size_and_links(
    device: object, n_devices: int, n_bytes: int, algorithm: float
) -> None:
    assert float(vllm_all_reduce_time(OWN, SLOW_NCCL, device, n_bytes, n_devices).kernel_s) == algorithm  # type: ignore[arg-type]


def test_versions_without_symmetric_memory_fall_back_to_nccl_at_8_mib() -> None:
    sizes = np.array([8 * MIB - 16, 8 * MIB], dtype=float)
    assert vllm_all_reduce_time(OWN, SLOW_NCCL, H100, sizes, 8, symmetric=False).kernel_s.tolist() == [2.0, 4.0]


def test_nodes_add_a_ring_over_their_network() -> None:
    link = Link(50e9, 5e-6, "InfiniBand", "test", "assumed")
    # All-reduce over 2 nodes of 8: 1/8 of 64 MB, twice, half of which stays: 8 MB over 50 GB/s, and two latencies.
    assert float(cross_node_time("all_reduce", 1e-3, 64e6, 8, 2, link)) == pytest.approx(1e-3 + 10e-6 + 160e-6)
    assert float(cross_node_time("all_to_all", 0.0, 64e6, 8, 4, link)) == pytest.approx(15e-6 + 48e6 / 50e9)
    assert float(cross_node_time("all_gather", 1e-3, 64e6, 8, 1, link)) == 1e-3
    assert float(send_time(50e6, link)) == pytest.approx(1.005e-3)


def test_experts_get_one_copy_each_and_ranks_one_each() -> None:
    assert float(exchanged_bytes(10, 100, 8, 2.0)) == 16000
    # 2 picks of 2 ranks at random: 1.5 distinct ones.
    assert float(exchanged_bytes(10, 100, 2, 1.0, 2)) == pytest.approx(1500)


@pytest.mark.parametrize("operation", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all"])
def test_more_nodes_take_longer(operation: Operation) -> None:
    """Also per byte: the ring's (n-1)/n grows with its nodes."""
    link = Link(50e9, 5e-6, "InfiniBand", "test", "assumed")
    for size in (0.0, 64e6):
        times = [float(cross_node_time(operation, 1e-4, size, 8, n, link)) for n in (1, 2, 4, 8, 16)]
        assert (np.diff(times) > 0).all()


def test_no_devices_is_refused() -> None:
    with pytest.raises(InputError, match="0 devices"):
        collective_time(NCCL, H100, 1.0, 0)


def test_committed_all_reduces_meet_their_goal_when_pooled() -> None:
    medians, bias = [], []
    for device in calibrated_devices():
        for name in fitted_precisions(device, "all_reduce"):
            form = VllmAllReduceCoefficients if name == "vllm" else CollectiveCoefficients
            held = load_fit(device, "all_reduce", name, form).held_out
            medians.append(held.median_frac)
            bias.append(held.bias_frac)
    assert len(medians) >= 12
    assert np.median(medians) <= 0.08
    assert abs(np.median(bias)) <= 0.05


@pytest.mark.parametrize("device_name", calibrated_devices())
def test_committed_lines_stay_below_the_links(device_name: str) -> None:
    device = load_device(device_name)
    link = device.nvlink_bytes_per_s or device.pcie_bytes_per_s
    for operation in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"):
        fit = load_fit(device_name, operation, "nccl", CollectiveCoefficients)
        for degree in (2, 4):
            seconds = float(collective_time(fit.coefficients, device, 1e9, degree).kernel_s)
            # In-switch reduction sends the message once, not 2 (p-1)/p times.
            sent = min(traffic_frac(fit.coefficients.operation, degree), 1.0) * 1e9
            assert seconds > sent / link
