"""Does the planner find the best plan, and is its certificate true?  Random studies, each simulated exhaustively.

Run as `python benchmarks/planted_studies.py --out planted.jsonl`; it goes on where the file ends.  Each study is drawn
by its index alone (`planted_kinds`).  Every plan is simulated whole, which is the yardstick, and its bounds (before any
simulation, and after one of the first requests) are compared with what the simulation found.  Then a search of
default effort is asked for the same study.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from planted_kinds import KINDS, Recipe, pick

from apex_sim.fleet.compiled_plan import compile_plan
from apex_sim.metrics.definitions import METRICS
from apex_sim.plan.plan import Plan
from apex_sim.planner.bounds.seen import has_prefixes
from apex_sim.planner.certificate import Certificate, certify
from apex_sim.planner.effort import Effort
from apex_sim.planner.evaluation import Evaluation, capacity_per_s, costs_of
from apex_sim.planner.job import Bench, Glimpse, Job, Outcome
from apex_sim.planner.ranking import is_answer, loss_of
from apex_sim.planner.space import Space, enumerate_space
from apex_sim.planner.strategy import Strategy
from apex_sim.planner.study import Study, make_study

_LEAST_PLANS: Final = 100
#: A plan this close to the best is as good.
_CLOSE_FRAC: Final = 0.01
#: The usual choice loses if it is worse than the best by more than this.
_PLANTED_FRAC: Final = 0.001
_BLOCK_TOKENS: Final = 512
#: On so many requests the search compares plans: looked at with the rest, while the plan's tables are at hand.
_FIRST_LOOK: Final = 48
_HEADER: Final = (
    "| kind | studies | answered | optimum within the gap | found within 1 % | simulated whole % (most) "
    "| gap % | off the usual | broken bounds |"
)


def main() -> None:
    """Draw, search, write and sum up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n-studies", type=int, default=20 * len(KINDS))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kind", choices=KINDS, help="only studies of this kind")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    arguments = parser.parse_args()
    text = arguments.out.read_text() if arguments.out.exists() else ""
    rows = [json.loads(line) for line in text.splitlines()]
    done = {row["index"] for row in rows}
    for index in range(arguments.first, arguments.first + arguments.n_studies):
        if index in done or arguments.kind not in (None, kind_of(index)):
            continue
        row = examine(index)
        rows.append(row)
        with arguments.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(_short(row), flush=True)
    print(_summary(rows))


def kind_of(index: int) -> str:
    """Return the kind of the study with this index."""
    return list(KINDS)[index % len(KINDS)]


def examine(index: int) -> dict[str, Any]:
    """Return what came of the search for the study with this index, beside the truth."""
    recipe = KINDS[kind_of(index)](np.random.default_rng([index, 0]))
    with tempfile.TemporaryDirectory() as folder:
        study = draw_study(index, recipe, Path(folder))
    space, bench = enumerate_space(study), Bench(study)
    if len(space.feasible) < _LEAST_PLANS:
        raise SystemExit(f"study {index} ({kind_of(index)}, {study.model.name}) has {len(space.feasible)} plans")
    started = time.process_time()
    looked = {plan: _look_at(study, bench, plan) for plan in space.feasible}
    whole_s = time.process_time() - started
    whole = {plan: outcomes[None] for plan, outcomes in looked.items()}
    broken = [text for outcomes in looked.values() for text in _broken(outcomes)]
    certificate = _search(study, space, lambda job: _known(looked, job) or bench(job))
    return {
        "index": index,
        "kind": kind_of(index),
        "model": study.model.name,
        "cluster": study.cluster.name,
        "load": study.workload.load.kind,
        "n_requests": study.workload.requests.n,
        "objective": study.objective.name,
        "n_plans": len(space.feasible),
        **_truth(study, space, whole, recipe),
        "found": certificate.best,
        "bound": certificate.bound,
        "gap_frac": certificate.gap_frac,
        "n_simulated": certificate.n_simulated,
        "n_glimpsed": certificate.n_glimpsed,
        "n_broken": len(broken),
        "broken": broken[:5],
        "whole_cpu_s": round(whole_s, 2),
    }


def draw_study(index: int, recipe: Recipe, folder: Path) -> Study:
    """Return the study of a recipe with drawn lengths and a drawn load."""
    rng = np.random.default_rng([index, 1])
    n_requests = int(rng.integers(60, 201))
    workload = _shared_trace(rng, recipe, folder) if recipe.shares_prefixes else _lengths_file(rng, recipe, folder)
    data = {
        "model": recipe.model,
        "cluster": recipe.cluster,
        "workload": str(workload),
        "objective": recipe.objective,
        "space": recipe.space,
        "scheduler": recipe.scheduler,
    }
    load = {"n_requests": n_requests} | ({} if recipe.shares_prefixes else {"seed": index})
    slow = make_study({**data, "load": {**load, "rate_per_s": 0.01}}, "planted", f"study {index}")
    kind = pick(rng, recipe.loads)
    capacity = _capacity_per_s(slow, rng)
    changes: dict[str, Any] = {
        "steady": {"rate_per_s": float(rng.uniform(0.2, 0.6)) * capacity},
        "closed": {"concurrency": int(rng.integers(4, max(5, n_requests // 3)))},
        "offline": {"offline": True},
    }[kind]
    slo = {"tpot_mean_s": float(rng.uniform(0.01, 0.06)), "ttft_mean_s": 5.0} if recipe.latency_slo else {}
    return make_study({**data, "load": load | changes, "slo": slo}, f"planted {index}", f"study {index}")


def _capacity_per_s(study: Study, rng: np.random.Generator) -> float:
    """Return the estimated capacity of the middle one of some plans."""
    plans = enumerate_space(study).feasible
    some = [pick(rng, plans) for _ in range(3)]
    compiled = [compile_plan(study.model, study.cluster, plan, costs_of(study)) for plan in some]
    return sorted(capacity_per_s(study, plan, each) for plan, each in zip(some, compiled, strict=True))[1]


def _log_uniform(rng: np.random.Generator, least: float, most: float) -> float:
    return math.exp(rng.uniform(math.log(least), math.log(most)))


def _lengths_file(rng: np.random.Generator, recipe: Recipe, folder: Path) -> Path:
    lines = ['title = "drawn"', 'source = "drawn"', 'kind = "assumed"', "n_requests = 100", "ignore_eos = true"]
    lines += ["[load]", 'kind = "poisson"', "rate_per_s = 1.0"]
    for table, bounds in (("prompt_tokens", recipe.prompt_tokens), ("output_tokens", recipe.output_tokens)):
        mean, sigma = _log_uniform(rng, *bounds), rng.uniform(*recipe.sigma)
        lines += [f"[{table}]", 'kind = "lognormal"', f"mean_tokens = {mean:.1f}", f"sigma = {sigma:.3f}"]
        lines += ["low_tokens = 4", f"high_tokens = {int(min(16000, 8 * mean)) + 4}"]
    path = folder / "drawn.toml"
    path.write_text("\n".join(lines))
    return path


def _shared_trace(rng: np.random.Generator, recipe: Recipe, folder: Path) -> Path:
    """Write a trace whose prompts begin with one of a few texts and end with a text of their own."""
    n_texts, n_own = int(rng.integers(1, 8)), 0
    text_blocks = rng.integers(1, 1 + int(recipe.prompt_tokens[1]) // _BLOCK_TOKENS, n_texts)
    arrival_ms, lines = np.cumsum(rng.exponential(500.0, 200)), []
    for at_ms in arrival_ms.tolist():
        text = int(rng.integers(n_texts))
        own_tokens = int(_log_uniform(rng, 20, recipe.prompt_tokens[1] / 2))
        own_blocks = math.ceil(own_tokens / _BLOCK_TOKENS)
        hashes = [1000 * text + i for i in range(text_blocks[text])] + [10**6 + n_own + i for i in range(own_blocks)]
        n_own += own_blocks
        prompt_tokens = int(text_blocks[text]) * _BLOCK_TOKENS + own_tokens
        output_tokens = int(_log_uniform(rng, 5, recipe.output_tokens[1]))
        row = {"timestamp": int(at_ms), "input_length": prompt_tokens, "output_length": output_tokens}
        lines.append(json.dumps(row | {"hash_ids": hashes}))
    path = folder / "drawn.jsonl"
    path.write_text("\n".join(lines))
    return path


def _search(study: Study, space: Space, bench: Callable[[Job], Outcome]) -> Certificate:
    """Return the certificate of a search of default effort."""
    strategy = Strategy(study, space, Effort())
    while jobs := strategy.ask():
        strategy.tell([(job, bench(job)) for job in jobs])
    return certify(strategy, study.objective, space.n_enumerated, None)


def _look_at(study: Study, bench: Bench, plan: Plan) -> dict[int | None, Outcome]:
    """Return what comes of a plan whole, of its bounds alone and on the first requests."""
    counts = (None, 0, _FIRST_LOOK) if has_prefixes(study.workload) else (None, 0)
    return {n_requests: bench(Job(plan, n_requests)) for n_requests in counts}


def _known(looked: Mapping[Plan, Mapping[int | None, Outcome]], job: Job) -> Outcome | None:
    return looked[job.plan].get(job.n_requests)


def _broken(outcomes: Mapping[int | None, Outcome]) -> list[str]:
    """Return one sentence for each bound that the simulation of the plan beats."""
    truth, found = outcomes[None], []
    if not isinstance(truth, Evaluation) or truth.metrics["n_rejected"]:
        return []
    for n_requests, glimpse in outcomes.items():
        bounds = glimpse.bounds if isinstance(glimpse, Glimpse) else {}
        for name, bound in bounds.items():
            value = truth.metrics[name]
            if value is not None and loss_of(value, METRICS[name]) < loss_of(bound, METRICS[name]):
                found.append(f"{truth.plan.label} after {n_requests}: {name} is {value!r}, bound {bound!r}")
    return found


def _truth(
    study: Study, space: Space, whole: Mapping[Any, Outcome], recipe: Recipe
) -> dict[str, float | bool | str | None]:
    """Return the best of all plans, and whether it beats every plan with the usual choice."""
    losses = {
        plan: loss_of(each.metrics[study.objective.name], study.objective)
        for plan, each in whole.items()
        if isinstance(each, Evaluation) and is_answer(each)
    }
    if not losses:
        return {"optimum": None, "best_plan": None, "is_planted": None, "n_answers": 0}
    best = min(losses, key=lambda plan: losses[plan])
    usual = [loss for plan, loss in losses.items() if recipe.is_usual(plan, dict(space.choices[plan]))]
    least = losses[best]
    return {
        "optimum": -least if study.objective.better == "higher" else least,
        "best_plan": best.label,
        "is_planted": min(usual, default=math.inf) > least + _PLANTED_FRAC * abs(least),
        "n_answers": len(losses),
    }


def _loss(row: Mapping[str, Any], key: str) -> float:
    return loss_of(row[key], METRICS[row["objective"]])


def is_within_gap(row: Mapping[str, Any]) -> bool:
    """Whether the best of all plans is no better than the certificate allows."""
    return row["bound"] is not None and _loss(row, "optimum") >= _loss(row, "bound")


def is_found(row: Mapping[str, Any]) -> bool:
    """Whether the search found a plan about as good as the best."""
    optimum = _loss(row, "optimum")
    return row["found"] is not None and _loss(row, "found") <= optimum + _CLOSE_FRAC * abs(optimum)


def _short(row: Mapping[str, Any]) -> str:
    text = f"{row['index']:4d} {row['kind']:14s} {row['objective']:30s} {row['load']:8s} {row['n_plans']:4d} plans"
    if row["optimum"] is None:
        return f"{text}, no answer"
    miss = _loss(row, "found") / _loss(row, "optimum") - 1.0 if row["found"] is not None else math.inf
    share = row["n_simulated"] / row["n_plans"]
    marks = ("" if is_within_gap(row) else " GAP") + ("" if is_found(row) else " MISSED")
    marks += " BROKEN" if row["n_broken"] else ""
    return f"{text}, off by {miss:.2%}, {share:.0%} whole, gap {row['gap_frac'] or 0:.1%}{marks}"


def _summary(rows: list[dict[str, Any]]) -> str:
    lines = [_HEADER, "|---|" + "---|" * (_HEADER.count("|") - 2)]
    lines += [_line(kind, [row for row in rows if row["kind"] == kind]) for kind in KINDS]
    return "\n".join([*lines, _line("all", rows)])


def _line(kind: str, rows: list[dict[str, Any]]) -> str:
    answered = [row for row in rows if row["optimum"] is not None]
    if not answered:
        return f"| {kind} | {len(rows)} | 0 |" + " |" * 6
    shares = [100 * row["n_simulated"] / row["n_plans"] for row in answered]
    gaps = [100 * row["gap_frac"] for row in answered if row["gap_frac"] is not None]
    n = len(answered)
    return (
        f"| {kind} | {len(rows)} | {n} | {sum(map(is_within_gap, answered))} | {sum(map(is_found, answered))} "
        f"| {np.mean(shares):.1f} ({max(shares):.0f}) | {np.mean(gaps):.1f} "
        f"| {sum(row['is_planted'] for row in answered)} | {sum(row['n_broken'] for row in rows)} |"
    )


if __name__ == "__main__":
    main()
