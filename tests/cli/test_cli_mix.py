"""The command mix: the table, the document, and loads and parks that it cannot answer for."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from apex_sim.cli.main import commands

PARK = (
    *("mix", "--model", "llama-3.1-8b", "--cluster", "1xh100-sxm+4xl40s", "--workload", "chat"),
    *("--n-requests", "120", "--rate", "6", "--tp", "1", "--pp", "1", "--slo", "tpot_mean_s=0.05", "--buckets", "2"),
)


def run(*arguments: str, exit_code: int = 0) -> str:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(commands, list(arguments))
    assert result.exit_code == exit_code, result.output
    return result.stdout if exit_code == 0 else result.stderr


def test_the_document_holds_a_fleet_that_keeps_the_limits_and_costs_no_more_than_one_type() -> None:
    document = json.loads(run(*PARK, "--json"))
    best, singles = document["best"], [one for one in document["singles"].values() if one]
    assert best["metrics"]["tpot_mean_s"] <= 0.05
    assert best["usd_per_h"] <= min(one["usd_per_h"] for one in singles)
    assert best["usd_per_h"] == pytest.approx(best["metrics"]["usd_per_h"])
    assert set(document["saving_frac"]) == {"h100-sxm", "l40s"}


def test_the_table_fits_the_terminal_and_names_each_type() -> None:
    shown = run(*PARK)
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    assert "keeps every limit" in shown
    assert "h100-sxm" in shown
    assert "l40s" in shown


def test_a_closed_loop_has_no_rate() -> None:
    arguments = [*PARK, "--concurrency", "4"]
    del arguments[arguments.index("--rate") : arguments.index("--rate") + 2]
    assert "no arrival rate" in run(*arguments, exit_code=2)
