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
    """

    budget_tokens: int | None
    source: str


RESEARCH_POLICIES: Final = {
    "sarathi": ResearchPolicy(
        512,
        "Agrawal et al., Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve, OSDI 2024; "
        "https://github.com/microsoft/sarathi-serve sarathi/core/scheduler/sarathi_scheduler.py",
    ),
}
