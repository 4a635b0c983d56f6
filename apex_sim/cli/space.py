"""`apex-sim space`: which plans would a search look at, and which are refused why?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from apex_sim.cli import run_flags
from apex_sim.cli.output import print_columns, print_json
from apex_sim.cli.study_flags import StudyCommand, study_of, with_study_flags

if TYPE_CHECKING:
    from apex_sim.planner.space import Space
    from apex_sim.planner.study import Study

#: Plans of each table that are printed; --json has them all.
_MAX_ROWS: Final = 40
_EPILOG = """\b
Examples:
  apex-sim space quickstart
  apex-sim space quickstart --kv-dtype bf16,fp8 --allow-idle
"""


@click.command("space", cls=StudyCommand, epilog=_EPILOG)
@with_study_flags
@run_flags.JSON
def space_command(study: str | None, as_json: bool, **flags: Any) -> None:
    """List the plans of a study without simulating them.

    STUDY and flags as in 'apex-sim search'. First how many plans have which value in each dimension, and which rule
    took out how many. For each plan that can run, KV is what all its instances together can
    hold; for each that cannot, the reason.
    """
    from apex_sim.planner.space import enumerate_space

    question = study_of(study, flags)
    space = enumerate_space(question)
    document = _document(question, space)
    if as_json:
        print_json(document)
    else:
        _print_tables(document)


def _document(study: Study, space: Space) -> dict[str, Any]:
    from apex_sim.plan.memory import instance_memory
    from apex_sim.report.document import SCHEMA_VERSION, engines_of_plan

    feasible = []
    for plan in space.feasible:
        memories = [
            (instance_memory(study.model, study.cluster.pool(shape.device).device, shape), n)
            for shape, n in plan.instances
        ]
        feasible.append(
            {
                "plan": plan.as_dict(),
                "engines": engines_of_plan(study, plan),
                "kv_tokens": sum(memory.kv_tokens * n for memory, n in memories),
                "kv_tokens_per_instance": min(memory.kv_tokens for memory, _ in memories),
                "memory": min((memory for memory, _ in memories), key=lambda memory: memory.kv_tokens).as_dict(),
            }
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "study": study.name,
        "model": study.model.name,
        "cluster": study.cluster.name,
        "workload": study.workload.name,
        "n_enumerated": space.n_enumerated,
        "n_feasible": len(space.feasible),
        "n_infeasible": len(space.infeasible),
        "n_alike": space.n_alike,
        "dimensions": space.counts(),
        "pruned": space.pruned(),
        "contradictions": dict(space.contradictions),
        "feasible": feasible,
        "infeasible": [{"plan": refusal.plan.as_dict(), "reason": refusal.reason} for refusal in space.infeasible],
    }


def _print_tables(document: dict[str, Any]) -> None:
    click.echo(f"{document['model']} on {document['cluster']}: {document['n_enumerated']} plans\n")
    _print_counts(document)
    shown = document["feasible"][:_MAX_ROWS]
    if shown:
        rows = [
            (
                entry["plan"]["label"],
                f"{entry['kv_tokens_per_instance']:,}",
                f"{entry['kv_tokens']:,}",
                f"{entry['memory']['weight_bytes'] / 2**30:.1f} GiB",
            )
            for entry in shown
        ]
        columns = ("can run", "KV tokens, instance", "KV tokens, plan", "weights, device")
        print_columns(columns, rows, right=columns[1:])
    _print_rest(len(document["feasible"]))
    if document["infeasible"]:
        click.echo()
        refused = [(entry["plan"]["label"], entry["reason"]) for entry in document["infeasible"][:_MAX_ROWS]]
        print_columns(("refused", "reason"), refused)
        _print_rest(len(document["infeasible"]))


def _print_rest(n: int) -> None:
    if n > _MAX_ROWS:
        click.echo(f"... and {n - _MAX_ROWS} more: --json has them all")


def _print_counts(document: dict[str, Any]) -> None:
    """Print how many plans have which value in each dimension, and what each rule took out."""
    rows = [
        (dimension.replace("_", " "), ", ".join(f"{value} ({n})" for value, n in values.items()))
        for dimension, values in document["dimensions"].items()
    ]
    if rows:
        print_columns(("dimension", "values (plans that can run)"), rows)
        click.echo()
    if document["pruned"]:
        print_columns(
            ("plans", "pruned because"), [(str(n), rule) for rule, n in document["pruned"].items()], right=("plans",)
        )
        click.echo()
    for problem, n in document["contradictions"].items():
        click.echo(f"{n} combinations of knobs make no shape: {problem}\n")
