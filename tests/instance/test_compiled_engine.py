"""The compiled engine against the reference: every decision equal, every request's times equal in every bit."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scenario import compare, draw

import apex_sim
from apex_sim.errors import InvariantError
from apex_sim.fleet.static_fleet import asked_of
from apex_sim.instance.compiled_instance import serve_compiled

ROOT = Path(__file__).parents[2]
N_SCENARIOS, N_CHUNKS = 600, 12

#: What the scenarios together must hold, at least so often.
HELD = (
    "unified",
    "chunked",
    "prefill-first",
    "asynchronous",
    "PP > 1",
    "DP > 1",
    "closed loop",
    "dependent closed loop",
    "least-outstanding",
    "preemption",
    "rejection",
    "windows",
)


@pytest.mark.parametrize("chunk", range(N_CHUNKS))
def test_compiled_and_reference_agree(chunk: int) -> None:
    each = N_SCENARIOS // N_CHUNKS
    for seed in range(chunk * each, (chunk + 1) * each):
        found, _ = compare(seed)
        assert not found, f"scenario {seed}: {found}"


def test_the_scenarios_hold_every_feature_fifty_times() -> None:
    """Guards the test above; one in five is run, and must hold a fifth of that."""
    total = Counter[str]()
    for seed in range(0, N_SCENARIOS, 5):
        total += compare(seed)[1]
    assert {name: total[name] for name in HELD if total[name] < 10} == {}


def test_a_leap_is_no_rare_event() -> None:
    """Nearly all steps of a lone long answer are leapt over; without leaps the comparison above would prove little."""
    n_steps = n_leapt = 0
    for seed in range(60):
        scenario = draw(np.random.default_rng(seed))
        if scenario.shape.pp > 1:
            continue
        everyone = np.ones(scenario.workload.requests.n, dtype=bool)
        served = serve_compiled(
            scenario.shape, scenario.step_model, scenario.memory, asked_of(scenario.workload, scenario.shape, everyone)
        )
        n_steps, n_leapt = n_steps + served.steps.n_steps, n_leapt + served.n_leapt_steps
    assert n_leapt > 0.4 * n_steps


#: Rules of the kernel, each with the line that keeps it and what stands there without it.
RULES = {
    "a growing sequence takes blocks": ("blocks.py", 'state.queues[queue]["n_free"] -= missing', "pass"),
    "a preempted sequence computes all again": ("blocks.py", 'state.requests[request]["computed"] = 0', "pass"),
    "a preempted sequence waits first": (
        "blocks.py",
        "push_front(state, queue, request)",
        "push_back(state, queue, request)",
    ),
    "a prompt leaves the watermark free": (
        "prefill_first.py",
        'record["n_free"] - need >= record["n_watermark"]',
        'record["n_free"] >= need',
    ),
    "v0 keeps one block free for each decode": ("prefill_first.py", '["n_free"] < 1', '["n_free"] < 0'),
    "the step budget is spent once": ("unified.py", "        budget -= n_new\n    if", "    if"),
    "nobody is admitted after a preemption": ("unified.py", 'if record["n_running"] == n_before:\n', "if True:\n"),
    "a known last token is not scheduled twice": ("unified.py", '>= record["limit"]', '> record["limit"]'),
    "max_num_seqs limits the running": (
        "unified.py",
        'record["n_running"] < state.engine[0]["max_num_seqs"]',
        'record["n_running"] < 16',
    ),
    "chunked: decodes go first in the next step": ("chunked.py", "for decodes in (0, 1):", "for decodes in (1, 0):"),
    "a leap ends before a request finishes": ("leap.py", 'request["generated"] - 1)', 'request["generated"])'),
    "a leap ends before blocks run out": ("leap.py", "return _n_with_blocks(state, queue, most)", "return most"),
    "a leap ends before an arrival is seen": ("leap.py", "if line_end_s(state, oldest + most) < time_s:", "if True:"),
    "a leap ends with its line": ("leap.py", 'engine["line_steps"] - engine["line_done"]', "1000"),
    "a leap ends before what others may send": (
        "leap.py",
        'most = _n_before(state, oldest, most, engine["until_s"])',
        "pass",
    ),
    "an instance stops where others may send": ("loop.py", '>= engine["until_s"]', ">= np.inf"),
    "no request leaves in the quiet": (
        "leap.py",
        'engine["quiet_s"] = line_end_s(state, oldest + most)',
        'engine["quiet_s"] = line_end_s(state, oldest + most + 9)',
    ),
    "a request ends the quiet": ("../driven_instance.py", "min(self.quiet_until_s, queued_s)", "self.quiet_until_s"),
    "a fleet looks ahead no further than the frontend": (
        "../../fleet/dependent_fleet.py",
        "for instance in self.instances) + self._look_ahead_s",
        "for instance in self.instances) + 9 * self._look_ahead_s",
    ),
    "ends come before arrivals": ("../../fleet/dependent_fleet.py", "rank < _ARRIVALS", "rank > _ARRIVALS"),
    "instances end in their order": (
        "../../fleet/dependent_fleet.py",
        "rank, place in sorted(events)",
        "rank, place in sorted(events, key=lambda event: (event[0], -event[2]))",
    ),
    "requests reach the scheduler after the frontend": ("../compiled_instance.py", "+ delay_s", "+ 0.0 * delay_s"),
}


def _first_difference(folder: Path, change: tuple[str, str, str] | None, n_scenarios: int) -> str:
    """Return what first differs in a copy of the package with one line changed, its kernel run uncompiled."""
    package = folder / "apex_sim"
    shutil.copytree(Path(apex_sim.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("hardware_profiles", "workloads", "search", "reports"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    if change:
        name, kept, dropped = change
        path = package / "instance" / "kernel" / name
        source = path.read_text(encoding="utf-8")
        assert source.count(kept) >= 1, f"{name} has no line with {kept!r}"
        path.write_text(source.replace(kept, dropped, 1), encoding="utf-8")
    code = (
        "import sys, apex_sim, scenario\n"
        "assert apex_sim.__file__.startswith(sys.argv[1])\n"
        "for seed in range(int(sys.argv[2])):\n"
        "    try:\n"
        "        found, _ = scenario.compare(seed)\n"
        "    except (AssertionError, IndexError, scenario.InvariantError) as error:\n"
        "        found = [repr(error)]\n"
        "    if found:\n"
        "        sys.exit(print(f'scenario {seed}: {found[0]}'))\n"
    )
    path_entries = [str(folder), str(ROOT / "tests" / "instance")]
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(n_scenarios)],
        cwd=folder,
        env=os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join(path_entries)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("rule", RULES)
def test_without_any_one_rule_the_engines_differ(rule: str, tmp_path: Path) -> None:
    assert _first_difference(tmp_path, RULES[rule], 400)


def test_with_all_rules_they_do_not_differ_uncompiled_either(tmp_path: Path) -> None:
    """Guards the test above: a copy of the package differs by nothing but the line that is changed."""
    assert _first_difference(tmp_path, None, 40) == ""


def test_requests_that_can_never_end_are_an_error() -> None:
    """A pool below the longest request: refused in planning, and no livelock if it comes here all the same."""
    seed = next(s for s in range(100) if draw(np.random.default_rng(s)).shape.scheduler.policy == "unified")
    scenario = draw(np.random.default_rng(seed))
    tiny = replace(scenario, memory=replace(scenario.memory, n_blocks=1))
    for compiled in (False, True):
        with pytest.raises(InvariantError, match="INV-1"):
            tiny.run(compiled=compiled)
