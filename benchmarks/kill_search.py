"""Does a search that is killed at random moments lose or repeat work, or change its answer?

    python benchmarks/kill_search.py --kills 50 -- apex-sim search quickstart --store {store} --json

runs the command once in peace, and then again and again, each time with SIGKILL for its whole process group at a random
moment, on one store until it comes to its end and then on a new one.  `{store}` stands for the store's path.  Without a
command a small search of the harness's own is killed.

Checked are: a key that was in the store, or that the command said was committed, stays in the store; a committed
evaluation is never done again; over all, at most one evaluation for each worker and kill is; the last document on
stdout is that of the undisturbed run but for times.  For the second and third the command says on stderr, one on a
line, "evaluating KEY" before and "committed KEY" after an evaluation; without such lines they are said to be unchecked.
The harness stops at the first problem.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apex_sim.planner.store.study_store import StudyStore

LINE = re.compile(r"^(?:apex-sim: )?(evaluating|committed) (\S+)$", re.MULTILINE)
#: Keys of a document whose values are how long something took.
TIMES = ("cpu_s", "wall_s", "elapsed_s", "eta_s")
FAULTS = ("forget", "repeat", "answer")
HERE = Path(__file__).resolve()


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the command; `document` is None where it was killed."""

    document: Any
    evaluating: tuple[str, ...]
    committed: tuple[str, ...]
    wall_s: float


@dataclass(slots=True)
class Tally:
    """What was seen, and what should not have been."""

    whole_s: float = 0.0
    n_kills: int = 0
    n_ends: int = 0
    n_evaluations: int = 0
    n_repeated: int = 0
    problems: list[str] = field(default_factory=list)


def run_once(command: Sequence[str], store: Path, kill_after_s: float | None = None) -> Run:
    """Run `command` on `store`, and kill it with all its processes after a while."""
    words = [word.replace("{store}", str(store)) for word in command]
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(words, stdout=out, stderr=told, text=True, start_new_session=True)
        try:
            process.wait(kill_after_s)
        except BaseException as reason:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(reason, subprocess.TimeoutExpired):
                raise
        wall_s = time.monotonic() - started
        out.seek(0)
        told.seek(0)
        text, lines = out.read(), told.read()
    if process.returncode not in (0, 1, -signal.SIGKILL):
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}:\n{lines[-2000:]}")
    found = LINE.findall(lines)
    keys = {verb: tuple(key for word, key in found if word == verb) for verb in ("evaluating", "committed")}
    document = None if process.returncode == -signal.SIGKILL else json.loads(text)
    return Run(document, keys["evaluating"], keys["committed"], wall_s)


def without_times(document: Any, ignored: Sequence[str] = TIMES) -> Any:
    """Return `document` without what differs from run to run."""
    if isinstance(document, dict):
        return {key: without_times(value, ignored) for key, value in document.items() if key not in ignored}
    return [without_times(each, ignored) for each in document] if isinstance(document, list) else document


def keys_in(store: Path) -> frozenset[str]:
    """Return what the store holds; nothing where a run was killed before it made one."""
    if not store.exists():
        return frozenset()
    with StudyStore(store) as opened:
        return opened.keys()


def kill_round(
    command: Sequence[str], store: Path, calm: Run, tally: Tally, moments: random.Random, args: argparse.Namespace
) -> None:
    """Kill the command on one store until it comes to its end, or was killed often enough; add to `tally`."""
    kept, evaluated = frozenset[str](), set[str]()
    while tally.n_kills < args.kills and not tally.problems:
        run = run_once(command, store, moments.uniform(0.0, calm.wall_s))
        again = sorted(kept & set(run.evaluating))
        if again:
            tally.problems.append(f"{len(again)} committed evaluations done again, the first {again[0]}")
        tally.n_evaluations += len(run.evaluating)
        tally.n_repeated += sum(key in evaluated for key in run.evaluating)
        evaluated |= set(run.evaluating)
        before, kept = kept | set(run.committed), keys_in(store)
        lost = sorted(before - kept)
        if lost:
            tally.problems.append(f"{len(lost)} committed evaluations lost, the first {lost[0]}")
        if run.document is not None:
            tally.n_ends += 1
            if without_times(run.document, args.ignore) != without_times(calm.document, args.ignore):
                tally.problems.append(f"another answer after {tally.n_kills} kills: {json.dumps(run.document)[:500]}")
            return
        tally.n_kills += 1


def survey(command: Sequence[str], args: argparse.Namespace) -> Tally:
    """Run `command` undisturbed, then kill it `args.kills` times; return what was seen."""
    tally, moments = Tally(), random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="kill-search-") as folder:
        calm, n_rounds = run_once(command, Path(folder) / "calm.db"), 0
        tally.whole_s = calm.wall_s
        while tally.n_kills < args.kills and not tally.problems:
            n_rounds += 1
            kill_round(command, Path(folder) / f"{n_rounds}.db", calm, tally, moments, args)
        # The last store may be of a search that was killed last: let it come to its end.
        last = run_once(command, Path(folder) / f"{n_rounds}.db")
        tally.n_ends += 1
        if without_times(last.document, args.ignore) != without_times(calm.document, args.ignore):
            tally.problems.append(f"another answer in the end: {json.dumps(last.document)[:500]}")
    if tally.n_repeated > args.workers * tally.n_kills:
        tally.problems.append(f"{tally.n_repeated} evaluations done again after {tally.n_kills} kills")
    return tally


def demo_target(store_path: str, fault: str | None, n_items: int = 24) -> None:
    """Search a made-up space: the harness's own target, with a fault on request that the harness must notice."""
    from apex_sim.planner.execution.processes import Processes

    def work(item: int) -> str:
        time.sleep(0.05)
        return json.dumps((item * 37) % 101)

    def tell(verb: str, key: str) -> None:
        print(f"apex-sim: {verb} {key}", file=sys.stderr, flush=True)

    keys = [f"item-{number}" for number in range(n_items)]
    with StudyStore(store_path) as store, Processes(work, 2) as executor:
        known = {} if fault == "repeat" else store.get_many(keys)
        left = [number for number, key in enumerate(keys) if key not in known]
        done = dict(known)
        while left or executor.n_pending:
            while left and executor.n_pending < executor.n_workers:
                tell("evaluating", keys[left[0]])
                executor.submit(left[0], left.pop(0))
            number, text = executor.take()
            done[keys[number]] = text
            if fault != "forget":
                store.put(keys[number], text)
            tell("committed", keys[number])
        values = [json.loads(done[key]) for key in keys]
    best = min(values) + (len(known) if fault == "answer" else 0)
    print(json.dumps({"best": best, "order": sorted(values), "cpu_s": time.process_time()}))


def main() -> int:
    """Run the harness, print what was seen, and return 1 if anything was lost, repeated or changed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="of the command: so many evaluations a kill may cost")
    parser.add_argument("--ignore", nargs="+", default=list(TIMES), help="keys of the document that hold times")
    parser.add_argument("--fault", choices=FAULTS, help="let the harness's own search do wrong")
    parser.add_argument("--demo-target", metavar="STORE", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="*", help="after --, with {store} where the store's path belongs")
    args = parser.parse_args()
    if args.demo_target:
        demo_target(args.demo_target, args.fault)
        return 0
    own = [sys.executable, str(HERE), "--demo-target", "{store}", *(["--fault", args.fault] if args.fault else [])]
    command = args.command or own
    if not any("{store}" in word for word in command):
        parser.error("the command names no {store}")
    tally = survey(command, args)
    print(f"{tally.n_kills} kills, {tally.n_ends} searches came to their end, {tally.whole_s:.1f} s undisturbed")
    if tally.n_evaluations:
        allowed = f"{args.workers} for each kill allowed"
        print(f"{tally.n_evaluations} evaluations, {tally.n_repeated} of them again ({allowed})")
    else:
        print("not checked: which evaluations were done again, because the command did not name them on stderr")
    print(*(tally.problems or ["nothing lost, the same answer"]), sep="\n")
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
