"""Where does a calibration profile hold?  On its own server; for loads and lengths not too far from what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from apex_sim.errors import InputError, UnsupportedError
from apex_sim.plan.shape import Shape
from apex_sim.preset.preset import Preset
from apex_sim.truth.calibration.parameters import NAMES, scale_preset
from apex_sim.truth.calibration.profile_file import EXTRAPOLATION, ProfiledServer, ProfileFile, preset_sha256
from apex_sim.truth.replay import Replay
from apex_sim.workload.workload import Workload

#: What two servers must share; the engine's version is noted only, as a preset stands for several.
_IDENTITY = ("preset", "model", "device", "tp", "pp", "attention_dp", "ep", "weight_dtype", "kv_dtype")


def apply_profile(preset: Preset, profile: ProfileFile) -> Preset:
    """Return `preset` with the times of `profile`.

    Raises
    ------
    InputError : the profile is of another preset, or of one whose own times have changed since.
    """
    if preset.name != profile.server.preset:
        raise InputError(
            f"fitted to preset {profile.server.preset}, and this is {preset.name}",
            where="profile",
            remedy=f"use --preset {profile.server.preset}, or calibrate this engine",
        )
    if preset_sha256(preset) != profile.preset_sha256:
        raise InputError(
            f"fitted to other times of preset {preset.name} (apex-sim {profile.apex_sim_version}) than it has now",
            where="profile",
            remedy="calibrate again with this release",
        )
    source = f"calibrated from {', '.join(profile.runs)[:200]}" if profile.host.informed else ""
    return scale_preset(preset, profile.multipliers, source)


def server_of(shape: Shape, model: str, engine_version: str = "") -> ProfiledServer:
    """Return what a profile says of the server that `shape` is."""
    return ProfiledServer(
        preset=shape.preset.name,
        engine=shape.preset.engine,
        engine_version=engine_version,
        model=model,
        device=shape.device,
        tp=shape.tp,
        pp=shape.pp,
        attention_dp=shape.attention_dp,
        ep=shape.ep,
        weight_dtype=shape.precision.weight,
        kv_dtype=shape.precision.kv,
    )


def require_same_server(profile: ProfileFile, shapes: Sequence[Shape], model: str) -> None:
    """Check that every shape is the profile's server.

    Raises
    ------
    UnsupportedError : one is not; it names what differs.
    """
    for shape in shapes:
        other = server_of(shape, model)
        differ = [
            f"{name} {getattr(profile.server, name)} there, {getattr(other, name)} here"
            for name in _IDENTITY
            if getattr(profile.server, name) != getattr(other, name)
        ]
        if differ:
            raise UnsupportedError(
                f"the profile is of another server: {'; '.join(differ)}",
                where="profile",
                remedy="state the profile's own server and one plan, or calibrate this one",
            )


def require_near_load(profile: ProfileFile, workload: Workload, n_instances: int = 1) -> tuple[str, ...]:
    """Return what of `workload` lies beyond what the profile's runs covered.

    Mean lengths are compared, and for closed loops the users of an instance; what arrivals make of concurrency is known
    after the run only (`require_near_users`).

    Raises
    ------
    UnsupportedError : a length or the users lie more than 8 times beyond what was seen.
    """
    requests, support, users = workload.requests, profile.support, workload.load.concurrency
    notes = [
        *_beyond("mean prompt tokens", float(requests.prompt_tokens.mean()), support.prompt_tokens),
        *_beyond("mean output tokens", float(requests.output_tokens.mean()), support.output_tokens),
    ]
    if users is not None:
        notes += require_near_users(profile, users / n_instances)
    return tuple(notes)


def require_near_users(profile: ProfileFile, users: float) -> tuple[str, ...]:
    """Return whether so many requests of an instance at a time lie beyond what the profile's runs covered.

    Raises
    ------
    UnsupportedError : they lie more than 8 times beyond.
    """
    return _beyond("users of an instance", users, profile.support.concurrency)


def _beyond(name: str, value: float, seen: Sequence[float]) -> tuple[str, ...]:
    low, high = seen
    if not low / EXTRAPOLATION <= value <= high * EXTRAPOLATION:
        raise UnsupportedError(
            f"{name} {value:.4g}: the profile was fitted at {low:.4g} to {high:.4g}, and holds for "
            f"{EXTRAPOLATION:g} times less or more",
            where="profile",
            remedy="calibrate with a run nearer to this load, or leave the profile out",
        )
    if low <= value <= high:
        return ()
    return (f"profile extrapolated: {name} {value:.4g}, fitted at {low:.4g} to {high:.4g}",)


def profile_notes(profile: ProfileFile) -> tuple[str, ...]:
    """Return what a result under `profile` should say of it."""
    server = profile.server
    values = ", ".join(
        f"{name} x {time.multiplier:.3f}{'' if time.informed else ' (not informed)'}"
        for name in NAMES
        for time in [getattr(profile, name)]
    )
    return (
        f"calibration profile of {server.engine} {server.engine_version}, {server.model} on {server.device}, "
        f"TP{server.tp}: {values}; from {', '.join(profile.runs)[:120]}, data {profile.data_sha256[:12]}",
    )


def profile_replay(replay: Replay, profile: ProfileFile) -> Replay:
    """Return `replay` under the times of `profile`, with its notes.

    Raises
    ------
    UnsupportedError : the case is of another server, or its load too far from what was seen.
    InputError : as `apply_profile`.
    """
    require_same_server(profile, [shape for shape, _ in replay.plan.instances], replay.model.name)
    notes = require_near_load(profile, replay.workload, replay.plan.n_instances)
    instances = tuple(
        (replace(shape, preset=apply_profile(shape.preset, profile)), count) for shape, count in replay.plan.instances
    )
    plan = replace(replay.plan, instances=instances)
    return replace(replay, plan=plan, notes=(*replay.notes, *profile_notes(profile), *notes))
