"""Where machine code is kept, when it goes, and what happens where it cannot be kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apex_sim.machine_code import KEPT_S, prune

REPOSITORY = Path(__file__).parents[2]
COMMAND = (
    *(sys.executable, "-m", "apex_sim", "simulate", "quickstart", "--tp", "8", "--pp", "1", "--dp", "1"),
    *("--weight-dtype", "fp8", "--n-requests", "20", "--json"),
)


def folder_used(parent: Path, name: str, days_ago: float) -> Path:
    folder = parent / name
    (folder / "kernel").mkdir(parents=True)
    (folder / "kernel" / "code.nbi").write_text("code")
    used_s = time.time() - days_ago * 86_400
    os.utime(folder, (used_s, used_s))
    return folder


def test_what_no_process_used_for_thirty_days_goes(tmp_path: Path) -> None:
    assert KEPT_S == 30 * 86_400
    own = folder_used(tmp_path, f"compiled-{1:016x}", 40)
    recent = folder_used(tmp_path, f"compiled-{2:016x}", 29)
    for index in (3, 4):
        folder_used(tmp_path, f"compiled-{index:016x}", 31)
    folder_used(tmp_path, f"compiled-{5:016x}.old-77", 31)  # of a process that was stopped while it removed
    strangers = [folder_used(tmp_path, name, 400) for name in ("compiled-mine", "studies", "compiled-0123")]
    prune(tmp_path, own)
    assert set(tmp_path.iterdir()) == {own, recent, *strangers}


def test_whoever_is_quicker_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, old = tmp_path / "compiled-own", folder_used(tmp_path, f"compiled-{3:016x}", 31)

    def gone(self: Path, target: Path) -> Path:
        raise FileNotFoundError(str(self))

    monkeypatch.setattr("apex_sim.machine_code.Path.rename", gone)
    prune(tmp_path, own)
    assert old.exists()
    prune(tmp_path / "nowhere", own)


def test_a_process_marks_the_folder_that_it_uses_and_prunes_the_others(tmp_path: Path) -> None:
    old, recent = (folder_used(tmp_path, f"compiled-{days:016x}", days) for days in (31, 29))
    code = "from apex_sim import machine_code; print(machine_code._cache_folder())"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "APEX_SIM_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", code]
    own = Path(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip())
    assert set(tmp_path.iterdir()) == {own, recent}
    os.utime(own, (0, 0))
    subprocess.run(command, env=environment, capture_output=True, check=True)
    assert own.stat().st_mtime > old.parent.stat().st_ctime - 60


def test_a_cache_that_cannot_be_written_costs_time_and_changes_nothing(tmp_path: Path) -> None:
    """A file stands where the folder should be, which stops the superuser as well."""
    cache = tmp_path / "cache"
    cache.write_text("mine")
    kept, own = (
        subprocess.run(
            COMMAND,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | changes,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        for changes in ({}, {"APEX_SIM_CACHE": str(cache)})
    )
    assert json.loads(own.stdout)["metrics"] == json.loads(kept.stdout)["metrics"]
    first, second = own.stderr.splitlines()
    assert first.startswith(f"apex-sim: cannot write to {cache}")
    assert "compiled anew in each process; set APEX_SIM_CACHE to a folder that can be written" in first
    assert second == "apex-sim: compiling the engine for policy unified (for this process only), some 15 s"
    assert cache.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [cache]
