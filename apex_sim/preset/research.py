"""Which batching policies belong to no engine that has a preset?

Published schedulers and older servers.  They run on the figures of whatever preset the study names, so that a
comparison changes the rules and nothing else; results say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class ResearchPolicy:
    """Where a policy was published, and the token budget of its steps there.

    Without a budget (None) prompts run whole, and a step has room for the longest of them beside all decodes.
    `reserves` says that admission takes memory for the longest answer, `joins` that requests join those that run.
    """

    budget_tokens: int | None
    source: str
    reserves: bool = False
    joins: bool = True


RESEARCH_POLICIES: Final = {
    "sarathi": ResearchPolicy(
        512,
        "Agrawal et al., Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve, OSDI 2024; "
        "https://github.com/microsoft/sarathi-serve sarathi/core/scheduler/sarathi_scheduler.py",
    ),
    "splitfuse": ResearchPolicy(
        768,
        "Holmes et al., DeepSpeed-FastGen, https://arxiv.org/abs/2401.08671 ; "
        "https://github.com/microsoft/DeepSpeed-MII mii/batching/ragged_batching.py",
    ),
    "orca": ResearchPolicy(
        None,
        "Yu et al., Orca: A Distributed Serving System for Transformer-Based Generative Models, OSDI 2022, Algorithm 1",
        reserves=True,
    ),
    "static": ResearchPolicy(
        None,
        "FasterTransformer as https://github.com/microsoft/vidur models it, "
        "vidur/scheduler/replica_scheduler/faster_transformer_replica_scheduler.py",
        reserves=True,
        joins=False,
    ),
}

#: Those that run prompts whole.
WHOLE_PROMPTS: Final = frozenset(name for name, policy in RESEARCH_POLICIES.items() if policy.budget_tokens is None)
