"""Policies and orders of the caller's own, through the API; and those of files, which are names only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import apex_sim
from apex_sim.cli.main import commands
from apex_sim.errors import InputError, InvariantError
from apex_sim.instance.orders.queue_order import QueueOrder
from apex_sim.instance.policies.unified import schedule_unified
from apex_sim.instance.scheduler_queue import SchedulerQueue, schedule_tokens
from apex_sim.instance.sequence import Entry, Sequence

ONE_PLAN = {"tp": [1], "pp": [1], "dp": [1]}
FLAGS = "--model llama-3.2-1b --cluster 1xh100-sxm --tp 1 --pp 1 --dp 1"


def ask(**changes: Any) -> Any:
    question: dict[str, Any] = {
        "model": "llama-3.2-1b",
        "cluster": "1xh100-sxm",
        "load": {"n_requests": 30},
        "space": ONE_PLAN | {"weight_dtypes": ["bf16"]},
    }
    return apex_sim.simulate("quickstart", **question | changes)


def test_the_policy_of_the_preset_handed_in_changes_nothing_but_the_engine() -> None:
    own, preset = ask(policy=schedule_unified), ask()
    assert own.document["metrics"] == pytest.approx(preset.document["metrics"], rel=1e-9)
    assert (own.document["engine"], preset.document["engine"]) == ("reference", "compiled")
    assert own.document["engine_reason"] == "policy schedule_unified"
    assert preset.document["engine_reason"] == ""
    assert "policy schedule_unified of the caller's own: Python code" in own.document["provenance"]["assumed"]
    assert "which has no policy schedule_unified" in own.page()


def without_blocks(queue: SchedulerQueue) -> list[Entry]:
    sequence = queue.waiting.popleft()
    queue.running.append(sequence)
    return [schedule_tokens(sequence, sequence.n_uncomputed)]


def twice(queue: SchedulerQueue) -> list[Entry]:
    return 2 * schedule_unified(queue)


def nothing(queue: SchedulerQueue) -> list[Entry]:
    return []


@pytest.mark.parametrize(("policy", "number"), [(without_blocks, 3), (twice, 4), (nothing, 1)])
def test_an_illegal_batch_is_refused_with_the_number_of_its_invariant(policy: Any, number: int) -> None:
    with pytest.raises(InvariantError, match=f"INV-{number} broken") as caught:
        ask(policy=policy)
    assert caught.value.number == number


def test_an_order_of_ones_own_decides_who_goes_first() -> None:
    class LastComeFirstServed(QueueOrder):
        def place(self, sequence: Sequence) -> tuple[float, int]:
            return -float(sequence.request), sequence.request

    changes = {"load": {"n_requests": 30, "offline": True}, "scheduler": {"max_num_seqs": 1}}
    report = ask(order=LastComeFirstServed, **changes)
    _, *served = np.argsort(report.result.run.requests.finish_s).tolist()  # the shortest prompt is the first there
    assert served == sorted(served, reverse=True)
    assert report.document["engine_reason"] == "queue order LastComeFirstServed"


@pytest.mark.parametrize("name", ["my_module:my_policy", "./my_policy.py", "os.system"])
def test_a_study_cannot_name_code(name: str) -> None:
    with pytest.raises(InputError, match="has no policy"):
        ask(scheduler={"policy": name})
    with pytest.raises(InputError, match="queue_order"):
        ask(scheduler={"queue_order": name})


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    rows = [f"{index},100,{5 + index % 3},{'ab'[index > 3]},s{index % 4}" for index in range(12)]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens,tenant,session", *rows]) + "\n")
    return path


@pytest.mark.parametrize("order", ["multi-level-feedback", "least-attained-service", "fair-share"])
def test_a_result_says_that_and_why_the_reference_served(order: str, trace: Path) -> None:
    arguments = f"simulate {FLAGS} --workload {trace} --queue-order {order}"
    result = CliRunner(env={"COLUMNS": "80"}).invoke(commands, [*arguments.split(), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["engine"], document["engine_reason"]) == ("reference", f"queue order {order}")
    assert document["metrics"]["n_finished"] == 12
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(commands, [*arguments.split(), "--no-files"]).stdout
    assert f"which has no queue order {order}." in " ".join(shown.split())


@pytest.mark.parametrize(("order", "column"), [("fair-share", "tenant"), ("least-attained-service", "session")])
def test_a_workload_without_tenants_or_sessions_is_refused(order: str, column: str) -> None:
    arguments = f"simulate {FLAGS} --workload chat --n-requests 5 --no-files --queue-order {order}"
    result = CliRunner().invoke(commands, arguments.split())
    assert result.exit_code == 2
    assert result.stderr == (
        f"Error: workload, column '{column}': queue order '{order}' needs to know each request's {column}, "
        f"and no request has one. Add a column '{column}' to the trace, or use another queue order.\n"
    )


def test_an_order_with_a_policy_that_serves_in_turn_is_refused() -> None:
    with pytest.raises(InputError, match="whose engine serves first come, first served"):
        ask(space=ONE_PLAN | {"preset": "vllm-0.6"}, scheduler={"queue_order": "multi-level-feedback"})
