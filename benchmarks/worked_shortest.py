"""How much more load has equal latency if the shortest predicted answer goes first?  The claim of ALISE (2024)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from worked_paging import LENGTHS, LIMIT_S, MOST_TOKENS, PAGED, POOL_TOKENS, SEEDS, a100_40gb, llama_13b, served
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
BRACKETS: Final = {"ShareGPT": (1.0, 20.0), "Alpaca": (20.0, 300.0)}

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

    return highest_rate(keeps, *BRACKETS[dataset])


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
                found = served(server, PAGED, dataset, rates[0], SEEDS[0], duration_s)
                requests = found.requests
                done = float((requests.finish_s <= requests.arrival_s[-1]).sum() / requests.arrival_s[-1])
                p99_s = float(np.quantile(requests.e2e_s, 0.99))
                name = order_name(log_sd)
                rows.append([dataset, duration_s / 60, name, rate, rate / first, done, mean_e2e_s(found), p99_s])
    header = ("lengths", "minutes", "order", "offered, req/s", "over first come", "served meanwhile, req/s")
    print_table((*header, "mean E2E, s", "P99 E2E, s"), rows)


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
        for panel, (dataset, top) in zip(panels, (("ShareGPT", 5.0), ("Alpaca", 90.0)), strict=True):
            rates = np.linspace(top / 3, top, 20)
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
