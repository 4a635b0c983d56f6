"""How is a function compiled, and where is the machine code kept?

Numba compiles on first use and caches on disk.  Its cache follows the source file of each function alone, not those
that the function calls; here the folder's name holds a digest of all compiled sources, so that no stale code is loaded.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

#: Files of the package with compiled functions.
SOURCES: Final = ("cost/look_up.py", "cost/step_price.py", "cost/step_tables.py")
#: Environment variable that names another cache folder.
CACHE_VARIABLE: Final = "APEX_SIM_CACHE"


def compiled(function: Function) -> Function:
    """Compile `function` with Numba when it is first called with a set of types; the machine code is kept on disk.

    IEEE arithmetic as written: no reassociation, no fused multiply-add, so that equal inputs give equal bits.
    """
    folder = _cache_folder()
    settings: Any = numba.config
    before = settings.CACHE_DIR
    settings.CACHE_DIR = str(folder or before)
    try:
        decorated: Any = numba.njit(cache=folder is not None)(function)
    finally:
        settings.CACHE_DIR = before
    return cast("Function", decorated)


@lru_cache(maxsize=1)
def _cache_folder() -> Path | None:
    """Return a folder for this version's machine code that can be written, or None after saying so."""
    parent = Path(os.environ.get(CACHE_VARIABLE) or _user_cache())
    folder = parent / f"compiled-{_digest()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        print(
            f"apex-sim: cannot write to {folder} ({error.strerror}): the engine is compiled anew in each process; "
            f"set {CACHE_VARIABLE} to a folder that can be written",
            file=sys.stderr,
        )
        return None


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "apex-sim"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "apex-sim"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "apex-sim"


def _digest() -> str:
    digest = hashlib.sha256(numba.__version__.encode())
    for name in SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:16]
