"""The command line as a real process: quick help, `python -m`, interruption, closed pipes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-m", "apex_sim")
HEAVY = {"numpy", "pydantic", "pandas", "simpy", "scipy", "matplotlib", "numba", "rich"}
REPOSITORY = Path(__file__).parents[2]


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["models", "list", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "from apex_sim.cli.main import main\n"
        f"sys.argv = ['apex-sim', *{arguments!r}]\n"
        "main()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0
    assert "apex-sim" in result.stdout
    assert "apex_sim.cli.main" in result.stderr.split()
    assert HEAVY.isdisjoint(result.stderr.split())


def test_help_takes_less_than_half_a_second_of_processor_time(tmp_path: Path) -> None:
    before_s = os.times().children_user + os.times().children_system
    result = run("--help", folder=tmp_path)
    assert os.times().children_user + os.times().children_system - before_s < 0.5
    assert result.returncode == 0
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_a_search_runs_as_a_process(tmp_path: Path) -> None:
    flags = "--model llama-3.1-8b --cluster 1xl40s --workload chat --n-requests 4"
    result = run("search", *flags.split(), folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1].startswith("Wrote report.html")  # no progress bar where stderr is no terminal
    assert (tmp_path / "apex-sim-out" / "llama-3.1-8b_1xl40s_chat" / "plans.csv").is_file()


def test_an_error_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    result = run("search", "quickstrat", folder=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert (
        result.stderr
        == "Error: unknown study 'quickstrat'. Did you mean 'quickstart'; or give the path of a .toml file.\n"
    )


@pytest.fixture(autouse=True)
def _interrupts() -> Iterator[None]:
    """Let children take interrupts, which a shell's background jobs, and so their children, ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def _start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_until_busy(pid: int) -> None:
    """Wait until the process has used 2 s of processor time: past the imports, far from the end."""
    statistics, deadline_s = Path(f"/proc/{pid}/stat"), time.monotonic() + 25
    if not statistics.exists():
        time.sleep(3)
        return
    busy_s = 0.0
    while busy_s < 2.0 and time.monotonic() < deadline_s:
        time.sleep(0.05)
        fields = statistics.read_text(encoding="utf-8").rpartition(")")[2].split()
        busy_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


ONE_PLAN = ("--tp", "8", "--pp", "1", "--dp", "1", "--weight-dtype", "fp8")


@pytest.mark.parametrize(
    "arguments",
    [
        ("search", "quickstart", "--n-requests", "500000", "--jobs", "1"),
        ("simulate", "quickstart", *ONE_PLAN, "--n-requests", "4000000"),
        ("simulate", "quickstart", *ONE_PLAN, "--n-requests", "100000", "--reference"),
    ],
    ids=["search", "simulate", "simulate on the reference"],
)
def test_an_interrupted_command_says_so_and_leaves_nothing(arguments: tuple[str, ...], tmp_path: Path) -> None:
    run("search", "quickstart", "--n-requests", "5", "--no-files", folder=tmp_path)  # compiles the engine, if need be
    process = _start([*COMMAND, *arguments], tmp_path)
    _wait_until_busy(process.pid)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (stdout, stderr.strip()) == ("", "Interrupted.")
    assert list(tmp_path.iterdir()) == []


def _runs(pid: str) -> bool:
    """Whether a process is there and no zombie that nobody has asked after."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_an_interrupted_search_takes_its_workers_along(tmp_path: Path) -> None:
    command = [*COMMAND, "search", "quickstart", "--n-requests", "20000", "--jobs", "2"]
    process = _start(command, tmp_path)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while len(children.read_text(encoding="utf-8").split()) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    workers = children.read_text(encoding="utf-8").split()
    time.sleep(4)  # workers that are still starting write tracebacks of their own
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)  # workers that stayed would hold both open
    assert process.returncode == 130
    assert "Traceback" not in stderr
    deadline_s = time.monotonic() + 10
    while any(_runs(worker) for worker in workers):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    if stdout:  # the first plan is simulated before there are workers: the best so far is kept
        assert "The search was interrupted: this is the best so far." in " ".join(stdout.split())
        assert "Interrupted: this is the best so far." in stderr
    else:
        assert stderr.strip() == "Interrupted."


#: Says on stderr when machine code is about to run.
_TELLTALE = """
import sys
from apex_sim.instance import compiled_instance
inner = compiled_instance.run_interruptibly
def tell(work, stop):
    print("machine code runs", file=sys.stderr, flush=True)
    inner(work, stop)
compiled_instance.run_interruptibly = tell
from apex_sim.cli.main import main
main()
"""


def test_an_interrupt_is_taken_while_machine_code_runs(tmp_path: Path) -> None:
    arguments = ("simulate", "quickstart", *ONE_PLAN, "--n-requests", "2000000")
    process = _start([sys.executable, "-c", _TELLTALE, *arguments], tmp_path)
    assert process.stderr
    while "machine code runs" not in process.stderr.readline():
        assert process.poll() is None
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (stdout, stderr.strip()) == ("", "Interrupted.")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [*COMMAND, "hardware", "show", "h100-sxm"]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write_end)
    assert result.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_a_message(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with Path("/dev/full").open("w") as full:
        command = [*COMMAND, "models", "list"]
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert result.returncode == 2
    assert "Error: output: No space left on device." in result.stderr
    assert "Traceback" not in result.stderr
