"""The harness that kills searches: it passes one that is right, and notices each way of being wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).resolve().parents[2] / "benchmarks" / "kill_search.py"


def harness(*arguments: str) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(HARNESS), "--seed", "1", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_search_that_resumes_passes() -> None:
    code, text = harness("--kills", "5")
    assert code == 0, text
    assert text.startswith("5 kills, ")
    assert text.endswith("nothing lost, the same answer\n")
    assert " evaluations, " in text


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("forget", "committed evaluations lost, the first item-"),
        ("repeat", "committed evaluations done again, the first item-"),
        ("answer", "another answer "),
    ],
)
def test_a_search_that_does_wrong_is_found_out(fault: str, complaint: str) -> None:
    code, text = harness("--kills", "50", "--fault", fault)
    assert code == 1, text
    assert complaint in text


def test_a_command_without_lines_is_said_to_be_unchecked() -> None:
    script = "import sys; from apex_sim.planner.store.study_store import StudyStore as S; S(sys.argv[1]).put('a', 'b')"
    code, text = harness("--kills", "2", "--", sys.executable, "-c", f"{script}; print(1)", "{store}")
    assert code == 0, text
    assert "not checked: which evaluations were done again" in text
    assert harness("--", sys.executable, "-c", "print(1)")[0] == 2
