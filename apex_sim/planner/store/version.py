"""Which code and data of the package decide an answer?  An outcome of other ones must not be taken for theirs."""

from __future__ import annotations

import hashlib
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

_PACKAGE: Final = Path(__file__).resolve().parents[2]
#: Parts of the package that show answers and do not make them, and the copies of the user's folders, of which a study
#: holds what it uses.
_ONLY_SHOW: Final = frozenset({"cli", "report", "_folders", "__main__.py"})
_SUFFIXES: Final = frozenset({".py", ".toml", ".json"})
#: Libraries that compute, and the one that ships kernel tables.
_LIBRARIES: Final = ("numpy", "scipy", "numba", "simpy", "aiconfigurator-core")


@cache
def code_version() -> str:
    """Return a digest of every file of the package that an answer may depend on, and of its libraries' versions.

    Examples
    --------
    >>> len(code_version())
    64
    """
    digest = hashlib.sha256(f"python {sys.version_info[:2]}".encode())
    for name in _LIBRARIES:
        digest.update(f"\n{name} {_version_of(name)}".encode())
    for path in code_files(_PACKAGE):
        digest.update(f"\n{path.relative_to(_PACKAGE).as_posix()} ".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def code_files(package: Path) -> list[Path]:
    """Return the files below `package` that an answer may depend on, in the same order everywhere."""
    parts = [each for each in package.iterdir() if each.name not in _ONLY_SHOW]
    files = [file for part in parts for file in ([part] if part.is_file() else part.rglob("*"))]
    return sorted((file for file in files if file.suffix in _SUFFIXES), key=lambda file: file.as_posix())


def _version_of(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "none"
