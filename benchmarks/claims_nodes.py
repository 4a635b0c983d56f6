"""How much better than tensor parallelism in a node and pipeline stages across nodes is the best plan?

Run as `python benchmarks/claims_nodes.py [CASE ...]`; without names all cases; `70b@vllm-0.6` asks for another preset.
For each case and load it simulates every plan of the study `search/atlas/across-nodes.toml`, which maps attention and
FFN separately, and prints the baseline, the best plan, the engines that can run it and vLLM's best plan.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from apex_sim.plan.engines import engines_of
from apex_sim.plan.plan import Plan
from apex_sim.planner.evaluation import Evaluation
from apex_sim.planner.job import Bench, Job
from apex_sim.planner.ranking import is_answer, rank
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.study import Study, load_study

STUDY: Final = Path(__file__).parents[1] / "search" / "atlas" / "across-nodes.toml"
#: Name to (model, cluster).
CASES: Final = {
    "405b": ("llama-3.1-405b", "2x8xh100-sxm"),
    "8x22b": ("mixtral-8x22b", "2x8xh100-sxm"),
    "70b": ("llama-3.1-70b", "2x8xh100-sxm"),
    "deepseek": ("deepseek-v3", "2x8xh100-sxm"),
    "405b-4": ("llama-3.1-405b", "4x8xh100-sxm"),
    "8x22b-4": ("mixtral-8x22b", "4x8xh100-sxm"),
    "70b-4": ("llama-3.1-70b", "4x8xh100-sxm"),
}
#: Offered rate over the rate at which the baseline works off everything at once.
LOADS: Final = (0.1, 0.5, 0.9)
#: So long does traffic last at least, unless that makes too many requests.
LEAST_S, MOST_REQUESTS = 120.0, 2000


@dataclass(frozen=True)
class Case:
    """One model on one cluster under one load, with every plan simulated."""

    study: Study
    plans: list[Evaluation]
    baseline: Evaluation

    @property
    def best(self) -> Evaluation:
        """The best of all plans."""
        return self.plans[0]

    def best_of(self, engine: str) -> Evaluation:
        """Return the best of the plans that `engine` can run."""
        return next(each for each in self.plans if engine in _engines(self.study, each))

    def ratio(self, plan: Evaluation) -> float:
        """Return how many times as good as the baseline `plan` is in the study's objective."""
        name = self.study.objective.name
        mine, base = plan.metrics[name] or 0.0, self.baseline.metrics[name] or 0.0
        return base / mine if self.study.objective.better == "lower" else mine / base


def _engines(study: Study, plan: Evaluation) -> tuple[str, ...]:
    return engines_of(study.model, plan.plan.instances[0][0])


def is_baseline(study: Study, plan: Plan) -> bool:
    """Whether a plan is one instance, tensor parallel in each node, with a stage for each node."""
    (shape, count), *_ = plan.instances
    cells = shape.tp == study.cluster.n_devices_per_node and shape.attention_dp == shape.cp == shape.ep == 1
    return count == 1 and cells and shape.pp == study.cluster.n_nodes


def solve(study: Study) -> Case:
    """Simulate every plan of `study`."""
    bench = Bench(study)
    outcomes = [bench(Job(plan, None)) for plan in enumerate_space(study).feasible]
    done = [each for each in outcomes if isinstance(each, Evaluation)]
    baseline = next(each for each in done if is_baseline(study, each.plan))
    return Case(study, rank(done, study.objective), baseline)


def at_rate(name: str, rate_per_s: float | None) -> Study:
    """Return the study at a rate, or offline with throughput as objective."""
    changes: dict[str, Any] = {"load": {"offline": True, "n_requests": MOST_REQUESTS}, "objective": "throughput"}
    if rate_per_s is not None:
        least = load_study(STUDY).workload.requests.n
        n = int(min(max(LEAST_S * rate_per_s, least), MOST_REQUESTS))
        changes = {"load": {"rate_per_s": rate_per_s, "n_requests": n}}
    case, _, preset = name.partition("@")
    model, cluster = CASES[case]
    changes["space"] = {"preset": preset or None}
    return load_study(STUDY, {"model": model, "cluster": cluster, **changes})


def _cells(plan: Evaluation) -> str:
    shape, count = plan.plan.instances[0]
    ffn = shape.stages[0].ffn
    parts = [("DP", count), ("PP", shape.pp), ("attn TP", shape.tp), ("attn DP", shape.attention_dp)]
    parts += [("CP", shape.cp), ("ffn TP", ffn.tp), ("EP", ffn.ep)]
    told = " ".join(f"{name}{n}" for name, n in parts if n > 1)
    return told if is_answer(plan) else f"{told} (no answer: {plan.stability.reason})"


def line(case: Case) -> str:
    """Return what is printed of a case."""
    study, vllm = case.study, case.best_of("vllm")
    value = case.baseline.metrics[study.objective.name]
    settled = case.baseline.stability.steady or study.workload.rate_per_s is None
    steady = (
        "" if settled else f" (busy {case.baseline.metrics['busy_frac']:.0%}, its backlog grows or has not settled)"
    )
    return (
        f"{study.objective.name} {value:.3g}{steady} | {case.ratio(case.best):.2f} {_cells(case.best)} "
        f"[{','.join(_engines(study, case.best)) or 'none'}] | {case.ratio(vllm):.2f} {_cells(vllm)} "
        f"| {len(case.plans)} plans"
    )


def main() -> None:
    """Run the cases that are named, or all."""
    for name in sys.argv[1:] or CASES:
        if name.partition("@")[0] not in CASES:
            sys.exit(f"no case {name!r}: choose from {', '.join(CASES)}")
        start_s = time.process_time()
        title = " on ".join(CASES[name.partition("@")[0]])
        print(f"\n{name}, {title}: load | baseline | best: times as good, plan [engines] | best of vLLM", flush=True)
        offline = solve(at_rate(name, None))
        print(f"{'offline':14} {line(offline)}", flush=True)
        for load_frac in LOADS:
            rate_per_s = load_frac * (offline.baseline.metrics["requests_per_s"] or 0.0)
            load = f"{rate_per_s:.3g}/s ({load_frac:.0%})"
            print(f"{load:14} {line(solve(at_rate(name, rate_per_s)))}", flush=True)
        print(f"CPU time {time.process_time() - start_s:.0f} s", flush=True)


if __name__ == "__main__":
    main()
