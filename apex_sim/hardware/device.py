"""What can one accelerator compute, hold, move, draw and cost?

Everything comes from one TOML file per device under `hardware_profiles/devices`; adding a device means adding a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from apex_sim import catalogue
from apex_sim.errors import InputError, UnsupportedError
from apex_sim.files import StrictModel, check, read_toml
from apex_sim.hardware.figure import Figure, FigureEntry, Plausible, Text

#: Lowest share of the highest clock that is considered (assumed): 0.4 GHz of an H100's 1.98.
MIN_CLOCK_FRAC: Final = 0.2
FOLDER: Final = "hardware_profiles/devices"

#: What the costs of a device rest on: measured kernels of this device, or only its published figures.
Calibration = Literal["kernels", "datasheet"]

_BANDWIDTH: Final = "give bytes per second in one direction: 450 GB/s is 450e9"

#: Per key of the file: bounds that today's smallest and the next decade's largest devices should both respect.
_PLAUSIBLE: Final[dict[str, Plausible]] = {
    "peak_flops": Plausible(1e12, 1e17, "give the dense peak in FLOP/s: 989 TFLOPS is 989e12"),
    "memory_bytes": Plausible(2**30, 2**42, "give the bytes that CUDA reports: 79.1 GiB is 84942979072", whole=True),
    "memory_bytes_per_s": Plausible(1e10, 1e14, "give bytes per second: 3350 GB/s is 3.35e12"),
    "n_sms": Plausible(1, 10_000, "give the number of enabled SMs or compute units", whole=True),
    "l2_bytes": Plausible(2**16, 2**34, "give bytes: 50 MiB is 52428800", whole=True),
    "nvlink_bytes_per_s": Plausible(1e9, 1e14, f"{_BANDWIDTH}, and 0 means no NVLink", zero=True),
    "pcie_bytes_per_s": Plausible(1e9, 1e13, _BANDWIDTH),
    "idle_w": Plausible(1, 5_000, "give watts"),
    "max_w": Plausible(5, 20_000, "give watts"),
    "clock_hz": Plausible(1e8, 1e11, "give hertz: 1980 MHz is 1.98e9"),
    "base_clock_hz": Plausible(1e8, 1e11, "give hertz: 1110 MHz is 1.11e9"),
    "price_usd_per_h": Plausible(0.001, 1_000, "give US dollars per hour for one device"),
    "n_devices_per_node_max": Plausible(1, 4096, "give the devices that its fast links join", whole=True),
}


class PeakFlopsFile(StrictModel):
    """Dense peaks; a precision that the silicon lacks is left out."""

    bf16: FigureEntry | None = None
    fp8: FigureEntry | None = None
    int8: FigureEntry | None = None
    fp4: FigureEntry | None = None


class DeviceFile(StrictModel):
    """A device as a TOML file."""

    title: Text
    vendor: Text
    architecture: Text
    calibration: Calibration
    peak_flops: PeakFlopsFile
    memory_bytes: FigureEntry
    memory_bytes_per_s: FigureEntry
    n_sms: FigureEntry
    l2_bytes: FigureEntry
    nvlink_bytes_per_s: FigureEntry
    pcie_bytes_per_s: FigureEntry
    idle_w: FigureEntry
    max_w: FigureEntry
    clock_hz: FigureEntry
    base_clock_hz: FigureEntry | None = None
    price_usd_per_h: FigureEntry
    n_devices_per_node_max: FigureEntry | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator.

    Parameters
    ----------
    name : catalogue name, the stem of its file ("h100-sxm").
    title, vendor, architecture : for readers, and for costs that depend on the generation ("hopper").
    calibration : "kernels" where costs are fitted to measured kernels of this device, else "datasheet".
    peak_flops : FLOP/s by precision ("bf16", "fp8", "int8", "fp4"), dense; only what the silicon has.
    memory_bytes : the total that CUDA (or its peer) reports, not the number on the box.
    memory_bytes_per_s : peak of the device memory.
    n_sms : enabled streaming multiprocessors, or what the vendor has in their place.
    l2_bytes : last-level cache.
    nvlink_bytes_per_s : one direction, over all links of the device; NVLink, or the vendor's counterpart; 0 without.
    pcie_bytes_per_s : one direction.
    idle_w : drawn while a serving process holds the device and no kernel runs.
    max_w : power limit as shipped.
    clock_hz : highest SM clock.
    base_clock_hz : guaranteed SM clock, None where it is not published.
    price_usd_per_h : rent of one device.
    n_devices_per_node_max : how many its links join where that is not the usual 8, else None.
    figures : provenance of every number above by its TOML key ("peak_flops.bf16").
    """

    name: str
    title: str
    vendor: str
    architecture: str
    calibration: Calibration
    peak_flops: Mapping[str, float] = field(hash=False)
    memory_bytes: int
    memory_bytes_per_s: float
    n_sms: int
    l2_bytes: int
    nvlink_bytes_per_s: float
    pcie_bytes_per_s: float
    idle_w: float
    max_w: float
    clock_hz: float
    base_clock_hz: float | None
    price_usd_per_h: float
    n_devices_per_node_max: int | None
    figures: Mapping[str, Figure] = field(repr=False, compare=False)

    def flops(self, dtype: str) -> float:
        """Return the dense peak of `dtype`, FLOP/s.

        Raises
        ------
        UnsupportedError : the silicon has no such precision.

        Examples
        --------
        >>> load_device("a100-sxm-80gb").flops("bf16")
        312000000000000.0
        """
        if dtype not in self.peak_flops:
            raise UnsupportedError(
                f"device {self.name!r} has no {dtype!r} arithmetic",
                remedy=f"choose one of {', '.join(self.peak_flops)}, or add peak_flops.{dtype} to the device's file",
            )
        return self.peak_flops[dtype]


def device_names() -> list[str]:
    """Return the names of all catalogued devices, sorted.

    Examples
    --------
    >>> "h100-sxm" in device_names()
    True
    """
    return catalogue.names(FOLDER)


def load_device(name_or_path: str | Path) -> Device:
    """Return a catalogued device by name, or the one in a TOML file.

    Raises
    ------
    UnknownNameError : no device of that name; the message lists the nearest.
    InputError : no file there, or its contents cannot be used.

    Examples
    --------
    >>> load_device("h100-sxm").n_sms
    132
    """
    return device_from_toml(catalogue.resolve(FOLDER, name_or_path, "device"))


def device_from_toml(path: Path) -> Device:
    """Return the device that the file at `path` describes; its name is the file's stem.

    Raises
    ------
    UnknownNameError : a key that the format lacks.
    InputError : a missing, malformed, implausible or unsourced figure; the message names file and key.
    """
    where = str(path)
    content = check(DeviceFile, read_toml(path), where)
    figures = _figures(content, where)
    peak_flops = {
        key.removeprefix("peak_flops."): f.value for key, f in figures.items() if key.startswith("peak_flops.")
    }
    if not peak_flops:
        raise InputError("no precision", where=f"{where}, key 'peak_flops'", remedy="add a table [peak_flops.bf16]")
    _check_order(figures, "idle_w", "max_w", where)
    _check_order(figures, "base_clock_hz", "clock_hz", where)
    base_clock, node = figures.get("base_clock_hz"), figures.get("n_devices_per_node_max")
    return Device(
        name=path.stem,
        title=content.title,
        vendor=content.vendor,
        architecture=content.architecture,
        calibration=content.calibration,
        peak_flops=peak_flops,
        memory_bytes=int(figures["memory_bytes"].value),
        memory_bytes_per_s=figures["memory_bytes_per_s"].value,
        n_sms=int(figures["n_sms"].value),
        l2_bytes=int(figures["l2_bytes"].value),
        nvlink_bytes_per_s=figures["nvlink_bytes_per_s"].value,
        pcie_bytes_per_s=figures["pcie_bytes_per_s"].value,
        idle_w=figures["idle_w"].value,
        max_w=figures["max_w"].value,
        clock_hz=figures["clock_hz"].value,
        base_clock_hz=base_clock.value if base_clock else None,
        price_usd_per_h=figures["price_usd_per_h"].value,
        n_devices_per_node_max=int(node.value) if node else None,
        figures=figures,
    )


def _figures(content: DeviceFile, where: str) -> dict[str, Figure]:
    """Return every figure of the file by its dotted key, each checked against its plausible range."""
    entries = {key: entry for key, entry in content if isinstance(entry, FigureEntry)}
    entries |= {f"peak_flops.{dtype}": entry for dtype, entry in content.peak_flops if entry is not None}
    return {key: _PLAUSIBLE[key.partition(".")[0]].figure(entry, where, key) for key, entry in entries.items()}


def _check_order(figures: Mapping[str, Figure], smaller: str, larger: str, where: str) -> None:
    if smaller in figures and figures[smaller].value > figures[larger].value:
        raise InputError(
            f"{figures[smaller].value:g} exceeds {larger} = {figures[larger].value:g}",
            where=f"{where}, key '{smaller}.value'",
            remedy="check both figures",
        )
