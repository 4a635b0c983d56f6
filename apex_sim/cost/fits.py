"""Which fitted form prices an operator of one device, and what does that price rest on?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from apex_sim.cost.basis import Basis
from apex_sim.cost.coefficient_file import Fit, fitted_precisions, load_fit
from apex_sim.cost.parts import Floats
from apex_sim.hardware.device import Device

#: Name of the back end that prices by fits.
BACK_END: Final = "calibrated"


@dataclass(frozen=True, slots=True)
class Fits:
    """The fits of one device, read when they are first asked for.

    Parameters
    ----------
    device : whose datasheet figures scale the forms.
    fitted_device : name of the device whose fits are used; differs from `device` for a prediction.
    engine : whose own kernels go before those that all engines share; "" for none.
    """

    device: Device
    fitted_device: str
    engine: str = ""
    _read: dict[tuple[str, str], Fit[Any] | None] = field(default_factory=dict, compare=False, repr=False)

    def of_engine(self, engine: str) -> Fits:
        """Return the fits of the device for another engine."""
        return Fits(self.device, self.fitted_device, engine)

    @property
    def is_prediction(self) -> bool:
        """Whether the fits are another device's."""
        return self.fitted_device != self.device.name

    def find(self, operator: str, precision: str, form: type[Any]) -> Fit[Any] | None:
        """Return the fit of an operator in one precision or library, None where there is none.

        That of the engine's own kernel, whose name ends with the engine's, goes first.
        """
        key = operator, precision
        if key not in self._read:
            known = fitted_precisions(self.fitted_device, operator)
            names = [name for name in (f"{precision}-{self.engine}", precision) if name in known]
            self._read[key] = load_fit(self.fitted_device, operator, names[0], form) if names else None
        return self._read[key]

    def basis(self, fit: Fit[Any], **sizes: float | Floats) -> Basis:
        """Return what a price by `fit` rests on; a prediction claims no error, and nothing of it is in range."""
        inside: Any = np.asarray(not self.is_prediction)
        for name, size in sizes.items():
            if name in fit.range:
                low, high = fit.range[name]
                inside = inside & (np.asarray(size) >= low) & (np.asarray(size) <= high)
        return Basis(BACK_END, fit.source, None if self.is_prediction else fit.held_out.median_frac, inside)
