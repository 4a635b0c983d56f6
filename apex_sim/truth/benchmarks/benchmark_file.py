"""Which tool wrote a benchmark file, and which runs does it hold?  The content decides, not the name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from apex_sim.errors import InputError
from apex_sim.files import read_text
from apex_sim.truth.benchmarks.aiperf import is_aiperf, read_aiperf
from apex_sim.truth.benchmarks.bench_serve import KEYS, read_bench_serve
from apex_sim.truth.benchmarks.benchmark_run import BenchmarkRun, require_consistent
from apex_sim.truth.benchmarks.guidellm import is_guidellm, read_guidellm

#: One request with 8,192 gaps takes about 170 kB, so that a thousand of them fit.
MAX_BYTES: Final = 256 * 2**20
MAX_RUNS: Final = 200
#: What can be read, for remedies.
TOOLS: Final = "vllm bench serve --save-result, SGLang bench_serving, GuideLLM or AIPerf, or a CSV of measured cases"


def is_json(path: Path) -> bool:
    """Return whether the file begins like JSON; a CSV of cases does not."""
    try:
        with path.open("rb") as stream:
            return stream.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"["))
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror}", where=str(path), remedy="check path and permissions"
        ) from None


def read_benchmarks(path: Path) -> list[BenchmarkRun]:
    """Return the runs of a file that a benchmark tool wrote.

    Raises
    ------
    InputError : no such file, larger than 256 MiB, cut off, of no known tool, or with figures that contradict each
        other; with file, key and remedy.
    UnsupportedError : a load that cannot be replayed.
    """
    documents = _documents(path)
    runs: list[BenchmarkRun] = []
    for line, data in documents:
        where = str(path) if len(documents) == 1 else f"{path}, line {line}"
        if is_guidellm(data):
            runs += read_guidellm(data, where)
        elif is_aiperf(data):
            runs.append(read_aiperf(data, where))
        elif all(key in data for key in KEYS):
            runs.append(read_bench_serve(data, where))
        else:
            keys = ", ".join(list(data)[:6])
            missing = [key for key in KEYS if key not in data]
            hint = f"; as vllm bench serve it lacks {', '.join(missing)}" if len(missing) < len(KEYS) else ""
            raise InputError(
                f"the keys ({keys[:120]}) are those of no known benchmark{hint}", where=where, remedy=f"use {TOOLS}"
            )
    if len(runs) > MAX_RUNS:
        raise InputError(f"{len(runs)} runs, more than {MAX_RUNS}", where=str(path), remedy="split the file")
    return [require_consistent(run) for run in runs]


def _documents(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return the objects of a JSON document, or of each line of a file to which results were appended."""
    text = read_text(path, MAX_BYTES)
    if not text.strip():
        raise InputError("the file is empty", where=str(path), remedy=f"use {TOOLS}")
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    first = lines[0][1].strip()
    by_line = len(lines) > 1 and first.startswith("{") and first.endswith("}")
    found = [(number, _parse(line, path, number)) for number, line in (lines if by_line else [(1, text)])]
    for number, data in found:
        if not isinstance(data, dict):
            raise InputError("not a JSON object", where=f"{path}, line {number}", remedy=f"use {TOOLS}")
    return found


def _parse(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) - 1
        problem = "cut off" if cut else f"not valid JSON: {error.msg}"
        raise InputError(
            problem, where=f"{path}, line {line + error.lineno - 1}", remedy="copy the whole file again"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not usable JSON: {error}", where=str(path), remedy="give the tool's own file") from None
