"""Which flags say what plans a search looks at?"""

from __future__ import annotations

from typing import Final

import click

from apex_sim.cli import completion
from apex_sim.cli.values import Degrees, Names, NumberFormats, ShareList, Switches, flattened

PLAN_FLAGS: Final = (
    click.option(
        "--preset", "space__preset", metavar="NAME", shell_complete=completion.complete_preset, help="Serving engine."
    ),
    click.option(
        "--weight-dtype",
        "space__weight_dtypes",
        type=NumberFormats("weight"),
        metavar="DTYPES",
        multiple=True,
        callback=flattened,
        help="bf16, fp8, fp8-block, int8, w8a16, w4a16, nvfp4, mxfp4; repeatable.",
    ),
    click.option(
        "--kv-dtype",
        "space__kv_dtypes",
        type=NumberFormats("kv"),
        metavar="DTYPES",
        multiple=True,
        callback=flattened,
        help="Such as bf16,fp8; repeatable.",
    ),
    click.option("--tp", "space__tp", type=Degrees(), metavar="N,...", help="Tensor-parallel degrees."),
    click.option("--pp", "space__pp", type=Degrees(), metavar="N,...", help="Pipeline stages."),
    click.option("--dp", "space__dp", type=Degrees(), metavar="N,...", help="Numbers of instances."),
    click.option(
        "--attention-dp", "space__attention_dp", type=Degrees(), metavar="N,...", help="Attention ranks of an instance."
    ),
    click.option(
        "--ep/--no-ep", "space__ep", default=None, help="Whether devices hold whole experts; with attention DP they do."
    ),
    click.option(
        "--layers", "space__layers", type=Degrees(), metavar="N,...", help="Layers of each stage, such as 19,20,20,21."
    ),
    click.option(
        "--router",
        "space__router",
        metavar="NAME",
        shell_complete=completion.complete_router,
        help="round-robin or least-outstanding.",
    ),
    click.option(
        "--engine",
        "space__engine",
        metavar="NAME",
        shell_complete=completion.complete_engine,
        help="Keep plans that vllm, sglang or trtllm can run.",
    ),
    click.option(
        "--cells/--no-cells",
        "space__cells",
        default=None,
        help="Map attention and FFN separately, in every way.",
    ),
    click.option("--cp", "space__cp", type=Degrees(), metavar="N,...", help="Context parallelism of attention."),
    click.option(
        "--splits",
        "space__splits",
        type=click.Choice(("balanced", "ends", "fastest")),
        help="Layers of stages: balanced, or also fewer at both ends, or as an integer program finds fastest.",
    ),
    click.option(
        "--placement",
        "space__placement",
        type=Names(("packed", "spread")),
        metavar="NAMES",
        help="Stages in one node before the next (packed), each in another (spread), or both.",
    ),
    click.option(
        "--clock", "space__clock_frac", type=ShareList(), metavar="FRAC,...", help="Clocks, as shares of the highest."
    ),
    click.option("--policies", "space__policies", type=Names(), metavar="NAMES", help="Batching policies to try."),
    click.option("--max-num-seqs-of", "space__max_num_seqs", type=Degrees(), metavar="N,...", help="Seats to try."),
    click.option(
        "--max-num-batched-tokens-of",
        "space__max_num_batched_tokens",
        type=Degrees(),
        metavar="N,...",
        help="Token budgets of a step to try.",
    ),
    click.option(
        "--prefix-cache-of", "space__prefix_cache", type=Switches(), metavar="on,off", help="Prefix caches to try."
    ),
    click.option(
        "--n-draft-tokens-of",
        "space__n_draft_tokens",
        type=Degrees(least=0),
        metavar="N,...",
        help="Draft tokens to try; 0 is no speculation.",
    ),
    click.option("--routers", "space__routers", type=Names(), metavar="NAMES", help="Routers to try."),
    click.option(
        "--n-shapes",
        "space__n_shapes",
        type=click.IntRange(1, 2),
        metavar="N",
        help="Unequal instances in one fleet: 1 or 2.",
    ),
    click.option(
        "--allow-idle/--no-allow-idle",
        "space__allow_idle",
        default=None,
        help="Whether plans may leave devices unused.",
    ),
)
