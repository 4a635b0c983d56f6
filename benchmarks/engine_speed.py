"""How fast is the simulator: requests per CPU-second, memory, and what a whole command costs?

Run as `python benchmarks/engine_speed.py` (some three minutes) or with the names of parts, as `... engine_speed.py
requests pool`.  Every figure is CPU time of one process; docs/performance.md shows and discusses the output.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
PARTS = ("requests", "pool", "storm", "mooncake", "fleet", "apex", "cold", "commands")
#: Requests of the published workload of Llama-3.1-8B on one H100 (Poisson, 6/s, 500 tokens in, 200 out).
SIZES = (1_000, 10_000, 100_000, 1_000_000)
RATE_PER_S, PROMPT_TOKENS, OUTPUT_TOKENS = 6.0, (500, 150), (200, 60)
MAX_MODEL_LEN = 2_048
N_INSTANCES, CONCURRENCY = 8, 64
#: A pool of some nine requests, where twice as many would run.
STORM_BLOCKS = 400
APEX_TRACE = "traces/apex_llama_lmsys_05.jsonl"
MOONCAKE_TRACE = "traces/mooncake_conversation.jsonl"
#: Instances that serve Mooncake's conversation trace at its own rate: well below capacity, and near it.
MOONCAKE_INSTANCES = (8, 4)


def _workload(n: int, n_instances: int = 1, concurrency: int | None = None) -> Any:
    """Return `n` requests for so many instances, their lengths normal and kept between 16 tokens and 1,000."""
    from apex_sim.workload.load_form import LoadForm
    from apex_sim.workload.requests import make_requests
    from apex_sim.workload.workload import Workload

    rng = np.random.default_rng(0)
    lengths = [np.clip(rng.normal(*which, n), 16, 1000).astype(np.int64) for which in (PROMPT_TOKENS, OUTPUT_TOKENS)]
    requests = make_requests(np.cumsum(rng.exponential(1 / (RATE_PER_S * n_instances), n)), *lengths)
    load = LoadForm("closed" if concurrency else "trace", concurrency)
    return Workload("peers", requests, load, None if concurrency else RATE_PER_S, 0, (), True, "benchmark")


def _timed_kernels(spent_s: list[float], engines: list[Any]) -> None:
    """Let every compiled policy add its CPU time to `spent_s`, and what it counted to `engines`."""
    from apex_sim.instance.kernel.policies import COMPILED_POLICIES

    def timed(advance: Callable[[Any], None]) -> Callable[[Any], None]:
        def run(state: Any) -> None:
            started = time.process_time()
            advance(state)
            spent_s.append(time.process_time() - started)
            engines.append(state.engine[0].copy())

        return run

    for name, advance in COMPILED_POLICIES.items():
        COMPILED_POLICIES[name] = timed(advance)


def _server(n_instances: int, max_model_len: int, *, prefix_cache: bool = False) -> Any:
    """Return model, cluster, shape and costs of Llama-3.1-8B in bf16 on so many H100, with step model and memory."""
    from apex_sim.cost.calibrated import calibrated_costs
    from apex_sim.cost.step_model import compile_step_model
    from apex_sim.hardware.cluster import load_cluster
    from apex_sim.model.load import load_model
    from apex_sim.plan.memory import instance_memory
    from apex_sim.plan.precision import Precision
    from apex_sim.plan.scheduler import resolve_settings
    from apex_sim.plan.shape import Shape, tensor_pipeline_stages
    from apex_sim.preset.load import load_preset

    model, cluster, preset = load_model("llama-3.1-8b"), load_cluster(f"{n_instances}xh100-sxm"), load_preset("vllm-1")
    settings = replace(resolve_settings(preset, cluster.device, max_model_len), prefix_cache=prefix_cache)
    shape = Shape("h100-sxm", tensor_pipeline_stages((model.n_layers,), 1), Precision("bf16"), settings, preset)
    cost = calibrated_costs(cluster.device)
    step_model, memory = compile_step_model(model, cluster, shape, cost), instance_memory(model, cluster.device, shape)
    return model, cluster, shape, cost, step_model, memory


def serve(n: int, pool_factor: float, n_blocks: int, n_instances: int = 1, concurrency: int = 0) -> dict[str, float]:
    """Serve `n` requests after a few that load the kernels; return figures of the run."""
    from apex_sim.fleet.fleet import simulate_plan
    from apex_sim.plan.plan import Plan

    model, cluster, shape, cost, step_model, memory = _server(n_instances, MAX_MODEL_LEN)
    memory = replace(memory, n_blocks=n_blocks or int(memory.n_blocks * pool_factor))
    plan = Plan(((shape, n_instances),), "round-robin" if n_instances == 1 else "least-outstanding")
    compiled = {shape: (memory, step_model)}
    simulate_plan(model, cluster, plan, _workload(20, n_instances), cost, compiled=compiled)
    workload, spent_s, engines = _workload(n, n_instances, concurrency or None), list[float](), list[Any]()
    if n_instances == 1:
        _timed_kernels(spent_s, engines)
    started = time.process_time()
    run = simulate_plan(model, cluster, plan, workload, cost, compiled=compiled)
    whole_s = time.process_time() - started
    last = engines[-1] if n_instances == 1 else None
    return {
        "requests": n,
        "steps": sum(instance.steps.n_steps for instance in run.instances),
        "leaps": int(last["n_leaps"]) if last is not None else 0,
        "leapt": int(last["n_leapt_steps"]) if last is not None else 0,
        "preemptions": int(run.requests.n_preemptions.sum()),
        "kernel_s": sum(spent_s),
        "whole_s": whole_s,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def mooncake(n_instances: int, *_: float) -> dict[str, float]:
    """Serve Mooncake's conversation trace at its own rate with prefix caching of its 512-token blocks."""
    from apex_sim import load_workload
    from apex_sim.fleet.fleet import simulate_plan
    from apex_sim.plan.plan import Plan

    workload = load_workload(_data(MOONCAKE_TRACE))
    requests = workload.requests
    longest = int((requests.prompt_tokens + requests.output_tokens).max())
    model, cluster, shape, cost, step_model, memory = _server(n_instances, longest, prefix_cache=True)
    plan, compiled, spent_s = Plan(((shape, n_instances),), "round-robin"), {shape: (memory, step_model)}, list[float]()
    _timed_kernels(spent_s, [])
    for _ in range(2):  # the first loads, or compiles, the kernel
        spent_s.clear()
        run = simulate_plan(model, cluster, plan, workload, cost, compiled=compiled)
    ttft_s = run.requests.first_token_s - run.requests.arrival_s
    return {
        "requests": requests.n,
        "steps": sum(instance.steps.n_steps for instance in run.instances),
        "preemptions": int(run.requests.n_preemptions.sum()),
        "cached_frac": float(run.requests.cached_tokens.sum() / requests.prompt_tokens.sum()),
        "ttft_s": float(np.nanmean(ttft_s)),
        "kernel_s": sum(spent_s),
    }


def fleet(n: int, concurrency: float, _: int) -> dict[str, float]:
    """Serve `n` requests with several instances behind `least-outstanding`, in a closed loop or at the peers' rate."""
    return serve(n, 1.0, 0, N_INSTANCES, int(concurrency))


def apex(*_: float) -> dict[str, float]:
    """Run the job of apex_plus; return its plans, steps, and CPU time inside the kernels and of all."""
    from apex_sim.cli.main import commands

    spent_s = list[float]()
    _timed_kernels(spent_s, [])
    for _ in range(2):  # the first loads, or compiles, the kernels
        spent_s.clear()
        with redirect_stdout(StringIO()) as out:
            commands([*_apex_arguments(), "--json"], standalone_mode=False)
    document = json.loads(out.getvalue())
    return {"plans": len(document["plans"]), "runs": len(spent_s), "kernel_s": sum(spent_s)}


def _apex_arguments() -> list[str]:
    words = "search --model llama-3.1-70b --cluster 8xh100-sxm --preset vllm-0.6 --gpu-memory-utilization 0.97 --jobs 1"
    return [*words.split(), "--workload", _data(APEX_TRACE)]


def _data(name: str) -> str:
    return str(Path(os.environ["APEX_SIM_TEST_DATA"]) / name)


def _own_process(part: str, n: int = 0, pool_factor: float = 1.0, n_blocks: int = 0) -> dict[str, float]:
    """Return what `part` measures in a process of its own."""
    text = _run([sys.executable, __file__, f"only-{part}", str(n), str(pool_factor), str(n_blocks)])
    return dict(json.loads(text.splitlines()[-1]))


def _run(command: list[str], **environment: str) -> str:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    settings = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(command, env=settings, check=True, stdout=subprocess.PIPE, text=True).stdout


def _cpu_s(arguments: list[str], **environment: str) -> float:
    """Return the CPU time of `apex-sim ARGUMENTS`, its children's included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _run([sys.executable, "-m", "apex_sim", *arguments], **environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _simulate(*flags: str) -> list[str]:
    words = "simulate --model llama-3.1-8b --cluster 1xh100-sxm --workload chat --rate 6 --tp 1 --pp 1 --dp 1"
    return [*words.split(), "--preset", "vllm-1", "--weight-dtype", "bf16", "--no-files", *flags]


def _print_served(name: str, found: dict[str, float]) -> None:
    n, kernel_s, whole_s = found["requests"], found["kernel_s"], found["whole_s"]
    ordinary = found["steps"] - found["leapt"]
    print(
        f"| {name} | {n:,.0f} | {found['steps']:,.0f} | {ordinary:,.0f} | {found['leaps']:,.0f} "
        f"| {found['preemptions']:,.0f} | {kernel_s:.3f} | {n / kernel_s:,.0f} | {n / whole_s:,.0f} "
        f"| {1e9 * kernel_s / (ordinary + found['leaps']):,.0f} | {found['peak_mb']:,.0f} |",
        flush=True,
    )


def _print_commands(parts: set[str]) -> None:
    if "apex" in parts:
        found = _own_process("apex")
        print(f"apex job: {found['plans']:.0f} plans, kernels {found['kernel_s']:.2f} CPU-s", flush=True)
        print(f"apex job, whole warm command: {_cpu_s([*_apex_arguments(), '--no-files']):.2f} CPU-s", flush=True)
    if "cold" in parts:
        for policy, preset in (
            ("unified", "vllm-1"),
            ("chunked", "vllm-0.6"),
            ("prefill-first", "vllm-0.6"),
            ("sglang", "sglang"),
        ):
            flags = _simulate("--preset", preset, "--policy", policy)
            _print_cold(policy, flags)
        _print_cold("whole search of the apex job", [*_apex_arguments(), "--no-files"])
    if "commands" in parts:
        _cpu_s(_simulate())
        print(f"simulate one plan, warm: {_cpu_s(_simulate()):.2f} CPU-s", flush=True)
        print(f"--help: {_cpu_s(['--help']):.2f} CPU-s", flush=True)


def _print_cold(name: str, arguments: list[str]) -> None:
    """Print what a command costs beyond its second run, with a fresh cache of machine code."""
    with tempfile.TemporaryDirectory() as folder:
        first_s, second_s = (_cpu_s(arguments, APEX_SIM_CACHE=folder) for _ in range(2))
    print(f"cold, {name}: {first_s:.1f} CPU-s, of which compiling {first_s - second_s:.1f}", flush=True)


def main() -> None:
    """Measure the parts that are named, or all."""
    parts = set(sys.argv[1:] or PARTS)
    if parts & {"requests", "pool", "storm"}:
        columns = (
            "workload | requests | steps | ordinary | leaps | preemptions | kernel CPU-s | requests per kernel CPU-s"
        )
        print(f"| {columns} | per CPU-s with records | ns per step or leap | peak MB |")
        print("|---" * 11 + "|", flush=True)
    if "requests" in parts:
        for n in SIZES:
            _print_served("peers'", _own_process("serve", n))
    if "pool" in parts:
        for factor in (1.0, 100.0):
            _print_served(f"peers', pool x {factor:.0f}", _own_process("serve", 100_000, factor))
    if "storm" in parts:
        _print_served(f"storm, {STORM_BLOCKS} blocks", _own_process("serve", 10_000, 1.0, STORM_BLOCKS))
    for n_instances in MOONCAKE_INSTANCES if "mooncake" in parts else ():
        found = _own_process("mooncake", n_instances)
        print(
            f"Mooncake conversation on {n_instances} instances: {found['requests']:,.0f} requests, "
            f"{found['steps']:,.0f} steps, {found['preemptions']:,.0f} preemptions, {found['cached_frac']:.0%} of "
            f"prompt tokens cached, mean TTFT {found['ttft_s']:.2f} s: {found['kernel_s']:.3f} CPU-s, "
            f"{found['requests'] / found['kernel_s']:,.0f} requests per kernel CPU-s",
            flush=True,
        )
    if "fleet" in parts:
        for name, concurrency in (("Poisson", 0.0), ("closed", float(N_INSTANCES * CONCURRENCY))):
            found = _own_process("fleet", 20_000, concurrency)
            rate = found["requests"] / found["whole_s"]
            print(
                f"{N_INSTANCES} instances, least-outstanding, {name}: {found['requests']:,.0f} requests, "
                f"{found['steps']:,.0f} steps, {rate:,.0f} requests per CPU-s, {found['peak_mb']:,.0f} MB",
                flush=True,
            )
    _print_commands(parts)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].startswith("only-"):
        measure = {"only-serve": serve, "only-fleet": fleet, "only-apex": apex, "only-mooncake": mooncake}[sys.argv[1]]
        print(json.dumps(measure(int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))))
    else:
        main()
