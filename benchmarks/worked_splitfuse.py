"""How many more requests keep a promise of speed if prompts are cut and fused?

The claim of DeepSpeed-FastGen (arXiv 2401.08671, section 4).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from worked_setting import (
    COLOURS,
    Server,
    closed_loop,
    figure,
    make_server,
    print_setting,
    print_table,
)

from apex_sim.fleet.fleet import Fleet
from apex_sim.model.load import load_model
from apex_sim.workload.column import IntArray

#: Mean prompt and output of fig. 4 and 6, and of fig. 5; normal, with a standard deviation of 30 % of the mean.
LENGTHS: Final = ((2_600, 60), (2_600, 128))
SPREAD: Final = 0.3
CLIENTS: Final = (1, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32)
N_REQUESTS: Final = 512
SEEDS: Final = (0, 1)
PROMPT_TOKENS_PER_S: Final = 512.0
OUTPUT_TOKENS_PER_S: Final = (2.0, 4.0, 6.0)
#: Span of the moving average, in tokens, of the script that drew fig. 4.
SPAN: Final = 16
MAX_MODEL_LEN: Final = 4_096
SYSTEMS: Final = {"vLLM": "prefill-first", "FastGen": "splitfuse"}


class TokenTimes(Fleet):
    """A fleet of the reference engine that keeps when each token left."""

    def __init__(self, server: Server, *arguments: Any) -> None:
        super().__init__(server.plan, *arguments, server.compiled)
        self.times_s: list[list[float]] = [[] for _ in self._outputs]

    def token(self, request: int, now_s: float) -> bool:
        """Take note of a token's time."""
        self.times_s[request].append(now_s)
        return super().token(request, now_s)


def server_of(system: str) -> Server:
    """Return Llama-2-70B on four A100s under the rules of `system`."""
    return make_server(
        load_model("llama-2-70b"), "4xa100-sxm-80gb", "vllm-0.6", MAX_MODEL_LEN, tp=4, policy=SYSTEMS[system]
    )


def lengths_of(means: tuple[int, int], n: int, seed: int) -> tuple[IntArray, IntArray]:
    """Return normal lengths, at least one token each; a prompt gives way where the two pass the model's length."""
    streams = np.random.default_rng(seed).spawn(2)
    drawn = (stream.normal(mean, SPREAD * mean, n) for stream, mean in zip(streams, means, strict=True))
    prompts, outputs = (np.maximum(np.rint(each), 1).astype(np.int64) for each in drawn)
    return np.minimum(prompts, MAX_MODEL_LEN - outputs), outputs


def moving_average(gaps_s: list[float], span: int = SPAN) -> list[float]:
    """Return the exponential moving average of `gaps_s` so far, with weights that add up to one from the start.

    The weight of a gap falls by (span - 1) / (span + 1) with each later one.

    Examples
    --------
    >>> moving_average([1.0, 1.0, 1.0], 3)
    [1.0, 1.0, 1.0]
    >>> moving_average([0.0, 3.0], 3)
    [0.0, 2.0]
    """
    keep, total_s, weight, averages = (span - 1) / (span + 1), 0.0, 0.0, []
    for gap_s in gaps_s:
        total_s, weight = keep * total_s + gap_s, keep * weight + 1.0
        averages.append(total_s / weight)
    return averages


def slowest_average_s(gaps_s: list[float]) -> float:
    """Return the largest mean of a request's gaps from its first token on: the other promise that the script draws."""
    sums = np.cumsum(gaps_s) / np.arange(1, len(gaps_s) + 1)
    return float(sums.max(initial=0.0))


class Loop:
    """A closed loop of so many clients: throughput, latency, and who kept the promise."""

    def __init__(self, server: Server, means: tuple[int, int], n_clients: int, seed: int, n: int = N_REQUESTS) -> None:
        workload = closed_loop(lengths_of(means, n, seed), n_clients, seed)
        fleet = TokenTimes(server, workload)
        fleet.run(None)
        run = fleet.result(server.cost)
        self.requests_per_s = n / run.makespan_s
        self.mean_e2e_s = float(run.requests.e2e_s.mean())
        self.p95_gap_s = run.gaps.quantile_s(0.95)
        self._prompt_kept = run.requests.ttft_s <= workload.requests.prompt_tokens / PROMPT_TOKENS_PER_S
        gaps_s = [np.diff(times).tolist() for times in fleet.times_s]
        self._slowest_s = np.array([max(moving_average(each), default=0.0) for each in gaps_s])
        self._average_s = np.array([slowest_average_s(each) for each in gaps_s])

    def effective_per_s(self, tokens_per_s: float, by_average: bool = False) -> float:
        """Return the requests per second that kept the promise of so many tokens per second."""
        slowest_s = self._average_s if by_average else self._slowest_s
        return self.requests_per_s * float((self._prompt_kept & (slowest_s < 1 / tokens_per_s)).mean())


#: What section 4.C gives for vLLM and FastGen at 4 tokens/s and fig. 4's lengths, in requests per second.
PUBLISHED: Final = {(2_600, 60): ("0.63", "1.42", "2.3")}


def run() -> None:
    """Print the page's tables and draw its figure."""
    servers = {system: server_of(system) for system in SYSTEMS}
    for system, server in servers.items():
        budget = server.shape.scheduler.max_num_batched_tokens
        words = f"seeds {SEEDS}, {N_REQUESTS} requests, closed loops of {CLIENTS[0]} to {CLIENTS[-1]} clients"
        print_setting(server, f"{words}, policy {SYSTEMS[system]} with {budget} tokens a step")
    loops = {
        (system, means, n_clients): [Loop(server, means, n_clients, seed) for seed in SEEDS]
        for system, server in servers.items()
        for means in LENGTHS
        for n_clients in CLIENTS
    }

    def peak(system: str, means: tuple[int, int], rate: float, by_average: bool) -> tuple[float, int]:
        curve = [
            (float(np.mean([each.effective_per_s(rate, by_average) for each in loops[system, means, n]])), n)
            for n in CLIENTS
        ]
        return max(curve)

    rows: list[list[object]] = []
    for means in LENGTHS:
        for rate in OUTPUT_TOKENS_PER_S:
            for by_average in (False, True):
                (old, n_old), (new, n_new) = (peak(system, means, rate, by_average) for system in SYSTEMS)
                told = PUBLISHED.get(means, ("", "", "")) if rate == 4.0 and not by_average else ("", "", "")
                kind = "mean so far" if by_average else f"EMA over {SPAN}"
                rows.append([means, rate, kind, f"{old:.2f} ({n_old})", f"{new:.2f} ({n_new})", new / old, *told])
    header = ("lengths", "tokens/s", "measured by", "vLLM, req/s (clients)", "FastGen, req/s (clients)", "ratio")
    print_table((*header, "vLLM published", "FastGen published", "ratio published"), rows)
    rows = []
    for means in LENGTHS:
        for n_clients in (1, 8, 16, 32):
            pair = [loops[system, means, n_clients] for system in SYSTEMS]
            for name in ("requests_per_s", "mean_e2e_s", "p95_gap_s"):
                old, new = (float(np.mean([getattr(each, name) for each in found])) for found in pair)
                rows.append([means, n_clients, name, old, new, new / old])
    print_table(("lengths", "clients", "metric", "vLLM", "FastGen", "ratio"), rows)
    with figure("splitfuse", 2) as panels:
        for panel, means in zip(panels, LENGTHS, strict=True):
            for colour, system in zip(COLOURS, SYSTEMS, strict=False):
                curves = {
                    "served": [loops[system, means, n][0].requests_per_s for n in CLIENTS],
                    "served at 4 tokens/s": [loops[system, means, n][0].effective_per_s(4.0) for n in CLIENTS],
                }
                for style, (name, curve) in zip((":", "-"), curves.items(), strict=True):
                    panel.plot(CLIENTS, curve, color=colour, linestyle=style, label=f"{SYSTEMS[system]}, {name}")
            panel.set(xlabel="clients", ylabel="requests per second", ylim=(0, None))
            panel.set_title(f"prompts {means[0]:,}, outputs {means[1]}")
