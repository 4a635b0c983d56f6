"""How does a named serving engine and version behave?

A preset is data: what differs between two versions of an engine stands in its values, not in branches elsewhere.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from apex_sim.preset.expert_kernel import ExpertKernel

BatchingPolicy = Literal[
    "prefill-first", "chunked", "unified", "sglang", "no-evict", "no-evict-chunked", "max-utilization"
]
#: All-reduces of the engine itself, beside NCCL's: none, one- and two-shot kernels over peer memory, or these and, for
#: larger messages, kernels over multicast memory of the NVLink switch.
OwnAllReduce = Literal["none", "custom", "symmetric"]
PoolRule = Literal["share-of-memory", "share-of-free", "share-of-rest"]


@dataclass(frozen=True, slots=True)
class HostOverhead:
    """What does the processor add to a step and to a request?

    `step_s` and `sequence_s` are the time to schedule, prepare, launch, sample and detokenise one step, fixed and for
    each sequence in it; `rank_s` comes on top for each tensor-parallel rank beyond the first, which must be told what
    to run (None: not told apart, the other two hold it).  `between_steps_s` is what the device waits between two steps
    even if all of that is hidden behind it: input copies, sampling, the hand-over itself.  `frontend_s` and
    `prompt_token_s` lie between a request's arrival and the scheduler's queue (HTTP, tokenising, inter-process copies).
    """

    step_s: float
    sequence_s: float
    frontend_s: float
    prompt_token_s: float
    source: str
    kind: Literal["measured", "fitted", "assumed"]
    rank_s: float | None = None
    between_steps_s: float = 0.0

    def on_step_s(self, n_sequences: int, tp: int) -> float:
        """Return the host time of a step with `n_sequences` under tensor parallelism `tp`."""
        return self.step_s + (self.rank_s or 0.0) * (tp - 1) + self.sequence_s * n_sequences


@dataclass(frozen=True, slots=True)
class Reserve:
    """Which memory does an engine leave free of weights and KV blocks when nobody says how much?

    A fixed part, so much for each token of the batch budget (at least `least_budget_tokens` of them), for each sequence
    of the largest CUDA graph and for each device of the instance; together at least `least_bytes` on devices of more
    than `least_above_bytes`.
    """

    fixed_bytes: float
    budget_token_bytes: float
    least_budget_tokens: int
    graph_sequence_bytes: float
    device_bytes: float
    least_bytes: float
    least_above_bytes: float

    def share_frac(self, memory_bytes: float, budget_tokens: int, n_graph_sequences: int, n_devices: int) -> float:
        """Return the share of a device's memory that is left for weights and KV blocks, to three digits."""
        reserve_bytes = (
            self.fixed_bytes
            + self.budget_token_bytes * max(budget_tokens, self.least_budget_tokens)
            + self.graph_sequence_bytes * n_graph_sequences
            + self.device_bytes * n_devices
        )
        if memory_bytes > self.least_above_bytes:
            reserve_bytes = max(reserve_bytes, self.least_bytes)
        return round(1.0 - reserve_bytes / memory_bytes, 3)


@dataclass(frozen=True, slots=True)
class Reservation:
    """How much room must be free, beside the prompt, for a prompt to be admitted?

    A new sequence asks for its whole output limit, at most `clip_tokens` of it; a running one for a share of what is
    left of its limit.  That share starts at `first_ratio`, falls in equal steps to `least_ratio` within `decay_steps`
    decode steps, and is set anew when sequences were retracted, as if each of the others decoded `retract_steps` more
    tokens.  A batch of prompts ends before `max_prefill_tokens`.
    """

    first_ratio: float
    least_ratio: float
    decay_steps: int
    retract_steps: int
    clip_tokens: int
    max_prefill_tokens: int

    @property
    def decay_ratio(self) -> float:
        """How much the share falls with each decode step."""
        return (self.first_ratio - self.least_ratio) / self.decay_steps


@dataclass(frozen=True, slots=True)
class Buffers:
    """Which device memory does the engine hold beside weights and KV blocks?

    `logit_bytes` is the sampler's peak for each logit of the profiling run: of `max_num_seqs` rows, and of no more than
    its tokens unless buffers are allocated `for_all_seqs`.  `communicator_bytes` is what one device's communicators
    hold when TP or PP is above one, `misc_bytes` the rest.
    `reserved_peak` says that the engine subtracts what the allocator has reserved, so that forward and sampler peaks
    add up; otherwise it subtracts the peak of allocated bytes, and only the larger of the two counts.

    `pool_rule` says what `gpu_memory_utilization` is a share of.  "share-of-memory": weights, buffers, profiled peaks
    and KV blocks together fill that share of the device.  "share-of-free": weights and KV blocks fill that share of
    what was free before the weights, and nothing is profiled; `reserve` is where the share comes from if nobody gives
    it.  "share-of-rest": KV blocks fill that share of what weights, buffers and profiled peaks leave.
    """

    logit_bytes: float
    reserved_peak: bool
    communicator_bytes: float
    misc_bytes: float
    source: str
    kind: Literal["measured", "fitted", "assumed"]
    pool_rule: PoolRule = "share-of-memory"
    reserve: Reserve | None = None
    for_all_seqs: bool = False


@dataclass(frozen=True, slots=True)
class Graphs:
    """Which steps run inside a captured CUDA graph, and what does a kernel's launch cost inside and outside it?

    `sizes` are the captured token counts, ascending; a step that a graph covers is padded to the next size, or, where
    the engine does not pad, runs in a graph only if its size is one of them.
    """

    sizes: tuple[int, ...]
    decode_only: bool
    max_context_tokens: int | None
    launch_s: float
    eager_launch_s: float
    source: str
    kind: Literal["measured", "fitted", "assumed"]
    pads: bool = True

    def padded(self, n_tokens: int) -> int | None:
        """Return the captured size that a batch of `n_tokens` runs at; None when no graph takes it."""
        index = bisect_left(self.sizes, n_tokens)
        if index == len(self.sizes) or not (self.pads or self.sizes[index] == n_tokens):
            return None
        return self.sizes[index]


@dataclass(frozen=True, slots=True)
class Ranks:
    """How does an engine run the ranks of attention DP together?

    Where a step runs in a CUDA graph, all ranks do, each padded to the largest; elsewhere the experts see each rank's
    own tokens ("own"), or, where that moves no more bytes, as many from each rank as from the largest if nobody
    prefills ("cheaper").  A rank with nothing to do takes part with `dummy_tokens`.  A request goes to the rank with
    the smallest sum of its running requests and `waiting_weight` times its waiting ones, or to the ranks in turn
    (None).  `shares_budget` says that the stated token budget is one for all ranks together; `reservation_frac` scales
    the shares of a rule of reservation.
    """

    eager: Literal["own", "cheaper"]
    dummy_tokens: int
    waiting_weight: int | None
    source: str
    kind: Literal["measured", "fitted", "assumed"]
    shares_budget: bool = False
    reservation_frac: float = 1.0


@dataclass(frozen=True, slots=True)
class PromptSlowdown:
    """How much slower do steps with prompts run than the sum of their kernels, measured alone?

    The factor is base + growth T / (T + half_tokens) for a step of T tokens.  Sustained clocks,
    activations that no longer fit the L2 cache, eager tails between kernels and unfused element-wise work may make the
    difference; the form is empirical.  `growth_of` holds weight formats with a growth of their own: kernels that
    dequantise lose more.
    """

    base: float
    growth: float
    growth_of: Mapping[str, float] = field(hash=False)
    half_tokens: float
    source: str
    kind: Literal["measured", "fitted", "assumed"]

    def factor(self, weight_dtype: str, n_tokens: int) -> float:
        """Return the factor for a step of `n_tokens` under a weight format."""
        growth = self.growth_of.get(weight_dtype, self.growth)
        return self.base + growth * n_tokens / (n_tokens + self.half_tokens)


@dataclass(frozen=True, slots=True)
class PhaseFactors:
    """How much longer do kernels take than their prices say: in steps with prompts, and in those of decodes alone?

    Both are 1 in a preset; a calibration profile or a question of sensitivity sets others.  Launches and host time are
    no part of them.
    """

    prompt: float = 1.0
    decode: float = 1.0


@dataclass(frozen=True, slots=True)
class Defaults:
    """The engine's own settings on devices with at least `min_memory_bytes` whose name holds none of `except_devices`.

    `budget_tokens` gives `max_num_batched_tokens` for each batching policy; None stands for max(max_model_len, 2048).
    The entry holds from `min_tp` tensor-parallel ranks on; `max_graph_sequences` cuts the captured
    sizes (None: all of them).
    """

    min_memory_bytes: float
    except_devices: tuple[str, ...]
    max_num_seqs: int
    budget_tokens: Mapping[str, int | None] = field(hash=False)
    min_tp: int = 1
    max_graph_sequences: int | None = None


@dataclass(frozen=True, slots=True)
class Preset:
    """One serving engine and range of versions: batching rules, defaults, buffers and host time.

    `policy` is the batching policy at `max_model_len` up to `chunked_above_tokens`, and "chunked" beyond (None: never).
    `defaults` are tried in order.  `watermark_frac` of the KV blocks stays free when a prompt is admitted.
    `queue_per_batch` splits queue and KV blocks into one part for each batch in flight (vLLM v0's virtual engines);
    otherwise one queue feeds up to PP batches.  `frees_windows` gives back KV blocks
    that lie behind a layer's sliding window, and `caches_prefixes` says that its prefix cache is built and on by
    default.  `reservation` is the rule by which the engine keeps room for outputs (None: it does not, or by a rule
    without figures).  `engine_settings` are defaults that only this engine has, under its own names.  `expert_kernels`
    says by weight format which kernel routed experts run in, where that alone does not say it, `fuses_shared_expert`
    that a shared expert runs with them, and `fuses_quantisation` that activations are quantised by the kernels that
    make them, not by ones of their own.
    """

    name: str
    engine: str
    versions: str
    policy: BatchingPolicy
    chunked_above_tokens: int | None
    defaults: tuple[Defaults, ...]
    block_size_tokens: int
    gpu_memory_utilization_frac: float
    watermark_frac: float
    async_scheduling: bool
    queue_per_batch: bool
    frees_windows: bool
    own_all_reduce: OwnAllReduce
    graphs: Graphs
    host: HostOverhead
    slowdown: PromptSlowdown
    buffers: Buffers
    sources: tuple[str, ...]
    reservation: Reservation | None = None
    engine_settings: Mapping[str, float] = field(default_factory=dict, hash=False)
    caches_prefixes: bool = False
    ranks: Ranks | None = None
    factors: PhaseFactors = PhaseFactors()
    expert_kernels: Mapping[str, Sequence[ExpertKernel]] = field(default_factory=dict, hash=False)
    fuses_shared_expert: bool = False
    fuses_quantisation: bool = False

    def expert_kernel(self, weight_dtype: str, architecture: str) -> ExpertKernel | None:
        """Return the kernel that experts of a weight format run in; None where the format alone says it."""
        kernels = self.expert_kernels.get(weight_dtype, ())
        return next((kernel for kernel in kernels if architecture in kernel.architectures), None)

    @property
    def policies(self) -> tuple[str, ...]:
        """Batching policies that this engine has."""
        return tuple(self.defaults[-1].budget_tokens)

    def default_policy(self, max_model_len: int) -> str:
        """Return the policy that the engine chooses by itself for this `max_model_len`."""
        chunked = self.chunked_above_tokens is not None and max_model_len > self.chunked_above_tokens
        return "chunked" if chunked else self.policy

    def defaults_on(self, device_name: str, memory_bytes: float, tp: int = 1) -> Defaults:
        """Return the engine's own settings on `tp` devices; the last entry of `defaults` takes every device."""
        for entry in self.defaults:
            excepted = any(part in device_name for part in entry.except_devices)
            if memory_bytes >= entry.min_memory_bytes and tp >= entry.min_tp and not excepted:
                return entry
        return self.defaults[-1]
