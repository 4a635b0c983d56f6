"""What every executor keeps to, whoever does its work: this process, processes, or a Dask cluster."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from apex_sim.errors import InfeasiblePlanError, InputError, UnknownNameError, WorkerError
from apex_sim.planner.evaluation import evaluate
from apex_sim.planner.execution.choice import WORKER_START_S, make_executor
from apex_sim.planner.execution.in_process import InProcess
from apex_sim.planner.execution.processes import Processes
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.store.outcome import encode_outcome
from apex_sim.planner.study import load_study

Make = Callable[..., Any]

#: Long after any test has ended.
FOREVER_S: Final = 600.0


def dask_cluster(work: Callable[[Any], Any], **options: Any) -> Any:
    pytest.importorskip("distributed", reason="needs the extra: pip install 'apex-sim[dask]'")
    from apex_sim.planner.execution.dask_cluster import DaskCluster

    return DaskCluster(work, "local", 2, **options)


MAKERS: dict[str, Make] = {
    "in-process": lambda work, **options: InProcess(work),
    "processes": lambda work, **options: Processes(work, 2, **options),
    "dask": dask_cluster,
}
WITH_WORKERS = ("processes", "dask")


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Make:
    return MAKERS[request.param]


@pytest.fixture(params=WITH_WORKERS)
def make_workers(request: pytest.FixtureRequest) -> Make:
    return MAKERS[request.param]


def taken(executor: Any) -> dict[int, Any]:
    found = {}
    while executor.n_pending:
        number, result = executor.take()
        assert number not in found
        found[number] = result
    return found


# Works are nested functions, which travel with their code: workers cannot import this file.


def test_each_item_comes_back_once_with_its_number(make: Make) -> None:
    def work(item: float) -> tuple[float, ...]:
        time.sleep(0.001 * (item % 3))
        return item, item / 3, -0.0, float("inf")

    with make(work) as executor:
        assert executor.n_workers >= 1
        assert executor.n_pending == 0
        for number in range(12):
            executor.submit(number, float(number))
        assert executor.n_pending == 12
        first = dict([executor.take()])
        assert executor.n_pending == 11
        executor.submit(99, 99.0)
        found = first | taken(executor)
    assert found == {n: (float(n), n / 3, -0.0, float("inf")) for n in (*range(12), 99)}
    assert executor.n_pending == 0


def test_waiting_for_nothing_and_a_number_twice_are_refused(make: Make) -> None:
    with make(abs) as executor:
        with pytest.raises(RuntimeError, match="without a pending item"):
            executor.take()
        executor.submit(1, -1)
        with pytest.raises(ValueError, match="item 1 is already pending"):
            executor.submit(1, -2)
        assert executor.take() == (1, 1)


def test_errors_travel_with_their_type_and_their_text(make: Make) -> None:
    errors = [
        InfeasiblePlanError("does not fit"),
        InputError("wrong", where="key 'x'", remedy="mend it"),
        UnknownNameError("device", "h10", ["h100"]),
        WorkerError("item", ["died", "hung"], remedy="wait"),
        KeyError("no such"),
    ]

    def work(item: int) -> int:
        if item < len(errors):
            raise errors[item]
        return item

    with make(work) as executor:
        for number, error in enumerate(errors):
            executor.submit(number, number)
            with pytest.raises(type(error)) as caught:
                executor.take()
            assert type(caught.value) is type(error)
            assert str(caught.value) == str(error)
            assert f"item {number}" in caught.value.__notes__[0]
        assert executor.n_pending == 0
        executor.submit(9, 9)
        assert executor.take() == (9, 9)


def test_the_trace_of_an_error_in_a_worker_is_shown(make_workers: Make) -> None:
    def work(item: int) -> float:
        return 1 / item

    with make_workers(work) as executor:
        executor.submit(0, 0)
        with pytest.raises(ZeroDivisionError) as caught:
            executor.take()
    assert "return 1 / item" in str(caught.value.__cause__)


def test_what_cannot_travel_is_named(make_workers: Make) -> None:
    import threading

    lock = threading.Lock()
    with pytest.raises(InputError, match="the work cannot be sent to another process"):
        make_workers(lambda item: lock)

    def work(item: int) -> Any:
        import threading

        return threading.Lock()

    with make_workers(work) as executor, pytest.raises(InputError, match=r"item 0 .* cannot be sent"):
        executor.submit(0, lock)


@pytest.mark.parametrize("name", WITH_WORKERS)
def test_a_result_that_cannot_travel_is_an_error_of_its_item(name: str) -> None:
    def work(item: int) -> Any:
        import threading

        return threading.Lock() if item else "fine"

    with MAKERS[name](work) as executor:
        executor.submit(1, 1)
        with pytest.raises(TypeError, match="lock"):
            executor.take()
        executor.submit(0, 0)
        assert executor.take() == (0, "fine")


def test_an_item_whose_worker_is_killed_once_is_done_by_another(make_workers: Make, tmp_path: Path) -> None:
    def work(item: int) -> int:
        marker = tmp_path / str(item)
        if item in (2, 3) and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item * item

    with make_workers(work) as executor:
        for number in range(6):
            executor.submit(number, number)
        assert taken(executor) == {n: n * n for n in range(6)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_an_item_that_kills_every_worker_is_given_up_and_others_are_not(make_workers: Make, tmp_path: Path) -> None:
    def work(item: int) -> int:
        if item == 1:
            with (tmp_path / "tries").open("a") as tries:
                tries.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
        return item

    found, problems = {}, []
    with make_workers(work, n_retries=1) as executor:
        for number in range(5):
            executor.submit(number, number)
        while executor.n_pending:
            try:
                found.update([executor.take()])
            except WorkerError as error:
                problems.append(str(error))
    assert found == {n: n for n in (0, 2, 3, 4)}
    assert len(problems) == 1
    assert problems[0].startswith("item 1 (1): ")
    assert (tmp_path / "tries").read_text() == "xx"


def test_an_item_that_hangs_is_stopped_and_tried_again(make_workers: Make, tmp_path: Path) -> None:
    def work(item: int) -> int:
        marker = tmp_path / str(item)
        if item == 1 and not marker.exists():
            marker.touch()
            time.sleep(FOREVER_S)
        return -item

    with make_workers(work, item_timeout_s=2.0) as executor:
        for number in range(4):
            executor.submit(number, number)
        assert taken(executor) == {n: -n for n in range(4)}
    assert (tmp_path / "1").exists()


def test_an_item_that_always_hangs_is_given_up(make_workers: Make) -> None:
    def work(item: int) -> int:
        time.sleep(FOREVER_S)
        return item

    with make_workers(work, item_timeout_s=0.5, n_retries=1) as executor:
        executor.submit(7, 7)
        with pytest.raises(WorkerError, match=r"item 7 \(7\): .*took longer than 0.5 s"):
            executor.take()
        assert executor.n_pending == 0


def test_leaving_stops_workers_that_are_busy(make_workers: Make, tmp_path: Path) -> None:
    def work(item: int) -> int:
        (tmp_path / f"{os.getpid()}.pid").touch()
        time.sleep(FOREVER_S)
        return item

    with make_workers(work) as executor:
        for number in range(6):
            executor.submit(number, number)
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2, executor)
        started = time.monotonic()
    assert time.monotonic() - started < 10.0
    wait_until(lambda: not any(lives(int(path.stem)) for path in tmp_path.iterdir()))


def wait_until(is_so: Callable[[], bool], executor: Any = None) -> None:
    """Wait for what workers do; processes are let in by whoever waits for their results."""
    limit = time.monotonic() + 60.0
    while not is_so():
        assert time.monotonic() < limit
        if isinstance(executor, Processes):
            executor._watch()
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_study_has_the_same_outcomes_whoever_evaluates_it(make_workers: Make) -> None:
    study = load_study("quickstart", {"load": {"n_requests": 20}})
    plans = enumerate_space(study).feasible[:3]

    def texts(executor: Any) -> dict[int, str]:
        with executor:
            for number, plan in enumerate(plans):
                executor.submit(number, plan)
            return {n: encode_outcome(replace(outcome, cpu_s=0.0)) for n, outcome in taken(executor).items()}

    work = partial(evaluate, study)
    assert texts(make_workers(work)) == texts(InProcess(work))


def test_the_work_is_sent_to_each_worker_once() -> None:
    class Work:
        def __init__(self) -> None:
            self.n_loads = 0

        def __setstate__(self, state: dict[str, Any]) -> None:
            self.__dict__ = state
            self.n_loads += 1

        def __call__(self, item: int) -> tuple[int, int]:
            self.n_calls = getattr(self, "n_calls", 0) + 1
            return self.n_loads, self.n_calls

    with Processes(Work(), 1) as executor:
        for number in range(3):
            executor.submit(number, number)
        assert taken(executor) == {0: (1, 1), 1: (1, 2), 2: (1, 3)}


def test_a_worker_that_dies_while_idle_is_replaced() -> None:
    with Processes(lambda item: os.getpid(), 1) as executor:
        executor.submit(0, 0)
        _, pid = executor.take()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not lives(pid))
        executor.submit(1, 1)
        assert executor.take()[1] != pid


def test_work_that_no_worker_can_load_is_an_error_at_once() -> None:
    class Work:
        def __reduce__(self) -> tuple[Any, ...]:
            return eval, ("1 / 0",)

        def __call__(self, item: int) -> int:
            return item

    with Processes(Work(), 1) as executor:
        executor.submit(0, 0)
        with pytest.raises(ZeroDivisionError) as caught:
            executor.take()
    assert "cannot be loaded by a worker process" in caught.value.__notes__[0]


SCRIPT: Final = """
    import os, sys, time
    from pathlib import Path
    from apex_sim.planner.execution.processes import Processes

    folder = Path(sys.argv[1])

    def work(item):
        (folder / f"{os.getpid()}.pid").touch()
        time.sleep(600)

    with Processes(work, 2) as executor:
        for number in range(4):
            executor.submit(number, number)
        executor.take()
    """


@pytest.mark.parametrize(("stop", "whole_group"), [(signal.SIGINT, True), (signal.SIGKILL, False)])
def test_workers_go_with_a_script_that_is_interrupted_or_killed(
    stop: signal.Signals, whole_group: bool, tmp_path: Path
) -> None:
    # No `if __name__ == "__main__"`: workers do not run the script again.
    script, folder = tmp_path / "script.py", tmp_path / "pids"
    script.write_text(textwrap.dedent(SCRIPT))
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, script, folder], stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )
    try:
        wait_until(lambda: len(list(folder.iterdir())) == 2 or process.poll() is not None)
        started = time.monotonic()
        (os.killpg if whole_group else os.kill)(process.pid, stop)
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - started < 10.0
        wait_until(lambda: not any(lives(int(path.stem)) for path in folder.iterdir()))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert len(list(folder.iterdir())) == 2
    assert errors.count("Traceback") == (1 if stop == signal.SIGINT else 0), errors


@pytest.mark.parametrize(
    ("n_jobs", "expected_s", "n_workers"),
    [(1, 1e6, 1), (8, WORKER_START_S, 1), (2, 1.9 * WORKER_START_S, 1), (2, 2.1 * WORKER_START_S, 2), (3, 1e6, 3)],
)
def test_workers_are_started_for_work_that_is_worth_it(n_jobs: int, expected_s: float, n_workers: int) -> None:
    with make_executor(abs, n_jobs=n_jobs, expected_s=expected_s) as executor:
        assert executor.n_workers == n_workers
        assert isinstance(executor, InProcess if n_workers == 1 else Processes)
        executor.submit(0, -2)
        assert executor.take() == (0, 2)


def test_no_jobs_are_refused() -> None:
    with pytest.raises(InputError, match="0 jobs"):
        make_executor(abs, n_jobs=0, expected_s=1.0)


def test_dask_that_is_not_installed_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'apex-sim\[dask\]'"):
        make_executor(abs, dask="local", expected_s=0.0)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x", "localhost"])
def test_a_scheduler_that_does_not_answer_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="needs the extra: pip install 'apex-sim[dask]'")
    monkeypatch.setattr("apex_sim.planner.execution.dask_connection._CONNECT_S", 0.5)
    with pytest.raises(InputError, match="no Dask scheduler answers"):
        make_executor(abs, dask=address, expected_s=0.0)


def test_a_scheduler_that_runs_is_used_and_left_running() -> None:
    distributed = pytest.importorskip("distributed", reason="needs the extra: pip install 'apex-sim[dask]'")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=True, dashboard_address="127.0.0.1:0", silence_logs=50
    ) as cluster:
        for _ in range(2):
            with make_executor(abs, dask=cluster.scheduler_address, expected_s=0.0) as executor:
                assert executor.n_workers == 2
                executor.submit(0, -3)
                assert executor.take() == (0, 3)


def test_a_dask_worker_with_other_code_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="needs the extra: pip install 'apex-sim[dask]'")
    monkeypatch.setattr("apex_sim.planner.execution.dask_worker.code_version", lambda: "0" * 64)
    with pytest.raises(InputError, match="is not that of the search"):
        dask_cluster(abs)
