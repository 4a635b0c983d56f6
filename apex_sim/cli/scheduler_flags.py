"""Which flags set what an instance's scheduler does?"""

from __future__ import annotations

from typing import Final

import click

from apex_sim.cli import completion
from apex_sim.cli.values import PositiveNumber, Shares

QUEUE_ORDERS: Final = (
    *("fcfs", "priority", "shortest-predicted-first"),
    *("multi-level-feedback", "least-attained-service", "fair-share"),
)

_COUNT: Final = click.IntRange(min=1)

SCHEDULER_FLAGS: Final = (
    click.option(
        "--policy",
        "scheduler__policy",
        metavar="NAME",
        shell_complete=completion.complete_policy,
        help="Batching: prefill-first, chunked, unified, or of research: sarathi, splitfuse, orca, static.",
    ),
    click.option(
        "--queue-order",
        "scheduler__queue_order",
        type=click.Choice(QUEUE_ORDERS),
        metavar="NAME",
        help=f"Who goes first: {', '.join(QUEUE_ORDERS)}.",
    ),
    click.option(
        "--prediction-log-sd",
        "scheduler__prediction_log_sd",
        type=click.FloatRange(min=0),
        metavar="SPREAD",
        help="Error of predicted output lengths; 0 is an exact predictor.",
    ),
    click.option(
        "--max-num-waiting",
        "scheduler__max_num_waiting",
        type=_COUNT,
        metavar="N",
        help="Refuse requests while so many wait.",
    ),
    click.option(
        "--preemption",
        "scheduler__preemption",
        type=click.Choice(("recompute", "swap")),
        help="What happens to sequences that lose their KV blocks.",
    ),
    click.option(
        "--swap-bytes",
        "scheduler__swap_bytes",
        type=click.FloatRange(min=0),
        metavar="BYTES",
        help="Host memory of each device for swapped KV.",
    ),
    click.option(
        "--expert-imbalance",
        "scheduler__expert_imbalance",
        type=click.FloatRange(min=0),
        metavar="SPREAD",
        help="Of the fullest expert rank from step to step; 1 is that of random routing.",
    ),
    click.option("--max-num-seqs", "scheduler__max_num_seqs", type=_COUNT, metavar="N", help="Sequences in a batch."),
    click.option(
        "--max-num-batched-tokens",
        "scheduler__max_num_batched_tokens",
        type=_COUNT,
        metavar="N",
        help="Tokens in a batch.",
    ),
    click.option(
        "--max-model-len",
        "scheduler__max_model_len",
        type=_COUNT,
        metavar="TOKENS",
        help="Longest request; else the workload's.",
    ),
    click.option(
        "--block-size", "scheduler__block_size_tokens", type=_COUNT, metavar="TOKENS", help="Tokens in a KV block."
    ),
    click.option(
        "--gpu-memory-utilization",
        "scheduler__gpu_memory_utilization_frac",
        type=PositiveNumber(most=1),
        metavar="FRAC",
        help="Share of the memory that the engine takes.",
    ),
    click.option(
        "--cuda-graphs/--no-cuda-graphs", "scheduler__cuda_graphs", default=None, help="Whether steps run in graphs."
    ),
    click.option(
        "--async-scheduling/--no-async-scheduling",
        "scheduler__async_scheduling",
        default=None,
        help="Whether scheduling overlaps with the device.",
    ),
    click.option(
        "--prefix-cache/--no-prefix-cache",
        "scheduler__prefix_cache",
        default=None,
        help="Whether prompts share what is cached of them.",
    ),
    click.option(
        "--draft",
        "scheduler__draft",
        metavar="NAME",
        shell_complete=completion.complete_model,
        help="Speculate: mtp, or a draft model.",
    ),
    click.option("--n-draft-tokens", "scheduler__n_draft_tokens", type=int, metavar="N", help="Proposed in a step."),
    click.option(
        "--acceptance",
        "scheduler__acceptance_frac",
        type=Shares(),
        metavar="FRAC,...",
        help="Assumed: how often each is kept, given those before it were.",
    ),
)
