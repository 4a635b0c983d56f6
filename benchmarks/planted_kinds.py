"""What do random studies look like whose best plan lies off the beaten track in one dimension?

Each kind draws a study by its own generator: a model, a cluster, a space that lists the dimension in question beside
others, an objective and a load under which that dimension should decide.  Whether it did is found out by simulating
every plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np

from apex_sim.plan.plan import Plan

Value = TypeVar("Value")
Choices = Mapping[str, Any]

_NODES_OF_8: Final = ("8xh100-sxm", "8xh200-sxm", "8xl40s", "8xa100-sxm-80gb")
_DRAFTS: Final = (
    ("llama-3.1-8b", "llama-3.2-1b", [1, 4]),
    ("llama-3.1-70b", "llama-3.2-1b", [4, 8]),
    ("glm-4.5-air", "mtp", [4, 8]),
)
_LARGER_THAN_A_NODE: Final = (
    ("qwen3-32b", "4x2xa10"),
    ("qwen2.5-72b", "4x4xl4"),
    ("llama-3.1-70b", "4x4xl4"),
    ("llama-3.1-70b", "4x2xl40s"),
)
_DENSE: Final = ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b", "qwen3-8b", "mistral-7b", "qwen3-14b")


@dataclass(frozen=True, slots=True)
class Recipe:
    """A study before its lengths and its rate are drawn.

    Parameters
    ----------
    is_usual : whether a plan, with what was chosen in each dimension, is where one would look without a planner.
    loads : kinds of load to draw from: steady (Poisson at a share of the capacity), closed or offline.
    sigma : least and largest spread of the lengths' logarithms.
    prompt_tokens, output_tokens : least and largest mean length.
    latency_slo : give the study a limit on the latencies.
    shares_prefixes : prompts begin with a few common texts.
    """

    model: str
    cluster: str
    space: dict[str, Any]
    objective: str
    is_usual: Callable[[Plan, Choices], bool]
    loads: tuple[str, ...] = ("steady",)
    scheduler: dict[str, Any] = field(default_factory=dict)
    sigma: tuple[float, float] = (0.3, 1.2)
    prompt_tokens: tuple[float, float] = (100.0, 2500.0)
    output_tokens: tuple[float, float] = (20.0, 300.0)
    latency_slo: bool = False
    shares_prefixes: bool = False


def pick(rng: np.random.Generator, values: Sequence[Value]) -> Value:
    """Return one of the values."""
    return values[int(rng.integers(len(values)))]


def _cells(rng: np.random.Generator) -> Recipe:
    model = pick(rng, ("deepseek-v3", "qwen3-235b-a22b", "minimax-m2", "mixtral-8x22b"))
    objective, loads = pick(rng, (("tpot", ("steady", "closed")), ("throughput", ("closed", "offline")), ("e2e", ())))
    space = {"cells": True, "pp": [1], "max_num_batched_tokens": [1024, 2048, 8192, 16384]}
    cluster = pick(rng, ("8xb200", "8xh200-sxm"))
    return Recipe(model, cluster, space, objective, _is_usual_cell, loads or ("steady",))


def _is_usual_cell(plan: Plan, choices: Choices) -> bool:
    return choices.get("attention_dp", 1) == choices.get("ep", 1) == choices.get("cp", 1) == 1


def _uneven_stages(rng: np.random.Generator) -> Recipe:
    model = pick(rng, ("llama-3.2-1b", "llama-3.2-3b", "qwen3-8b"))
    objective, loads = pick(rng, (("throughput", ("closed", "offline")), ("ttft", ("steady",)), ("e2e", ("steady",))))
    space = {"tp": [1], "pp": [4, 8], "kv_dtypes": ["bf16", "fp8"], "splits": "ends"}
    space |= {"max_num_batched_tokens": [512, 1024, 2048, 8192]}
    cluster = pick(rng, ("8xh100-sxm", "8xl40s", "8xh200-sxm"))
    return Recipe(
        model, cluster, space, objective, lambda _, choices: choices.get("layers") in (None, "balanced"), loads
    )


def _mixed_fleet(rng: np.random.Generator) -> Recipe:
    cluster = pick(rng, ("2xh100-sxm+4xl40s", "2xh200-sxm+4xl40s", "2xh100-sxm+4xa10", "2xb200+4xh100-sxm"))
    space: dict[str, Any] = {"pp": [1], "allow_idle": bool(rng.integers(2)), "kv_dtypes": ["bf16", "fp8"]}
    space |= {"max_num_seqs": [64, 256], "routers": ["round-robin", "least-outstanding"]}
    if space["allow_idle"]:
        space |= {"kv_dtypes": ["bf16"]}
    objective = pick(rng, ("e2e", "ttft", "cost"))
    model = pick(rng, ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b"))
    return Recipe(model, cluster, space, objective, lambda plan, _: len(plan.instances) == 1)


def _lower_clock(rng: np.random.Generator) -> Recipe:
    clocks = [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    space = {"pp": [1], "clock_frac": clocks, "max_num_seqs": [64, 256], "kv_dtypes": ["bf16", "fp8"]}
    slo = bool(rng.integers(2))
    loads = ("steady",) if slo else ("steady", "closed", "offline")
    return Recipe(
        pick(rng, _DENSE), pick(rng, _NODES_OF_8), space, "energy", _is("clock_frac", 1.0), loads, latency_slo=slo
    )


def _token_budget(rng: np.random.Generator) -> Recipe:
    budgets = [256, 512, 1024, 2048, 4096, 8192, 16384]
    space = {"pp": [1], "max_num_batched_tokens": budgets, "max_num_seqs": [64, 256], "kv_dtypes": ["bf16", "fp8"]}
    objective = pick(rng, ("tpot", "ttft", "itl"))
    return Recipe(
        pick(rng, _DENSE), pick(rng, _NODES_OF_8), space, objective, _is("max_num_batched_tokens", 8192),
        ("steady", "closed"), prompt_tokens=(800.0, 6000.0),
    )  # fmt: skip


def _seats(rng: np.random.Generator) -> Recipe:
    space = {"pp": [1], "max_num_seqs": [2, 4, 8, 16, 32, 64, 128, 256], "kv_dtypes": ["bf16", "fp8"]}
    space |= {"max_num_batched_tokens": [2048, 8192]}
    loads = ("closed", "offline")
    objective = pick(rng, ("tpot", "itl"))
    return Recipe(pick(rng, _DENSE), pick(rng, _NODES_OF_8), space, objective, _is("max_num_seqs", 256), loads)


def _prefix_cache(rng: np.random.Generator) -> Recipe:
    space = {"pp": [1], "prefix_cache": [True, False], "max_num_seqs": [16, 32, 64, 256]}
    space |= {"max_num_batched_tokens": [1024, 2048, 4096, 8192]}
    return Recipe(
        pick(rng, _DENSE), pick(rng, _NODES_OF_8), space, pick(rng, ("ttft", "e2e", "cost")),
        _is("prefix_cache", False), ("steady", "steady", "closed"), prompt_tokens=(800.0, 4000.0), shares_prefixes=True,
    )  # fmt: skip


def _speculation(rng: np.random.Generator) -> Recipe:
    model, draft, tp = pick(rng, _DRAFTS)
    space = {"tp": tp, "pp": [1], "n_draft_tokens": [0, 1, 2, 3, 4, 5, 6], "max_num_seqs": [16, 64, 128, 256]}
    space |= {"kv_dtypes": ["bf16", "fp8"]}
    scheduler = {"draft": draft, "n_draft_tokens": 2, "acceptance_frac": round(float(rng.uniform(0.4, 0.9)), 3)}
    cluster = pick(rng, ("8xh100-sxm", "8xh200-sxm"))
    objective = pick(rng, ("tpot", "e2e", "throughput"))
    loads = ("closed", "offline") if objective == "throughput" else ("steady", "closed")
    return Recipe(model, cluster, space, objective, _is("n_draft_tokens", 0), loads, scheduler)


def _router(rng: np.random.Generator) -> Recipe:
    space = {"tp": [1, 2], "pp": [1, 2, 4], "routers": ["round-robin", "least-outstanding"]}
    space |= {"max_num_seqs": [8, 32, 256], "kv_dtypes": ["bf16", "fp8"], "max_num_batched_tokens": [2048, 8192]}
    return Recipe(
        pick(rng, _DENSE), pick(rng, _NODES_OF_8), space, pick(rng, ("ttft", "e2e", "cost")),
        _is("router", "round-robin"), ("steady", "closed"), sigma=(1.2, 1.8),
    )  # fmt: skip


def _fewer_devices(rng: np.random.Generator) -> Recipe:
    space = {"pp": [1, 2], "allow_idle": True, "max_num_seqs": [8, 16, 64, 256], "kv_dtypes": ["bf16", "fp8"]}
    cluster = pick(rng, _NODES_OF_8)
    objective, slo = pick(rng, ("cost", "energy")), bool(rng.integers(2))
    return Recipe(
        pick(rng, _DENSE), cluster, space, objective, lambda plan, _: plan.n_devices == 8,
        ("steady",) if slo else ("steady", "closed", "offline"), latency_slo=slo,
    )  # fmt: skip


def _precision(rng: np.random.Generator) -> Recipe:
    weights = ["bf16", "fp8", "int8", "w8a16", "w4a16"]
    space = {"pp": [1, 2], "weight_dtypes": weights, "kv_dtypes": ["bf16", "fp8"], "max_num_seqs": [32, 256]}
    objective = pick(rng, ("tpot", "ttft", "throughput", "energy"))
    loads = ("closed", "offline") if objective == "throughput" else ("steady", "closed")
    cluster = pick(rng, ("8xh100-sxm", "8xh200-sxm", "8xl40s"))
    return Recipe(pick(rng, _DENSE), cluster, space, objective, _is_bf16, loads)


def _is_bf16(plan: Plan, choices: Choices) -> bool:
    return choices.get("weights", "bf16") == choices.get("kv", "bf16") == "bf16"


def _several_nodes(rng: np.random.Generator) -> Recipe:
    model, cluster = pick(rng, _LARGER_THAN_A_NODE)
    space = {"pp": [1, 2, 4], "placement": ["packed", "spread"], "kv_dtypes": ["bf16", "fp8"]}
    space |= {"max_num_seqs": [32, 128, 256], "max_num_batched_tokens": [1024, 4096, 8192]}
    objective = pick(rng, ("ttft", "cost", "throughput"))
    loads = ("steady", "closed") if objective == "ttft" else ("closed", "offline")
    return Recipe(model, cluster, space, objective, _is_tp_in_node(int(cluster.split("x")[1])), loads)


def _is_tp_in_node(n_devices_per_node: int) -> Callable[[Plan, Choices], bool]:
    """Tensor parallelism within each node and a pipeline across nodes, as handbooks have it."""
    return lambda plan, choices: plan.instances[0][0].tp == n_devices_per_node and choices.get("pp", 1) > 1


def _is(name: str, value: object) -> Callable[[Plan, Choices], bool]:
    return lambda _, choices: choices.get(name, value) == value


KINDS: Final[dict[str, Callable[[np.random.Generator], Recipe]]] = {
    "cells": _cells,
    "uneven stages": _uneven_stages,
    "mixed fleet": _mixed_fleet,
    "lower clock": _lower_clock,
    "token budget": _token_budget,
    "seats": _seats,
    "prefix cache": _prefix_cache,
    "speculation": _speculation,
    "router": _router,
    "fewer devices": _fewer_devices,
    "precision": _precision,
    "several nodes": _several_nodes,
}
