"""Where are outcomes kept, so that a killed search, or another one like it, need not compute them again?

An SQLite file.  Each `put` is one transaction, on disk before it returns; a killed process leaves what it had put, and
other processes of the same machine see it at once.  The file must lie on a disk of this machine: locks of network
folders are not to be relied on.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from apex_sim.errors import InputError

FORMAT_VERSION: Final = "1"
#: Hundreds of times the text of one outcome; a stranger's file must not fill the memory.
MAX_TEXT_BYTES: Final = 16 * 2**20
#: Marks the file as ours in SQLite's header: "APEX".
_APPLICATION_ID: Final = 0x41504558
_MAGIC: Final = b"SQLite format 3\0"
#: How long one process waits while another writes.
_BUSY_S: Final = 30.0
_N_AT_ONCE: Final = 500
_OTHER_PATH: Final = "give another path (--store), or delete the file if you do not need it"
_SCHEMA: Final = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE outcomes (key TEXT PRIMARY KEY, text TEXT NOT NULL)",
)


class StudyStore:
    """Texts by key in the file `path`, which is made if it is not there; its folder too.

    Raises
    ------
    InputError : the file is no study store, of another version, damaged, locked for long or not to be written.  It is
        left as it is.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        _require_sqlite(self.path)
        with self._explained():
            self._connection = _connect(self.path)
        try:
            with self._explained():
                self._open()
        except BaseException:
            self._connection.close()
            raise

    def get(self, key: str) -> str | None:
        """Return the text under `key`, None if there is none.

        Raises
        ------
        InputError : the file is damaged, or holds something else than a text of at most `MAX_TEXT_BYTES`.
        """
        return self.get_many([key]).get(key)

    def get_many(self, keys: Iterable[str]) -> dict[str, str]:
        """Return the texts under those of `keys` that have one; errors as in `get`."""
        wanted, found = list(dict.fromkeys(keys)), dict[str, str]()
        with self._explained():
            for start in range(0, len(wanted), _N_AT_ONCE):
                some = wanted[start : start + _N_AT_ONCE]
                marks = ", ".join("?" * len(some))
                found |= self._connection.execute(f"SELECT key, text FROM outcomes WHERE key IN ({marks})", some)
        for key, text in found.items():
            if not isinstance(text, str):
                raise self._damaged(f"what stands under key {key} is no text")
        return found

    def put(self, key: str, text: str) -> bool:
        """Keep `text` under `key` unless something is kept there already; return whether it was kept.

        When this returns, it is on disk.  The first text stays because outcomes do not depend on who computed them.

        Raises
        ------
        InputError : the text is too long, the disk full, or the file locked for long.
        """
        n_bytes = len(text.encode())
        if n_bytes > MAX_TEXT_BYTES:
            raise InputError(f"an outcome of {n_bytes} bytes, at most {MAX_TEXT_BYTES} are kept", where=str(self.path))
        with self._explained():
            return self._connection.execute("INSERT OR IGNORE INTO outcomes VALUES (?, ?)", (key, text)).rowcount == 1

    def keys(self) -> frozenset[str]:
        """Return all keys."""
        with self._explained():
            return frozenset(key for (key,) in self._connection.execute("SELECT key FROM outcomes"))

    @property
    def n_outcomes(self) -> int:
        """Texts in the file, whoever put them there."""
        with self._explained():
            return int(self._connection.execute("SELECT count(*) FROM outcomes").fetchone()[0])

    def close(self) -> None:
        """Leave the file; closing twice does no harm."""
        self._connection.close()

    def __enter__(self) -> Self:
        """Return the store."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the file."""
        self.close()

    def _open(self) -> None:
        """Look whether the file is ours before anything is written to it, make it if it is new, and check it."""
        connection = self._connection
        if not self._is_new():
            self._require_ours()
        _journal(self.path, connection)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            if self._is_new():
                for statement in _SCHEMA:
                    connection.execute(statement)
                rows = [("format_version", FORMAT_VERSION), ("created", datetime.now(UTC).isoformat())]
                connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)
                connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
        finally:
            connection.execute("COMMIT" if sys.exc_info()[0] is None else "ROLLBACK")
        self._require_ours()
        verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        if verdict != "ok":
            raise self._damaged(verdict)

    def _is_new(self) -> bool:
        """Return whether nothing was ever stored, also because the process that made the file was killed."""
        n_tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        application_id = self._connection.execute("PRAGMA application_id").fetchone()[0]
        return bool(n_tables == 0 and application_id == 0)

    def _require_ours(self) -> None:
        if self._connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
            raise InputError("a database of another program", where=str(self.path), remedy=_OTHER_PATH)
        found = {
            row[0] for row in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        }
        if not {"meta", "outcomes"} <= found:
            raise self._damaged(f"its tables are {', '.join(sorted(found)) or 'missing'}")
        row = self._connection.execute("SELECT value FROM meta WHERE name = 'format_version'").fetchone()
        if row is None or row[0] != FORMAT_VERSION:
            version = "unknown" if row is None else repr(row[0])
            raise InputError(
                f"a study store of format version {version}, this APEX-Sim reads {FORMAT_VERSION!r}",
                where=str(self.path),
                remedy=_OTHER_PATH,
            )

    def _damaged(self, how: str) -> InputError:
        return InputError(f"a damaged study store ({how})", where=str(self.path), remedy=_OTHER_PATH)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what SQLite says into what the user can do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            text, where = str(error), str(self.path)
            if "locked" in text or "busy" in text:
                remedy = "wait for the process that writes to it, or stop that"
                raise InputError(f"locked by another process for {_BUSY_S:g} s", where=where, remedy=remedy) from None
            if "no such" in text or "malformed" in text or "Could not decode" in text:
                raise self._damaged(text) from None
            raise InputError(f"cannot be used: {text}", where=where, remedy="check folder, rights and disk") from None
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from None


def _require_sqlite(path: Path) -> None:
    """Make the folder of `path`, and refuse a file that does not begin as SQLite's do; an empty one may yet."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as stream:
            start = stream.read(len(_MAGIC))
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"cannot be used: {error.strerror}", where=str(path), remedy="give another path") from None
    if start and start != _MAGIC:
        raise InputError("no study store: not an SQLite file", where=str(path), remedy=_OTHER_PATH)


def _connect(path: Path) -> sqlite3.Connection:
    """Return a connection that commits each statement and reads no value that is too long."""
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_TEXT_BYTES + 4096)
    return connection


def _journal(path: Path, connection: sqlite3.Connection) -> None:
    """Ask for the write-ahead log, with which readers and a writer do not wait for each other; say so without it."""
    started = time.monotonic()
    while True:
        try:
            mode = str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
            break
        except sqlite3.OperationalError as error:  # SQLite does not wait here while another process switches
            if "locked" not in str(error) or time.monotonic() - started > _BUSY_S:
                raise
            time.sleep(0.01)
    if mode != "wal":
        print(
            f"apex-sim: {path} has no write-ahead log in this folder (journal mode {mode!r}): processes that share it "
            "wait for each other",
            file=sys.stderr,
        )
