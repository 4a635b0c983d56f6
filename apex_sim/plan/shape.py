"""What is an instance, apart from its place?  Device, stages, cells' parallelism, precision, scheduler, role."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from apex_sim.plan.precision import Precision
from apex_sim.plan.speculation import Speculation
from apex_sim.preset.preset import Preset, Reservation
from apex_sim.preset.research import RESEARCH_POLICIES

Role = Literal["mixed", "prefill", "decode"]
Placement = Literal["packed", "spread"]


@dataclass(frozen=True, slots=True)
class CellParallelism:
    """How one kind of cell is spread over the devices of a stage: tp x attention_dp x cp x ep devices.

    Parameters
    ----------
    tp : parts of each head group's or FFN's matrices; of attention, parts of its KV heads too.
    attention_dp : copies, each of which takes requests (attention) or tokens (FFN) of its own.
    cp : parts of each sequence's KV; projections divide over all tp x cp devices.
    ep : groups of experts.
    """

    tp: int = 1
    attention_dp: int = 1
    cp: int = 1
    ep: int = 1

    @property
    def n_devices(self) -> int:
        """Devices that the cell occupies."""
        return self.tp * self.attention_dp * self.cp * self.ep

    @property
    def n_shards(self) -> int:
        """Devices that the columns of a projection divide over, which hold one copy of the cell together."""
        return self.tp * self.cp


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

    def dense_tp(self, is_dense: bool) -> int:
        """Return over how many devices dense FFNs and shared experts divide, in a dense model or one with experts.

        In a dense model they divide as `ffn` says; beside experts as attention does (vLLM's deepseek_v2.py:
        DeepseekV2MLP divides over the tensor-parallel group alone).
        """
        return self.ffn.tp if is_dense else self.attention.n_shards


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """The knobs of one instance's scheduler, all resolved: nothing here is "engine default" any more.

    `reservation` is the rule of a policy that has one; `max_graph_sequences` cuts the sizes of CUDA graphs;
    `swap_bytes` is the host memory for swapped KV blocks, for each device.
    `expert_imbalance` is how much the fullest rank's share of the experts' work varies from step to step, in units of
    what random routing gives; 0 takes the mean in each step.
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
    speculation: Speculation | None = None
    expert_imbalance: float = 0.0

    @property
    def swaps(self) -> bool:
        """Whether a preempted sequence keeps what it has computed, in the host's memory."""
        return self.preemption == "swap"

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
    """Everything about an instance but its place.

    `clock_frac` is the share of the highest clock that the devices are set to.  `placement` says whether stages fill a
    node before the next ("packed") or each stage lies in another node ("spread").
    """

    device: str
    stages: tuple[Stage, ...]
    precision: Precision
    scheduler: SchedulerSettings
    preset: Preset = field(repr=False)
    role: Role = "mixed"
    clock_frac: float = 1.0
    placement: Placement = "packed"

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
    def attention_dp(self) -> int:
        """Ranks with attention, queue and KV cache of their own, which run their steps together (1: not split)."""
        return self.stages[0].attention.attention_dp

    @property
    def cp(self) -> int:
        """Parts of each sequence's KV, on devices of their own (1: not split)."""
        return self.stages[0].attention.cp

    @property
    def n_shards(self) -> int:
        """Devices that serve one request together in each stage: TP x CP."""
        return self.stages[0].attention.n_shards

    @property
    def ep(self) -> int:
        """Groups of devices that the experts are spread over, each expert in one (1: every device has a part of each).

        A group is one device unless `ffn.tp` says more.
        """
        return self.stages[0].ffn.ep

    @property
    def n_queues(self) -> int:
        """Scheduler queues with a part of the KV blocks: one for each attention rank or batch in flight, or one."""
        return self.pp if self._queue_per_batch else self.attention_dp

    @property
    def n_in_flight(self) -> int:
        """Batches that one queue may have in flight."""
        return 1 if self._queue_per_batch else 2 if self.scheduler.async_scheduling else self.pp

    @property
    def _queue_per_batch(self) -> bool:
        return self.preset.queue_per_batch or self.scheduler.policy in RESEARCH_POLICIES

    @property
    def label(self) -> str:
        """Short name for tables, such as "TP4 PP2 fp8", "TP4 PP2 spread fp8" or "TP4 PP2 fp8 @ 60% clock"."""
        split = "" if self.is_balanced else "(" + "+".join(str(stage.n_layers) for stage in self.stages) + ")"
        spread = [f"{name}{n} " for name, n in (("CP", self.cp), ("ADP", self.attention_dp)) if n > 1]
        apart = " spread" if self.placement == "spread" else ""
        clock = f" @ {100 * self.clock_frac:g}% clock" if self.clock_frac < 1.0 else ""
        cells = f"TP{self.tp} {''.join(spread)}{self._ffn_label}"
        return f"{cells}PP{self.pp}{split}{apart} {self.precision.label}{clock}"

    @property
    def _ffn_label(self) -> str:
        """What tells the FFN's cells from columns over all devices of the stage."""
        ffn = self.stages[0].ffn
        if ffn.attention_dp > 1:
            return f"FFN-TP{ffn.tp} "
        if self.ep > 1:
            return f"EP{self.ep}xTP{ffn.tp} " if ffn.tp > 1 else f"EP{self.ep} "
        return ""

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


def tensor_pipeline_stages(
    layers: tuple[int, ...], tp: int, attention_dp: int = 1, *, ep: bool = False
) -> tuple[Stage, ...]:
    """Return stages of `layers` layers each, on `tp` x `attention_dp` devices.

    Attention is sharded over `tp` of them, which serve requests of their own; so are dense layers and shared experts.
    Routed experts are sharded over all, or with `ep` each is held whole by one: vLLM without and with
    --enable-expert-parallel (vllm/model_executor/layers/fused_moe/config.py, FusedMoEParallelConfig.make).
    """
    attention, n_devices = CellParallelism(tp=tp, attention_dp=attention_dp), tp * attention_dp
    ffn = CellParallelism(ep=n_devices) if ep else CellParallelism(tp=n_devices)
    return cell_stages(layers, attention, ffn)


def cell_stages(layers: tuple[int, ...], attention: CellParallelism, ffn: CellParallelism) -> tuple[Stage, ...]:
    """Return stages of `layers` layers each, all with the same cells.

    Examples
    --------
    >>> [stage.first_layer for stage in cell_stages((40, 40), CellParallelism(tp=2, cp=4), CellParallelism(tp=8))]
    [0, 40]
    """
    firsts = [sum(layers[:index]) for index in range(len(layers))]
    return tuple(Stage(first, n, attention, ffn) for first, n in zip(firsts, layers, strict=True))
