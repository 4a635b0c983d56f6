"""The commands why, capacity and sensitivity: tables of 80 columns, documents, exit codes, and the page about them."""

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from apex_sim.cli.main import commands

SMALL = ("--model", "llama-3.1-8b", "--cluster", "2xh100-sxm", "--workload", "chat", "--n-requests", "30")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "questions.md"


def run(*arguments: str, exit_code: int = 0) -> Result:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(commands, list(arguments))
    assert result.exit_code == exit_code, result.output
    return result


def document(*arguments: str) -> dict[str, object]:
    content = json.loads(run(*arguments, "--json").stdout)
    assert content["schema_version"] == 1
    assert content["study"]["model"] == "llama-3.1-8b"
    return content


@pytest.mark.parametrize("command", ["why", "capacity", "sensitivity"])
def test_tables_fit_80_columns_and_help_has_examples(command: str) -> None:
    shown = run(command, *SMALL, "--tp", "2", "--slo", "ttft_p99_s=0.15").stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "DP1 TP2 PP1 bf16" in shown
    page = run(command, "--help").stdout
    assert f"apex-sim {command} quickstart" in page
    assert max(map(len, page.splitlines())) <= 80


def test_why_says_who_misses_through_what_and_what_mends_it() -> None:
    shown = run("why", *SMALL, "--plan", "dp2 tp1 pp1 bf16", "--slo", "tpot_p99_s=0.007", "--rate", "20").stdout
    assert "DP2 TP1 PP1 bf16: tpot_p99_s is" in shown
    assert "Missed: tpot_p99_s is" in shown
    assert "their own decoding" in shown
    content = document("why", *SMALL, "--plan", "DP2 TP1 PP1 bf16", "--slo", "tpot_p99_s=0.007", "--rate", "20")
    (plan,) = content["plans"]  # type: ignore[misc]
    (miss,) = plan["misses"]
    assert sum(miss["parts_s"].values()) == pytest.approx(miss["mean_s"])
    assert plan["tried"][-1]["keeps"] == (plan["remedy"] is not None)
    assert sum(plan["bottleneck"]["split_frac"].values()) == pytest.approx(1.0)


def test_why_asks_about_the_leaders_of_a_search() -> None:
    ranked = json.loads(run("search", *SMALL, "--json").stdout)["plans"]
    plans = document("why", *SMALL, "--leaders", "2")["plans"]
    assert [each["plan"]["label"] for each in plans] == [each["plan"]["label"] for each in ranked[:2]]  # type: ignore[attr-defined]


def test_capacity_gives_an_interval_and_its_evidence() -> None:
    content = document("capacity", *SMALL, "--plan", "DP1 TP2 PP1 bf16", "--draws", "2", "--slo", "tpot_p99_s=0.02")
    (found,) = content["plans"]  # type: ignore[misc]
    assert 0 < found["keeps_per_s"] < found["fails_per_s"]
    assert {each["draw"] for each in found["judgements"]} == {0, 1}


def test_a_limit_that_no_rate_keeps_is_no_answer() -> None:
    result = run("capacity", *SMALL, "--tp", "2", "--slo", "ttft_p99_s=0.0001", exit_code=1)
    assert "no plan keeps every limit at any rate: ttft_p99_s is" in result.stderr


def test_sensitivity_names_the_best_and_what_it_hangs_on() -> None:
    content = document("sensitivity", *SMALL, "--leaders", "2", "--change", "0.2")
    inputs = content["inputs"]
    assert content["change_frac"] == 0.2
    assert len(content["leaders"]) == 2  # type: ignore[arg-type]
    assert {each["best"] for each in inputs} == {content["best"]}  # type: ignore[attr-defined]
    assert {each["up"]["factor"] for each in inputs} == {1.2}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (("why", *SMALL, "--plan", "DP1 TP2 PP1 bf17"), 2, "Did you mean 'DP1 TP2 PP1 bf16'"),
        (("why", "quickstart", "--plan", "DP8 TP1 PP1 bf16"), 1, "GiB of weights"),
        (("capacity", *SMALL, "--concurrency", "4"), 2, "no arrival rate"),
        (("capacity", *SMALL, "--tp", "2", "--share", "0.9"), 2, "no limit that a single request can keep"),
        (("capacity", "--model", "llama-3.1-405b", "--cluster", "1xl40s", "--workload", "chat"), 1, "no plan can run"),
        (("sensitivity", *SMALL, "--change", "0"), 2, "--change"),
        (("why", "--model", "llama-3.1-405b", "--cluster", "1xl40s", "--workload", "chat"), 1, "no plan can run"),
    ],
)
def test_what_cannot_be_answered_is_said(arguments: tuple[str, ...], exit_code: int, says: str) -> None:
    assert says in run(*arguments, exit_code=exit_code).stderr


def examples() -> list[tuple[str, str]]:
    """Return command and output of each example of the page."""
    blocks = re.findall(
        r"^```bash\napex-sim (.*?)\n```\n\n```text\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    return [(command, output) for command, output in blocks]


def test_the_page_shows_each_command() -> None:
    assert {command.split()[0] for command, _ in examples()} == {"why", "capacity", "sensitivity"}


def headings(text: str) -> list[list[str]]:
    """Return the words of the heads of tables; figures and what they wrap move with every fit."""
    return [
        line.split() for line in text.splitlines() if re.match(r"(device time|mean of all|plan|input|tried) ", line)
    ]


@pytest.mark.parametrize(("command", "output"), examples())
def test_examples_of_the_page_have_the_tables_that_commands_print(command: str, output: str) -> None:
    shown = run(*shlex.split(command)).stdout
    assert headings(output)
    assert headings(shown) == headings(output)
    assert shown.splitlines()[0] == output.splitlines()[0]
