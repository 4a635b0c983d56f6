"""How is a function compiled, and where is the machine code kept?

Numba compiles on first use and caches on disk.  Its cache follows the source file of each function alone, not those
that the function calls; here the folder's name holds a digest of all compiled sources, so that no stale code is loaded.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba

from apex_sim.numba_library import PartCompiler, RootCompiler

Function = TypeVar("Function", bound=Callable[..., Any])

#: Files of the package that decide what machine code is made: compiled functions, and how they are compiled.
SOURCES: Final = (
    "machine_code.py",
    "numba_library.py",
    "cost/decode_line.py",
    "cost/look_up.py",
    "cost/rank_price.py",
    "cost/step_price.py",
    "cost/step_tables.py",
    "draw.py",
    "instance/kernel/*.py",
    "record/latency_histogram.py",
    "record/request_records.py",
)
#: Environment variable that names another cache folder.
CACHE_VARIABLE: Final = "APEX_SIM_CACHE"
#: Machine code of other versions goes when no process has used it for so long.
KEPT_S: Final = 30 * 86_400.0
_OURS: Final = re.compile(r"compiled-[0-9a-f]{16}(\.old-\d+)?")


def compiled(function: Function) -> Function:
    """Compile `function` with Numba when it is first called with a set of types; the machine code is kept on disk.

    IEEE arithmetic as written: no reassociation, no fused multiply-add, so that equal inputs give equal bits.
    """
    return _compile(function, pipeline_class=RootCompiler, no_cfunc_wrapper=True)


def inner(function: Function) -> Function:
    """Compile `function` as `compiled` does, for callers that are compiled as well: Python cannot call it."""
    options = {"cache": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True, "forceinline": True}
    return _compile(function, pipeline_class=PartCompiler, **options)


def _compile(function: Function, **options: Any) -> Function:
    """Compile without Numba's reference counts: nothing is allocated, and counting took 20 times the work itself.

    Python's lock is let go, so that a signal can be taken while machine code runs.
    """
    folder = _cache_folder()
    settings: Any = numba.config
    njit: Any = numba.njit
    before = settings.CACHE_DIR
    settings.CACHE_DIR = str(folder or before)
    try:
        usual = {"cache": folder is not None, "nogil": True, "_nrt": False, "error_model": "numpy"}
        decorated: Any = njit(**(usual | options))(function)
    finally:
        settings.CACHE_DIR = before
    return cast("Function", decorated)


@cache
def announce(function: Callable[..., Any], what: str) -> None:
    """Say, once, that `what` is being compiled if neither this process nor the cache folder has its machine code."""
    folder = _cache_folder()
    if getattr(function, "signatures", True) or (folder and any(folder.rglob(f"*.{function.__name__}-*.nbi"))):
        return
    once = "once; it is kept for later" if folder else "for this process only"
    print(f"apex-sim: compiling {what} ({once}), some 15 s", file=sys.stderr, flush=True)


@cache
def _cache_folder() -> Path | None:
    """Return a folder for this version's machine code that can be written, or None after saying so."""
    parent = Path(os.environ.get(CACHE_VARIABLE) or _user_cache())
    folder = parent / f"compiled-{_digest()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        os.utime(folder)
    except OSError as error:
        print(
            f"apex-sim: cannot write to {folder} ({error.strerror}): the engine is compiled anew in each process; "
            f"set {CACHE_VARIABLE} to a folder that can be written",
            file=sys.stderr,
        )
        return None
    prune(parent, folder)
    return folder


def prune(parent: Path, used: Path) -> None:
    """Remove machine code of other versions from `parent` that no process has used for `KEPT_S`.

    Each process marks the folder that it uses with the time of its start.  A folder is renamed before it is emptied, so
    that nobody finds half of it; where another process is quicker, or may not, nothing happens.
    """
    latest_s = time.time() - KEPT_S
    folders = list[Path]()
    with suppress(OSError):
        folders += [each for each in parent.iterdir() if each != used and _OURS.fullmatch(each.name)]
    for folder in folders:
        with suppress(OSError):
            if folder.stat().st_mtime < latest_s:
                shutil.rmtree(folder.rename(folder.with_suffix(f".old-{os.getpid()}")))


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "apex-sim"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "apex-sim"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "apex-sim"


def _digest() -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    for pattern in SOURCES:
        for path in sorted(Path(__file__).parent.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
