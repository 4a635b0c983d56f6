"""What bounds a plan: arithmetic, memory, the network, launches, the host, or nothing but the load?

Device time is split by what bounds each kernel at the sizes that the run visited (`apex_sim.cost.bound`).  Attention's
visits are not counted by size: all of its time goes to what bounds a launch of the run's mean size.
Steps after which requests still wait say what keeps these out: seats, the step's token budget, KV blocks, or the order
in which the scheduler takes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from apex_sim.cost.bound import BOUNDS
from apex_sim.cost.step_model import StageModel
from apex_sim.fleet.compiled_plan import CompiledPlan
from apex_sim.planner.trial import Trial
from apex_sim.record.run import InstanceRun, StageRun

#: Parts of device time, in the order of tables; they add up to 1.
PARTS: Final = (*BOUNDS, "slowdown", "launch", "host", "draft", "swap", "idle")
_WORDS: Final = {
    "compute": "arithmetic: kernels that compute longer than they read",
    "memory": "memory bandwidth: kernels that read weights and keys longer than they compute",
    "network": "the network between devices",
    "slowdown": "the slowdown of kernels in steps with prompts",
    "launch": "kernel launches and the gaps between steps",
    "host": "the host, for which devices wait",
    "draft": "the draft of speculation",
    "swap": "copies of KV blocks to and from the host",
}


@dataclass(frozen=True, slots=True)
class Pressure:
    """What kept waiting requests out, as shares of the time that steps took.

    `waiting_frac` is how long at least one request waited after the batch was decided; the others split it: by full
    seats, a full token budget, too few free KV blocks for a mean prompt, or none of these (the policy's order).
    """

    waiting_frac: float
    seats_frac: float
    tokens_frac: float
    kv_frac: float
    order_frac: float
    kv_used_max_frac: float | None
    n_preemptions: int

    @property
    def main(self) -> str:
        """What keeps requests out most: "seats", "tokens", "kv" or "order"; empty where none waits."""
        shares = {"seats": self.seats_frac, "tokens": self.tokens_frac, "kv": self.kv_frac, "order": self.order_frac}
        return max(shares, key=lambda name: shares[name]) if self.waiting_frac else ""


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """How device time splits, and what the largest part of busy time is; `has_stages` if a pipeline adds bubbles."""

    split_frac: Mapping[str, float]
    pressure: Pressure
    has_stages: bool = False

    @property
    def bound(self) -> str:
        """The largest part of device time but idleness."""
        return max((name for name in self.split_frac if name != "idle"), key=lambda name: self.split_frac[name])

    @property
    def sentence(self) -> str:
        """What bounds the plan, in one sentence."""
        idle = self.split_frac["idle"]
        busy = max(1.0 - idle, 1e-12)
        share = f"{self.split_frac[self.bound] / busy:.0%} of busy time"
        text = f"Bound by {_WORDS[self.bound]} ({share})"
        if idle > 0.5:
            why = "bubbles of the pipeline included" if self.has_stages else "for want of requests"
            text += f"; devices idle {idle:.0%} of the time, {why}"
        return f"{text}."

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` says."""
        return {
            "bound": self.bound,
            "sentence": self.sentence,
            "split_frac": dict(self.split_frac),
            "pressure": {**asdict(self.pressure), "main": self.pressure.main},
        }


def bottleneck_of(trial: Trial, compiled: CompiledPlan) -> Bottleneck:
    """Return what bounds the plan of `trial`, compiled to `compiled`."""
    spent = dict.fromkeys(PARTS, 0.0)
    for instance in trial.run.instances:
        for stage, model in zip(instance.stages, compiled[instance.shape][1].stages, strict=True):
            for name, seconds in _stage_split(instance, stage, model, trial).items():
                spent[name] += seconds * stage.n_devices
    total = sum(spent.values())
    split = {name: seconds / total if total else 0.0 for name, seconds in spent.items()}
    return Bottleneck(split, _pressure(trial), any(shape.pp > 1 for shape in compiled))


def _stage_split(instance: InstanceRun, stage: StageRun, model: StageModel, trial: Trial) -> dict[str, float]:
    """Return the seconds of each part of one stage's devices; they add up to the makespan."""
    split = dict.fromkeys(PARTS, 0.0)
    attention = _attention_bounds(instance, model, trial)
    for share in stage.shares:
        if share.operator == "draft":
            split["draft"] += share.spent_s
        elif share.bounds_s is None:
            split[next(attention)] += share.spent_s
        else:
            for name, seconds in zip(BOUNDS, share.bounds_s, strict=True):
                split[name] += seconds
    for name in ("slowdown", "launch", "host", "swap"):
        split[name] += stage.operators_s.get(name, 0.0)
    kernels = sum(share.spent_s for share in stage.shares)
    named = sum(stage.operators_s.get(name, 0.0) for name in ("slowdown", "launch", "host", "swap"))
    uneven = sum(stage.operators_s.values()) - kernels - named  # drawn loads of experts: their kernels' own bound
    split["memory" if split["memory"] >= split["compute"] else "compute"] += uneven
    split["idle"] = stage.idle_s
    return split


def _attention_bounds(instance: InstanceRun, model: StageModel, trial: Trial) -> Iterator[str]:
    """Yield what bounds prefill and decode attention of each group of layers, in the order of a meter's shares."""
    requests, steps = trial.run.requests, instance.steps
    n_prefill, n_decode = steps.column("n_prefill_tokens"), steps.column("n_decode")
    prompt = float(requests.prompt_tokens.mean())
    tokens = float(n_prefill[n_prefill > 0].mean()) if (n_prefill > 0).any() else prompt
    decodes = float(n_decode[n_decode > 0].mean()) if (n_decode > 0).any() else 1.0
    context = prompt + float(requests.output_tokens.mean()) / 2
    for prefill, decode in model.attention:
        yield prefill.bound(max(1.0, tokens / prompt), min(prompt, tokens))
        yield decode.bound(decodes, context)


def _pressure(trial: Trial) -> Pressure:
    spent, waiting = 0.0, np.zeros(4)
    for instance in trial.run.instances:
        steps = instance.steps
        if not len(steps):
            continue
        weight = steps.n_steps / len(steps)
        took_s = (steps.column("end_s") - steps.column("start_s")) * weight
        spent += float(took_s.sum())
        waits = steps.column("n_waiting") > 0
        for row, mask in enumerate(_reasons(instance, trial)):
            waiting[row] += float(took_s[waits & mask].sum())
    shares = waiting / spent if spent else waiting
    seats, tokens, kv, order = (float(share) for share in shares)
    return Pressure(
        float(shares.sum()),
        seats,
        tokens,
        kv,
        order,
        trial.metrics["kv_used_max_frac"],
        int(trial.run.requests.n_preemptions.sum()),
    )


def _reasons(instance: InstanceRun, trial: Trial) -> list[NDArray[np.bool_]]:
    """Return for each step whether seats, tokens, KV blocks or none of these are used up; each step has one reason."""
    scheduler, steps = instance.shape.scheduler, instance.steps
    ranks = instance.shape.n_queues
    seats = steps.column("n_running") >= scheduler.max_num_seqs * ranks
    tokens = steps.column("n_prefill_tokens") + steps.column("n_decode")
    budget = tokens >= scheduler.max_num_batched_tokens * instance.shape.attention_dp
    prompt_blocks = instance.memory.layout.blocks_for(round(float(trial.run.requests.prompt_tokens.mean())))
    blocks = instance.memory.n_blocks - steps.column("n_blocks_used") < prompt_blocks * ranks
    return [seats, ~seats & budget & ~blocks, ~seats & blocks, ~seats & ~budget & ~blocks]
