"""What is an instance, apart from its place?  Device, stages, cells' parallelism, precision, scheduler, role."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from apex_sim.plan.precision import Precision
from apex_sim.plan.speculation import Speculation
from apex_sim.preset.preset import Preset, Reservation
from apex_sim.preset.research import RESEARCH_POLICIES

Role = Literal["mixed", "prefill", "decode"]


@dataclass(frozen=True, slots=True)
class CellParallelism:
    """How one kind of cell is spread over the devices of a stage: tp x attention_dp x cp x ep devices."""

    tp: int = 1
    attention_dp: int = 1
    cp: int = 1
    ep: int = 1

    @property
    def n_devices(self) -> int:
        """Devices that the cell occupies."""
        return self.tp * self.attention_dp * self.cp * self.ep


@dataclass(frozen=True, slots=True)
class Stage:
    """Consecutive layers [first_layer, first_layer + n_layers) on one group of devices."""

    first_layer: int
    n_layers: int
    attention: CellParallelism
    ffn: CellParallelism

    @property
    def n_devices(self) -> int:
        """Devices of the stage."""
        return self.attention.n_devices


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """The knobs of one instance's scheduler, all resolved: nothing here is "engine default" any more.

    `reservation` is the rule of a policy that has one; `max_graph_sequences` cuts the sizes of CUDA graphs;
    `swap_bytes` is the host memory for swapped KV blocks, for each device.
    """

    policy: str
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    block_size_tokens: int
    gpu_memory_utilization_frac: float
    cuda_graphs: bool
    async_scheduling: bool
    prefix_cache: bool = False
    custom_all_reduce: bool = True
    queue_order: str = "fcfs"
    reservation: Reservation | None = None
    max_graph_sequences: int | None = None
    prediction_log_sd: float = 0.0
    max_num_waiting: int | None = None
    preemption: str = "recompute"
    swap_bytes: float = 0.0

    @property
    def swaps(self) -> bool:
        """Whether a preempted sequence keeps what it has computed, in the host's memory."""
        return self.preemption == "swap"

    speculation: Speculation | None = None

    @property
    def n_draft_tokens(self) -> int:
        """Tokens that a draft proposes for each sequence and step; 0 without speculation."""
        return self.speculation.n_draft_tokens if self.speculation else 0

    @property
    def sorts_queue(self) -> bool:
        """Whether something else than first come, first served decides who goes first."""
        return self.queue_order != "fcfs"


@dataclass(frozen=True, slots=True)
class Shape:
    """Everything about an instance but its place."""

    device: str
    stages: tuple[Stage, ...]
    precision: Precision
    scheduler: SchedulerSettings
    preset: Preset = field(repr=False)
    role: Role = "mixed"

    @property
    def n_devices(self) -> int:
        """Devices of one instance."""
        return sum(stage.n_devices for stage in self.stages)

    @property
    def tp(self) -> int:
        """Tensor parallelism of the attention cells (equal in all stages)."""
        return self.stages[0].attention.tp

    @property
    def pp(self) -> int:
        """Pipeline stages."""
        return len(self.stages)

    @property
    def n_queues(self) -> int:
        """Scheduler queues, each with its part of the KV blocks: one for each batch in flight, or one in all."""
        return self.pp if self._queue_per_batch else 1

    @property
    def n_in_flight(self) -> int:
        """Batches that one queue may have in flight."""
        return 1 if self._queue_per_batch else 2 if self.scheduler.async_scheduling else self.pp

    @property
    def _queue_per_batch(self) -> bool:
        return self.preset.queue_per_batch or self.scheduler.policy in RESEARCH_POLICIES

    @property
    def label(self) -> str:
        """Short name for tables, such as "TP4 PP2 fp8"."""
        split = "" if self.is_balanced else "(" + "+".join(str(stage.n_layers) for stage in self.stages) + ")"
        return f"TP{self.tp} PP{self.pp}{split} {self.precision.label}"

    @property
    def is_balanced(self) -> bool:
        """Whether the stages hold the layers of `balanced_split`."""
        layers = tuple(stage.n_layers for stage in self.stages)
        return layers == balanced_split(sum(layers), len(layers))


def balanced_split(n_layers: int, pp: int) -> tuple[int, ...]:
    """Return the layers of each stage, as equal as they can be.

    A remainder goes to the stages before the last, from the back, because the last stage also holds the LM head: the
    rule of vLLM's `get_pp_indices` (vllm/distributed/utils.py).

    Examples
    --------
    >>> balanced_split(80, 4)
    (20, 20, 20, 20)
    >>> balanced_split(126, 4)
    (31, 32, 32, 31)
    """
    base, remainder = divmod(n_layers, pp)
    layers = [base] * pp
    for step in range(remainder):
        layers[-(step + 2) if pp > 1 else -1] += 1
    return tuple(layers)


def tensor_pipeline_stages(layers: tuple[int, ...], tp: int) -> tuple[Stage, ...]:
    """Return stages of `layers` layers each, every cell sharded over `tp` devices."""
    cell = CellParallelism(tp=tp)
    firsts = [sum(layers[:index]) for index in range(len(layers))]
    return tuple(Stage(first, n, cell, cell) for first, n in zip(firsts, layers, strict=True))
