"""How long does a draft work beside a step of the model that it proposes tokens for?

After each step the draft computes the step's own tokens, prompts included, and proposes a first token for each sequence
that sampled; k - 1 passes of one token for each of these follow (0.13.0 vllm/v1/spec_decode/eagle.py, `propose`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from apex_sim.cost.step_batch import StepBatch, Window
from apex_sim.cost.step_price import price_step
from apex_sim.cost.step_tables import StageTables


@dataclass(slots=True)
class DraftBatch:
    """What a draft computes beside one step: `first` the step's tokens, then `follow` for each later pass.

    Later passes read the keys that the verified step left, rejected ones included: up to k too many for each sequence.
    """

    windows: tuple[Window, ...]
    first: StepBatch = field(init=False)
    follow: StepBatch = field(init=False)

    def __post_init__(self) -> None:
        """Start empty."""
        self.first, self.follow = StepBatch(self.windows), StepBatch(self.windows)

    def add(self, past_tokens: int, new_tokens: int, samples: bool, is_decode: bool) -> None:
        """Add one sequence of the step."""
        self.first.add(past_tokens, new_tokens, samples, is_decode)
        if samples:
            self.follow.add(past_tokens + new_tokens - 1, 1, True, True)


@dataclass(frozen=True, slots=True)
class DraftCost:
    """Tables of a draft: `first` of the pass over a step's tokens, `follow` of the `n_next` passes of one token."""

    name: str
    first: StageTables
    follow: StageTables
    n_next: int
    n_groups: int

    def price(self, batch: DraftBatch) -> tuple[float, float]:
        """Return device time and energy above idle of each device."""
        attention_s = np.zeros((2, self.n_groups))
        device_s, dynamic_j, *_ = price_step(self.first.numbers, self.first.layout, batch.first.sums(), attention_s)
        if self.n_next and batch.follow.n_tokens:
            next_s, next_j, *_ = price_step(self.follow.numbers, self.follow.layout, batch.follow.sums(), attention_s)
            device_s, dynamic_j = device_s + self.n_next * next_s, dynamic_j + self.n_next * next_j
        return device_s, dynamic_j
