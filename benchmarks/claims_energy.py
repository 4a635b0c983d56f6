"""How much energy does the thriftiest plan and clock save over the plan with the least latency, and at what price?

Run as `python benchmarks/claims_energy.py [STUDY [WORKLOAD ...]]`: a study of search/atlas, by default the 70B's, and
workloads by name or path, by default the study's own.  Every plan and clock is simulated at each rate of `RATES`; one
line each tells of the plan with the least mean E2E and of those with the least energy per token: that plan at a lower
clock, any plan at the highest clock, any plan at any clock; then the same where devices may stay empty and are given
back.  `idle` is the part of a plan's energy that its devices draw when nothing runs, whatever they do.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from apex_sim.plan.engines import engines_of
from apex_sim.plan.plan import Plan
from apex_sim.planner.evaluation import Evaluation
from apex_sim.planner.job import Bench, Job
from apex_sim.planner.ranking import is_answer
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.study import Study, load_study

ATLAS: Final = Path(__file__).parents[1] / "search" / "atlas"
#: Requests per second; None is everything at once.
RATES: Final = (0.5, 2.0, 8.0, None)
ENERGY, LATENCY = "energy_per_output_token_j", "e2e_mean_s"


def solve(study: Study) -> list[Evaluation]:
    """Return every plan of the study that keeps up, simulated."""
    bench = Bench(study)
    done = [bench(Job(plan, None)) for plan in enumerate_space(study).feasible]
    found = [each for each in done if isinstance(each, Evaluation) and is_answer(each)]
    return found if study.workload.rate_per_s is None else [each for each in found if each.stability.steady]


def least(plans: Sequence[Evaluation], metric: str) -> Evaluation:
    """Return the plan with the least of a metric."""
    return min(plans, key=lambda each: each.metrics[metric] or float("inf"))


def _clock(plan: Plan) -> float:
    return plan.instances[0][0].clock_frac


def _unclocked(plan: Plan) -> Plan:
    """Return the plan at the highest clock, to tell plans apart from clocks."""
    return replace(plan, instances=tuple((replace(shape, clock_frac=1.0), n) for shape, n in plan.instances))


def _told(study: Study, name: str, plan: Evaluation, base: Evaluation) -> str:
    joules, seconds = plan.metrics[ENERGY] or 0.0, plan.metrics[LATENCY] or 0.0
    device = study.cluster.device
    idle_j = plan.plan.n_devices * device.idle_w * (plan.metrics["makespan_s"] or 0.0)
    saved_frac, dearer_frac = 1 - joules / (base.metrics[ENERGY] or 1.0), seconds / (base.metrics[LATENCY] or 1.0) - 1
    return (
        f"    {name:28} {plan.plan.label:32} {joules:8.2f} {saved_frac:7.1%} {seconds:8.2f} {dearer_frac:+8.1%} "
        f"{idle_j / (plan.metrics['energy_j'] or 1.0):5.0%} "
        f"{','.join(engines_of(study.model, plan.plan.instances[0][0]))}"
    )


def report(study: Study, rate: str) -> None:
    """Print the lines of one study at one rate."""
    plans = solve(study)
    print(f"  {rate}: {len(plans)} plans and clocks keep up")
    if not plans:
        return
    fastest = least([each for each in plans if _clock(each.plan) == 1.0], LATENCY)
    same = [each for each in plans if _unclocked(each.plan) == fastest.plan]
    full = [each for each in plans if _clock(each.plan) == 1.0]
    few = solve(replace(study, space=study.space.model_copy(update={"allow_idle": True})))
    rows = {
        "least E2E": fastest,
        "its plan, thriftiest clock": least(same, ENERGY),
        "any plan, highest clock": least(full, ENERGY),
        "any plan and clock": least(plans, ENERGY),
        "the same within 10 % of E2E": least(
            [each for each in plans if (each.metrics[LATENCY] or 0) <= 1.1 * (fastest.metrics[LATENCY] or 0)], ENERGY
        ),
        "any plan, spare devices back": least(few, ENERGY),
    }
    for name, plan in rows.items():
        print(_told(study, name, plan, fastest), flush=True)


def main() -> None:
    """Run the study that is named on the workloads that are named."""
    path = ATLAS / f"{sys.argv[1] if len(sys.argv) > 1 else 'energy-llama-70b'}.toml"
    for workload in sys.argv[2:] or [None]:
        start_s = time.process_time()
        for rate_per_s in RATES:
            load: dict[str, Any] = {"offline": True} if rate_per_s is None else {"rate_per_s": rate_per_s}
            study = load_study(path, {"workload": workload, "load": load})
            if rate_per_s == RATES[0]:
                print(f"\n{study.title}, {study.workload.name}: plan and clock, J/token, saved, E2E s, later, idle")
            report(study, "offline" if rate_per_s is None else f"{rate_per_s:g}/s")
        print(f"  CPU time {time.process_time() - start_s:.0f} s", flush=True)


if __name__ == "__main__":
    main()
