"""What does a worker of a Dask cluster do?  It is given the work once, and then items."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable
from typing import Any, Final

import cloudpickle

from apex_sim import __version__
from apex_sim.errors import InputError
from apex_sim.planner.execution.message import bytes_of, done
from apex_sim.planner.store.version import code_version

#: How a worker ends itself when an item takes too long (EX_TEMPFAIL of sysexits.h: try again).
_OVERDUE_STATUS: Final = 75

#: Works by the name of their executor, on a worker.
_WORKS: dict[str, Callable[[Any], Any]] = {}


def plugin(name: str, bundle: bytes) -> Any:
    """Return what makes every worker of a cluster, also a later one, load the work of executor `name` once."""
    version = code_version()

    class Plugin(importlib.import_module("distributed").WorkerPlugin):  # type: ignore[misc]
        def setup(self, worker: Any) -> None:
            load_work(name, bundle, version)

        def teardown(self, worker: Any) -> None:
            drop_work(name)

    return Plugin()


def load_work(name: str, bundle: bytes, version: str) -> None:
    """Keep the work of executor `name` on this worker.

    Raises
    ------
    InputError : other code or data of APEX-Sim is installed here, which might answer otherwise.
    """
    if code_version() != version:
        raise InputError(
            f"its APEX-Sim ({__version__}, code {code_version()[:12]}) is not that of the search (code {version[:12]})",
            where="worker of the Dask cluster",
            remedy="install the same version of APEX-Sim and its libraries everywhere",
        )
    _WORKS[name] = cloudpickle.loads(bundle)


def drop_work(name: str) -> None:
    """Forget the work of executor `name`."""
    _WORKS.pop(name, None)


def serve_item(name: str, item: bytes, limit_s: float | None) -> bytes:
    """Return what came of an item, as bytes of a `Message`; end this worker if it takes longer than `limit_s`."""
    guard = threading.Timer(limit_s, os._exit, (_OVERDUE_STATUS,)) if limit_s is not None else None
    if guard:
        guard.daemon = True
        guard.start()
    try:
        return bytes_of(done(_WORKS[name], cloudpickle.loads(item)))
    finally:
        if guard:
            guard.cancel()
