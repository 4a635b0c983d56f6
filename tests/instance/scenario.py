"""Random engines, plans and loads, served by the reference and by the compiled engine.

`python tests/instance/scenario.py 5000` compares so many of them and prints what they hold and where they differ.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from toy import PRESET_OF

from apex_sim.cost.roofline import Roofline
from apex_sim.cost.step_model import StepModel, compile_step_model
from apex_sim.errors import InvariantError
from apex_sim.fleet.compiled_plan import compiled_way
from apex_sim.fleet.dependent_fleet import serve_dependently
from apex_sim.fleet.fleet import Fleet
from apex_sim.fleet.invariants import check_run
from apex_sim.hardware.cluster import load_cluster
from apex_sim.model.load import load_model
from apex_sim.plan.kv_layout import KvLayout
from apex_sim.plan.memory import Memory
from apex_sim.plan.plan import Plan
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import RANKED_ORDERS, resolve_settings
from apex_sim.plan.shape import Shape, balanced_split, tensor_pipeline_stages
from apex_sim.plan.speculation import Speculation
from apex_sim.preset.load import load_preset
from apex_sim.preset.preset import Reservation
from apex_sim.preset.research import RESEARCH_POLICIES, WHOLE_PROMPTS
from apex_sim.record.request_records import REJECTED
from apex_sim.record.run import FleetRun
from apex_sim.workload.load_form import LoadForm
from apex_sim.workload.requests import Requests, make_requests
from apex_sim.workload.workload import Workload

LONGEST = 1024
#: Tokens of a hashed block.
UNIT = 64
#: Policies, and those that also run asynchronously.
NAMES = [
    *("prefill-first", "chunked", "sglang", "sglang-async"),
    *("unified", "unified-async", "unified", "unified-async"),
    *("no-evict", "no-evict-async", "max-utilization", "max-utilization-async"),
    *RESEARCH_POLICIES,
]
__all__ = ["InvariantError", "Scenario", "compare", "differences", "draw"]

TIMES = ("arrival_s", "queued_s", "scheduled_s", "first_token_s", "finish_s")
COUNTS = ("emitted_tokens", "n_preemptions", "cached_tokens", "status", "instance")


@dataclass(frozen=True)
class Scenario:
    """One instance's shape with its costs and KV pool, and what it is asked."""

    shape: Shape
    step_model: StepModel
    memory: Memory
    dp: int
    router: str
    workload: Workload

    def plan(self) -> Plan:
        return Plan(((self.shape, self.dp),), self.router)

    def run(self, *, compiled: bool) -> FleetRun:
        parts = {self.shape: (self.memory, self.step_model)}
        cost: Any = Roofline(load_cluster("1xh100-sxm").device)
        if compiled:
            serve = compiled_way(self.plan(), self.workload)
            assert serve
            run = serve(self.plan(), self.workload, parts, cost)
        else:
            fleet = Fleet(self.plan(), self.workload, parts, check=True)
            fleet.run(None)
            run = fleet.result(cost)
        check_run(run)
        return run


#: Policies of engines with attention DP.
RANKED = ("unified", "sglang", "no-evict", "max-utilization")


@cache
def _step_model(
    model_name: str,
    preset_name: str,
    pp: int,
    tp: int = 1,
    attention_dp: int = 1,
    ep: bool = False,
    imbalance: float = 0.0,
    n_draft_tokens: int = 0,
) -> StepModel:
    model, cluster, preset = load_model(model_name), load_cluster("4xh100-sxm"), load_preset(preset_name)
    settings = replace(
        resolve_settings(preset, cluster.device, LONGEST, expert_imbalance=imbalance),
        max_num_seqs=16,
        max_num_batched_tokens=2 * LONGEST,
    )
    if n_draft_tokens:  # the model is its own draft; how many tokens are kept changes no cost
        settings = replace(settings, speculation=Speculation(model_name, n_draft_tokens, (0.0,) * n_draft_tokens))
    stages = tensor_pipeline_stages(balanced_split(model.n_layers, pp), tp, attention_dp, ep=ep)
    shape = Shape("h100-sxm", stages, Precision(), settings, preset)
    return compile_step_model(model, cluster, shape, Roofline(cluster.device))


def _preset_of(policy: str, rng: np.random.Generator) -> str:
    """Return the preset that has `policy`; research policies run on the figures of any."""
    if policy in RESEARCH_POLICIES:
        return str(rng.choice(["vllm-0.6", "vllm-1"]))
    return PRESET_OF[policy]


def _budget(policy: str, rng: np.random.Generator) -> int:
    """Return a token budget; prompts of up to 700 tokens run whole where the policy does not cut them."""
    if policy == "prefill-first":
        return int(rng.choice([60, 150, 2 * LONGEST]))  # refuses what is longer
    if policy == "max-utilization":
        return 2 * LONGEST
    return int(rng.choice([720, LONGEST] if policy in WHOLE_PROMPTS else [16, 64, 300, 2 * LONGEST]))


def policy_of(seed: int) -> str:
    """Return the policy of scenario `seed`, without drawing the rest."""
    return _policy(np.random.default_rng(seed)).removesuffix("-async")


def _policy(rng: np.random.Generator) -> str:
    return str(rng.choice(NAMES))


def _ranks(rng: np.random.Generator, policy: str) -> tuple[int, bool]:
    """Return how many ranks attention has, and whether each holds whole experts."""
    if policy not in RANKED or rng.random() < (0.5 if policy == "unified" else 0.8):
        return 1, False
    return int(rng.choice([2, 2, 4])), bool(rng.random() < 0.8)


def draw(rng: np.random.Generator) -> Scenario:
    """Return a random scenario; small pools make about a third of them preempt."""
    policy = _policy(rng)
    is_async, policy = policy.endswith("async"), policy.removesuffix("-async")
    pp = 1 if is_async else int(rng.choice([1, 1, 2, 3]))
    model_name = str(rng.choice(["llama-3.2-1b", "gpt-oss-20b"]))
    preset_name = _preset_of(policy, rng)
    own = rng.spawn(1)[0]
    attention_dp, ep = _ranks(own, policy)
    tp = 2 if model_name == "gpt-oss-20b" and attention_dp * pp == 1 and own.random() < 0.2 else 1
    imbalance = float(own.choice([0.0, 3.0])) if ep or tp > 1 else 0.0
    if attention_dp > 1:
        model_name, pp = ("gpt-oss-20b" if model_name == "gpt-oss-20b" else "mixtral-8x7b"), 1
    step_model = _step_model(model_name, preset_name, pp, tp, attention_dp, ep or tp > 1, imbalance)
    block_size = int(rng.choice([1, 8, 16]))
    settings = replace(
        step_model.shape.scheduler,
        policy=policy,
        max_num_seqs=min(int(rng.integers(1, 17)), int(own.choice([1, 2, 3, 16])) if attention_dp > 1 else 16),
        max_num_batched_tokens=_budget(policy, rng),
        max_model_len=LONGEST,
        block_size_tokens=block_size,
        async_scheduling=is_async,
        cuda_graphs=bool(rng.random() < 0.8),
        queue_order=str(rng.choice(RANKED_ORDERS)) if policy in ("unified", *RESEARCH_POLICIES) else "fcfs",
        prediction_log_sd=float(rng.choice([0.0, 0.7])),
        max_num_waiting=int(rng.integers(1, 12)) if rng.random() < 0.2 else None,
    )
    if policy == "prefill-first" and rng.random() < 0.6:
        settings = replace(settings, preemption="swap", max_num_seqs=16, max_num_batched_tokens=2 * LONGEST)
    if policy == "no-evict" and settings.max_num_seqs % 2:  # half of them, without another draw
        settings = replace(settings, policy="no-evict-chunked")
    preset = step_model.shape.preset
    host = replace(
        preset.host,
        step_s=float(rng.choice([0.0, 1e-3, 2e-2])),
        sequence_s=float(rng.choice([0.0, 1e-4])),
        frontend_s=float(rng.choice([0.0, 4e-3, 0.125])),
        prompt_token_s=float(rng.choice([0.0, 1e-5])),
    )
    watermark = float(rng.choice([0.0, 0.01, 0.05])) if policy in ("prefill-first", "chunked") else 0.0
    windows = ((1, 128 // block_size + 1),) if model_name == "gpt-oss-20b" and preset.frees_windows else ()
    if policy == "unified" and not windows and rng.random() < 0.9:
        settings = replace(settings, prefix_cache=True)
    shape = replace(step_model.shape, scheduler=settings, preset=replace(preset, host=host, watermark_frac=watermark))
    if policy == "sglang":
        rule = Reservation(
            float(rng.choice([0.1, 0.7, 1.0])),
            float(rng.choice([0.0, 0.1])),
            int(rng.choice([20, 600])),
            int(rng.choice([2, 20])),
            int(rng.choice([30, 4096])),
            int(rng.choice([16, 64, 300])),
        )
        shape = replace(shape, scheduler=replace(shape.scheduler, reservation=rule))
    if policy == "unified" and pp == tp == attention_dp == 1:
        shape, step_model = _with_speculation(shape, step_model, model_name, rng.spawn(1)[0])
    layout = KvLayout(block_size, 1, windows)
    least = layout.blocks_for(LONGEST)
    scale = 1.1 if settings.swaps else float(rng.choice([1.1, 1.5, 2.0, 8.0]))
    n_blocks = shape.n_queues * int(least * (scale if attention_dp == 1 or scale == 8.0 else 1.02) + 8)
    workload = _workload(rng)
    dp, router = int(rng.choice([1, 1, 2, 3])), str(rng.choice(["round-robin", "least-outstanding"]))
    memory = Memory((), layout, n_blocks, 100_000 if settings.swaps else 0)
    scenario = Scenario(shape, replace(step_model, shape=shape), memory, dp, router, workload)
    return scenario if compiled_way(scenario.plan(), workload) else replace(scenario, dp=1)


def _with_speculation(
    shape: Shape, step_model: StepModel, model_name: str, rng: np.random.Generator
) -> tuple[Shape, StepModel]:
    """Return the shape, most of the time with a draft, and the costs of that; draws of its own change no others."""
    if rng.random() < 0.3:
        return shape, step_model
    n = int(rng.integers(1, 5))
    kept = tuple(rng.choice([0.0, 0.3, 0.7, 0.9, 1.0], n).tolist())
    settings = replace(shape.scheduler, speculation=Speculation(model_name, n, kept), async_scheduling=False)
    return replace(shape, scheduler=settings), _step_model(model_name, shape.preset.name, 1, n_draft_tokens=n)


def with_tie(scenario: Scenario) -> Scenario:
    """Return `scenario` with one request, and none after it, that arrives just as an earlier one finishes."""
    requests = scenario.workload.requests
    finish_s = scenario.run(compiled=True).requests.finish_s
    first = np.searchsorted(requests.arrival_s, np.sort(finish_s[~np.isnan(finish_s)]), side="right")
    number = int(first[0]) if len(first) else requests.n
    if number >= requests.n:
        return scenario
    arrival_s = np.append(requests.arrival_s[:number], np.nanmin(finish_s))
    columns = (requests.prompt_tokens, requests.output_tokens)
    kept = make_requests(
        arrival_s,
        *(column[: number + 1] for column in columns),
        max_output_tokens=requests.max_output_tokens[: number + 1],
    )
    return replace(scenario, workload=replace(scenario.workload, requests=kept))


def _workload(rng: np.random.Generator) -> Workload:
    n = int(rng.integers(1, 40))
    form = str(rng.choice(["poisson", "fixed", "burst", "offline", "closed", "closed"]))
    gaps = {
        "poisson": rng.exponential(float(rng.choice([0.005, 0.03, 0.3])), n),
        "fixed": np.full(n, float(rng.choice([0.0, 0.0625, 0.5]))),
        "burst": np.where(np.arange(n) % 5 == 0, 0.25, 0.0),
    }.get(form, np.zeros(n))
    long = rng.random() < 0.4
    prompts = rng.integers(1, 700 if long else 200, n)
    if rng.random() < 0.2:  # whole blocks and budgets, and ties
        prompts = np.full(n, int(rng.choice([1, 16, 240, 512])))
    outputs = rng.integers(1, 300 if long else 60, n)
    if rng.random() < 0.2:  # instances do the same at the same time
        prompts, outputs = np.full(n, prompts[0]), np.full(n, outputs[0])
    limits = outputs if rng.random() < 0.5 else np.minimum(LONGEST - prompts, outputs + rng.integers(0, 50, n))
    hashes = _prefixes(rng, prompts.tolist())
    priority = rng.integers(-2, 3, n)
    requests: Requests = make_requests(
        np.cumsum(gaps),
        prompts,
        outputs,
        max_output_tokens=limits,
        priority=priority,
        prefix_hashes=hashes,
        hash_block_tokens=UNIT,
    )
    kind: Any = form if form in ("offline", "closed") else "trace"
    concurrency = int(rng.integers(1, 12)) if form == "closed" else None
    return Workload("random", requests, LoadForm(kind, concurrency), None, 7, (), True, "none")


def _prefixes(rng: np.random.Generator, prompts: list[int]) -> list[tuple[int, ...]]:
    """Return hashed blocks: each prompt begins like one of three documents and goes on by itself."""
    hashes = []
    for index, prompt in enumerate(prompts):
        n, document = -(-prompt // UNIT), int(rng.integers(3))
        n_shared = int(rng.integers(0, n + 1))
        own = [1_000_000 + 1000 * index + place for place in range(n - n_shared)]
        hashes.append((*(1000 * document + place for place in range(n_shared)), *own))
    return hashes


def differences(reference: FleetRun, compiled: FleetRun) -> list[str]:
    """Return what differs: decisions and request times in any bit, sums of times by more than 1e-9."""
    found = []
    for name in TIMES:
        one, other = getattr(reference.requests, name), getattr(compiled.requests, name)
        if not np.array_equal(one, other, equal_nan=True):
            found.append(f"{name}: {int((one != other).sum())} requests")
    columns = {name: (getattr(reference.requests, name), getattr(compiled.requests, name)) for name in COUNTS}
    found += [name for name, (one, other) in columns.items() if not np.array_equal(one, other)]
    if dict(reference.requests.reasons) != dict(compiled.requests.reasons):
        found.append("reasons")
    sums = {
        "makespan": (reference.makespan_s, compiled.makespan_s),
        "request-seconds": (reference.request_seconds, compiled.request_seconds),
        "gaps": (reference.gaps.sum_s, compiled.gaps.sum_s),
        "number of gaps": (reference.gaps.n, compiled.gaps.n),
    }
    for index, (one, other) in enumerate(zip(reference.instances, compiled.instances, strict=True)):
        sums[f"steps of {index}"] = one.steps.n_steps, other.steps.n_steps
        sums[f"blocks of {index}"] = one.steps.most_blocks_used, other.steps.most_blocks_used
        for number, (stage, again) in enumerate(zip(one.stages, other.stages, strict=True)):
            sums[f"energy of {index}.{number}"] = stage.dynamic_j, again.dynamic_j
            sums[f"idle of {index}.{number}"] = stage.idle_s, again.idle_s
            for name, seconds in stage.operators_s.items():
                sums[f"{name} of {index}.{number}"] = seconds, again.operators_s[name]
    found += [
        f"{name}: {one} and {other}" for name, (one, other) in sums.items() if not np.isclose(one, other, 1e-9, 1e-9)
    ]
    moved = sum(abs(one - other) for one, other in zip(reference.gaps.counts, compiled.gaps.counts, strict=True))
    if moved > 2 + 0.002 * reference.gaps.n:
        found.append(f"{moved} gaps lie in other bins")
    return found


def compare(seed: int) -> tuple[list[str], Counter[str]]:
    """Return what differs in scenario `seed`, and what it holds."""
    scenario = draw(np.random.default_rng(seed))
    if seed % 2 and compiled_way(scenario.plan(), scenario.workload) is serve_dependently:
        scenario = with_tie(scenario) if scenario.workload.load.kind == "trace" else scenario
    reference, compiled = scenario.run(compiled=False), scenario.run(compiled=True)
    settings = scenario.shape.scheduler
    depends = compiled_way(scenario.plan(), scenario.workload) is serve_dependently
    holds = Counter(
        {
            settings.policy: 1,
            settings.queue_order: 1,
            "cap on waiting": int(settings.max_num_waiting is not None),
            "refused": int((reference.requests.status == REJECTED).any()),
            "sorted and preempted": int(settings.sorts_queue and reference.requests.n_preemptions.any()),
            "asynchronous": int(settings.async_scheduling),
            "PP > 1": int(scenario.shape.pp > 1),
            "DP > 1": int(scenario.dp > 1),
            "attention DP": int(scenario.shape.attention_dp > 1),
            "expert imbalance": int(settings.expert_imbalance > 0),
            "attention DP and prefix hits": int(
                scenario.shape.attention_dp > 1 and reference.requests.cached_tokens.any()
            ),
            "attention DP and preempted": int(
                scenario.shape.attention_dp > 1 and reference.requests.n_preemptions.any()
            ),
            "closed loop": int(scenario.workload.load.kind == "closed"),
            "dependent closed loop": int(depends and scenario.workload.load.kind == "closed"),
            "least-outstanding": int(depends and scenario.router == "least-outstanding"),
            "swapping": int(settings.swaps and reference.requests.n_preemptions.any()),
            "preemption": int(reference.requests.n_preemptions.any()),
            "prefix hits": int(reference.requests.cached_tokens.any()),
            "rejection": int(len(reference.requests.reasons) > 0),
            "windows": int(len(scenario.step_model.windows) > 1),
            **_with_drafts(scenario, reference),
            "steps": sum(instance.steps.n_steps for instance in reference.instances),
        }
    )
    return differences(reference, compiled), holds


def _with_drafts(scenario: Scenario, run: FleetRun) -> dict[str, int]:
    """Return what a scenario with speculation holds."""
    drafts = int(scenario.shape.scheduler.speculation is not None)
    return {
        "speculation": drafts,
        "speculation and preemption": int(drafts and run.requests.n_preemptions.any()),
        "speculation and prefix hits": int(drafts and run.requests.cached_tokens.any()),
        "speculation in a closed loop": int(drafts and scenario.workload.load.kind == "closed"),
        "speculation on several instances": int(drafts and scenario.dp > 1),
    }


def main() -> int:
    total, n_different = Counter[str](), 0
    for seed in range(int(sys.argv[1])):
        found, holds = compare(seed)
        total += holds
        if found:
            n_different += 1
            print(f"scenario {seed}: {'; '.join(found[:4])}", flush=True)
    print(f"{n_different} of {sys.argv[1]} differ; among them {dict(total)}")
    return 1 if n_different else 0


if __name__ == "__main__":
    sys.exit(main())
