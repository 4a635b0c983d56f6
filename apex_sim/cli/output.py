"""Where do answers go: the terminal, one JSON document, files in one folder?"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from apex_sim.errors import InputError
from apex_sim.report.strict_json import json_text

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_FOLDER: Final = Path("apex-sim-out")
_REMEDY: Final = "choose another --out folder, or use --no-files"


def print_json(document: object) -> None:
    """Print `document` as the one JSON document on stdout."""
    click.echo(json_text(document), nl=False)


def stdout_console() -> Console:
    """Return the console that tables are printed on; 80 columns wide where stdout is no terminal."""
    from rich.console import Console

    return Console(highlight=False)


def print_columns(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = (), title: str | None = None
) -> None:
    """Print a plain table; the columns in `right` are set flush right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    stdout_console().print(table)


def print_wrapped(text: str, indent: int = 0) -> None:
    """Print a paragraph as wide as the terminal, 80 columns where stdout is none."""
    margin = " " * indent
    width = stdout_console().width
    click.echo(textwrap.fill(text, width, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False))


def file_name(text: str) -> str:
    """Return `text` as the name of a folder or file that lies where it is put.

    Examples
    --------
    >>> file_name("DP2 TP4 PP1 fp8"), file_name("../etc")
    ('DP2-TP4-PP1-fp8', 'etc')
    """
    return re.sub(r"[^A-Za-z0-9._+]+", "-", text).strip("-.") or "study"


def choose_folder(
    out: Path | None, *, no_files: bool, as_json: bool, default: Path, names: Sequence[str]
) -> Path | None:
    """Return the folder that files shall go to, checked before the long work starts; None for no files.

    Raises
    ------
    UsageError : `--out` together with `--no-files`.
    InputError : a file is in the way, or the place cannot be written.
    """
    if no_files:
        if out is not None:
            raise click.UsageError("--out and --no-files exclude each other.")
        return None
    if out is None and as_json:
        return None
    folder = default if out is None else out
    try:
        _require_writable(folder, names)
    except OSError as error:  # a name longer than the file system allows, a folder that may not be entered
        raise InputError(f"cannot be written: {error.strerror}", where=str(folder)[:200], remedy=_REMEDY) from None
    return folder


def _require_writable(folder: Path, names: Sequence[str]) -> None:
    standing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not standing.is_dir():
        raise InputError("not a folder", where=str(standing), remedy=_REMEDY)
    with tempfile.TemporaryFile(dir=standing):  # permission bits do not tell all: read-only mounts, full disks
        pass
    for name in names:
        if (folder / name).is_dir():
            raise InputError("a folder stands where a file shall go", where=str(folder / name), remedy=_REMEDY)


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Write `texts` by file name into `folder`, all or none."""
    from apex_sim.files import write_together

    write_together({folder / name: text for name, text in texts.items()})


@contextmanager
def progress_bar(text: str) -> Iterator[Callable[[int, int], Any] | None]:
    """Show a bar on stderr while that is a terminal; yield what takes (done, total), or None."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
