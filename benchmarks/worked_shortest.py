"""How much more load has equal latency if the shortest predicted answer goes first?  The claim of ALISE (2024)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from worked_paging import (
    LENGTHS,
    LIMIT_S,
    MOST_TOKENS,
    PAGED,
    POOL_TOKENS,
    SEEDS,
    a100_40gb,
    llama_13b,
    served,
    traffic,
)
from worked_setting import (
    COLOURS,
    Server,
    figure,
    highest_rate,
    make_server,
    normalised_latency_s,
    print_setting,
    print_table,
)

from apex_sim.record.run import FleetRun

#: Spread of prediction over truth, as a standard deviation of the logarithm; None is first come, first served.
ORDERS: Final = (None, 0.0, 0.3, 0.7, 1.5)
DURATIONS_S: Final = (600.0, 3_600.0)
LOWEST: Final = {"ShareGPT": 1.5, "Alpaca": 30.0}

Latency = Callable[[FleetRun], float]


def order_name(log_sd: float | None) -> str:
    """Return how tables call an order."""
    return "first come, first served" if log_sd is None else f"shortest predicted, log sd {log_sd}"


def server_of(log_sd: float | None) -> Server:
    """Return the paged server of the first page under another order of its queue."""
    rules: dict[str, Any] = {"queue_order": "fcfs"}
    if log_sd is not None:
        rules = {"queue_order": "shortest-predicted-first", "prediction_log_sd": log_sd}
    return make_server(
        llama_13b(),
        a100_40gb(),
        "vllm-1",
        MOST_TOKENS,
        kv_tokens=POOL_TOKENS,
        policy="unified",
        async_scheduling=False,
        max_num_seqs=256,
        max_num_batched_tokens=MOST_TOKENS + 256,
        **rules,
    )


def mean_e2e_s(run: FleetRun) -> float:
    """Return the mean time from arrival to last token."""
    return float(run.requests.e2e_s.mean())


def rate_at(server: Server, dataset: str, duration_s: float, latency: Latency, limit_s: float, seed: int) -> float:
    """Return the highest rate at which `latency` stays within its limit over so many seconds of arrivals."""

    def keeps(rate_per_s: float) -> bool:
        return latency(served(server, PAGED, dataset, rate_per_s, seed, duration_s)) <= limit_s

    return highest_rate(keeps, LOWEST[dataset])


def run() -> None:
    """Print the page's tables and draw its figure."""
    servers = {log_sd: server_of(log_sd) for log_sd in ORDERS}
    words = f"seeds {SEEDS}, Poisson arrivals over 10 minutes or an hour, limit {LIMIT_S} s per token"
    print_setting(servers[None], words)
    _print_rates(servers)
    _print_doubts(servers)
    _draw(servers)


def _print_rates(servers: dict[float | None, Server]) -> None:
    rows: list[list[object]] = []
    for dataset in LENGTHS:
        for duration_s in DURATIONS_S:
            first = 0.0
            for log_sd, server in servers.items():
                rates = [rate_at(server, dataset, duration_s, normalised_latency_s, LIMIT_S, seed) for seed in SEEDS]
                rate = float(np.mean(rates))
                first = first or rate
                load = traffic(PAGED, dataset, rates[0], SEEDS[0], duration_s)
                found = server.serve(load)
                requests = found.requests
                end_s = requests.arrival_s[-1]
                done = requests.finish_s <= end_s
                tokens_per_s = f"{requests.output_tokens[done].sum() / end_s:.0f}"
                p99_s = float(np.quantile(requests.e2e_s, 0.99))
                name = order_name(log_sd)
                steady = {True: "yes", False: "no", None: "too short to tell"}[server.is_steady(found, load)]
                waits = (f"{mean_e2e_s(found):.0f}", f"{p99_s:.0f}")
                rows.append([dataset, f"{duration_s / 60:.0f}", name, rate, rate / first, tokens_per_s, *waits, steady])
    header = ("lengths", "minutes", "order", "offered, req/s", "over first come", "tokens/s of ended ones")
    print_table((*header, "mean E2E, s", "P99 E2E, s", "steady"), rows)


def _print_doubts(servers: dict[float | None, Server]) -> None:
    """Print what the gain of an exact order becomes under other limits, and under a limit on the mean time itself."""
    rows = []
    for dataset, (_, mean_output) in LENGTHS.items():
        limits: tuple[tuple[str, Latency, float], ...] = (
            ("normalised latency", normalised_latency_s, 0.1),
            ("normalised latency", normalised_latency_s, 0.5),
            ("mean E2E", mean_e2e_s, LIMIT_S * mean_output),
        )
        for name, latency, limit_s in limits:
            pair = [rate_at(servers[sd], dataset, DURATIONS_S[1], latency, limit_s, SEEDS[0]) for sd in (None, 0.0)]
            rows.append([dataset, name, limit_s, *pair, pair[1] / pair[0]])
    print_table(("lengths", "equal in", "limit, s", "first come, req/s", "exact shortest first, req/s", "ratio"), rows)


def _draw(servers: dict[float | None, Server]) -> None:
    with figure("shortest", 2) as panels:
        for panel, (dataset, top) in zip(panels, (("ShareGPT", 4.5), ("Alpaca", 75.0)), strict=True):
            rates = np.linspace(top / 3, top, 13)
            for colour, (log_sd, server) in zip(COLOURS, servers.items(), strict=False):
                for style, duration_s in zip(("-", ":"), DURATIONS_S, strict=True):
                    runs = [served(server, PAGED, dataset, rate, SEEDS[0], duration_s) for rate in rates]
                    label = order_name(log_sd) if style == "-" else None
                    panel.plot(
                        rates, [normalised_latency_s(each) for each in runs], color=colour, linestyle=style, label=label
                    )
            panel.axhline(LIMIT_S, color="#999999", linewidth=0.8)
            panel.set(xlabel="requests per second", ylabel="s per output token", ylim=(0, 0.5))
            panel.set_title(f"{dataset} lengths (dotted: one hour)")
