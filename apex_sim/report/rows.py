"""Which rows does a result have?  The one place that decides the columns of CSV files and data frames."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from apex_sim.metrics.definitions import METRICS
from apex_sim.plan.plan import Plan
from apex_sim.planner.answer import SearchResult
from apex_sim.planner.evaluation import Evaluation

if TYPE_CHECKING:
    from apex_sim.truth.validation import Validation

Row = dict[str, Any]

_PLAN_COLUMNS: Final = (
    *("plan", "tp", "pp", "dp", "attention_dp", "ep"),
    *("n_devices", "weight_dtype", "activation_dtype", "kv_dtype"),
)
#: Columns of ranked plans and of those that cannot run; also where there is no such plan.
SEARCH_COLUMNS: Final = (
    "rank",
    *_PLAN_COLUMNS,
    "steady",
    "offered_load_frac",
    "pareto",
    *METRICS,
    "slo_violations",
    "why",
)
INFEASIBLE_COLUMNS: Final = (*_PLAN_COLUMNS, "reason")

#: Columns of errors by axis, those of `AxisStatistics`.
ERROR_COLUMNS: Final = (
    *("axis", "value", "metric", "n", "n_sources"),
    *("median_abs_frac", "p90_abs_frac", "bias_frac", "noise_frac"),
)


def search_rows(result: SearchResult) -> list[Row]:
    """Return one row of `SEARCH_COLUMNS` for each ranked plan, best first."""
    front = {evaluation.plan for evaluation in result.pareto}
    return [
        _in_order({"rank": rank, "pareto": evaluation.plan in front, **_outcome(evaluation)}, SEARCH_COLUMNS)
        for rank, evaluation in enumerate(result.plans, start=1)
    ]


def infeasible_rows(result: SearchResult) -> list[Row]:
    """Return one row of `INFEASIBLE_COLUMNS` for each plan that cannot run."""
    return [{**_plan_row(refusal.plan), "reason": refusal.reason} for refusal in result.infeasible]


def labels_by_reason(result: SearchResult) -> dict[str, list[str]]:
    """Return the plans that cannot run, by reason."""
    labels: dict[str, list[str]] = {}
    for refusal in result.infeasible:
        labels.setdefault(refusal.reason, []).append(refusal.plan.label)
    return labels


def case_rows(validation: Validation) -> list[Row]:
    """Return one row for each measured case; predictions, measurements and errors as `predicted_...` and so on."""
    return [_flat(asdict(case)) for case in validation.cases]


def error_rows(validation: Validation) -> list[Row]:
    """Return one row of `ERROR_COLUMNS` for each metric: of all cases together, then for each value of each axis."""
    summary = validation.summary
    rows = []
    for pooled in summary.pooled:
        n_sources = sum(row.metric == pooled.metric for row in summary.by_source)
        rows.append({**asdict(pooled), "axis": "all", "value": pooled.source, "n_sources": n_sources})
    return [_in_order(row, ERROR_COLUMNS) for row in (*rows, *(asdict(one) for one in summary.by_axis))]


def _plan_row(plan: Plan) -> Row:
    """Return the columns that describe a plan; where its shapes differ, a column joins their values with "+"."""

    def joined(values: list[Any]) -> Any:
        return values[0] if len(set(values)) == 1 else "+".join(str(value) for value in values)

    shapes = [shape for shape, _ in plan.instances]
    values = (
        plan.label,
        joined([shape.tp for shape in shapes]),
        joined([shape.pp for shape in shapes]),
        joined([count for _, count in plan.instances]),
        joined([shape.attention_dp for shape in shapes]),
        joined([shape.ep for shape in shapes]),
        plan.n_devices,
        joined([shape.precision.weight for shape in shapes]),
        joined([shape.precision.activation for shape in shapes]),
        joined([shape.precision.kv for shape in shapes]),
    )
    return dict(zip(_PLAN_COLUMNS, values, strict=True))


def _outcome(evaluation: Evaluation) -> Row:
    return {
        **_plan_row(evaluation.plan),
        "steady": evaluation.stability.steady,
        "offered_load_frac": evaluation.stability.offered_load_frac,
        **evaluation.metrics,
        "slo_violations": "; ".join(evaluation.slo_violations),
        "why": evaluation.why,
    }


def _in_order(row: Row, columns: tuple[str, ...]) -> Row:
    return {name: row[name] for name in columns}


def _flat(record: Row) -> Row:
    """Return `record` with tables inside it spread into columns and sequences joined."""
    flat: Row = {}
    for key, value in record.items():
        if isinstance(value, dict):
            flat |= {f"{key}_{name}": item for name, item in value.items()}
        else:
            flat[key] = "; ".join(str(item) for item in value) if isinstance(value, list | tuple) else value
    return flat
