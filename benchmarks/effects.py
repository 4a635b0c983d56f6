"""Which modelled effects carry the accuracy on the apex servers: what are the errors with each of them switched off?

    python benchmarks/effects.py DATA_FOLDER [--json FILE]

DATA_FOLDER holds `serving/apex_h100_vllm060/cases.csv`: 46 servers of vLLM 0.6.0 with Llama-3.1-70B bf16 on H100, with
the requests of each.  An effect is switched off by replacing one value of the preset, of the settings, of the workload
or of the cost back end, here and only here; everything else stays as `apex-sim validate serving` has it.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from apex_sim.cost.calibrated import best_cost_model
from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.parts import repeat
from apex_sim.cost.preset_change import change_preset
from apex_sim.fleet.compiled_plan import CompiledPlan, compile_plan
from apex_sim.fleet.fleet import simulate_plan
from apex_sim.metrics.slo import Slo
from apex_sim.metrics.summary import summarise
from apex_sim.plan.plan import Plan
from apex_sim.preset.preset import Preset
from apex_sim.report.quantity import time_text
from apex_sim.truth.case import Case
from apex_sim.truth.cases import read_cases
from apex_sim.truth.replay import Replay, make_replay

METRICS = ("ttft_mean_s", "itl_mean_s", "e2e_mean_s")
TITLES = {"ttft_mean_s": "TTFT", "itl_mean_s": "ITL", "e2e_mean_s": "E2E"}
#: Context, in tokens, at which decode attention is frozen when its growth is switched off.
SHORT_CONTEXT_TOKENS = 128
#: Stands for a pool that never fills.
MANY_BLOCKS = 10_000_000


class OtherCosts:
    """A cost back end with one method replaced; all else is the one it wraps."""

    def __init__(self, costs: CostModel, **methods: Callable[..., Any]) -> None:
        self._costs = costs
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        return self._methods.get(name) or getattr(self._costs, name)


@dataclass(frozen=True)
class Effect:
    """One switched-off effect: what changes of a preset's times, or else of the whole replay and its costs."""

    number: str
    name: str
    preset: Callable[[Preset], Preset] | None = None
    replay: Callable[[Replay], Replay] | None = None
    costs: Callable[[CostModel], Any] | None = None
    compiled: Callable[[CompiledPlan], CompiledPlan] | None = None


def host(**times: float) -> Callable[[Preset], Preset]:
    """Return the change that sets these host times."""
    return lambda preset: replace(preset, host=replace(preset.host, **times))


def graphs(**values: Any) -> Callable[[Preset], Preset]:
    """Return the change that sets these values of the CUDA graphs."""
    return lambda preset: replace(preset, graphs=replace(preset.graphs, **values))


def plain_prompts(preset: Preset) -> Preset:
    """Take prompts as fast as their kernels alone."""
    return replace(preset, slowdown=replace(preset.slowdown, base=1.0, growth=0.0, growth_of={}))


def free_elementwise(costs: CostModel) -> OtherCosts:
    """Let norms, rotary embedding, activations and sampling take no time."""
    return OtherCosts(costs, elementwise=lambda *sizes: repeat(costs.elementwise(*sizes), 0.0))


def short_context(costs: CostModel) -> OtherCosts:
    """Let decode attention read `SHORT_CONTEXT_TOKENS` of each sequence, however long it is."""

    def decode_attention(work: Any, sizes: Any) -> Any:
        context = np.minimum(work.context_tokens, SHORT_CONTEXT_TOKENS * np.asarray(work.n_sequences))
        return costs.decode_attention(replace(work, context_tokens=context), sizes)

    return OtherCosts(costs, decode_attention=decode_attention)


def with_settings(**values: Any) -> Callable[[Replay], Replay]:
    """Return the change that sets these scheduler settings."""

    def change(replay: Replay) -> Replay:
        instances = tuple(
            (replace(shape, scheduler=replace(shape.scheduler, **values)), n) for shape, n in replay.plan.instances
        )
        return replace(replay, plan=replace(replay.plan, instances=instances))

    return change


def other_batching(replay: Replay) -> Replay:
    """Swap the two batching policies of vLLM 0.6: chunks of 512 tokens, and prompts first and whole."""
    settings = replay.plan.instances[0][0].scheduler
    if settings.policy == "chunked":
        return with_settings(policy="prefill-first", max_num_batched_tokens=settings.max_model_len)(replay)
    return with_settings(policy="chunked", max_num_batched_tokens=512)(replay)


def large_chunks(replay: Replay) -> Replay:
    """Give every server chunks of up to 8,192 tokens, mixed with decodes, as later engines have."""
    return with_settings(policy="chunked", max_num_batched_tokens=8192)(replay)


def mean_lengths(replay: Replay) -> Replay:
    """Give every request the workload's mean lengths."""
    requests = replay.workload.requests
    lengths = {
        name: np.full_like(getattr(requests, name), round(float(getattr(requests, name).mean())))
        for name in ("prompt_tokens", "output_tokens")
    }
    return replace(replay, workload=replace(replay.workload, requests=replace(requests, **lengths)))


def endless_pool(compiled: CompiledPlan) -> CompiledPlan:
    """Let KV blocks never run out."""
    return {
        shape: (replace(memory, n_blocks=MANY_BLOCKS), step_model) for shape, (memory, step_model) in compiled.items()
    }


#: Numbered as in the list of effects in docs/accuracy.md.
EFFECTS = (
    Effect("", "everything modelled"),
    Effect("1", "host time per step", preset=host(step_s=0.0)),
    Effect("7", "host time per sequence", preset=host(sequence_s=0.0)),
    Effect("2", "prompts slower than their kernels", preset=plain_prompts),
    Effect("5", "small kernels and gaps", preset=graphs(launch_s=0.0), costs=free_elementwise),
    Effect("4", "custom all-reduce (NCCL instead)", replay=with_settings(custom_all_reduce=False)),
    Effect("10", "launching eager steps", preset=graphs(eager_launch_s=0.0)),
    Effect("10", "CUDA graphs (every step eager)", replay=with_settings(cuda_graphs=False)),
    Effect("10", "padding to graph sizes", replay=lambda replay: _with_preset(replay, _unpadded)),
    Effect("8", "batching policy (the other one)", replay=other_batching),
    Effect("8", "chunk of 512 (8,192 everywhere)", replay=large_chunks),
    Effect("11", "constant part of TTFT outside the GPU", preset=host(frontend_s=0.0)),
    Effect("11", "part of it for each prompt token", preset=host(prompt_token_s=0.0)),
    Effect("6", "decode attention growing with context", costs=short_context),
    Effect("9", "actual lengths (mean lengths instead)", replay=mean_lengths),
    Effect("", "end of the KV pool", compiled=endless_pool),
)


def _unpadded(preset: Preset) -> Preset:
    return replace(preset, graphs=replace(preset.graphs, sizes=tuple(range(1, preset.graphs.sizes[-1] + 1))))


def _with_preset(replay: Replay, change: Callable[[Preset], Preset]) -> Replay:
    instances = tuple((replace(shape, preset=change(shape.preset)), n) for shape, n in replay.plan.instances)
    return replace(replay, plan=replace(replay.plan, instances=instances))


class Compiler:
    """Compiles each plan once for each cost back end, and changes times without compiling anew."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Plan], CompiledPlan] = {}

    def compiled(self, effect: Effect, replay: Replay) -> tuple[CompiledPlan, Plan, CostModel]:
        """Return the compiled plan under `effect`, the plan itself and its costs."""
        costs = best_cost_model(replay.cluster.device)
        if effect.costs:
            costs = effect.costs(costs)
        key = (effect.name if effect.costs else "", replay.plan)
        if key not in self._kept:
            self._kept[key] = compile_plan(replay.model, replay.cluster, replay.plan, costs)
        compiled, plan = self._kept[key], replay.plan
        if effect.preset:
            plan = _with_preset(replay, effect.preset).plan
            compiled = {
                replace(shape, preset=effect.preset(shape.preset)): (
                    memory,
                    change_preset(step_model, effect.preset(shape.preset)),
                )
                for shape, (memory, step_model) in compiled.items()
            }
        return (effect.compiled(compiled) if effect.compiled else compiled), plan, costs


def predictions(effect: Effect, replays: list[Replay], compiler: Compiler) -> list[dict[str, float]]:
    """Return the metrics of each server with `effect` switched off."""
    rows = []
    for replay in replays:
        changed = effect.replay(replay) if effect.replay else replay
        compiled, plan, costs = compiler.compiled(effect, changed)
        run = simulate_plan(changed.model, changed.cluster, plan, changed.workload, costs, compiled=compiled)
        metrics = summarise(run, changed.cluster, Slo())
        rows.append({name: float(metrics[name]) for name in METRICS})
    return rows


def statistics(predicted: list[dict[str, float]], cases: list[Case]) -> dict[str, dict[str, float]]:
    """Return median and 90th percentile of the absolute errors and the median signed one, of each metric."""
    summary = {}
    for name in METRICS:
        errors = np.array([row[name] / case.measured[name] - 1.0 for row, case in zip(predicted, cases, strict=True)])
        summary[name] = {
            "median_frac": float(np.median(np.abs(errors))),
            "p90_frac": float(np.quantile(np.abs(errors), 0.9)),
            "bias_frac": float(np.median(errors)),
        }
    return summary


def workload_of(case: Case) -> str:
    """Return the traffic and rate of a server, "lmsys 0.25/s"."""
    return "{} {}/s".format(*_parts_of(case)[:2])


def _parts_of(case: Case) -> tuple[str, str, int]:
    """Return traffic, rate and number of servers of the plan that a server is part of."""
    found = re.search(r"-(\w+)-([\d.]+)-tp\d+xdp(\d+)xep1-\d+$", case.case_id)
    if not found:
        raise SystemExit(f"{case.case_id}: not the name of an apex server")
    return found[1], found[2], int(found[3])


def setting_of(case: Case) -> str:
    """Return what plans are compared under: the traffic, split over all servers of 8 devices or sent to one server."""
    n_servers = _parts_of(case)[2]
    return workload_of(case) + (", 8 GPUs" if n_servers * case.deployment.tp == 8 else ", one server")


def orders(cases: list[Case], predicted: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Return for each workload the plans' ITL and TTFT, means over servers, and whether order and ties are right.

    A plan's figure is the mean over its servers; two plans tie when they differ by less than two standard deviations of
    the noise between servers, which is `noise_frac` of each over the root of their number.
    """
    groups: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, case in enumerate(cases):
        groups[setting_of(case)][case.deployment.tp].append(i)
    rows = []
    for workload, plans in sorted(groups.items()):
        if len(plans) < 2:
            continue
        row: dict[str, Any] = {"workload": workload}
        for name in ("itl_mean_s", "ttft_mean_s"):
            row[name] = {
                str(tp): {
                    "measured": float(np.mean([cases[i].measured[name] for i in servers])),
                    "predicted": float(np.mean([predicted[i][name] for i in servers])),
                }
                for tp, servers in sorted(plans.items(), reverse=True)
            }
        itl = row["itl_mean_s"]
        row["itl_order_right"] = sorted(itl, key=lambda tp: itl[tp]["measured"]) == sorted(
            itl, key=lambda tp: itl[tp]["predicted"]
        )
        if {4, 8} <= set(plans):
            noise = cases[plans[8][0]].noise_frac or 0.0
            limit = 2.0 * noise * (1.0 / len(plans[8]) + 1.0 / len(plans[4])) ** 0.5
            row["ttft_8_over_4"] = {
                kind: row["ttft_mean_s"]["8"][kind] / row["ttft_mean_s"]["4"][kind] - 1.0
                for kind in ("measured", "predicted")
            }
            row["ttft_noise_frac"] = limit
            row["ttft_tie"] = {kind: abs(value) <= limit for kind, value in row["ttft_8_over_4"].items()}
        rows.append(row)
    return rows


def study(data: Path) -> dict[str, Any]:
    """Return the errors under each effect, all servers as modelled, and the order of the plans."""
    path = data / "serving" / "apex_h100_vllm060" / "cases.csv"
    cases = list(read_cases(path).cases)
    replays = [make_replay(case, path.parent) for case in cases]
    compiler, table, base = Compiler(), [], []
    for effect in EFFECTS:
        predicted = predictions(effect, replays, compiler)
        base = base or predicted
        table.append({"number": effect.number, "name": effect.name, **statistics(predicted, cases)})
    servers = [
        {
            "case_id": case.case_id,
            "tp": case.deployment.tp,
            "workload": workload_of(case),
            "measured": {name: case.measured[name] for name in METRICS},
            "predicted": row,
        }
        for case, row in zip(cases, base, strict=True)
    ]
    return {"effects": table, "servers": servers, "orders": orders(cases, base)}


def effects_table(result: dict[str, Any]) -> str:
    """Return the errors under each effect as Markdown, in percent."""
    lines = [
        "| no. | switched off | " + " | ".join(f"{TITLES[name]} median, p90, bias" for name in METRICS) + " |",
        "|---" * 5 + "|",
    ]
    for row in result["effects"]:
        cells = [
            f"{100 * row[m]['median_frac']:.1f}, {100 * row[m]['p90_frac']:.1f}, {100 * row[m]['bias_frac']:+.1f}"
            for m in METRICS
        ]
        lines.append(f"| {row['number']} | {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def servers_table(result: dict[str, Any]) -> str:
    """Return every server, measured and predicted, as Markdown."""
    lines = [
        "| workload | TP | " + " | ".join(f"{TITLES[m]} measured | predicted" for m in METRICS) + " |",
        "|---" * 8 + "|",
    ]
    for row in sorted(result["servers"], key=lambda row: (row["workload"], -row["tp"])):
        cells = [time_text(row[kind][m]) for m in METRICS for kind in ("measured", "predicted")]
        lines.append(f"| {row['workload']} | {row['tp']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def orders_table(result: dict[str, Any]) -> str:
    """Return the plans of each workload as Markdown: ITL by TP, measured and predicted, and the ties of TTFT."""
    lines = [
        "| workload | ITL at TP8, TP4, TP2, ms: measured | predicted | order right | TTFT of TP8 against TP4, %: "
        "measured | predicted | noise | tie: measured | predicted |",
        "|---" * 9 + "|",
    ]
    for row in result["orders"]:
        itl = [
            ", ".join(f"{1e3 * plan[kind]:.1f}" for plan in row["itl_mean_s"].values())
            for kind in ("measured", "predicted")
        ]
        cells = [row["workload"], *itl, "yes" if row["itl_order_right"] else "no"]
        if "ttft_tie" in row:
            cells += [f"{100 * row['ttft_8_over_4'][kind]:+.1f}" for kind in ("measured", "predicted")]
            cells += [f"{100 * row['ttft_noise_frac']:.1f}"]
            cells += ["yes" if row["ttft_tie"][kind] else "no" for kind in ("measured", "predicted")]
        else:
            cells += [""] * 5
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables; write the whole result where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = study(arguments.data)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("\n\n".join((effects_table(result), orders_table(result), servers_table(result))))


if __name__ == "__main__":
    main()
