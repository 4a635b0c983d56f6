"""Which keys does a study file have?"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from apex_sim.files import StrictModel
from apex_sim.plan.shape import Placement
from apex_sim.plan.speculation import Speculation, make_speculation


def _packed() -> list[Placement]:
    return ["packed"]


class LoadEntry(StrictModel):
    """Overrides of the workload's own load; None keeps what the workload says."""

    n_requests: int | None = Field(default=None, ge=1)
    rate_per_s: float | None = Field(default=None, gt=0)
    concurrency: int | None = Field(default=None, ge=1)
    offline: bool = False
    seed: int | None = Field(default=None, ge=0)


class SpaceEntry(StrictModel):
    """Which plans are looked at; an empty list stands for every legal degree, or for the study's one setting."""

    preset: str = "vllm-1"
    engine: str | None = Field(
        default=None, description="keep only what this engine can run; by default each plan says which can"
    )
    weight_dtypes: list[str] = Field(default_factory=list, description="empty: the checkpoint's own")
    kv_dtypes: list[str] = Field(default_factory=lambda: ["bf16"], min_length=1)
    tp: list[int] = Field(default_factory=list)
    pp: list[int] = Field(default_factory=list)
    dp: list[int] = Field(default_factory=list)
    attention_dp: list[int] = Field(default_factory=lambda: [1], min_length=1)
    ep: bool | None = Field(default=None, description="whole experts on each device; by default with attention DP only")
    cells: bool = Field(
        default=False, description="map attention and FFN cells separately, in every way that fits the devices"
    )
    cp: list[int] = Field(default_factory=lambda: [1], min_length=1, description="context parallelism of attention")
    layers: list[int] = Field(default_factory=list, description="layers of each pipeline stage; empty: balanced")
    splits: Literal["balanced", "ends", "fastest"] = Field(
        default="balanced",
        description='"ends": also with up to two layers fewer on the first and on the last stage; "fastest": also the '
        "one split whose slowest stage is fastest",
    )
    placement: list[Placement] = Field(default_factory=_packed, min_length=1)
    clock_frac: list[float] = Field(default_factory=lambda: [1.0], min_length=1)
    policies: list[str] = Field(default_factory=list)
    max_num_seqs: list[int] = Field(default_factory=list)
    max_num_batched_tokens: list[int] = Field(default_factory=list)
    prefix_cache: list[bool] = Field(default_factory=list)
    n_draft_tokens: list[int] = Field(default_factory=list, description="of the study's draft; 0 is no speculation")
    router: str = "round-robin"
    routers: list[str] = Field(default_factory=list, description="several to choose from; empty: router")
    allow_idle: bool = False
    n_shapes: int = Field(default=1, ge=1, le=2, description="unequal shapes in one fleet")


class SchedulerEntry(StrictModel):
    """Scheduler settings; None keeps the engine's default."""

    policy: str | None = None
    max_num_seqs: int | None = Field(default=None, ge=1)
    max_num_batched_tokens: int | None = Field(default=None, ge=1)
    max_model_len: int | None = Field(default=None, ge=1)
    block_size_tokens: int | None = Field(default=None, ge=1)
    gpu_memory_utilization_frac: float | None = Field(default=None, gt=0, le=1)
    cuda_graphs: bool = True
    async_scheduling: bool | None = None
    prefix_cache: bool | None = None
    queue_order: Literal[
        "fcfs", "priority", "shortest-predicted-first", "multi-level-feedback", "least-attained-service", "fair-share"
    ] = "fcfs"
    prediction_log_sd: float | None = Field(
        default=None, ge=0, description="spread of predicted output lengths; 0: exact"
    )
    max_num_waiting: int | None = Field(default=None, ge=1, description="requests beyond so many are refused")
    preemption: Literal["recompute", "swap"] = "recompute"
    swap_bytes: float | None = Field(default=None, ge=0, description="host memory for swapped KV, for each device")
    draft: str | None = Field(default=None, description='what proposes tokens: "mtp", or a model by name or path')
    n_draft_tokens: int | None = Field(default=None, description="tokens proposed for each sequence and step")
    acceptance_frac: float | list[float] | None = Field(
        default=None, description="assumed: how often each is kept, given that those before it were"
    )
    expert_imbalance: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="spread of the fullest expert rank; 1: of random routing"
    )

    def speculation(self, where: str) -> Speculation | None:
        """Return what the draft is, None without one; errors as in `make_speculation`."""
        return make_speculation(self.draft, self.n_draft_tokens, self.acceptance_frac, where)


class StudyFile(StrictModel):
    """A study as a TOML file."""

    title: str = ""
    model: str
    cluster: str
    workload: str
    objective: Literal["ttft", "tpot", "itl", "e2e", "throughput", "cost", "energy"] = "e2e"
    statistic: Literal["mean", "median", "p90", "p95", "p99"] = "mean"
    cost_model: Literal["calibrated", "measured", "roofline"] | None = Field(
        default=None, description="by default calibrated where kernels of the device were fitted, else roofline"
    )
    kernel_tables: str | None = Field(
        default=None, description="folder of measured kernels; by default that of the package aiconfigurator-core"
    )
    profile: str | None = Field(default=None, description="calibration profile of this very server, a TOML file")
    load: LoadEntry = LoadEntry()
    space: SpaceEntry = SpaceEntry()
    scheduler: SchedulerEntry = SchedulerEntry()
    slo: dict[str, float] = Field(default_factory=dict)
