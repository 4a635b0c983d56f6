"""A long run of machine code ends when it is interrupted, and says what went wrong in it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from toy import Engine, ask, flat, serve

from apex_sim.errors import InvariantError
from apex_sim.instance.long_run import run_interruptibly

ENGINE = Engine("prefill-first", max_num_seqs=1, max_num_batched_tokens=64, max_model_len=64, graphs=True)


def test_an_interrupt_ends_machine_code_long_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    spent_s, interrupt_after_s = list[float](), list[float]()

    def timed(work: Callable[[], None], stop: Callable[[], None]) -> None:
        for after_s in interrupt_after_s:
            threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGINT)).start()
        started_s = time.perf_counter()
        try:
            run_interruptibly(work, stop)
        finally:
            spent_s.append(time.perf_counter() - started_s)

    monkeypatch.setattr("apex_sim.instance.compiled_instance.run_interruptibly", timed)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore interrupts
    requests = ask(np.arange(1_000_000.0), 1, 2)
    serve(ENGINE, flat(0.25), requests, by="compiled", check=False)
    interrupt_after_s.append(spent_s[0] / 5)
    try:
        with pytest.raises(KeyboardInterrupt):
            serve(ENGINE, flat(0.25), requests, by="compiled", check=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert spent_s[1] < spent_s[0] / 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("apex-sim")]


def test_errors_of_the_work_are_raised() -> None:
    def work() -> None:
        raise InvariantError(1, "nothing moves")

    with pytest.raises(InvariantError, match="INV-1 broken: nothing moves"):
        run_interruptibly(work, lambda: None)


def test_off_the_main_thread_the_work_is_done_there() -> None:
    places: list[str] = []
    thread = threading.Thread(
        target=run_interruptibly, args=(lambda: places.append(threading.current_thread().name), print), name="side"
    )
    thread.start()
    thread.join()
    assert places == ["side"]
