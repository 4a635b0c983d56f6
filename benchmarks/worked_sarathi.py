"""How much more load keeps a limit on the time between tokens if prompts are cut into chunks?

The claim of Sarathi-Serve (OSDI 2024, section 5.1).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from worked_setting import (
    COLOURS,
    Server,
    draw_lengths,
    figure,
    highest_rate,
    lognormal_sigma,
    make_server,
    poisson,
    print_setting,
    print_table,
)

from apex_sim.model.load import load_model
from apex_sim.record.run import FleetRun
from apex_sim.workload.lengths import Lognormal

#: Median and 90th percentile of prompts and outputs (table 2), and the longest request that the experiments keep.
DATASETS: Final = {
    "openchat_sharegpt4": ((1_730, 5_696), (415, 834), 8_192),
    "arxiv_summarization": ((7_059, 12_985), (208, 371), 16_384),
}
#: P99 time between tokens, and the token budget that goes with it (table 3 and the configurations of fig. 10).
LIMITS: Final = {"strict": (0.1, 512), "relaxed": (0.5, 2_048)}
MEDIAN_DELAY_S: Final = 2.0
N_REQUESTS: Final = 2_048
SEEDS: Final = (0, 1)
PRESETS: Final = ("vllm-0.6", "vllm-1")
SYSTEMS: Final = ("vLLM", "Orca", "Sarathi-Serve")
#: What a reading of fig. 10 gives for Sarathi-Serve over the other two under the strict limit (docs/worked/sarathi.md).
PUBLISHED: Final = {
    ("openchat_sharegpt4", "strict", "vLLM"): 2.15,
    ("openchat_sharegpt4", "strict", "Orca"): 2.78,
    ("arxiv_summarization", "strict", "vLLM"): 1.97,
    ("arxiv_summarization", "strict", "Orca"): 1.82,
}


def server_of(system: str, preset: str, dataset: str, budget_tokens: int) -> Server:
    """Return the server of `system` with the batch sizes of the paper's configurations."""
    longest = DATASETS[dataset][2]
    rules: dict[str, Any] = {
        "vLLM": {"policy": "prefill-first", "max_num_seqs": 128},
        "Orca": {"policy": "orca", "max_num_seqs": 16},
        "Sarathi-Serve": {"policy": "sarathi", "max_num_seqs": 128, "max_num_batched_tokens": budget_tokens},
    }[system]
    return make_server(load_model("mistral-7b"), "1xa100-sxm-80gb", preset, longest, **rules)


def served(server: Server, dataset: str, rate_per_s: float, seed: int, n: int = N_REQUESTS) -> FleetRun:
    """Serve `n` Poisson arrivals; return the run."""
    *quantiles, longest = DATASETS[dataset]
    sigmas = [(each, lognormal_sigma(*each)) for each in quantiles]
    prompts, outputs = (Lognormal(q[0] * np.exp(s**2 / 2), s, 4, longest - 4) for q, s in sigmas)
    return server.serve(poisson(draw_lengths(prompts, outputs, n, seed, longest), rate_per_s, seed))


def limits_of(run: FleetRun) -> tuple[float, float]:
    """Return the P99 time between tokens and the median delay before the first step."""
    requests = run.requests
    return run.gaps.quantile_s(0.99), float(np.median(requests.scheduled_s - requests.arrival_s))


def capacity_per_s(server: Server, dataset: str, limit_s: float, seed: int) -> float:
    """Return the highest rate that keeps both limits."""

    def keeps(rate_per_s: float) -> bool:
        gap_s, delay_s = limits_of(served(server, dataset, rate_per_s, seed))
        return gap_s <= limit_s and delay_s <= MEDIAN_DELAY_S

    return highest_rate(keeps, 0.05)


def run() -> None:
    """Print the page's tables and draw its figure."""
    rows: list[list[object]] = []
    for preset in PRESETS:
        systems = SYSTEMS if preset == "vllm-0.6" else SYSTEMS[1:]  # vLLM's v1 engine has no prefill-first policy
        first = server_of("Sarathi-Serve", preset, "openchat_sharegpt4", 512)
        print_setting(first, f"seeds {SEEDS}, {N_REQUESTS} Poisson arrivals, median delay at most {MEDIAN_DELAY_S} s")
        for dataset in DATASETS:
            for name, (limit_s, budget_tokens) in LIMITS.items():
                servers = [server_of(system, preset, dataset, budget_tokens) for system in systems]
                found = [[capacity_per_s(server, dataset, limit_s, seed) for seed in SEEDS] for server in servers]
                for system, each in zip(systems, found, strict=True):
                    ratio = float(np.mean(found[-1]) / np.mean(each))
                    both = " to ".join(f"{rate:.2f}" for rate in sorted(each))
                    rows.append(
                        [preset, dataset, name, system, both, ratio, PUBLISHED.get((dataset, name, system), "")]
                    )
    print_table(
        ("preset", "lengths", "limit", "system", "capacity, req/s", "Sarathi-Serve over this", "published"), rows
    )
    _draw()


def _draw() -> None:
    drawn = (
        ("vLLM", 0, "prefill-first"),
        ("Orca", 0, "Orca, batch of 16"),
        ("Sarathi-Serve", 512, "Sarathi, 512 tokens"),
        ("Sarathi-Serve", 2_048, "Sarathi, 2,048 tokens"),
    )
    with figure("sarathi", 2) as panels:
        for panel, (dataset, top) in zip(
            panels, (("openchat_sharegpt4", 2.4), ("arxiv_summarization", 1.2)), strict=True
        ):
            rates = np.linspace(top / 24, top, 24)
            for colour, (system, budget_tokens, label) in zip(COLOURS, drawn, strict=False):
                server = server_of(system, PRESETS[0], dataset, budget_tokens)
                found = [limits_of(served(server, dataset, rate, 0)) for rate in rates]
                kept = [gap_s if delay_s <= MEDIAN_DELAY_S else np.nan for gap_s, delay_s in found]
                panel.plot(rates, kept, color=colour, label=label)
            for limit_s, _ in LIMITS.values():
                panel.axhline(limit_s, color="#999999", linewidth=0.8, linestyle=":")
            panel.set(xlabel="requests per second", ylabel="P99 time between tokens, s", yscale="log", title=dataset)
