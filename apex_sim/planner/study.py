"""What is the question?  Model, hardware, workload, space, objective and SLO, as one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from apex_sim import catalogue
from apex_sim.cost.cost_model import CostModel
from apex_sim.errors import InputError, UnknownNameError
from apex_sim.files import check, read_toml
from apex_sim.fleet.router import SHARING_ROUTERS, load_router
from apex_sim.hardware.cluster import Cluster, load_cluster
from apex_sim.metrics.definitions import LATENCIES, METRICS, MetricDefinition
from apex_sim.metrics.slo import Slo, make_slo
from apex_sim.model.load import load_model
from apex_sim.model.model import Model
from apex_sim.plan.draft import draft_model_of
from apex_sim.plan.engines import ENGINES
from apex_sim.plan.precision import KV_DTYPES, WEIGHT_DTYPES
from apex_sim.planner.study_file import SchedulerEntry, SpaceEntry, StudyFile
from apex_sim.preset.load import load_preset
from apex_sim.preset.preset import Preset
from apex_sim.truth.calibration.profile_file import ProfileFile, read_profile
from apex_sim.truth.calibration.profile_support import apply_profile
from apex_sim.workload.load import load_workload
from apex_sim.workload.workload import Workload

FOLDER: Final = "search"

#: Objectives that are one metric; the latencies also need a statistic.
SINGLE_OBJECTIVES: Final = {
    "throughput": "output_tokens_per_s",
    "cost": "usd_per_million_output_tokens",
    "energy": "energy_per_output_token_j",
}
OBJECTIVES: Final = (*LATENCIES, *SINGLE_OBJECTIVES)


@dataclass(frozen=True, slots=True)
class Study:
    """One question, everything resolved; `cost` is a caller's own back end, which goes before `cost_model`.

    `profile` is the calibration whose times `preset` has already.
    """

    name: str
    title: str
    model: Model
    cluster: Cluster
    workload: Workload
    preset: Preset
    space: SpaceEntry
    scheduler: SchedulerEntry
    objective: MetricDefinition
    slo: Slo
    cost_model: str | None
    kernel_tables: Path | None = None
    cost: CostModel | None = None
    profile: ProfileFile | None = None


def study_names() -> list[str]:
    """Return the names of the catalogue's studies."""
    return catalogue.names(FOLDER)


def load_study(name_or_path: str | Path, overrides: dict[str, Any] | None = None) -> Study:
    """Return the study of a catalogue name or a TOML file.

    Parameters
    ----------
    overrides : values by key of the file, nested as in the file; None values are ignored.

    Raises
    ------
    UnknownNameError : no such study, model, device, workload, preset, router, metric or key; with the nearest names.
    InputError : an unusable value, with file and key.

    Examples
    --------
    >>> load_study("quickstart").model.name
    'llama-3.1-70b'
    """
    path = catalogue.resolve(FOLDER, name_or_path, "study")
    data = merge(_without_rival_loads(read_toml(path), overrides or {}), overrides or {})
    for key in ("workload", "profile"):
        data[key] = _beside(path, data.get(key))
    return make_study(data, name=path.stem, where=str(path))


#: Keys of [load] of which one rules out the others, so that an override replaces whichever the file states.
_RIVAL_LOADS: Final = ("rate_per_s", "concurrency", "offline")


def _without_rival_loads(data: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    load, changes = data.get("load"), overrides.get("load", {})
    if not isinstance(load, dict) or not any(changes.get(key) for key in _RIVAL_LOADS):
        return data
    return {**data, "load": {key: value for key, value in load.items() if key not in _RIVAL_LOADS}}


def _beside(path: Path, name: object) -> object:
    """Return a file's path relative to the study file where such a file exists, else the name as it is."""
    if isinstance(name, str) and (path.parent / name).is_file():
        return str(path.parent / name)
    return name


def merge(data: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return `data` with `overrides` laid over it, table by table; None values change nothing."""
    merged = dict(data)
    for key, value in overrides.items():
        if isinstance(value, dict):
            table = merged.get(key, {})
            merged[key] = merge(table, value) if isinstance(table, dict) else table
        elif value is not None:
            merged[key] = value
    return merged


def make_study(data: dict[str, Any], name: str, where: str) -> Study:
    """Return the study that `data`, in the layout of the file, describes; errors as in `load_study`."""
    file = check(StudyFile, data, where)
    _require_known("kv_dtypes", file.space.kv_dtypes, KV_DTYPES, where)
    for key in ("tp", "pp", "dp", "attention_dp", "cp", "layers", "max_num_seqs", "max_num_batched_tokens"):
        if any(degree < 1 for degree in getattr(file.space, key)):
            raise InputError(
                "a degree below 1", where=f"{where}, key 'space.{key}'", remedy="give whole numbers from 1"
            )
    if file.space.layers and file.space.pp and file.space.pp != [len(file.space.layers)]:
        raise InputError(
            f"{len(file.space.layers)} stages, and pp is {file.space.pp}",
            where=f"{where}, key 'space.layers'",
            remedy="give one entry for each stage, or leave pp out",
        )
    for router in (file.space.router, *file.space.routers):
        load_router(router)
        if router in SHARING_ROUTERS:
            raise InputError(
                f"router {router!r} keeps shares that no study states",
                where=f"{where}, key 'space.router'",
                remedy="use round-robin or least-outstanding; apex_sim.planner.mixed_fleet chooses shares",
            )
    if file.space.engine is not None and file.space.engine not in ENGINES:
        raise UnknownNameError("engine", file.space.engine, ENGINES, where=f"{where}, key 'space.engine'")
    model = load_model(file.model)
    space = file.space
    if not space.weight_dtypes:
        space = space.model_copy(update={"weight_dtypes": [model.weight_dtype]})
    _require_known("weight_dtypes", space.weight_dtypes, WEIGHT_DTYPES, where)
    _require_draft(file, model, where)
    load = file.load
    workload = load_workload(
        file.workload,
        n_requests=load.n_requests,
        rate_per_s=load.rate_per_s,
        concurrency=load.concurrency,
        offline=load.offline,
        seed=load.seed,
    )
    preset, profile = load_preset(space.preset), file.profile and read_profile(Path(file.profile))
    return Study(
        name=name,
        title=file.title or name,
        model=model,
        cluster=load_cluster(file.cluster),
        workload=workload,
        preset=apply_profile(preset, profile) if profile else preset,
        space=space,
        scheduler=file.scheduler,
        objective=_objective(file.objective, file.statistic),
        slo=make_slo(file.slo, f"{where}, table [slo]"),
        cost_model=file.cost_model,
        kernel_tables=_kernel_tables(file, where),
        profile=profile or None,
    )


def _require_draft(file: StudyFile, model: Model, where: str) -> None:
    """Refuse a draft that cannot propose tokens for `model`, and stages beside one."""
    speculation = file.scheduler.speculation(f"{where}, table [scheduler]")
    if speculation is None:
        return
    draft_model_of(model, speculation, f"{where}, key 'scheduler.draft'")
    if (file.space.pp and min(file.space.pp) > 1) or len(file.space.layers) > 1:
        raise InputError(
            f"speculation (draft {speculation.draft!r}) with {min(file.space.pp or [len(file.space.layers)])} pipeline "
            "stages is not simulated yet",
            where=f"{where}, key 'space.pp'",
            remedy="use pp = [1] (--pp 1), or leave speculation out",
        )


def _kernel_tables(file: StudyFile, where: str) -> Path | None:
    if file.kernel_tables is None:
        return None
    key = f"{where}, key 'kernel_tables'"
    if file.cost_model != "measured":
        raise InputError(
            f"tables for the cost model {file.cost_model!r}", where=key, remedy='set cost_model = "measured"'
        )
    folder = Path(file.kernel_tables).expanduser()
    if not folder.is_dir():
        raise InputError(f"no folder at {folder}", where=key, remedy="give the folder that holds the devices' folders")
    return folder


def _objective(objective: str, statistic: str) -> MetricDefinition:
    return METRICS[SINGLE_OBJECTIVES.get(objective, f"{objective}_{statistic}_s")]


def _require_known(key: str, values: list[str], known: tuple[str, ...], where: str) -> None:
    for value in values:
        if value not in known:
            raise InputError(
                f"{value!r} is no number format that can be served",
                where=f"{where}, key 'space.{key}'",
                remedy=f"use {', '.join(known)}",
            )
