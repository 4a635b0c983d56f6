"""Which requests did a measured server get, and when?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from apex_sim.errors import InputError, UnsupportedError
from apex_sim.files import check
from apex_sim.truth.case import Case, OfferedLoad
from apex_sim.truth.harness_lengths import NOTE, drawn_lengths
from apex_sim.workload.column import frozen
from apex_sim.workload.draw import draw_workload
from apex_sim.workload.spec import WorkloadSpec
from apex_sim.workload.workload import Workload

#: By prompt and output tokens: TensorRT-LLM 0.14, docs/source/performance/perf-overview.md; 1.0 does not say.
_OVERVIEW_REQUESTS: Final = {
    (128, 128): 30_000,
    (128, 2048): 3000,
    (128, 4096): 1500,
    (500, 2000): 3000,
    (1000, 1000): 3000,
    (1000, 2000): 1500,
    (2048, 128): 3000,
    (2048, 2048): 1500,
    (5000, 500): 1500,
    (20_000, 2000): 1000,
}


def draw_case_load(case: Case, folder: Path) -> Workload:
    """Return the requests of `case`: those of its request file, or lengths drawn uniformly from [low x L, L].

    Lengths without a file stand for a load that ignores EOS, whose output length the server may reserve.

    Parameters
    ----------
    folder : where the CSV lies; a request file must lie inside it.

    Raises
    ------
    UnsupportedError : the columns do not say enough.
    InputError : the request file is missing, outside `folder`, or broken.
    """
    load, n_requests = case.load, case.load.n_requests or _documented_requests(case)
    data: dict[str, Any] = {
        "title": case.case_id,
        "source": case.source,
        "kind": "measured",
        "ignore_eos": load.workload is None,
        "load": _load(load),
        "n_requests": n_requests,
        "seed": load.seed or 0,
    }
    if load.workload is None:
        if n_requests is None:
            _needed(load, "n_requests")
        data |= {"prompt_tokens": _lengths(load, "isl_tokens"), "output_tokens": _lengths(load, "osl_tokens")}
    else:
        data["trace"] = _request_file(load.workload, folder, case.where)
    spec = check(WorkloadSpec, data, case.where)
    workload = draw_workload(spec, name=case.case_id, where=case.where, folder=folder)
    assumed = [] if n_requests == load.n_requests else [f"n_requests: {n_requests}, as for 0.14 at these lengths"]
    lengths = drawn_lengths(case)
    if lengths is None:
        return replace(workload, notes=(*workload.notes, *_notes(load), *assumed))
    prompts, outputs = (frozen(tokens) for tokens in lengths)
    drawn = replace(workload.requests, prompt_tokens=prompts, output_tokens=outputs, max_output_tokens=outputs)
    notes = [note for note in _notes(load) if not note.startswith("seed")]
    return replace(workload, requests=drawn, notes=(*workload.notes, *notes, *assumed, NOTE))


def _documented_requests(case: Case) -> int | None:
    """Return the size of TensorRT-LLM's own benchmark for the case's lengths, if it is one of its offline runs."""
    load = case.load
    if case.deployment.engine.lower() != "trtllm" or load.load_kind != "offline":
        return None
    return _OVERVIEW_REQUESTS.get((load.isl_tokens or 0, load.osl_tokens or 0))


def _load(load: OfferedLoad) -> dict[str, Any]:
    kind = _needed(load, "load_kind")
    table: dict[str, Any] = {"kind": kind, "n_warmup": load.n_warmup or 0}
    if kind == "trace":
        _needed(load, "workload")
    elif kind == "closed":
        users = _needed(load, "concurrency")
        table["concurrency"] = min(users, load.n_requests or users)
    elif kind != "offline":
        table["rate_per_s"] = _needed(load, "rate_per_s")
    return table


def _lengths(load: OfferedLoad, column: str) -> dict[str, Any]:
    return {"kind": "uniform", "tokens": _needed(load, column), "low_frac": _needed(load, "length_low_frac")}


def _needed(load: OfferedLoad, column: str) -> Any:
    value = getattr(load, column)
    if value is None:
        raise UnsupportedError(f"{column} is empty, so the load is not known")
    return value


def _request_file(name: str, folder: Path, where: str) -> str:
    """Return `name` if it stands for a file inside `folder`, links followed."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InputError(
            f"workload {name!r} lies outside the folder of the cases", where=where, remedy="put the file beside the CSV"
        )
    return name


def _notes(load: OfferedLoad) -> list[str]:
    notes = []
    if load.n_warmup:
        notes.append(f"{load.n_warmup} warm-up requests are not simulated: without a prefix cache they leave nothing")
    if load.seed is None and (load.workload is None or load.load_kind == "poisson"):
        notes.append("seed: 0, so the draws are not those of the measured run")
    return notes
