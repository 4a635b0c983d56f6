"""How is a Dask cluster reached, or started on this machine?"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import threading
from contextlib import suppress
from typing import Any, Final

from apex_sim.errors import InputError

#: How long a scheduler may take to answer.
_CONNECT_S: Final = 10.0
#: How long Dask may take to close a cluster whose workers are killed, and how often they are.
_CLOSE_S: Final = 60.0
_AGAIN_S: Final = 0.1


def connect(cluster: Any) -> Any:
    """Return a client of a cluster, or of the scheduler at an address.

    Raises
    ------
    InputError : Dask is not installed, or no scheduler answers.
    """
    try:
        return _distributed().Client(cluster, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no Dask scheduler answers ({type(error).__name__}: {error})",
            where=f"address {cluster!r}",
            remedy='give "local", or the address that `dask scheduler` prints (tcp://HOST:8786)',
        ) from None


def local_cluster(n_workers: int) -> Any:
    """Return a new cluster of one-threaded processes, which nobody outside of this machine can reach.

    Raises
    ------
    InputError : Dask is not installed.
    """
    distributed = _distributed()
    settings = {"distributed.scheduler.allowed-failures": 0, "distributed.scheduler.worker-saturation": 1.0}
    with importlib.import_module("dask").config.set(settings):
        return distributed.LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        )


def stop(cluster: Any) -> None:
    """Stop a local cluster at once: asked politely, its workers would finish their items, or start once more first."""
    is_closed = threading.Event()
    killer = threading.Thread(target=_kill_until, args=(cluster, is_closed), daemon=True)
    killer.start()
    try:
        cluster.close(timeout=_CLOSE_S)
    finally:
        is_closed.set()
        killer.join()


def _kill_until(cluster: Any, is_closed: threading.Event) -> None:
    """Kill worker processes, those too that Dask starts meanwhile in place of others."""
    nannies = list(cluster.workers.values())
    while True:
        for nanny in nannies:
            nanny.auto_restart = False
            process = getattr(getattr(nanny, "process", None), "process", None)
            if process is not None and process.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        if is_closed.wait(_AGAIN_S):
            return


def _distributed() -> Any:
    try:
        return importlib.import_module("distributed")
    except ImportError as error:
        raise InputError(
            f"Dask cannot be imported ({error})", where="dask", remedy="run: pip install 'apex-sim[dask]'"
        ) from None
