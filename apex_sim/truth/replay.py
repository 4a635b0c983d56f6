"""How is a measured case simulated, and what of it cannot be?

A case becomes one plan and one workload.  What APEX-Sim does not model yet is refused with a reason instead of being
replayed as something else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from apex_sim.errors import InputError, UnsupportedError
from apex_sim.hardware.cluster import Cluster, load_cluster
from apex_sim.hardware.device import device_names, load_device
from apex_sim.model.load import load_model, model_sources
from apex_sim.model.model import Model
from apex_sim.plan.legality import require_legal_plan
from apex_sim.plan.memory import instance_memory, unchecked_memory
from apex_sim.plan.plan import Plan
from apex_sim.plan.precision import KV_DTYPES, WEIGHT_DTYPES, Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import SchedulerSettings, Shape, balanced_split, tensor_pipeline_stages
from apex_sim.preset.preset import Preset
from apex_sim.preset.vllm import VLLM_0_6
from apex_sim.truth.case import Case, Deployment, EngineSettings
from apex_sim.truth.case_load import draw_case_load
from apex_sim.truth.engine_version import preset_of_release
from apex_sim.truth.published_settings import settings_of_scripts
from apex_sim.truth.trtllm_bench import bench_run
from apex_sim.workload.workload import Workload

#: First release in which asynchronous scheduling is on by itself: 0.14.0, vllm/config/vllm.py; 0.11.0 and 0.13.0 have
#: it off.
_ASYNC_BY_DEFAULT: Final = (0, 14)
_NODE_DEVICES: Final = 8
_NO_SPECULATION: Final = ("0", "no", "none", "off", "false")


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """What is simulated for a case; `notes` says what was assumed for its empty cells.

    The server sends `stream_tokens` at a time, which a client's inter-token latencies show.
    """

    model: Model
    cluster: Cluster
    plan: Plan
    workload: Workload
    notes: tuple[str, ...]
    stream_tokens: int = 1

    def as_streamed(self, metrics: Mapping[str, float | None]) -> dict[str, float | None]:
        """Return the metrics as a client measures them: gaps between sendings, whose median is not known."""
        seen, mean_s = dict(metrics), metrics["itl_mean_s"]
        if self.stream_tokens > 1 and mean_s is not None:
            seen |= {"itl_mean_s": mean_s * self.stream_tokens, "itl_median_s": None}
        return seen

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for cases whose simulations are the same, such as repeats of one measurement."""
        return (
            self.model.name,
            self.cluster.name,
            self.plan,
            self.workload.load,
            self.workload.requests.content_hash(),
            self.stream_tokens,
        )

    @property
    def n_output_tokens(self) -> int:
        """Output tokens of the whole load: what a simulation's time grows with."""
        return int(self.workload.requests.output_tokens.sum())


def make_replay(case: Case, folder: Path) -> Replay:
    """Return plan and workload of `case`.

    Parameters
    ----------
    folder : where the CSV lies, and with it the request file that the case may name.

    Raises
    ------
    UnsupportedError : something that is not modelled yet, or too little is known; `problem` is the reason.
    InfeasiblePlanError : the model does not fit; the engine would have refused as well.
    InputError : the request file is missing, outside the CSV's folder, or broken.
    """
    deployment = case.deployment
    preset, nearest = preset_of_release(deployment.engine, deployment.engine_version)
    known, published = [nearest] if nearest else [], settings_of_scripts(case)
    if published:
        case, filled = published.fill(case)
        preset, captured = published.captured(preset)
        known += [*filled, *captured]
    model, cluster = _model(deployment), _cluster(deployment)
    precision, notes = _precision(deployment, model)
    workload = draw_case_load(case, folder)
    run, stated, policy = bench_run(case, preset, model, cluster.device, precision), case.settings, None
    if run:
        preset, stated, policy, notes = run.preset, run.settings, run.policy, [*notes, *run.notes]
    settings, assumed = _settings(case, stated, preset, model, cluster, policy)
    _require_lengths(workload, settings.max_model_len)
    _require_whole_prompts(workload, settings)
    tp, attention_dp = _attention(deployment)
    layers = balanced_split(model.n_layers, deployment.pp or 1)
    stages = tensor_pipeline_stages(layers, tp, attention_dp, ep=(deployment.ep or 1) > 1)
    shape = Shape(cluster.device.name, stages, precision, settings, preset)
    if stated.max_model_len is None and preset.engine in ("sglang", "trtllm"):
        shape = _cut_context(model, cluster, shape)
        assumed.append(f"max_model_len: what the pool holds of the model's context, {shape.scheduler.max_model_len}")
        _require_lengths(workload, shape.scheduler.max_model_len)
    plan = Plan(((shape, deployment.dp or 1),), "round-robin")
    require_legal_plan(model, cluster, plan)
    n_blocks = instance_memory(model, cluster.device, shape).n_blocks
    if case.settings.n_gpu_blocks is not None:
        assumed.append(f"n_gpu_blocks: {case.settings.n_gpu_blocks} measured, {n_blocks} simulated")
    if plan.n_instances > 1:
        assumed.append(f"requests go to the {plan.n_instances} instances in turn")
    stream_tokens = (published and published.stream_tokens) or 1
    return Replay(model, cluster, plan, workload, (*known, *notes, *assumed, *workload.notes), stream_tokens)


def _attention(deployment: Deployment) -> tuple[int, int]:
    """Return over how many devices a rank's attention is sharded, and the ranks: with attention DP, `tp` of one."""
    return (1, deployment.tp) if deployment.attention_dp else (deployment.tp, 1)


def _cut_context(model: Model, cluster: Cluster, shape: Shape) -> Shape:
    """Return `shape` with a `max_model_len` that the pool holds, to which these engines cut it instead of refusing.

    SGLang 0.5.6, sglang/srt/managers/tp_worker.py (max_req_len); TensorRT-LLM, kv_cache_manager's max_seq_len.
    """
    _, tokens = unchecked_memory(model, cluster.device, shape)
    settings = shape.scheduler
    return replace(shape, scheduler=replace(settings, max_model_len=min(settings.max_model_len, tokens)))


def _model(deployment: Deployment) -> Model:
    """Return the catalogue's model; a path is refused, since a stranger's file shall not choose what is read."""
    known = {n.lower() for name, source in model_sources().items() for n in (name, source.repo, *source.aliases)}
    if deployment.model.lower() not in known:
        raise UnsupportedError(f"model {deployment.model} is not in the catalogue")
    return load_model(deployment.model)


def _cluster(deployment: Deployment) -> Cluster:
    device, tp, pp, dp = deployment.device.lower(), deployment.tp, deployment.pp or 1, deployment.dp or 1
    if deployment.ep not in (None, 1, tp):
        raise UnsupportedError(f"expert parallelism over {deployment.ep} of {tp} devices is not simulated yet")
    if device not in device_names():
        raise UnsupportedError(f"device {deployment.device} is not in the catalogue")
    n_devices = tp * pp * dp
    if deployment.n_devices not in (None, n_devices):
        raise UnsupportedError(f"n_devices {deployment.n_devices} is not tp x pp x dp = {n_devices}")
    load_device(device)  # a broken device file is an error, not a reason to skip
    n_nodes, rest = divmod(n_devices, _NODE_DEVICES)
    name = f"{n_nodes}x{_NODE_DEVICES}x{device}" if n_nodes > 1 and not rest else f"{n_devices}x{device}"
    try:
        return load_cluster(name)
    except InputError as error:
        raise UnsupportedError(f"cluster: {error.problem}") from None


def _precision(deployment: Deployment, model: Model) -> tuple[Precision, list[str]]:
    weight, kv = deployment.weight_dtype or model.weight_dtype, deployment.kv_dtype or "bf16"
    if weight == "fp8" and model.weight_dtype == "fp8-block":
        weight = model.weight_dtype  # the checkpoint's own fp8
    if weight not in WEIGHT_DTYPES or kv not in KV_DTYPES:
        raise UnsupportedError(f"{weight} weights with {kv} KV cache are not simulated yet")
    precision = Precision(weight, kv)
    if deployment.act_dtype not in (None, precision.activation):
        raise UnsupportedError(f"{weight} weights with {deployment.act_dtype} activations are not simulated yet")
    defaults = {"weight_dtype": f"that of the checkpoint, {weight}", "kv_dtype": kv, "act_dtype": precision.activation}
    return precision, [
        f"{name}: by default {value}" for name, value in defaults.items() if not getattr(deployment, name)
    ]


def _settings(
    case: Case, stated: EngineSettings, preset: Preset, model: Model, cluster: Cluster, policy: str | None
) -> tuple[SchedulerSettings, list[str]]:
    """Return the scheduler's settings and a note for each of those `stated` that is left to the engine."""
    if stated.prefix_cache:
        raise UnsupportedError("a prefix cache is not simulated yet")
    if stated.speculation and stated.speculation.lower() not in _NO_SPECULATION:
        raise UnsupportedError("speculation is not simulated yet")
    try:
        settings = resolve_settings(
            preset,
            cluster.device,
            stated.max_model_len or model.max_context_tokens,
            tp=_attention(case.deployment)[0],
            attention_dp=_attention(case.deployment)[1],
            pp=case.deployment.pp or 1,
            policy=policy or _policy(preset, stated.chunked_prefill),
            max_num_seqs=stated.max_num_seqs,
            max_num_batched_tokens=stated.max_num_batched_tokens,
            block_size_tokens=stated.block_size,
            gpu_memory_utilization_frac=stated.gpu_memory_utilization_frac,
            cuda_graphs=stated.cuda_graphs != 0,
            async_scheduling=_async_scheduling(case),
            custom_all_reduce=stated.custom_all_reduce != 0,
        )
    except InputError as error:
        raise UnsupportedError(f"settings: {error.problem}", where=case.where) from None
    chosen = {
        "gpu_memory_utilization_frac": settings.gpu_memory_utilization_frac,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "max_num_batched_tokens": settings.max_num_batched_tokens,
        "block_size": settings.block_size_tokens,
        "chunked_prefill": settings.policy,
        "cuda_graphs": int(settings.cuda_graphs),
        "async_scheduling": int(settings.async_scheduling),
        "custom_all_reduce": int(settings.custom_all_reduce),
    }
    if policy:
        del chosen["chunked_prefill"]
    notes = [
        f"{name}: the engine's default, {value}" for name, value in chosen.items() if getattr(stated, name) is None
    ]
    if stated.prefix_cache is None:
        notes.append("prefix_cache: nothing is shared between requests")
    return settings, notes


def _policy(preset: Preset, chunked_prefill: int | None) -> str | None:
    if chunked_prefill is None:
        return None
    if preset.name == VLLM_0_6.name:
        return "chunked" if chunked_prefill else "prefill-first"
    if preset.engine == "trtllm":
        return "no-evict-chunked" if chunked_prefill else "no-evict"
    if not chunked_prefill:
        raise UnsupportedError(f"preset {preset.name} without chunked prefill is not built yet")
    return None


def _async_scheduling(case: Case) -> bool | None:
    stated = case.settings.async_scheduling
    if stated is not None or case.deployment.engine.lower() != "vllm":
        return None if stated is None else bool(stated)
    numbers = [int(number) for number in re.findall(r"\d+", case.deployment.engine_version)[:2]]
    return None if tuple(numbers) >= _ASYNC_BY_DEFAULT else False


def _require_lengths(workload: Workload, max_model_len: int) -> None:
    """Check that the engine takes every request."""
    longest = int(np.max(workload.requests.prompt_tokens + workload.requests.output_tokens))
    if longest > max_model_len:
        raise UnsupportedError(f"a request of {longest} tokens does not fit max_model_len {max_model_len}")


def _require_whole_prompts(workload: Workload, settings: SchedulerSettings) -> None:
    longest = int(np.max(workload.requests.prompt_tokens))
    if settings.policy == "no-evict" and longest > settings.max_num_batched_tokens:
        raise UnsupportedError(f"a prompt of {longest} tokens needs chunked context: policy no-evict-chunked")
