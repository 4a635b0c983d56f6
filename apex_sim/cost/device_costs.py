"""Which back end prices the kernels of which device type?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from apex_sim.cost.cost_model import CostModel
from apex_sim.errors import InputError, UnknownNameError
from apex_sim.plan.plan import Plan

#: One back end for plans on one device type, or by name of the device one for each.
DeviceCosts = CostModel | Mapping[str, CostModel]


@dataclass(frozen=True, slots=True)
class CostOrigin:
    """What priced the kernels of a run, and what that rests on."""

    name: str
    provenance: str


def cost_on(costs: DeviceCosts, device: str, plan: Plan) -> CostModel:
    """Return the back end of `device`, one of those of `plan`.

    Raises
    ------
    UnknownNameError : there is none for that device.
    InputError : there is one only, and the plan is on several device types.
    """
    if isinstance(costs, Mapping):
        if device not in costs:
            raise UnknownNameError("device", device, costs, where="cost back ends by device")
        return costs[device]
    devices = _devices(plan)
    if len(devices) > 1:
        raise InputError(
            f"one cost back end for a plan on {', '.join(devices)}",
            where=f"plan {plan.label}",
            remedy="give a mapping from the name of each device to its back end",
        )
    return costs


def origin_of(costs: DeviceCosts, plan: Plan) -> CostOrigin:
    """Return what priced the kernels of `plan`."""
    used = {device: cost_on(costs, device, plan) for device in _devices(plan)}
    names = dict.fromkeys(cost.name for cost in used.values())
    if len(used) == 1:
        return CostOrigin(*names, *(cost.provenance for cost in used.values()))
    return CostOrigin("+".join(names), "; ".join(f"{device}: {cost.provenance}" for device, cost in used.items()))


def _devices(plan: Plan) -> list[str]:
    return list(dict.fromkeys(shape.device for shape, _ in plan.instances))
