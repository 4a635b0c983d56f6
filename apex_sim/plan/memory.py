"""Does a shape fit on its devices, and how many tokens of KV cache are left?

Per device:  KV bytes = total x utilisation - weights - activation peak - sampler - communicators - misc; an engine that
counts allocated rather than reserved bytes subtracts the larger of activation and sampler peak.

The activation peak is that of the engine's profiling run over N = `max_num_batched_tokens` tokens: at the second FFN
matrix the residual, the layer's input and its output (hidden size each), the gate and up columns and their product
are alive (LlamaMLP and LlamaDecoderLayer in vLLM 0.6.0, vllm/model_executor/models/llama.py), and where activations
are quantised the product's narrow copy (apply_fp8_linear, w8a8_utils.py).  Attention holds less.
SGLang profiles nothing: weights and KV fill a share of what was free before the weights, and buffers live in the rest
(0.5.6 sglang/srt/model_executor/model_runner.py profile_max_num_token; whether they fit there is not checked).
TensorRT-LLM gives KV a share of what weights, buffers and peaks leave (tensorrt_llm/_torch/pyexecutor/_util.py).
CUDA graphs are captured after the KV pool is sized and live in the share that `gpu_memory_utilization` leaves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from apex_sim.errors import InfeasiblePlanError
from apex_sim.hardware.device import Device
from apex_sim.model.cells import FfnCell, MoeCell
from apex_sim.model.model import Layer, Model
from apex_sim.plan.draft import draft_bytes
from apex_sim.plan.kv_layout import KvLayout, layout_of
from apex_sim.plan.shape import Shape
from apex_sim.plan.weights import local_kv_numbers, stage_weight_bytes
from apex_sim.preset.preset import PoolRule
from apex_sim.units import BYTES_PER_NUMBER, GIB


@dataclass(frozen=True, slots=True)
class StageMemory:
    """The terms of one device of one stage, in bytes; `kv_bytes` is what is left for KV blocks and may be negative.

    A draft's weights and keys count as the model's own.
    """

    total_bytes: float
    budget_bytes: float
    weight_bytes: float
    activation_bytes: float
    sampler_bytes: float
    reserved_peak: bool
    communicator_bytes: float
    misc_bytes: float
    kv_bytes_per_token: float

    @property
    def kv_bytes(self) -> float:
        """What is left for KV blocks."""
        fixed = self.weight_bytes + self.communicator_bytes + self.misc_bytes
        return self.budget_bytes - fixed - self.peak_bytes

    @property
    def peak_bytes(self) -> float:
        """What the engine counts for the profiling run's forward pass and sampler."""
        if self.reserved_peak:
            return self.activation_bytes + self.sampler_bytes
        return max(self.activation_bytes, self.sampler_bytes)


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one instance: its stages' terms and the KV pool of all attention ranks; the tightest stage decides.

    `n_host_blocks` more may lie in the host's memory, swapped out.
    """

    stages: tuple[StageMemory, ...]
    layout: KvLayout
    n_blocks: int
    n_host_blocks: int = 0

    @property
    def kv_tokens(self) -> int:
        """KV capacity of the instance in tokens of long sequences, whose windows are negligible."""
        return self.n_blocks // max(self.layout.n_full_lists, 1) * self.layout.block_size_tokens

    def as_dict(self) -> dict[str, float]:
        """Return the terms of the tightest stage's device, for reports."""
        tight = min(self.stages, key=lambda stage: stage.kv_bytes / stage.kv_bytes_per_token)
        return {
            "memory_bytes": tight.total_bytes,
            "budget_bytes": tight.budget_bytes,
            "weight_bytes": tight.weight_bytes,
            "activation_bytes": tight.activation_bytes,
            "sampler_bytes": tight.sampler_bytes,
            "peak_bytes": tight.peak_bytes,
            "communicator_bytes": tight.communicator_bytes,
            "misc_bytes": tight.misc_bytes,
            "kv_bytes": tight.kv_bytes,
            "kv_bytes_per_token": tight.kv_bytes_per_token,
            "kv_tokens": float(self.kv_tokens),
        }


def stage_kv_bytes_per_token(model: Model, shape: Shape, index: int) -> float:
    """Return the KV bytes that one token holds on one device of stage `index` where no window is freed.

    Under context parallelism the mean over the devices that share a sequence.
    """
    stage = shape.stages[index]
    layers = model.layers[stage.first_layer : stage.first_layer + stage.n_layers]
    numbers = sum(local_kv_numbers(layer, stage.attention.tp) for layer in layers)
    return numbers * shape.precision.kv_bytes() / stage.attention.cp


def activation_bytes_per_token(
    layer: Layer, hidden_size: int, tp: int, activation: str = "bf16", n_gathered: int = 1
) -> float:
    """Return the profiling run's peak of live activations for each token in `layer`.

    `activation` is the format in which its FFN multiplies; one other than bf16 needs a copy of the product.  A mixture
    of experts holds the routed copies of each token: input, gate and up, product and output for each of its active
    experts (fused_moe's intermediate caches in vLLM).  Where the experts are spread over the ranks, a rank computes as
    many copies as it sends, on average, in whole columns: as many numbers as of all copies in a share of the columns.
    Where all ranks share each expert, the copies of `n_gathered` ranks pass a share of its columns, at full length; so
    do the inputs and outputs of a dense FFN that the ranks share.
    """
    ffn = layer.ffn
    width = ffn.intermediate_size / tp
    numbers, product = (3 if ffn.gated else 2) * width, width
    if not isinstance(ffn, FfnCell):
        numbers, product = ffn.n_active_experts * (numbers + n_gathered * hidden_size), ffn.n_active_experts * width
        numbers += 3 * ffn.shared_intermediate_size / tp
    else:
        numbers += 2 * (n_gathered - 1) * hidden_size
    copy_bytes = 0.0 if activation == "bf16" else product * BYTES_PER_NUMBER[activation]
    return (3 * hidden_size + numbers) * BYTES_PER_NUMBER["bf16"] + copy_bytes


def _is_shared(model: Model, layer: Layer) -> bool:
    """Whether attention ranks compute the layer's FFN together."""
    return model.is_dense or isinstance(layer.ffn, MoeCell)


def stage_memory(model: Model, device: Device, shape: Shape, index: int) -> StageMemory:
    """Return the memory terms of one device of stage `index`."""
    scheduler, buffers, stage = shape.scheduler, shape.preset.buffers, shape.stages[index]
    layers = model.layers[stage.first_layer : stage.first_layer + stage.n_layers]
    tp, hidden, activation = stage.attention.n_shards, model.hidden_size, shape.precision.activation
    n_gathered = max(1, stage.ffn.tp // tp)
    per_token = max(
        activation_bytes_per_token(layer, hidden, tp, activation, n_gathered if _is_shared(model, layer) else 1)
        for layer in set(layers)
    )
    is_last = index == len(shape.stages) - 1
    draft_weight_bytes, draft_kv_bytes = draft_bytes(model, shape)
    sampled_rows = scheduler.max_num_seqs
    if not buffers.for_all_seqs:
        sampled_rows = min(scheduler.max_num_batched_tokens, sampled_rows)
    kernel = shape.preset.expert_kernel(shape.precision.weight_dtype_of(model, "experts"), device.architecture)
    memory = StageMemory(
        total_bytes=device.memory_bytes,
        budget_bytes=device.memory_bytes * scheduler.gpu_memory_utilization_frac,
        weight_bytes=stage_weight_bytes(model, shape.stages, index, shape.precision, kernel) + draft_weight_bytes,
        activation_bytes=per_token * scheduler.max_num_batched_tokens,
        sampler_bytes=sampled_rows * model.vocab_size * buffers.logit_bytes if is_last else 0.0,
        reserved_peak=buffers.reserved_peak,
        communicator_bytes=buffers.communicator_bytes if shape.n_devices > 1 else 0.0,
        misc_bytes=buffers.misc_bytes,
        kv_bytes_per_token=stage_kv_bytes_per_token(model, shape, index) + draft_kv_bytes,
    )
    return _by_pool_rule(memory, buffers.pool_rule, scheduler.gpu_memory_utilization_frac)


def _by_pool_rule(memory: StageMemory, rule: PoolRule, share_frac: float) -> StageMemory:
    """Return the terms of an engine whose pool is a share of something other than the whole memory."""
    if rule == "share-of-memory":
        return memory
    if rule == "share-of-free":
        free_bytes = memory.total_bytes - memory.communicator_bytes
        return replace(
            memory,
            budget_bytes=memory.communicator_bytes + share_frac * free_bytes,
            activation_bytes=0.0,
            sampler_bytes=0.0,
            misc_bytes=0.0,
        )
    held_bytes = memory.weight_bytes + memory.communicator_bytes + memory.misc_bytes + memory.peak_bytes
    return replace(memory, budget_bytes=held_bytes + share_frac * (memory.total_bytes - held_bytes))


def instance_memory(model: Model, device: Device, shape: Shape) -> Memory:
    """Return the memory of one instance of `shape`.

    Raises
    ------
    InfeasiblePlanError : a stage's weights and buffers leave no room for KV, or the pool is smaller than
        `max_model_len`, which vLLM refuses at start, and which others could not serve.
    """
    memory, tokens = unchecked_memory(model, device, shape)
    # vLLM v0 compares before it splits the blocks, starts, and then rejects or thrashes on what no queue can hold.
    if memory.n_blocks // shape.n_queues < memory.layout.blocks_for(shape.scheduler.max_model_len):
        per_queue = f" in each of {shape.n_queues} queues" if shape.n_queues > 1 else ""
        raise InfeasiblePlanError(
            f"memory: {tokens} tokens of KV{per_queue}, below max_model_len {shape.scheduler.max_model_len}"
        )
    return memory


def unchecked_memory(model: Model, device: Device, shape: Shape) -> tuple[Memory, int]:
    """Return the memory of one instance, and the longest request that a queue can hold, in tokens.

    Raises
    ------
    InfeasiblePlanError : a stage's weights and buffers leave no room for KV.
    """
    stages = tuple(stage_memory(model, device, shape, index) for index in range(shape.pp))
    for index, stage in enumerate(stages):
        if stage.kv_bytes <= 0:
            raise InfeasiblePlanError(
                f"memory: stage {index + 1} of {shape.pp} needs {stage.weight_bytes / GIB:.1f} GiB of weights and "
                f"{(stage.budget_bytes - stage.weight_bytes - stage.kv_bytes) / GIB:.1f} GiB of buffers a device, "
                f"{stage.budget_bytes / GIB:.1f} GiB are usable"
            )
    layout = layout_of(
        model,
        shape.scheduler.block_size_tokens * shape.cp,
        shape.preset.frees_windows,
        shape.stages[0].attention.tp,
        shape.precision.kv_bytes(),
    )
    block, (_, draft_bytes_per_token) = layout.block_size_tokens, draft_bytes(model, shape)
    in_full_list = draft_bytes_per_token / max(layout.n_full_lists, 1)  # where the draft keeps every token's keys
    block_bytes = [
        ((stage.kv_bytes_per_token - draft_bytes_per_token) * layout.list_frac + in_full_list) * block
        for stage in stages
    ]
    each = min(int(stage.kv_bytes // size) for stage, size in zip(stages, block_bytes, strict=True))
    n_blocks = each * shape.attention_dp
    n_host_blocks = min(int(shape.scheduler.swap_bytes // size) for size in block_bytes) * shape.attention_dp
    return Memory(stages, layout, n_blocks, n_host_blocks), layout.tokens_in(n_blocks // shape.n_queues)
