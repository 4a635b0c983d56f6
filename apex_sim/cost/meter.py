"""Where did a stage's time and energy go?  Counts table visits while a run lasts, and attributes them afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from apex_sim.cost.basis import Basis
from apex_sim.cost.parts import Floats
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import StageModel, StagePrice


@dataclass(frozen=True, slots=True)
class OperatorShare:
    """What one operator took under one basis, in seconds of each device, and how much of that lies outside the data.

    `bounds_s` says what bound it, as in `apex_sim.cost.bound.BOUNDS`; None for attention and drafts, whose visits are
    not counted by size.
    """

    operator: str
    basis: Basis
    spent_s: float
    outside_s: float
    bounds_s: tuple[float, float, float] | None = None


class StageMeter:
    """Accumulates what one stage of one instance does; times are seconds of each of its devices."""

    def __init__(self, stage: StageModel) -> None:
        self._stage = stage
        self.idle_w = stage.power.idle_w
        self._token_visits = np.zeros(stage.tokens.kernel_s.shape[1])
        self._joint_visits = np.zeros(stage.joint.kernel_s.shape[1] if stage.joint else 1)
        self._head_visits = np.zeros(stage.head.kernel_s.shape[1])
        self._prefill_s = [0.0] * len(stage.attention)
        self._decode_s = [0.0] * len(stage.attention)
        self._attention_outside_s = 0.0
        self.n_steps = 0
        self.busy_s = 0.0
        self.host_s = 0.0
        self.launch_s = 0.0
        self.slowdown_s = 0.0
        self.swap_s = 0.0
        self.draft_s = 0.0
        self.imbalance_s = 0.0
        self.dynamic_j = 0.0

    @classmethod
    def of_counts(cls, stage: StageModel, visits: Floats, attention_s: Floats, totals: Any) -> StageMeter:
        """Return the meter of a stage that the compiled engine has counted.

        `visits` has rows for the token, joint and head tables, `totals` is the stage's record.
        """
        meter = cls(stage)
        for own, counted in zip((meter._token_visits, meter._joint_visits, meter._head_visits), visits, strict=True):
            own[:] = counted[: len(own)]
        meter._prefill_s, meter._decode_s = attention_s[:, : len(stage.attention)].tolist()
        meter._attention_outside_s = float(totals["outside_s"])
        meter.n_steps = int(totals["n_steps"])
        for name in ("busy_s", "host_s", "launch_s", "slowdown_s", "swap_s", "draft_s", "imbalance_s", "dynamic_j"):
            setattr(meter, name, float(totals[name]))
        return meter

    def count(self, batch: StepBatch, price: StagePrice, exposed_host_s: float) -> None:
        """Add one step and the host time that delayed it; of several ranks `batch` samples the most."""
        self.n_steps += 1
        self.busy_s += price.device_s
        self.host_s += exposed_host_s
        self.launch_s += price.launch_s
        self.slowdown_s += price.slowdown_s
        self.imbalance_s += price.imbalance_s
        self.dynamic_j += price.dynamic_j + self._stage.power.active_w * exposed_host_s
        self._attention_outside_s += price.outside_s
        for index, seconds in enumerate(price.prefill_s):
            self._prefill_s[index] += seconds
        for index, seconds in enumerate(price.decode_s):
            self._decode_s[index] += seconds
        self._token_visits[price.knot] += 1 - price.fraction
        if price.fraction:
            self._token_visits[price.knot + 1] += price.fraction
        if self._stage.joint:
            self._joint_visits[price.joint_knot] += 1 - price.joint_fraction
            if price.joint_fraction:
                self._joint_visits[price.joint_knot + 1] += price.joint_fraction
        self._head_visits[batch.n_sampled] += 1

    def count_copies(self, device_s: float) -> None:
        """Add what copies of KV blocks took before a step."""
        self.busy_s += device_s
        self.swap_s += device_s
        self.dynamic_j += self._stage.power.active_w * device_s

    def count_draft(self, device_s: float, dynamic_j: float) -> None:
        """Add what a draft took beside a step."""
        self.busy_s += device_s
        self.draft_s += device_s
        self.dynamic_j += dynamic_j

    def shares(self) -> list[OperatorShare]:
        """Return what each operator took, by what its price rests on; attention groups of one basis are not merged."""
        shares = []
        tables = [(self._stage.tokens, self._token_visits), (self._stage.head, self._head_visits)]
        if self._stage.joint:
            tables.append((self._stage.joint, self._joint_visits))
        for table, every in tables:
            at = np.flatnonzero(every)  # of a table's thousands of sizes an instance of many meets some
            visits, kernel_s = every[at], table.kernel_s[:, at]
            spent = (kernel_s @ visits).tolist()
            outside = (np.where(table.in_range[:, at], 0.0, kernel_s) @ visits).tolist()
            bounds = [(float(c), float(m), float(n)) for c, m, n in (table.bounds_s[:, :, at] @ visits).T]
            rows = zip(table.names, table.bases, spent, outside, bounds, strict=True)
            shares += [OperatorShare(*row) for row in rows]
        attention_s = sum(self._prefill_s) + sum(self._decode_s)
        outside_frac = self._attention_outside_s / attention_s if attention_s else 0.0
        for index, (prefill, decode) in enumerate(self._stage.attention):
            for name, table_of, seconds in (
                ("prefill_attention", prefill, self._prefill_s[index]),
                ("decode_attention", decode, self._decode_s[index]),
            ):
                shares.append(OperatorShare(name, table_of.basis, seconds, seconds * outside_frac))
        if self.draft_s:
            basis = Basis(self._stage.context.cost.name, "sum of the draft's operators")
            shares.append(OperatorShare("draft", basis, self.draft_s, self.draft_s))
        return shares

    def operators_s(self, shares: Sequence[OperatorShare] | None = None) -> dict[str, float]:
        """Return the exposed seconds of each operator, kernel launches and host; with idle they fill the makespan.

        `shares` are the meter's own, where they have been asked for already.
        """
        spent: dict[str, float] = {}
        for share in self.shares() if shares is None else shares:
            spent[share.operator] = spent.get(share.operator, 0.0) + share.spent_s
        if self._stage.spread_s is not None:
            spent["moe"] += self.imbalance_s
        spent["launch"] = self.launch_s
        spent["slowdown"] = self.slowdown_s
        spent["host"] = self.host_s
        if self.swap_s:
            spent["swap"] = self.swap_s
        return spent
