"""The study store: what was put is there whatever happens to the process, and no other file is touched."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from apex_sim.errors import InputError
from apex_sim.planner.store import study_store
from apex_sim.planner.store.study_store import MAX_TEXT_BYTES, StudyStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "study.db"


def made(path: Path, n: int = 3, n_spaces: int = 0) -> Path:
    with StudyStore(path) as store:
        for number in range(n):
            store.put(f"key {number}", f"text {number}" + " " * n_spaces)
    return path


def test_what_was_put_is_found_again_also_by_another(path: Path) -> None:
    with StudyStore(path) as store:
        assert (store.n_outcomes, store.keys(), store.get("a")) == (0, frozenset(), None)
        assert store.put("a", "1 'quoted' \u2028 \U0001f600")
        assert store.put("b", "")
        assert store.get("a") == "1 'quoted' \u2028 \U0001f600"
    with StudyStore(path) as store:
        assert store.get_many(["b", "c", "a", "a"]) == {"a": "1 'quoted' \u2028 \U0001f600", "b": ""}
        assert store.get_many([]) == {}
        assert (store.n_outcomes, store.keys()) == (2, {"a", "b"})
    assert sorted(each.name for each in path.parent.iterdir()) == ["study.db"]


def test_the_first_text_stays(path: Path) -> None:
    with StudyStore(path) as store:
        assert [store.put("a", text) for text in ("first", "second", "first")] == [True, False, False]
        assert store.get("a") == "first"


def test_more_keys_than_sqlite_takes_at_once(path: Path) -> None:
    with StudyStore(path) as store:
        for number in range(0, 1200, 100):
            store.put(str(number), "x")
        assert len(store.get_many(map(str, range(1200)))) == 12


def test_two_open_stores_see_each_other_at_once(path: Path) -> None:
    with StudyStore(path) as one, StudyStore(path) as other:
        one.put("a", "1")
        assert other.get("a") == "1"
        assert not other.put("a", "2")
        other.put("b", "2")
        assert one.get_many(["a", "b"]) == {"a": "1", "b": "2"}


def test_the_file_says_what_it_is(path: Path) -> None:
    connection = sqlite3.connect(made(path))
    meta = dict(connection.execute("SELECT name, value FROM meta"))
    assert meta["format_version"] == study_store.FORMAT_VERSION
    assert meta["created"].startswith("20")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def other_version(path: Path) -> None:
    with sqlite3.connect(made(path)) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE name = 'format_version'")
    connection.close()


def without_version(path: Path) -> None:
    with sqlite3.connect(made(path)) as connection:
        connection.execute("DELETE FROM meta")
    connection.close()


def without_table(path: Path) -> None:
    with sqlite3.connect(made(path)) as connection:
        connection.execute("DROP TABLE outcomes")
    connection.close()


def other_columns(path: Path) -> None:
    with sqlite3.connect(made(path)) as connection:
        connection.execute("ALTER TABLE meta RENAME COLUMN value TO worth")
    connection.close()


def other_program(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE outcomes (key, text)")
        connection.execute("CREATE TABLE meta (name, value)")
    connection.close()


def text_file(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("rank,plan\n1,TP4\n")


def short_file(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"SQLite")


def cut(path: Path) -> None:
    os.truncate(made(path, 40, 10_000), path.stat().st_size // 2)


def cut_in_the_header(path: Path) -> None:
    os.truncate(made(path), 50)


def overwritten(path: Path) -> None:
    with made(path, 40, 10_000).open("r+b") as stream:
        stream.seek(path.stat().st_size // 2)
        stream.write(b"\xff" * 4096)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (other_version, "a study store of format version '99', this APEX-Sim reads '1'"),
        (without_version, "a study store of format version unknown"),
        (without_table, "a damaged study store"),
        (other_columns, "a damaged study store"),
        (other_program, "a database of another program"),
        (text_file, "not an SQLite file"),
        (short_file, "not an SQLite file"),
        (cut, "a damaged study store"),
        (cut_in_the_header, "a damaged study store"),
        (overwritten, "a damaged study store"),
    ],
)
def test_another_file_is_refused_and_left_as_it_is(path: Path, spoil: Callable[[Path], None], problem: str) -> None:
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(InputError) as caught:
        StudyStore(path)
    assert problem in str(caught.value)
    assert str(path) in str(caught.value)
    assert "another path (--store), or delete the file" in str(caught.value)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["study.db"]


def test_a_folder_and_a_place_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be used: Is a directory"):
        StudyStore(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be used: (Not a directory|File exists)"):
        StudyStore(tmp_path / "file" / "study.db")


def test_an_empty_file_is_what_a_killed_start_may_leave(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with StudyStore(path) as store:
        assert store.put("a", "1")


def test_a_start_that_was_killed_after_the_header_was_written(path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    assert path.stat().st_size > 0
    with StudyStore(path) as store:
        assert store.put("a", "1")


def test_texts_that_are_too_long_are_neither_kept_nor_read(path: Path) -> None:
    with StudyStore(path) as store:
        assert store.put("most", "x" * MAX_TEXT_BYTES)
        with pytest.raises(InputError, match=f"{MAX_TEXT_BYTES + 2} bytes"):
            store.put("more", "x" * MAX_TEXT_BYTES + "é")
        assert len(store.get("most") or "") == MAX_TEXT_BYTES
        assert store.keys() == {"most"}
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO outcomes VALUES ('bomb', ?)", ("x" * (MAX_TEXT_BYTES + 10_000),))
        connection.execute("INSERT INTO outcomes VALUES ('blob', ?)", (b"\x80\x04.",))
        connection.execute("INSERT INTO outcomes VALUES ('latin', CAST(? AS TEXT))", (b"\xe9\xff",))
    connection.close()
    with StudyStore(path) as store:
        for key in ("bomb", "blob", "latin"):
            with pytest.raises(InputError, match="a damaged study store"):
                store.get(key)
        assert store.get("most") is not None


def test_a_store_that_another_process_keeps_locked_is_an_error_in_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_store, "_BUSY_S", 0.2)
    other = sqlite3.connect(made(path), isolation_level=None)
    with StudyStore(path) as store:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(InputError, match=r"locked by another process for 0\.2 s"):
            store.put("a", "1")
        assert store.get("key 0") == "text 0"
        other.execute("ROLLBACK")
        assert store.put("a", "1")
    other.close()


def test_without_a_write_ahead_log_it_says_so_and_works(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # SQLite's "unix-none" has no shared memory, as some network folders have none.
    monkeypatch.setattr(
        study_store,
        "_connect",
        lambda path: sqlite3.connect(f"file:{path}?vfs=unix-none", uri=True, isolation_level=None),
    )
    with StudyStore(path) as store:
        assert "no write-ahead log in this folder (journal mode 'delete')" in capsys.readouterr().err
        assert store.put("a", "1")
    with StudyStore(path) as store:
        assert store.get("a") == "1"


WRITER: Final = """
    import sys
    from apex_sim.planner.store.study_store import StudyStore

    path, name, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with StudyStore(path) as store:
        for number in range(n):
            kept = store.put(f"{name} {number}", f"{name} {number} " + "x" * 20_000)
            print(f"{name} {number}" if kept else "", flush=True)
    """


def start_writer(path: Path, name: str, n: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), name, str(n)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_writer_that_is_killed_loses_nothing_that_was_put(path: Path) -> None:
    moments, said = random.Random(0), set[str]()
    for run in range(5):
        writer = start_writer(path, f"run{run}", 1_000_000)
        assert writer.stdout is not None
        said.add(writer.stdout.readline().strip())
        time.sleep(moments.uniform(0.0, 0.1))
        writer.send_signal(signal.SIGKILL)
        said |= {line.strip() for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")}
        writer.communicate()
        with StudyStore(path) as store:
            assert said <= store.keys()
            assert store.n_outcomes <= len(said) + run + 1
            texts = store.get_many(store.keys())
        assert all(text == f"{key} " + "x" * 20_000 for key, text in texts.items())
    assert len(said) > 5


def test_start_ups_that_are_killed_leave_a_file_that_opens(path: Path) -> None:
    started = time.monotonic()
    writer = start_writer(path, "once", 1)
    assert writer.communicate()[0] == "once 0\n"
    whole_s = time.monotonic() - started
    shutil.rmtree(path.parent)
    moments = random.Random(1)
    for _ in range(5):
        writer = start_writer(path, "again", 1)
        time.sleep(moments.uniform(0.5, 1.0) * whole_s)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    with StudyStore(path) as store:
        assert store.keys() <= {"again 0"}


def test_processes_that_make_and_fill_one_store_together(path: Path) -> None:
    n = 40
    writers = [start_writer(path, name, n) for name in ("a", "a", "b")]
    outputs = [writer.communicate(timeout=60)[0].splitlines() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    kept = [line for output in outputs for line in output if line]
    assert sorted(kept) == sorted(f"{name} {number}" for name in "ab" for number in range(n))
    with StudyStore(path) as store:
        assert store.keys() == set(kept)
