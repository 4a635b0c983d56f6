"""What can a result be repeated from, and which of its inputs are assumed?"""

from __future__ import annotations

import platform
from dataclasses import dataclass

from apex_sim import __version__
from apex_sim.planner.evaluation import cost_name_of
from apex_sim.planner.study import Study
from apex_sim.preset.research import RESEARCH_POLICIES
from apex_sim.truth.calibration.profile_support import profile_notes, require_near_load


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the result can be repeated from."""

    version: str
    python: str
    model: str
    model_source: str
    cluster: str
    workload: str
    workload_sha256: str
    workload_notes: tuple[str, ...]
    max_output_source: str
    seed: int | None
    preset: str
    cost_model: str
    assumed: tuple[str, ...]


def provenance_of(study: Study) -> Provenance:
    """Return what a result of `study` can be repeated from, and which of its inputs are assumed."""
    preset, requests = study.preset, study.workload.requests
    assumed = [
        f"{preset.name} {name}: {part.source}"
        for name, part in (
            ("graphs", preset.graphs),
            ("host time", preset.host),
            ("slowdown of prompts", preset.slowdown),
            ("buffers", preset.buffers),
        )
        if part.kind == "assumed"
    ]
    if preset.ranks and study.space.attention_dp != [1]:
        assumed.append(f"{preset.name} attention ranks: {preset.ranks.source}")
    assumed += [*_of_research(study), *_of_speculation(study), *_of_profile(study)]
    for device in (pool.device for pool in study.cluster.pools):
        assumed += [f"{device.name} {key}: {f.source}" for key, f in device.figures.items() if f.kind == "assumed"]
    return Provenance(
        version=__version__,
        python=platform.python_version(),
        model=study.model.name,
        model_source=study.model.source,
        cluster=study.cluster.name,
        workload=study.workload.name,
        workload_sha256=requests.content_hash(),
        workload_notes=study.workload.notes,
        max_output_source=requests.max_output_source,
        seed=study.workload.seed,
        preset=preset.name,
        cost_model=cost_name_of(study),
        assumed=tuple(assumed),
    )


def _of_profile(study: Study) -> tuple[str, ...]:
    """Return what of a calibration a result stands on."""
    if study.profile is None:
        return ()
    server = study.profile.server
    n_instances = study.cluster.pool(server.device).n_devices // (server.tp * server.pp * server.attention_dp)
    near = require_near_load(study.profile, study.workload, max(n_instances, 1))
    return *profile_notes(study.profile), *near


def _of_research(study: Study) -> list[str]:
    """Return what of the study's scheduler the preset's engine does not have, or no engine."""
    scheduler, found = study.scheduler, []
    research = RESEARCH_POLICIES.get(scheduler.policy or "")
    if research:
        found.append(
            f"research policy {scheduler.policy} on the figures of {study.preset.name}, whose engine lacks it: "
            f"{research.source}"
        )
    if scheduler.preemption == "swap":
        found.append("swapping: each layer's keys and values of a block are copied in 2 us or more")
    if scheduler.queue_order == "shortest-predicted-first":
        spread = scheduler.prediction_log_sd or 0.0
        predictor = f"log-normal error of spread {spread:g}" if spread else "an exact predictor, which no server has"
        found.append(f"predicted output lengths: {predictor}")
    return found


def _of_speculation(study: Study) -> list[str]:
    """Return what a result with speculation rests on that nobody measured, and what speculation switched off."""
    speculation = study.scheduler.speculation(f"study {study.name}, table [scheduler]")
    if speculation is None:
        return []
    notes = [
        f"speculation: {speculation.label}, the study's own figure, independent for each token",
        f"draft {speculation.draft}: attention over several queries of a sequence is priced as more query heads, "
        "which no kernel table holds",
    ]
    if study.preset.async_scheduling:
        notes.append(
            "asynchronous scheduling is off beside speculation: vLLM 0.11 refuses it, 0.12 and 0.13 have it on request "
            "(https://github.com/vllm-project/vllm/pull/24799 ), which is not simulated yet"
        )
    return notes
