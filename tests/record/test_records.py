"""Step rows and request rows: what is put in comes out, by name; latencies by hand."""

from __future__ import annotations

import numpy as np
import pytest

from apex_sim.record.request_records import FINISHED, REJECTED, RUNNING, RequestRecords
from apex_sim.record.step_records import STEP_COLUMNS, StepRecords


def test_steps_come_out_as_they_went_in() -> None:
    steps = StepRecords()
    rows = [[float(10 * row + column) for column in range(len(STEP_COLUMNS))] for row in range(3)]
    for row in rows:
        steps.add(*row)
    assert len(steps) == 3
    assert steps.table().tolist() == rows
    for index, name in enumerate(STEP_COLUMNS):
        assert steps.column(name).tolist() == [row[index] for row in rows]


def test_no_steps_are_an_empty_table() -> None:
    assert len(StepRecords()) == 0
    assert StepRecords().table().shape == (0, len(STEP_COLUMNS))
    assert StepRecords().column("end_s").tolist() == []


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(TypeError):
        StepRecords().add(1.0, 2.0)


def records() -> RequestRecords:
    nan = np.nan
    return RequestRecords(
        arrival_s=np.array([1.0, 2.0, 3.0, 4.0]),
        queued_s=np.array([1.5, 2.5, 3.5, 4.5]),
        scheduled_s=np.array([2.0, 3.0, nan, 5.0]),
        first_token_s=np.array([3.0, 4.0, nan, 6.0]),
        finish_s=np.array([7.0, 4.0, nan, nan]),
        prompt_tokens=np.array([10, 10, 10, 10]),
        output_tokens=np.array([5, 1, 5, 5]),
        emitted_tokens=np.array([5, 1, 0, 2]),
        n_preemptions=np.array([0, 1, 0, 0]),
        cached_tokens=np.zeros_like(np.array([0, 1, 0, 0])),
        instance=np.array([0, 0, 1, 1]),
        status=np.array([FINISHED, FINISHED, REJECTED, RUNNING], dtype=np.int8),
        reasons=((2, "too long"),),
    )


def test_latencies_by_hand() -> None:
    rows = records()
    np.testing.assert_array_equal(rows.ttft_s, [2.0, 2.0, np.nan, 2.0])
    np.testing.assert_array_equal(rows.e2e_s, [6.0, 2.0, np.nan, np.nan])
    np.testing.assert_array_equal(rows.tpot_s, [1.0, np.nan, np.nan, np.nan])
    assert rows.finished.tolist() == [True, True, False, False]


def test_columns_say_status_and_reason_in_words() -> None:
    columns = records().columns()
    assert columns["status"].tolist() == ["finished", "finished", "rejected", "running"]
    assert columns["reason"] == ["", "", "too long", ""]
    assert {len(column) for column in columns.values()} == {4}
