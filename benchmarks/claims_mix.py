"""How much cheaper is a mix of GPU types than one type?  Mélange's setting (arXiv:2404.14527), and today's.

Run as `python benchmarks/claims_mix.py [SETTING ...]`; without names the setting "paper".  A setting prints one line
for each traffic, limit and rate: the cheapest mix found, the cheapest fleet of each type and what the mix saves.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from apex_sim.errors import NoAnswerError
from apex_sim.hardware.cluster import Cluster
from apex_sim.plan.engines import engines_of
from apex_sim.planner.mixed_fleet import CheapestMix, Fleet, cheapest_mix
from apex_sim.planner.study import Study, make_study
from apex_sim.workload.arrivals import poisson
from apex_sim.workload.load import load_workload
from apex_sim.workload.requests import make_requests
from apex_sim.workload.workload import Workload

ATLAS: Final = Path(__file__).parents[1] / "search" / "atlas"
PARK: Final = "16x8xl4+16x8xa10+8x8xa100-sxm-80gb+8x8xh100-sxm"
#: USD per hour of the paper's table of GPUs.  The A100's stands in its repository too; the others are assumed.
PAPER_USD_PER_H: Final = {"l4": 0.70, "a10": 1.01, "a100-sxm-80gb": 3.67, "h100-sxm": 7.516}
RATES: Final = (1.0, 4.0, 16.0, 64.0)
#: Part of the mixed traffic that is chat; the rest is documents.
CHAT_FRAC: Final = 0.8
#: So long does traffic last at least, and so many requests has it at least.
LEAST_S, LEAST_REQUESTS = 120.0, 400


@dataclass(frozen=True)
class Setting:
    """What is held fixed while traffic, limit and rate vary."""

    model: str = str(ATLAS / "llama-2-7b-16k.json")
    preset: str = "vllm-0.6"
    usd_per_h: dict[str, float] | None = None
    cluster: str = PARK
    statistic: str = "mean"
    tp: tuple[int, ...] = (1,)


SETTINGS: Final = {
    "paper": Setting(usd_per_h=PAPER_USD_PER_H),
    "prices": Setting(),
    "grouped": Setting(model="llama-3.1-8b", usd_per_h=PAPER_USD_PER_H),
    "p99": Setting(usd_per_h=PAPER_USD_PER_H, statistic="p99"),
    "today": Setting(model="llama-3.1-8b", preset="vllm-1", cluster=f"{PARK}+8x8xl40s"),
}


def traffic(name: str, rate_per_s: float) -> Workload:
    """Return chats, documents, or both in the proportions of `CHAT_FRAC`."""
    n = max(LEAST_REQUESTS, int(LEAST_S * rate_per_s))
    files = {"chat": "arena-chat", "documents": "pubmed"}
    if name in files:
        return load_workload(ATLAS / "workloads" / f"{files[name]}.toml", n_requests=n, rate_per_s=rate_per_s)
    chat, documents = traffic("chat", rate_per_s), traffic("documents", rate_per_s)
    rng = np.random.default_rng(0)
    is_chat = rng.random(n) < CHAT_FRAC
    columns = {
        key: np.where(is_chat, getattr(chat.requests, key), getattr(documents.requests, key))
        for key in ("prompt_tokens", "output_tokens")
    }
    return replace(chat, name="mixed", requests=make_requests(poisson(rate_per_s, n, rng), **columns))


def priced(cluster: Cluster, usd_per_h: dict[str, float] | None) -> Cluster:
    """Return the park at other prices."""
    if usd_per_h is None:
        return cluster
    first, *others = (
        replace(pool, device=replace(pool.device, price_usd_per_h=usd_per_h[pool.device.name]))
        for pool in cluster.pools
    )
    return replace(first, name=cluster.name, others=tuple(others))


def study_of(setting: Setting, name: str, tpot_s: float, rate_per_s: float) -> Study:
    """Return the question of one line."""
    data: dict[str, Any] = {
        "model": setting.model,
        "cluster": setting.cluster,
        "workload": "chat",
        "slo": {f"tpot_{setting.statistic}_s": tpot_s},
        "space": {"tp": list(setting.tp), "pp": [1], "preset": setting.preset},
    }
    study = make_study(data, f"mix-{name}", __file__)
    return replace(study, cluster=priced(study.cluster, setting.usd_per_h), workload=traffic(name, rate_per_s))


def _fleet(fleet: Fleet | None) -> str:
    return "+".join(f"{n} {name.split('-')[0]}" for name, n in fleet.devices.items()) if fleet else "none"


def line(found: CheapestMix, study: Study) -> str:
    """Return what is printed of one case after its name."""
    best, single = found.best, found.best_single
    over = {name: found.saving_frac(name) for name in found.singles}
    savings = " ".join(f"{s:6.0%}" if s is not None else "  none" for s in over.values())
    least = f"{1 - best.usd_per_h / single.usd_per_h:6.0%}" if single else "  none"
    singles = " ".join(f"{fleet.usd_per_h:8.2f}" if fleet else "    none" for fleet in found.singles.values())
    engines = set.intersection(*(set(engines_of(study.model, shape)) for shape, _ in best.plan.instances))
    return (
        f"{_fleet(best):34} {best.usd_per_h:8.2f} {singles}  {least} | {savings} | {found.bound_usd_per_h:8.2f} "
        f"{found.gap_frac:6.1%} {','.join(sorted(engines))}"
    )


def run(name: str) -> None:
    """Print the lines of one setting."""
    setting, start_s = SETTINGS[name], time.process_time()
    pools = [pool.device.name.split("-")[0] for pool in study_of(setting, "chat", 0.12, 1.0).cluster.pools]
    print(
        f"\n{name}: {Path(setting.model).stem}, {setting.preset}, tpot_{setting.statistic}_s, usd/h of each type alone"
    )
    print(
        f"{'traffic':9} {'limit':>5} {'rate':>4} {'mix':34} {'usd/h':>8} {' '.join(f'{p:>8}' for p in pools)}  "
        f"{'best':>6} | {' '.join(f'{p:>6}' for p in pools)} | {'bound':>8} {'gap':>6} engines"
    )
    for kind in ("chat", "documents", "mixed"):
        for tpot_s in (0.12, 0.04):
            for rate_per_s in RATES:
                study = study_of(setting, kind, tpot_s, rate_per_s)
                try:
                    told = line(cheapest_mix(study), study)
                except NoAnswerError as error:
                    told = str(error)
                print(f"{kind:9} {tpot_s * 1e3:5.0f} {rate_per_s:4.0f} {told}", flush=True)
    print(f"CPU time {time.process_time() - start_s:.0f} s")


def main() -> None:
    """Run the settings that are named, or the paper's."""
    for name in sys.argv[1:] or ["paper"]:
        if name not in SETTINGS:
            sys.exit(f"no setting {name!r}: choose from {', '.join(SETTINGS)}")
        run(name)


if __name__ == "__main__":
    main()
