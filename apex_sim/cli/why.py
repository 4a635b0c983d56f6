"""`apex-sim why`: what bounds a plan, which requests miss a limit through what, and what would mend it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from apex_sim.cli import run_flags
from apex_sim.cli.chosen_plan import PLAN, chosen_plans, leaders_option
from apex_sim.cli.output import print_columns, print_json, print_wrapped
from apex_sim.cli.study_flags import StudyCommand, study_of, with_study_flags

if TYPE_CHECKING:
    from apex_sim.planner.why.bottleneck import Pressure
    from apex_sim.planner.why.explanation import Explanation
    from apex_sim.planner.why.miss import Miss

#: Parts below this share of a latency are left out of sentences.
_LEAST_SHARE = 0.02
_EPILOG = """\b
Examples:
  apex-sim why quickstart
  apex-sim why quickstart --rate 22 --plan 'DP2 TP4 PP1 fp8'
  apex-sim why quickstart --slo ttft_p99_s=0.2 --leaders 2
  apex-sim why my-study.toml --json | jq '.plans[0].remedy'
"""


@click.command("why", cls=StudyCommand, epilog=_EPILOG)
@with_study_flags
@PLAN
@leaders_option(1)
@run_flags.JOBS
@run_flags.JSON
def why_command(
    study: str | None, labels: tuple[str, ...], leaders: int, jobs: int | None, as_json: bool, **flags: Any
) -> None:
    """Say what bounds a plan, and what would mend it.

    STUDY and flags as in 'apex-sim search'. For each plan: where device time and the time of requests go, which
    requests break a limit through what, and which single change, the cheapest first, keeps every limit.
    """
    from apex_sim.planner.why.explanation import explain
    from apex_sim.report.document import SCHEMA_VERSION, json_safe, study_document

    question = study_of(study, flags)
    found = [explain(question, plan) for plan in chosen_plans(question, labels, leaders, jobs)]
    if as_json:
        plans = [each.as_dict() for each in found]
        document = {"schema_version": SCHEMA_VERSION, "study": study_document(question), "plans": plans}
        print_json(json_safe(document))
        return
    click.echo(question.title)
    for each in found:
        _print_explanation(each)


def _print_explanation(explanation: Explanation) -> None:
    from apex_sim.report.quantity import percent

    click.echo()
    print_wrapped(f"{explanation.plan.label}: {explanation.verdict}.")
    print_wrapped(explanation.bottleneck.sentence, 4)
    print_wrapped(_pressure_words(explanation.bottleneck.pressure), 4)
    click.echo()
    split = sorted(explanation.bottleneck.split_frac.items(), key=lambda item: -item[1])
    rows = [(name, percent(share)) for name, share in split if share >= 0.0005]
    print_columns(("device time", "share"), rows, right=("share",))
    click.echo()
    _print_parts(explanation)
    for miss in explanation.misses:
        click.echo()
        _print_miss(miss)
    if explanation.tried:
        click.echo()
        _print_tried(explanation)


def _pressure_words(pressure: Pressure) -> str:
    from apex_sim.report.quantity import percent

    kv = (
        "" if pressure.kv_used_max_frac is None else f"; at most {percent(pressure.kv_used_max_frac)} of KV blocks used"
    )
    if not pressure.waiting_frac:
        return f"No request waits for a place in a batch{kv}."
    reasons = {
        "full seats (max_num_seqs)": pressure.seats_frac,
        "a full token budget (max_num_batched_tokens)": pressure.tokens_frac,
        "too few free KV blocks": pressure.kv_frac,
        "the policy's order": pressure.order_frac,
    }
    shown = sorted(((share, name) for name, share in reasons.items() if share >= 0.0005), reverse=True)
    words = ", ".join(f"{name} {percent(share)}" for share, name in shown)
    return f"Requests wait during {percent(pressure.waiting_frac)} of step time, for {words}{kv}."


def _print_parts(explanation: Explanation) -> None:
    from apex_sim.planner.why.miss import PART_WORDS
    from apex_sim.report.quantity import time_text

    columns = ("mean of all requests", "TTFT", "TPOT", "E2E")
    by_latency = [explanation.parts_s[latency] for latency in ("ttft", "tpot", "e2e")]
    rows = [
        (words, *(time_text(parts[name]) if name in parts else "" for parts in by_latency))
        for name, words in PART_WORDS.items()
        if any(parts.get(name) for parts in by_latency)
    ]
    sums = [time_text(sum(parts.values())) if parts else "" for parts in by_latency]
    print_columns(columns, [*rows, ("together", *sums)], right=columns[1:])


def _print_miss(miss: Miss) -> None:
    from apex_sim.planner.why.miss import PART_WORDS
    from apex_sim.report.quantity import percent, time_text

    print_wrapped(f"Missed: {miss.sentence}.")
    if not miss.parts_s or not miss.mean_s or not miss.traits:
        print_wrapped("The limit is on no latency of single requests: see what bounds the plan.", 4)
        return
    shown = sorted(((seconds, name) for name, seconds in miss.parts_s.items()), reverse=True)
    words = [
        f"{PART_WORDS[name]} {percent(seconds / miss.mean_s)}"
        for seconds, name in shown
        if seconds >= _LEAST_SHARE * miss.mean_s
    ]
    print_wrapped(
        f"{miss.n_beyond} of {miss.n_finished} requests are beyond the limit, at {time_text(miss.mean_s)} on average: "
        f"{', '.join(words)}.",
        4,
    )
    if miss.traits.sentences:
        print_wrapped(f"Of these requests, {'; '.join(miss.traits.sentences)}.", 4)


def _print_tried(explanation: Explanation) -> None:
    remedy = explanation.remedy
    if remedy is None:
        print_wrapped("None of the single changes that were tried keeps every limit.")
    else:
        price = f" (${remedy.usd_per_h:.2f}/h more)" if remedy.usd_per_h else ""
        print_wrapped(f"Cheapest change that keeps every limit: {remedy.words}{price}.")
    click.echo()
    rows = [(each.words, f"{each.usd_per_h:.2f}", each.verdict) for each in explanation.tried]
    print_columns(("tried", "+$/h", "result"), rows, right=("+$/h",))
