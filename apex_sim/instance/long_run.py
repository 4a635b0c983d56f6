"""How is a long run of machine code interrupted?

Python takes a signal between two of its own instructions, and the compiled engine is one.  So the main thread waits
while another one works.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def run_interruptibly(work: Callable[[], None], stop: Callable[[], None]) -> None:
    """Do `work`; at an interrupt call `stop`, which must end the work soon, and let the interrupt go on.

    Errors of `work` are raised here.  Off the main thread, where no interrupt arrives, nothing else happens.
    """
    if threading.current_thread() is not threading.main_thread():
        work()
        return
    with ThreadPoolExecutor(1, "apex-sim") as worker:
        done = worker.submit(work)
        try:
            done.result()
        except BaseException:
            stop()
            raise
