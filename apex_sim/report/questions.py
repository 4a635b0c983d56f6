"""How does one ask from Python?  `apex_sim.search` and `apex_sim.simulate`, and what they give back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_sim.cost.cost_model import CostModel
from apex_sim.errors import InputError
from apex_sim.files import write_together
from apex_sim.instance.reference import OrderMaker, Policy
from apex_sim.planner.answer import Progress, SearchResult, answer_study
from apex_sim.planner.evaluation import Evaluation
from apex_sim.planner.simulation import Simulation, simulate_study
from apex_sim.planner.study import Study, load_study
from apex_sim.report.csv_text import search_csv, series_csv, simulation_csv
from apex_sim.report.document import Document, search_document, simulation_document
from apex_sim.report.frame import requests_frame, search_frame
from apex_sim.report.headline import Headline, search_headline, simulation_headline
from apex_sim.report.page import search_page, simulation_page
from apex_sim.report.strict_json import json_text

if TYPE_CHECKING:
    import pandas as pd

#: Columns of the table that a notebook shows; `frame` has them all.
_NOTEBOOK_COLUMNS = (
    "rank",
    "plan",
    "steady",
    "ttft_mean_s",
    "ttft_p99_s",
    "tpot_mean_s",
    "e2e_mean_s",
    "output_tokens_per_s",
    "usd_per_million_output_tokens",
    "energy_per_output_token_j",
    "slo_violations",
)
_NOTEBOOK_ROWS = 12


@dataclass(frozen=True, slots=True)
class SearchReport:
    """The answer to a study, ready to be looked at, computed with or kept."""

    result: SearchResult

    @property
    def best(self) -> Evaluation:
        """The best plan; `NoAnswerError` when there is none."""
        return self.result.best

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each ranked plan, best first, with all metrics."""
        return search_frame(self.result)

    @property
    def document(self) -> Document:
        """What `apex-sim search --json` prints."""
        return search_document(self.result)

    def page(self) -> str:
        """Return the report as one HTML file."""
        return search_page(self.result)

    def save(self, folder: str | Path) -> tuple[Path, ...]:
        """Write report.html, result.json and plans.csv into `folder` and return their paths.

        Raises
        ------
        InputError : the folder cannot be written.
        """
        texts = {
            "report.html": self.page(),
            "result.json": json_text(self.document),
            "plans.csv": search_csv(self.result),
        }
        return _write(Path(folder), texts)

    def _repr_html_(self) -> str:
        frame = self.frame
        shown = frame[list(_NOTEBOOK_COLUMNS)].head(_NOTEBOOK_ROWS) if len(frame) else frame
        more = f"<p>and {len(frame) - len(shown)} more plans</p>" if len(frame) > len(shown) else ""
        table = shown.to_html(index=False, float_format="{:.4g}".format) if len(frame) else ""
        return _summary(search_headline(self.result)) + table + more


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """What happened under one plan, ready to be looked at, computed with or kept."""

    result: Simulation

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each request."""
        return requests_frame(self.result)

    @property
    def document(self) -> Document:
        """What `apex-sim simulate --json` prints."""
        return simulation_document(self.result)

    def page(self) -> str:
        """Return the report as one HTML file."""
        return simulation_page(self.result)

    def save(self, folder: str | Path) -> tuple[Path, ...]:
        """Write report.html, result.json, requests.csv and series.csv into `folder` and return their paths.

        Raises
        ------
        InputError : the folder cannot be written.
        """
        texts = {
            "report.html": self.page(),
            "result.json": json_text(self.document),
            "requests.csv": simulation_csv(self.result),
            "series.csv": series_csv(self.result),
        }
        return _write(Path(folder), texts)

    def _repr_html_(self) -> str:
        return _summary(simulation_headline(self.result.evaluation))


def search(
    study: str | Path | Study,
    *,
    n_jobs: int | None = None,
    progress: Progress | None = None,
    check: bool = False,
    strict: bool = False,
    cost: CostModel | None = None,
    **overrides: Any,
) -> SearchReport:
    """Return the answer to `study`: which plan is best, and how all others do.

    Parameters
    ----------
    study : name of a catalogued study, path of a study file, or a loaded study.
    n_jobs : worker processes; None decides by the work at hand.  The result does not depend on it.
    progress : called with the number of plans done and of all plans.
    check : assert the numbered invariants in every run.
    strict : refuse plans that lie outside of what measured servers back.
    cost : a cost back end of your own (see `apex_sim.cost.cost_model`), instead of the study's.
    overrides : keys of the study file with other values, nested as there.

    Raises
    ------
    UnknownNameError, InputError : the question cannot be understood; see `load_study`.

    Examples
    --------
    >>> report = search("quickstart", load={"n_requests": 20}, space={"weight_dtypes": ["fp8"], "pp": [1]})
    >>> report.best.plan.label
    'DP1 TP8 PP1 fp8'
    """
    question = _study(study, overrides, cost)
    return SearchReport(answer_study(question, n_jobs=n_jobs, progress=progress, check=check, strict=strict))


def simulate(
    study: str | Path | Study,
    *,
    check: bool = False,
    strict: bool = False,
    cost: CostModel | None = None,
    policy: Policy | None = None,
    order: OrderMaker | None = None,
    **overrides: Any,
) -> SimulationReport:
    """Return what happens under the one plan that the study's space holds.

    Parameters
    ----------
    study, check, strict, cost, overrides : as in `search`.
    policy : a batching policy of your own instead of the study's: a function from a `SchedulerQueue` to a batch.  Each
        batch is checked; the reference engine runs it.  Files and flags cannot name one, because it is code.
    order : what makes a queue order of your own, a `QueueOrder`, for each instance.

    Raises
    ------
    UnknownNameError, InputError : the question cannot be understood, or its space holds more than one plan.
    InfeasiblePlanError : the plan cannot run.
    InvariantError : `policy` returned a batch that no engine could run; the error names the invariant.

    Examples
    --------
    >>> one_plan = {"tp": [8], "pp": [1], "dp": [1], "weight_dtypes": ["fp8"]}
    >>> report = simulate("quickstart", load={"n_requests": 20}, space=one_plan)
    >>> len(report.frame)
    20
    """
    question = _study(study, overrides, cost)
    return SimulationReport(simulate_study(question, check=check, strict=strict, policy=policy, order=order))


def _study(study: str | Path | Study, overrides: dict[str, Any], cost: CostModel | None) -> Study:
    if not isinstance(study, Study):
        return replace(load_study(study, overrides), cost=cost)
    if overrides:
        raise InputError(
            f"overrides ({', '.join(overrides)}) of a study that is already loaded",
            remedy="give them to load_study, or give the study's name here",
        )
    return replace(study, cost=cost) if cost else study


def _write(folder: Path, texts: dict[str, str]) -> tuple[Path, ...]:
    return write_together({folder / name: text for name, text in texts.items()})


def _summary(headline: Headline) -> str:
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in headline.reasons)
    return f"<p><strong>{escape(headline.answer)}</strong></p><ul>{reasons}</ul>"
