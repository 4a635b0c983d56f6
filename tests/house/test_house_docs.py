"""Is what the documents say still so?  Links, commands, examples and names."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from apex_sim.cli.main import commands as command_line
from apex_sim.metrics.definitions import METRICS

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("hardware_profiles", "workloads", "search", "reports", "notebooks", "docs", "benchmarks", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
README = (ROOT / "README.md").read_text(encoding="utf-8")

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANY_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str, *languages: str) -> list[str]:
    return [body for language, body in BLOCK.findall(text) if language in languages]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings of `page`."""
    headings = re.findall(r"^#+ (.*)$", ANY_BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(ANY_BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert broken == []


def apex_sim_calls(text: str) -> list[list[str]]:
    """Return the arguments of every apex-sim command in shell blocks and in inline code."""
    lines = [line.removeprefix("$ ") for block in blocks(text, "bash", "console") for line in block.splitlines()]
    lines += re.findall(r"`(apex-sim [^`]+)`", ANY_BLOCK.sub("", text))
    calls = []
    for line in lines:
        words = [*shlex.shlex(line, posix=True, punctuation_chars=True)] if "apex-sim" in line else []
        for segment in " ".join("\n" if set(word) <= set("();<>|&") else word for word in words).split("\n"):
            first, *rest = segment.split() or [""]
            if first.rpartition("/")[2] == "apex-sim":
                calls.append(rest)
    return calls


def complaint(arguments: list[str]) -> str:
    """Return what is wrong with the subcommand and the option names of a call; empty if nothing is."""
    command: click.Command = command_line
    for position, word in enumerate(arguments):
        if isinstance(command, click.Group) and not word.startswith("-"):
            if word not in command.commands:
                return f"{command.name} has no command {word!r}"
            command = command.commands[word]
            continue
        options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
        options |= set(command.get_help_option_names(click.Context(command)))
        if word.startswith("--") and word.partition("=")[0] not in options:
            return f"{' '.join(arguments[: position + 1])}: no such option"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_the_documents_exist(page: Path) -> None:
    calls = apex_sim_calls(page.read_text(encoding="utf-8"))
    assert [found for call in calls if (found := complaint(call))] == []


def test_a_wrong_command_or_option_is_noticed() -> None:
    text = "```bash\npip install . && .venv/bin/apex-sim serch quickstart\n```\n`apex-sim search x --n-request 2`"
    assert apex_sim_calls(text) == [["serch", "quickstart"], ["search", "x", "--n-request", "2"]]
    assert all(complaint(call) for call in apex_sim_calls(text))
    assert complaint(["models", "list", "--json"]) == ""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_shell_blocks_parse(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8"), "bash", "console"):
        script = "\n".join(line.removeprefix("$ ") for line in block.splitlines())
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_readme_sets_everything_up_with_two_lines() -> None:
    run_line, test_line = (block.strip() for block in blocks(README, "bash")[:2])
    start = "python3 -m venv .venv && .venv/bin/pip install "
    assert run_line == f"{start}-e . && .venv/bin/apex-sim search quickstart"
    assert test_line == f"{start}-e '.[test]' && .venv/bin/python tests/check.py"


def test_ci_runs_the_test_line_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    pattern = re.search(r"grep -m 1 '([^']+)' README.md", script)
    assert pattern is not None
    assert re.findall(pattern[1], README, re.MULTILINE) == [blocks(README, "bash")[1].strip()]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_metrics_page_names_exactly_the_metrics() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    keys = page.partition("\n## Keys\n")[2].partition("\n## ")[0]
    rows = [line for line in keys.splitlines() if line.startswith("| ")]
    named = [cell for row in rows for cell in re.findall(r"(?<=\| )`(\w+)`(?= \|)", row)]
    assert sorted(named) == sorted(METRICS)


def test_metrics_page_tells_which_way_is_better() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    stated = dict(re.findall(r"^\| `(\w+)` \| .* \| (lower|higher|neither) \| [^|]+ \|$", page, re.MULTILINE))
    assert len(stated) == len(METRICS) - 20
    assert {name: METRICS[name].better for name in stated} == stated


def run_python(code: str, cwd: Path) -> str:
    """Return what `code` prints in a fresh interpreter, with warnings as errors."""
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python_examples_of_the_readme_run(tmp_path: Path) -> None:
    examples = blocks(README, "python")
    assert examples
    for example in examples:
        assert "TP" in run_python(example, tmp_path)


def test_python_examples_of_own_policies_run_on_the_reference(tmp_path: Path) -> None:
    policy, order = blocks((ROOT / "docs" / "own_policies.md").read_text(encoding="utf-8"), "python")
    own, vllm = (line.split() for line in run_python(policy, tmp_path).splitlines())
    assert own[:3] == ["decodes", "first", "reference"]
    assert vllm[:2] == ["vLLM", "compiled"]
    assert float(own[3]) > float(vllm[2])
    assert run_python(order, tmp_path) == "reference queue order ShortestPromptFirst\n"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=name_of)
def test_notebooks_run_and_store_no_outputs(path: Path, tmp_path: Path) -> None:
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    assert cells
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    run_python("\n\n".join("".join(cell["source"]) for cell in cells), tmp_path)
