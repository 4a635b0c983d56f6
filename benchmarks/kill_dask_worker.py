"""Does a search on a Dask cluster survive the death of a worker with the same answer as a search in one process?

    python benchmarks/kill_dask_worker.py

asks the same study twice: in this process, and on a LocalCluster of two worker processes, one of which gets SIGKILL
once a number of evaluations have come back.  Ranked plans with their metrics, what cannot run, the Pareto front and the
certificate must be equal but for CPU times.  Needs the extra `dask`, which brings psutil along.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from typing import Any

import psutil

from apex_sim.planner.answer import SearchResult, answer_study
from apex_sim.planner.study import load_study
from apex_sim.report.document import search_document

_SPACE = {"kv_dtypes": ["bf16", "fp8"], "max_num_seqs": [64, 256]}
_COMPARED = ("plans", "infeasible", "pareto", "certificate")


def main() -> None:
    """Search twice, kill once, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="quickstart")
    parser.add_argument("--after", type=int, default=30, metavar="N", help="kill a worker after N evaluations")
    arguments = parser.parse_args()
    study = load_study(arguments.study, {"space": _SPACE})
    alone = answer_study(study, n_jobs=1)
    killer, started = _Killer(arguments.after), time.perf_counter()
    spread = answer_study(study, n_jobs=2, dask="local", progress=killer)
    print(f"on Dask: {time.perf_counter() - started:.1f} s; {killer.text}")
    if not killer.killed:
        sys.exit("no worker was killed: ask for fewer evaluations with --after")
    for part in _COMPARED:
        if _said(alone)[part] != _said(spread)[part]:
            sys.exit(f"another answer: {part} differ")
    print(f"same {', '.join(_COMPARED)} as in one process ({len(alone.plans)} plans simulated whole)")


class _Killer:
    """Kills one worker process of this process's cluster when enough evaluations are done."""

    def __init__(self, after: int) -> None:
        self._after, self.killed, self.text = after, 0, "nobody killed"

    def __call__(self, n_done: int, n_jobs: int) -> None:
        if self.killed or n_done < self._after:
            return
        workers = [child for child in psutil.Process().children() if _is_worker(child)]
        workers[0].send_signal(signal.SIGKILL)
        self.killed = workers[0].pid
        self.text = f"one of {len(workers)} workers killed after {n_done} of about {n_jobs} evaluations"


def _is_worker(process: psutil.Process) -> bool:
    return any("spawn_main" in part for part in process.cmdline())


def _said(result: SearchResult) -> dict[str, Any]:
    """Return the document of a result without what depends on the clock."""
    document = search_document(result)
    found: dict[str, Any] = json.loads(json.dumps({part: document[part] for part in _COMPARED}))
    for plan in found["plans"]:
        plan.pop("cpu_s", None)
    return found


if __name__ == "__main__":
    main()
