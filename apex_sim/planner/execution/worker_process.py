"""How is a worker process started, watched and stopped?

Workers start as joblib's do: a fresh interpreter that does not import the user's script again, so that a script needs
no `if __name__ == "__main__"`.  Each has a connection of its own and shares no lock: killing one harms no other.
"""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, Pipe
from typing import Final

from joblib.externals.loky.backend import context

from apex_sim.planner.execution.message import Message
from apex_sim.planner.execution.worker import serve

#: Longer than an interpreter and its imports take on a busy machine with a cold disk.
START_S: Final = 120.0
#: Libraries that would use every core in each worker; a setting of the user's goes first.
_THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_EXIT_S: Final = 5.0


class WorkerProcess:
    """One worker; `deadline_s` is the moment of `time.monotonic` by which it must have answered."""

    def __init__(self) -> None:
        mine, theirs = Pipe()
        threads = {name: "1" for name in _THREADS if name not in os.environ}
        self.connection: Connection = mine
        self.is_up = False
        self.deadline_s = time.monotonic() + START_S
        self._process = context.get_context("loky").Process(target=serve, args=(theirs,), env=threads, daemon=True)
        with _interrupts_held():
            self._process.start()
        theirs.close()

    def tell(self, text: bytes, limit_s: float | None) -> bool:
        """Send `text` and allow `limit_s` for the answer; False if the worker is gone."""
        self.deadline_s = float("inf") if limit_s is None else time.monotonic() + limit_s
        try:
            self.connection.send_bytes(text)
        except OSError:
            return False
        return True

    def hear(self) -> Message | None:
        """Return what the worker says; None if it is gone."""
        try:
            message: Message = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            return None
        return message

    def stop(self) -> str:
        """End the process, whatever it is doing; return how it ended."""
        self.connection.close()
        self._process.join(0.0)
        ended_itself = self._process.exitcode is not None
        if not ended_itself:
            self._kill()
        self._process.join(_EXIT_S)
        return _how(self._process.exitcode) if ended_itself else "was stopped"

    def lost(self) -> str:
        """Clear away a process whose connection broke; return how it ended."""
        self._process.join(_EXIT_S)
        code = self._process.exitcode
        self.stop()
        return _how(code)

    def _kill(self) -> None:
        if hasattr(signal, "SIGKILL"):
            os.kill(self._process.pid, signal.SIGKILL)
        else:
            self._process.terminate()


def _how(exit_code: int | None) -> str:
    if exit_code is None:
        return "its worker broke off the connection"
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"its worker was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
    return f"its worker exited with status {exit_code}"


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold back Ctrl-C, and let the process that is started meanwhile inherit that: it would print a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
