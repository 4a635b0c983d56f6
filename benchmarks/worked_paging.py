"""How much more load does paged KV memory take than reserved memory?  The claim of vLLM (SOSP 2023, fig. 12 and 13)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from worked_setting import (
    COLOURS,
    Server,
    draw_lengths,
    figure,
    highest_rate,
    make_server,
    mean_running,
    normalised_latency_s,
    poisson,
    print_setting,
    print_table,
)

from apex_sim.hardware.cluster import Cluster, load_cluster
from apex_sim.model.huggingface import model_from_config
from apex_sim.model.model import Model
from apex_sim.record.run import FleetRun
from apex_sim.workload.column import IntArray
from apex_sim.workload.lengths import Lognormal
from apex_sim.workload.workload import Workload

MOST_TOKENS: Final = 2_048
#: What table 1 of the paper leaves for KV of OPT-13B on one A100 of 40 GB, in tokens.
POOL_TOKENS: Final = 15_700
#: Shapes of LLaMA-13B, which the paper serves too (section 6.1): OPT-13B has as many layers and the same attention.
LLAMA_13B: Final = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "vocab_size": 32000,
    "max_position_embeddings": MOST_TOKENS,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
}
#: Mean lengths of fig. 11; the spread is assumed (see docs/worked/paging.md).
LENGTHS: Final = {"ShareGPT": (161.0, 338.0), "Alpaca": (19.3, 58.5)}
SPREADS: Final = {"ShareGPT": (1.08, 1.0), "Alpaca": (0.5, 1.0)}
HOUR_S: Final = 3_600.0
SEEDS: Final = (0, 1)
LIMIT_S: Final = 0.2
MAX, POW2, ORACLE, POW2_BUDDY, ORACLE_BUDDY, PAGED = SYSTEMS = (
    "reserved, 2,048 tokens",
    "reserved, power of two",
    "reserved, true length",
    "reserved, power of two, buddy areas",
    "reserved, true length, buddy areas",
    "paged",
)
#: Requests per second from which on a capacity is looked for.
LOWEST: Final = {"ShareGPT": 0.3, "Alpaca": 2.0}
#: Rate at which fig. 13 counts batched requests, and its bars; Orca's allocator there is a buddy allocator.
BATCHES: Final[dict[str, tuple[float, dict[str, float]]]] = {
    "ShareGPT": (2.0, {MAX: 7.00, POW2_BUDDY: 9.81, ORACLE_BUDDY: 13.62, PAGED: 30.42}),
    "Alpaca": (30.0, {MAX: 7.00, POW2_BUDDY: 43.24, ORACLE_BUDDY: 72.75, PAGED: 132.44}),
}


def llama_13b() -> Model:
    """Return LLaMA-13B."""
    return model_from_config(LLAMA_13B, "llama-13b", "LLaMA, arXiv:2302.13971, table 2")


def a100_40gb() -> Cluster:
    """Return one A100 of 40 GB: the 80 GB module's kernels with the smaller memory's size and bandwidth."""
    cluster = load_cluster("1xa100-sxm-80gb")
    device = replace(
        cluster.device, title="NVIDIA A100 SXM4 40GB", memory_bytes=42_505_273_344, memory_bytes_per_s=1.555e12
    )
    return replace(cluster, device=device)


def reserved_tokens(system: str, lengths: tuple[IntArray, IntArray]) -> IntArray | None:
    """Return the output tokens for which each request reserves memory; None for the most that the model takes.

    A buddy allocator hands out areas of 2^k tokens for prompt and output together.
    """
    if system in (MAX, PAGED):
        return None
    prompts, outputs = lengths
    reserved = _power_of_two(outputs) if system in (POW2, POW2_BUDDY) else outputs
    if system in (POW2_BUDDY, ORACLE_BUDDY):
        reserved = _power_of_two(prompts + reserved) - prompts
    return np.asarray(np.minimum(reserved, MOST_TOKENS - prompts), dtype=np.int64)


def _power_of_two(tokens: IntArray) -> IntArray:
    return np.asarray(2 ** np.ceil(np.log2(tokens)), dtype=np.int64)


def server_of(system: str, preset: str = "vllm-1") -> Server:
    """Return the server of `system`: Orca's batching with reservation, or the preset's with paging."""
    rules = {"max_num_seqs": 256, "max_num_batched_tokens": MOST_TOKENS + 256}
    if system != PAGED:
        rules["policy"] = "orca"
    elif preset == "vllm-1":
        rules |= {"policy": "unified", "async_scheduling": False}
    return make_server(llama_13b(), a100_40gb(), preset, MOST_TOKENS, kv_tokens=POOL_TOKENS, **rules)


def traffic(system: str, dataset: str, rate_per_s: float, seed: int, duration_s: float = HOUR_S) -> Workload:
    """Return so many seconds of Poisson arrivals with what `system` reserves for each."""
    n = max(20, round(rate_per_s * duration_s))
    shapes = [Lognormal(m, s, 4, 1_024) for m, s in zip(LENGTHS[dataset], SPREADS[dataset], strict=True)]
    lengths = draw_lengths(shapes[0], shapes[1], n, seed, MOST_TOKENS)
    return poisson(lengths, rate_per_s, seed, reserved_tokens(system, lengths))


def served(
    server: Server, system: str, dataset: str, rate_per_s: float, seed: int, duration_s: float = HOUR_S
) -> FleetRun:
    """Serve so many seconds of Poisson arrivals; return the run."""
    return server.serve(traffic(system, dataset, rate_per_s, seed, duration_s))


def capacity_per_s(server: Server, system: str, dataset: str, seed: int, limit_s: float = LIMIT_S) -> float:
    """Return the highest rate at which the mean normalised latency of an hour stays within the limit."""

    def keeps(rate_per_s: float) -> bool:
        return normalised_latency_s(served(server, system, dataset, rate_per_s, seed)) <= limit_s

    return highest_rate(keeps, LOWEST[dataset])


def mean_capacity_per_s(server: Server, system: str, dataset: str, limit_s: float = LIMIT_S) -> float:
    """Return the mean over the seeds."""
    return float(np.mean([capacity_per_s(server, system, dataset, seed, limit_s) for seed in SEEDS]))


def run() -> None:
    """Print the page's tables and draw its figure."""
    servers = {(preset, system): server_of(system, preset) for preset in ("vllm-1", "vllm-0.6") for system in SYSTEMS}
    words = f"seeds {SEEDS}, one hour of Poisson arrivals, most {MOST_TOKENS} tokens, limit {LIMIT_S} s per token"
    for preset in ("vllm-1", "vllm-0.6"):
        print_setting(servers[preset, PAGED], words)
    rows: list[list[object]] = []
    for preset in ("vllm-1", "vllm-0.6"):
        for dataset, (rate_per_s, published) in BATCHES.items():
            found = [mean_capacity_per_s(servers[preset, system], system, dataset) for system in SYSTEMS]
            for system, capacity in zip(SYSTEMS, found, strict=True):
                ours = mean_running(served(servers[preset, system], system, dataset, rate_per_s, 0))
                batch = published.get(system, "")
                rows.append([preset, dataset, system, capacity, found[-1] / capacity, ours, batch])
    print_table(("preset", "lengths", "memory", "capacity, req/s", "paged over this", "batch", "batch, fig. 13"), rows)
    _print_doubts(servers)
    _draw(servers)


def _print_doubts(servers: dict[tuple[str, str], Server]) -> None:
    """Print how the ratios on ShareGPT lengths move with what was assumed: the limit and the spread of the outputs."""
    rows = []
    compared = (MAX, ORACLE, ORACLE_BUDDY, PAGED)
    own = SPREADS["ShareGPT"]
    for limit_s, sigma in ((LIMIT_S, own[1]), (0.1, own[1]), (0.5, own[1]), (LIMIT_S, 0.7), (LIMIT_S, 1.3)):
        SPREADS["ShareGPT"] = (own[0], sigma)
        found = [mean_capacity_per_s(servers["vllm-1", system], system, "ShareGPT", limit_s) for system in compared]
        rows.append([limit_s, sigma, *(found[-1] / capacity for capacity in found[:-1])])
    SPREADS["ShareGPT"] = own
    print_table(("limit, s per token", "sigma of outputs", *(f"paged over {system}" for system in compared[:-1])), rows)


def _draw(servers: dict[tuple[str, str], Server]) -> None:
    with figure("paging", 2) as panels:
        for panel, (dataset, top) in zip(panels, (("ShareGPT", 4.0), ("Alpaca", 60.0)), strict=True):
            for colour, system in zip(COLOURS, SYSTEMS, strict=False):
                rates = np.linspace(top / 30, top, 30)
                server = servers["vllm-1", system]
                latency = [normalised_latency_s(served(server, system, dataset, rate, 0)) for rate in rates]
                panel.plot(rates, latency, color=colour, label=system)
            panel.set(
                xlabel="requests per second", ylabel="s per output token", ylim=(0, 0.5), title=f"{dataset} lengths"
            )
            panel.axhline(LIMIT_S, color="#999999", linewidth=0.8, linestyle=":")
