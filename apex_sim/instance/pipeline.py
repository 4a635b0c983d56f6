"""When does a batch end?  Stages in a row, and the line along which equal decode batches end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apex_sim.cost.decode_line import line_s
from apex_sim.cost.draft_cost import DraftBatch
from apex_sim.cost.meter import StageMeter
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import StagePrice, StepModel
from apex_sim.draw import EXPERTS, normal
from apex_sim.plan.shape import Shape


@dataclass(slots=True)
class DecodeRun:
    """Decode batches of the same requests, one after the other: step n ends at start + n first + n (n - 1) / 2 growth.

    `first_s` holds the host's time where it does not hide; the line holds for `n_steps`, of which `n_done` have run.
    """

    requests: tuple[int, ...]
    start_s: float
    first_s: float
    growth_s: float
    n_steps: int
    n_done: int = 0

    def next_end_s(self) -> float:
        """Return when the next step ends, and count it."""
        self.n_done += 1
        return self.start_s + line_s(self.first_s, self.growth_s, self.n_done)


class Pipeline:
    """Stages in a row; each serves one batch at a time, in order of arrival.

    With speculation no two steps are equal, and a draft works on the only stage after each.
    """

    def __init__(self, step_model: StepModel, *, hides_host: bool = False, seed: int = 0, place: int = 0) -> None:
        self._seed, self._place = seed, place
        self._varies = any(stage.spread_s is not None for stage in step_model.stages)
        self._draft = step_model.draft
        speculates = step_model.shape.scheduler.speculation is not None
        self._has_lines = len(step_model.stages) == 1 and not speculates and not self._varies
        self.meters = [StageMeter(stage) for stage in step_model.stages]
        self._stages = step_model.stages
        self._hides_host = hides_host
        self._run: DecodeRun | None = None
        self.free_s = [0.0] * len(self._stages)
        self.idle_s = [0.0] * len(self._stages)

    def run(
        self,
        batch: StepBatch,
        requests: tuple[int, ...],
        decided_s: float,
        host_s: float,
        ready_s: float,
        drafts: DraftBatch | None = None,
    ) -> tuple[float, float]:
        """Send `batch` through all stages, and `drafts` after it; return when it starts and ends.

        It was decided and is ready at these times; in between the host worked for `host_s`.
        """
        if self._has_lines and not batch.n_prefill_tokens and not batch.n_copied_blocks:
            return self._along_line(batch, requests, decided_s, host_s, ready_s)
        self._run = None
        arrives_s, start_s = ready_s, ready_s
        for index, stage in enumerate(self._stages):
            price = self._varied(index, stage.price(batch))
            begin_s = self._occupy(index, batch, price, decided_s, arrives_s)
            beside_s = price.device_s + self._copy_s(index, batch.n_copied_blocks) + self._draft_s(index, drafts)
            self.free_s[index] = arrives_s = begin_s + beside_s
            start_s = begin_s if index == 0 else start_s
        return start_s, arrives_s

    def _copy_s(self, index: int, n_blocks: int) -> float:
        """Count the copies to and from the host that precede a step, and return how long they take."""
        if not n_blocks:
            return 0.0
        copy_s = self._stages[index].copy_s(n_blocks)
        self.meters[index].count_copies(copy_s)
        return copy_s

    def _draft_s(self, index: int, drafts: DraftBatch | None) -> float:
        """Count what the draft does after a step, and return how long it takes."""
        if self._draft is None or drafts is None:
            return 0.0
        device_s, dynamic_j = self._draft.price(drafts)
        self.meters[index].count_draft(device_s, dynamic_j)
        return device_s

    def run_ranks(self, batches: Sequence[StepBatch], decided_s: float, ready_s: float) -> tuple[float, float]:
        """Send a step of several attention ranks through the only stage; return when it starts and ends."""
        price = self._varied(0, self._stages[0].price_ranks(batches))
        fullest = max(batches, key=lambda batch: batch.n_sampled)
        begin_s = self._occupy(0, fullest, price, decided_s, ready_s)
        self.free_s[0] = begin_s + price.device_s
        return begin_s, self.free_s[0]

    def dynamic_j(self, shape: Shape) -> float:
        """Return the energy above idle that all devices have taken so far."""
        return sum(meter.dynamic_j * stage.n_devices for meter, stage in zip(self.meters, shape.stages, strict=True))

    def _varied(self, index: int, price: StagePrice) -> StagePrice:
        """Return `price` with the loads of the experts drawn for the stage's next step."""
        if not self._varies:
            return price
        deviation = normal(self._seed, self.meters[index].n_steps, self._place, EXPERTS + index)
        return self._stages[index].varied(price, deviation)

    def _occupy(self, index: int, batch: StepBatch, price: StagePrice, decided_s: float, arrives_s: float) -> float:
        """Count waiting, exposed host time and work of a batch on a stage; return when it begins."""
        begin_s = max(arrives_s, self.free_s[index])
        host_s = begin_s - max(self.free_s[index], min(decided_s, begin_s)) if index == 0 else 0.0
        self.meters[index].count(batch, price, host_s)
        self.idle_s[index] += begin_s - self.free_s[index] - host_s
        return begin_s

    def _along_line(
        self, batch: StepBatch, requests: tuple[int, ...], decided_s: float, host_s: float, ready_s: float
    ) -> tuple[float, float]:
        stage, run = self._stages[0], self._run
        price = stage.price(batch)
        follows = ready_s <= self.free_s[0] if self._hides_host else decided_s == self.free_s[0]
        begin_s = self._occupy(0, batch, price, decided_s, ready_s)
        if run is None or run.requests != requests or not follows or run.n_done >= run.n_steps:
            n_steps, growth_s = stage.decode_line(batch, price)
            start_s, first_s = (begin_s, price.device_s) if self._hides_host else (decided_s, price.device_s + host_s)
            run = self._run = DecodeRun(requests, start_s, first_s, growth_s, n_steps)
        self.free_s[0] = run.next_end_s()
        return begin_s, self.free_s[0]
