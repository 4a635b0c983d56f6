"""How much power does a device draw, how many joules does a step take beyond idling, and what does a lower clock save?

P = idle + active (while kernels run) + joules per FLOP, per memory byte, per link byte and per token x their rates, at
most the power limit.  A clock x (a share of the highest) scales what the compute units spend by V(x)^2 for each unit of
work, V being the voltage relative to that at the highest clock; memory and links keep clocks of their own.
docs/energy.md has the symbols, the sources and the errors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from apex_sim.cost.coefficient_file import fitted_precisions, load_fit
from apex_sim.errors import InputError
from apex_sim.hardware.device import MIN_CLOCK_FRAC, Device, load_device

#: Voltage falls linearly with the clock down to a knee, and not below.  Assumed; that power is linear in the clock up
#: to a transition and steeper beyond was measured on A40 to H200 (arXiv:2607.00819).
VOLTAGE_FLOOR_FRAC: Final = 0.75
KNEE_CLOCK_FRAC: Final = 0.6
#: Energy of a byte over NVLink and its switch: 10 pJ per bit (assumed).  Full links of an H100 then draw 36 W, too
#: little to be seen in the measured servers.
LINK_BYTE_J: Final = 8e-11

_OPERATOR: Final = "power"
#: Whose fit stands in for a device without its own, by architecture; for all others that of the first.
_REFERENCES: Final = {"hopper": "h100-sxm", "blackwell": "b200", "blackwell-ultra": "b200"}


@dataclass(frozen=True, slots=True)
class PowerCoefficients:
    """What is fitted for a device.

    Parameters
    ----------
    active_w : drawn above idle by compute units that have a kernel to run, whatever it does.
    flop_j : energy per FLOP at the widest precision that the device has a peak for; narrower ones cost less in
        proportion to their higher peak.
    memory_byte_j : energy per byte of device memory.
    token_j : energy per token that passes the whole model, beyond its FLOP and bytes: norms, activations, softmax,
        sampling.
    """

    active_w: float
    flop_j: float
    memory_byte_j: float
    token_j: float


@dataclass(frozen=True, slots=True)
class Work:
    """What one device does at its highest clock.

    Parameters
    ----------
    compute_s, memory_s, network_s : time that the FLOP, memory bytes and link bytes would take at 100 % of the
        datasheet's peaks.
    device_s : time that the kernels take.
    model_tokens : tokens, each counted with the share of the model that this device computes.
    """

    compute_s: float
    memory_s: float
    device_s: float
    network_s: float = 0.0
    model_tokens: float = 0.0

    @property
    def clock_bound_frac(self) -> float:
        """Share of the time that grows as the clock falls: compute among compute, memory and network."""
        total_s = self.compute_s + self.memory_s + self.network_s
        return self.compute_s / total_s if total_s else 0.0

    def stretched_s(self, clock_frac: float) -> float:
        """Return the kernels' time at a lower clock.

        T(x) = T(1) (1 + beta (1/x - 1)) with beta the clock-bound share: Hsu and Feng, A power-aware run-time system
        for high-performance computing, SC 2005.

        Examples
        --------
        >>> Work(compute_s=1.0, memory_s=0.0, device_s=2.0).stretched_s(0.5)
        4.0
        >>> Work(compute_s=0.0, memory_s=1.0, device_s=2.0).stretched_s(0.5)
        2.0
        """
        return self.device_s * (1.0 + self.clock_bound_frac * (1.0 / clock_frac - 1.0))


@dataclass(frozen=True, slots=True)
class Draw:
    """Time and energy, idle power included, of some work at the clock that the power limit left."""

    time_s: float
    energy_j: float
    clock_frac: float

    @property
    def power_w(self) -> float:
        """Mean power."""
        return self.energy_j / self.time_s


@dataclass(frozen=True, slots=True)
class PowerModel:
    """Power of one device at one clock.

    Parameters
    ----------
    idle_w, max_w : while the device is held and nothing runs, and the power limit.
    active_w : above idle while kernels run.
    compute_w, memory_w, network_w : above that, at 100 % of the datasheet's FLOP/s, memory and link bandwidth.
    token_j : energy per token of the whole model beyond that.
    kind : "fitted" to this device's own measurements, else "assumed".
    source : what the coefficients rest on.
    expected_error_frac : median error of power on models that the fit never saw, None where that is not known.
    """

    idle_w: float
    max_w: float
    active_w: float = 0.0
    compute_w: float = 0.0
    memory_w: float = 0.0
    network_w: float = 0.0
    token_j: float = 0.0
    kind: Literal["fitted", "assumed"] = "assumed"
    source: str = ""
    expected_error_frac: float | None = None

    @property
    def range_w(self) -> float:
        """Dynamic range."""
        return self.max_w - self.idle_w

    def dynamic_j(
        self, compute_s: float, memory_s: float, device_s: float, network_s: float = 0.0, model_tokens: float = 0.0
    ) -> float:
        """Return the energy above idle of work that takes `device_s`, capped at what the power limit allows in it.

        Kernel times that were measured include their throttling already, so that the cap takes energy and adds no
        time; `draw` adds the time where they do not.

        The arguments are those of `Work`.

        Examples
        --------
        >>> PowerModel(idle_w=100.0, max_w=700.0, active_w=50.0, memory_w=200.0).dynamic_j(0.0, 1.0, 2.0)
        300.0
        >>> PowerModel(idle_w=100.0, max_w=700.0, compute_w=2000.0).dynamic_j(1.0, 0.0, 1.0)
        600.0
        """
        spent_j = (
            self.active_w * device_s
            + self.compute_w * compute_s
            + self.memory_w * memory_s
            + self.network_w * network_s
            + self.token_j * model_tokens
        )
        return min(spent_j, self.range_w * device_s)

    def at_clock(self, clock_frac: float) -> PowerModel:
        """Return the model at a clock of `clock_frac` of the highest: same work, other energy for each part of it.

        Energy per FLOP and per token scales with V^2, active power with x V^2.

        Raises
        ------
        InputError : below the lowest clock that is modelled, or above 1.

        Examples
        --------
        >>> low = PowerModel(idle_w=100.0, max_w=700.0, active_w=200.0, compute_w=600.0, memory_w=200.0).at_clock(0.6)
        >>> low.active_w, low.compute_w, low.memory_w
        (67.5, 337.5, 200.0)
        """
        squared = voltage_frac(clock_frac) ** 2
        return replace(
            self,
            active_w=self.active_w * clock_frac * squared,
            compute_w=self.compute_w * squared,
            token_j=self.token_j * squared,
        )

    def draw(self, work: Work, clock_frac: float = 1.0) -> Draw:
        """Return what `work` takes when the clock is set to `clock_frac` and the power limit holds.

        Above the limit the clock falls further until mean power meets it; where even the lowest clock draws too much,
        the device pauses between kernels.

        Raises
        ------
        InputError : a clock that is not modelled.
        """
        free = self._unlimited(work, clock_frac)
        if free.energy_j <= self.max_w * free.time_s:
            return free
        low, high = MIN_CLOCK_FRAC, clock_frac
        lowest = self._unlimited(work, low)
        if lowest.energy_j > self.max_w * lowest.time_s:
            time_s = (lowest.energy_j - self.idle_w * lowest.time_s) / self.range_w
            return Draw(time_s, self.max_w * time_s, low)
        for _ in range(50):
            middle = (low + high) / 2
            trial = self._unlimited(work, middle)
            low, high = (middle, high) if trial.energy_j <= self.max_w * trial.time_s else (low, middle)
        return self._unlimited(work, low)

    def _unlimited(self, work: Work, clock_frac: float) -> Draw:
        model, time_s = self.at_clock(clock_frac), work.stretched_s(clock_frac)
        energy_j = (
            (model.idle_w + model.active_w) * time_s
            + model.compute_w * work.compute_s
            + model.memory_w * work.memory_s
            + model.network_w * work.network_s
            + model.token_j * work.model_tokens
        )
        return Draw(time_s, energy_j, clock_frac)


def voltage_frac(clock_frac: float) -> float:
    """Return the voltage at a clock, both as shares of their values at the highest clock.

    Raises
    ------
    InputError : a clock that is not modelled.

    Examples
    --------
    >>> voltage_frac(1.0), voltage_frac(0.8), voltage_frac(0.3)
    (1.0, 0.875, 0.75)
    """
    if not MIN_CLOCK_FRAC <= clock_frac <= 1.0:
        raise InputError(f"clock_frac is {clock_frac}", remedy=f"give a share from {MIN_CLOCK_FRAC} to 1")
    above_knee = max(0.0, clock_frac - KNEE_CLOCK_FRAC) / (1.0 - KNEE_CLOCK_FRAC)
    return VOLTAGE_FLOOR_FRAC + (1.0 - VOLTAGE_FLOOR_FRAC) * above_knee


def power_model(device: Device) -> PowerModel:
    """Return the power model of `device`: fitted to its own measurements, else scaled from a reference device.

    A device without measurements spends the same shares of its dynamic range (limit minus idle) as the reference:
    assumed, not measured.

    Examples
    --------
    >>> from apex_sim.hardware.device import load_device
    >>> power_model(load_device("h100-sxm")).kind, power_model(load_device("l40s")).kind
    ('fitted', 'assumed')
    """
    if fitted_precisions(device.name, _OPERATOR):
        return _fitted_model(device)
    reference = load_device(_REFERENCES.get(device.architecture, "h100-sxm"))
    model = _fitted_model(reference)
    scale = (device.max_w - device.idle_w) / model.range_w
    return replace(
        model,
        idle_w=device.idle_w,
        max_w=device.max_w,
        active_w=model.active_w * scale,
        compute_w=model.compute_w * scale,
        memory_w=model.memory_w * scale,
        network_w=_network_w(device),
        token_j=model.token_j * scale * _widest_flops(reference) / _widest_flops(device),
        kind="assumed",
        source=f"assumed: the same shares of the dynamic range as {reference.name}",
        expected_error_frac=None,
    )


def _fitted_model(device: Device) -> PowerModel:
    name = fitted_precisions(device.name, _OPERATOR)[0]
    fit = load_fit(device.name, _OPERATOR, name, PowerCoefficients)
    return PowerModel(
        device.idle_w,
        device.max_w,
        active_w=fit.coefficients.active_w,
        compute_w=fit.coefficients.flop_j * _widest_flops(device),
        memory_w=fit.coefficients.memory_byte_j * device.memory_bytes_per_s,
        network_w=_network_w(device),
        token_j=fit.coefficients.token_j,
        kind="fitted",
        source=fit.source,
        expected_error_frac=fit.held_out.median_frac,
    )


def _widest_flops(device: Device) -> float:
    return min(device.peak_flops.values())


def _network_w(device: Device) -> float:
    return LINK_BYTE_J * (device.nvlink_bytes_per_s or device.pcie_bytes_per_s)
