"""`apex-sim mix`: which mix of device types serves the traffic at the least price?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from apex_sim.cli import run_flags
from apex_sim.cli.output import print_columns, print_json, print_wrapped
from apex_sim.cli.study_flags import StudyCommand, study_of, with_study_flags

if TYPE_CHECKING:
    from apex_sim.planner.mixed_fleet import CheapestMix, Fleet
    from apex_sim.planner.study import Study

_EPILOG = """\b
Examples:
  apex-sim mix mixed-fleet
  apex-sim mix --model llama-3.1-8b --cluster 4xh100-sxm+16xl40s \\
    --workload chat --rate 16 --slo tpot_mean_s=0.04
"""


@click.command("mix", cls=StudyCommand, epilog=_EPILOG)
@with_study_flags
@click.option(
    "--buckets",
    type=click.IntRange(min=1, max=32),
    default=6,
    show_default=True,
    metavar="N",
    help="Buckets of prompt lengths, in powers of two, that may go to different devices.",
)
@run_flags.JSON
def mix_command(study: str | None, buckets: int, as_json: bool, **flags: Any) -> None:
    """Find the cheapest mix of device types, and what each type alone would cost.

    STUDY and flags as in 'apex-sim search'; the cluster is a park such as 4xh100-sxm+16xl40s, of which any part may be
    used, and the load needs a rate. An integer program proposes counts and a routing by prompt length from what one
    instance of each shape was simulated to sustain on each bucket; proposals are simulated whole until one keeps every
    limit.
    """
    from apex_sim.planner.mixed_fleet import cheapest_mix

    question = study_of(study, flags)
    found = cheapest_mix(question, n_buckets=buckets)
    if as_json:
        print_json(_document(question, found))
    else:
        _print_mix(found)


def _document(study: Study, found: CheapestMix) -> dict[str, Any]:
    from apex_sim.report.document import SCHEMA_VERSION, engines_of_plan, json_safe, study_document

    def fleet(one: Fleet | None) -> dict[str, Any] | None:
        if one is None:
            return None
        return {
            "plan": one.plan.as_dict(),
            "engines": engines_of_plan(study, one.plan),
            "devices": one.devices,
            "usd_per_h": one.usd_per_h,
            "load_frac": one.load_frac,
            "metrics": dict(one.trial.metrics),
            "n_tried": one.n_tried,
        }

    return json_safe(  # type: ignore[no-any-return]
        {
            "schema_version": SCHEMA_VERSION,
            "study": study_document(study),
            "best": fleet(found.best),
            "singles": {device: fleet(one) for device, one in found.singles.items()},
            "saving_frac": {device: found.saving_frac(device) for device in found.singles},
            "buckets": asdict(found.buckets),
            "bound_usd_per_h": found.bound_usd_per_h,
            "gap_frac": found.gap_frac,
        }
    )


def _print_mix(found: CheapestMix) -> None:
    best = found.best
    print_wrapped(f"{best.plan.label}: ${best.usd_per_h:.2f} an hour, simulated whole, keeps every limit.")
    routing = best.plan.routing
    if routing and len(best.plan.instances) > 1:
        edges = [*(f"up to {tokens:,}" for tokens in routing.bucket_tokens), "longer"]
        names = [f"{n} x {shape.label} on {shape.device}" for shape, n in best.plan.instances]
        rows = [
            (edge, *(f"{max(share, 0.0):.0%}" for share in row))
            for edge, row in zip(edges, routing.shares, strict=True)
        ]
        click.echo()
        print_columns(("prompt tokens", *names), rows, right=names)
    click.echo()
    rows = [
        (
            device,
            ", ".join(f"{n} {name}" for name, n in one.devices.items()) if one else "no fleet keeps the limits",
            f"{one.usd_per_h:.2f}" if one else "",
            f"{found.saving_frac(device) or 0.0:.0%}" if one else "",
        )
        for device, one in found.singles.items()
    ]
    print_columns(
        ("one type alone", "devices", "$ an hour", "mix is cheaper by"), rows, right=("$ an hour", "mix is cheaper by")
    )
    click.echo()
    print_wrapped(
        f"If no instance carries more than what it was seen to fail at, bucket by bucket, no fleet costs less than "
        f"${found.bound_usd_per_h:.2f} an hour. Routing by prompt length needs a gateway in front of the engines."
    )
