"""What do the worked claims share: a server, its traffic, the search for a capacity, and how a table is printed?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from apex_sim.cost.calibrated import calibrated_costs
from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.step_model import compile_step_model
from apex_sim.fleet.compiled_plan import CompiledPlan
from apex_sim.fleet.fleet import simulate_plan
from apex_sim.hardware.cluster import Cluster, load_cluster
from apex_sim.metrics.capacity import workload_capacity_per_s
from apex_sim.metrics.stability import judge_stability
from apex_sim.model.model import Model
from apex_sim.plan.memory import instance_memory
from apex_sim.plan.plan import Plan
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import Shape, tensor_pipeline_stages
from apex_sim.preset.load import load_preset
from apex_sim.record.run import FleetRun
from apex_sim.workload.column import IntArray
from apex_sim.workload.lengths import Lengths
from apex_sim.workload.load_form import LoadForm
from apex_sim.workload.requests import Requests, make_requests
from apex_sim.workload.workload import Workload

IMAGES = Path(__file__).parents[1] / "docs" / "images"
COLOURS = ("#1b6ca8", "#d1495b", "#edae49", "#4f8a5b", "#6b4e9b", "#555555")
#: 90th over 50th percentile of a lognormal with sigma s is exp(Z90 s).
Z90 = 1.2815515655446004
#: How much faster each trial is than the last while a capacity is looked for from below.
GROWTH = 1.3


@dataclass(frozen=True)
class Server:
    """One instance under one policy, compiled once and asked many times."""

    model: Model
    cluster: Cluster
    plan: Plan
    compiled: CompiledPlan
    cost: CostModel

    @property
    def shape(self) -> Shape:
        """Its only shape."""
        return self.plan.instances[0][0]

    @property
    def n_blocks(self) -> int:
        """KV blocks of the pool."""
        return self.compiled[self.shape][0].n_blocks

    def serve(self, workload: Workload) -> FleetRun:
        """Serve `workload` with the compiled engine."""
        return simulate_plan(self.model, self.cluster, self.plan, workload, self.cost, compiled=self.compiled)

    def is_steady(self, run: FleetRun, workload: Workload) -> bool | None:
        """Return the verdict on the backlog (`metrics.stability`)."""
        memory, step_model = self.compiled[self.shape]
        return judge_stability(run, workload, workload_capacity_per_s(step_model, memory, workload.requests)).steady


def make_server(
    model: Model,
    cluster: Cluster | str,
    preset: str,
    max_model_len: int,
    *,
    tp: int = 1,
    kv_tokens: int | None = None,
    **scheduler: Any,
) -> Server:
    """Return one instance in bf16; `kv_tokens` replaces the pool that the memory model finds."""
    cluster = load_cluster(cluster) if isinstance(cluster, str) else cluster
    engine = load_preset(preset)
    settings = resolve_settings(engine, cluster.device, max_model_len, tp=tp, **scheduler)
    shape = Shape(
        cluster.device.name, tensor_pipeline_stages((model.n_layers,), tp), Precision("bf16"), settings, engine
    )
    cost = calibrated_costs(cluster.device)
    memory = instance_memory(model, cluster.device, shape)
    if kv_tokens:
        memory = replace(memory, n_blocks=kv_tokens // settings.block_size_tokens)
    compiled = {shape: (memory, compile_step_model(model, cluster, shape, cost))}
    return Server(model, cluster, Plan(((shape, 1),)), compiled, cost)


def lognormal_sigma(median: float, p90: float) -> float:
    """Return the sigma of the lognormal with these quantiles.

    Examples
    --------
    >>> round(lognormal_sigma(100, 100 * math.exp(1.2815515655446004)), 9)
    1.0
    """
    return math.log(p90 / median) / Z90


def draw_lengths(prompt: Lengths, output: Lengths, n: int, seed: int, most_tokens: int) -> tuple[IntArray, IntArray]:
    """Return `n` prompts and outputs; a prompt gives way where the two pass `most_tokens`."""
    streams = np.random.default_rng(seed).spawn(2)
    prompts, outputs = prompt.sample(streams[0], n), output.sample(streams[1], n)
    return np.maximum(np.minimum(prompts, most_tokens - outputs), 1), outputs


def poisson(
    lengths: tuple[IntArray, IntArray], rate_per_s: float, seed: int, max_output: IntArray | None = None
) -> Workload:
    """Return Poisson arrivals at this rate; the same seed draws the same gaps, scaled, at every rate."""
    gaps = np.random.default_rng((seed, 1)).exponential(1.0, len(lengths[0]))
    requests = make_requests(np.cumsum(gaps) / rate_per_s, *lengths, max_output_tokens=max_output)
    return _workload(requests, LoadForm("trace"), rate_per_s, seed)


def closed_loop(lengths: tuple[IntArray, IntArray], n_clients: int, seed: int) -> Workload:
    """Return the same requests asked by so many clients, each of whom waits for an answer before the next."""
    requests = make_requests(np.zeros(len(lengths[0])), *lengths)
    return _workload(requests, LoadForm("closed", n_clients), None, seed)


def _workload(requests: Requests, load: LoadForm, rate_per_s: float | None, seed: int) -> Workload:
    return Workload("worked claim", requests, load, rate_per_s, seed, (), True, "drawn")


def normalised_latency_s(run: FleetRun) -> float:
    """Return the mean of end-to-end time over output tokens, as the vLLM paper (section 6.1) defines it."""
    return float((run.requests.e2e_s / run.requests.output_tokens).mean())


def mean_running(run: FleetRun) -> float:
    """Return how many requests were in the batch on average over the time of the arrivals, each from its first step."""
    requests = run.requests
    end_s = requests.arrival_s[-1]
    stay_s = np.minimum(requests.finish_s, end_s) - np.minimum(requests.scheduled_s, end_s)
    return float(stay_s.sum() / end_s)


def highest_rate(keeps: Callable[[float], bool], low_per_s: float, share: float = 0.02) -> float:
    """Return the highest rate that `keeps` its limits, to within `share`, by growth from `low_per_s` and bisection.

    It is looked for from below, because runs far above the capacity are long and say nothing.

    Raises
    ------
    ValueError : not even `low_per_s` keeps them.

    Examples
    --------
    >>> round(highest_rate(lambda rate: rate < 3, 1, 0.001), 2)
    3.0
    """
    if not keeps(low_per_s):
        raise ValueError(f"the limits do not hold at {low_per_s} requests per second")
    high_per_s = GROWTH * low_per_s
    while keeps(high_per_s):
        low_per_s, high_per_s = high_per_s, GROWTH * high_per_s
    while high_per_s / low_per_s > 1 + share:
        middle = math.sqrt(low_per_s * high_per_s)
        low_per_s, high_per_s = (middle, high_per_s) if keeps(middle) else (low_per_s, middle)
    return low_per_s


def print_table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a Markdown table."""
    header = list(header)
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|")
    for row in rows:
        print("| " + " | ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row) + " |")
    print(flush=True)


def print_setting(server: Server, words: str) -> None:
    """Print what a page's table has to state, and what its costs rest on."""
    shape, host = server.shape, server.shape.preset.host
    devices = f"{shape.n_devices} x {server.cluster.device.title}"
    print(f"model {server.model.name}, {devices}, bf16, preset {shape.preset.name}")
    print(f"KV pool {server.n_blocks} blocks of {shape.scheduler.block_size_tokens} tokens; {words}")
    print(f"kernels: {server.cost.provenance}")
    print(f"host time {1e3 * host.step_s:.3g} ms + {1e6 * host.sequence_s:.3g} us per sequence: {host.kind}")
    print(f"slowdown of prompts: {shape.preset.slowdown.kind}")
    print("not validated on this device: served runs of H100 and H200 only (docs/accuracy.md)\n", flush=True)


@contextmanager
def figure(name: str, n_panels: int, width: float = 4.2) -> Iterator[Any]:
    """Yield the axes of a small figure, and save it as docs/images/worked-NAME.png."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    drawn, axes = pyplot.subplots(1, n_panels, figsize=(width * n_panels, 3.6), layout="constrained", squeeze=False)
    for panel in axes[0]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#dddddd", linewidth=0.6)
    yield axes[0]
    handles, labels = axes[0][0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    drawn.savefig(IMAGES / f"worked-{name}.png", dpi=100)
    pyplot.close(drawn)


@contextmanager
def cpu_time(name: str) -> Iterator[None]:
    """Print the CPU time of what is inside."""
    started = time.process_time()
    yield
    print(f"{name}: {time.process_time() - started:.0f} CPU-s", flush=True)
