"""Reading measured cases: what is kept, and what is refused with which line."""

from __future__ import annotations

from pathlib import Path

import pytest

from apex_sim.errors import InputError
from apex_sim.truth.cases import read_cases


def test_a_row_becomes_a_case_and_empty_cells_are_none(write_cases):
    case = read_cases(write_cases({"chunked_prefill": "1.0", "rate_per_s": ""})).cases[0]
    assert case.case_id == "case-0"
    assert (case.deployment.tp, case.deployment.weight_dtype) == (2, "mxfp4")
    assert (case.settings.chunked_prefill, case.settings.gpu_memory_utilization_frac) == (1, None)
    assert (case.load.concurrency, case.load.rate_per_s, case.load.length_low_frac) == (4, None, 0.8)
    assert case.measured == {"ttft_mean_s": 0.05, "tpot_mean_s": 0.004}
    assert case.noise_frac == 0.03


def test_further_columns_are_ignored_and_absent_ones_read_as_empty_with_a_note(write_cases):
    file = read_cases(write_cases({"weather": "rain"}, without="seed"))
    assert file.cases[0].load.seed is None
    assert any("not used: weather" in note for note in file.notes)
    assert any("read as empty" in note and "seed" in note for note in file.notes)


@pytest.mark.parametrize(
    ("column", "cell", "problem"),
    [
        ("ttft_mean_s", "-0.1", "not above 0"),
        ("tpot_mean_s", "0", "not above 0"),
        ("ttft_mean_s", "nan", "not a finite number"),
        ("ttft_mean_s", "1e308", "not from 1e-12 to 1e\\+12"),
        ("ttft_mean_s", "1e-320", "not from 1e-12 to 1e\\+12"),
        ("ttft_mean_s", "fast", "not a number"),
        ("tp", "1.5", "not a whole number"),
        ("tp", "0", "not a whole number above 0"),
        ("n_warmup", "-1", "0 or more"),
        ("cuda_graphs", "2", "not 0 or 1"),
        ("gpu_memory_utilization_frac", "90", "share from 0 to 1"),
        ("gpu_memory_utilization_frac", "0", "not above 0"),
        ("length_low_frac", "1.2", "share from 0 to 1"),
        ("load_kind", "bursty", "not one of closed, poisson"),
        ("engine", "x" * 300, "longer than 256"),
    ],
)
def test_impossible_values_are_refused_with_line_and_column(write_cases, column, cell, problem):
    path = write_cases({}, {column: cell})
    with pytest.raises(InputError, match=f"line 3: {column} is .*{problem}"):
        read_cases(path)


def test_a_median_above_its_p99_is_refused(write_cases):
    with pytest.raises(InputError, match=r"line 2: ttft_median_s 2.0 is above ttft_p99_s 1.0"):
        read_cases(write_cases({"ttft_median_s": "2", "ttft_p99_s": "1"}))


@pytest.mark.parametrize("column", ["case_id", "source", "engine", "model", "device", "tp"])
def test_what_identifies_a_case_must_be_there(write_cases, column):
    with pytest.raises(InputError, match=f"column '{column}' is missing"):
        read_cases(write_cases({}, without=column))
    with pytest.raises(InputError, match=f"line 2: {column} is empty"):
        read_cases(write_cases({column: ""}))


def test_a_case_id_stands_once(write_cases):
    with pytest.raises(InputError, match=r"line 3: case_id 'a' occurs twice"):
        read_cases(write_cases({"case_id": "a"}, {"case_id": "a"}))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ('{"case_id": 1}\n', "not a CSV"),
        ("case_id,source,engine,engine_version,model,device,tp\n", "no measured column"),
        ("case_id,source,engine,engine_version,model,device,tp,ttft_mean_s\n", "no cases"),
        ("case_id,source,engine,engine_version,model,device,tp,ttft_mean_s\na,b\n", "line 2: 2 fields"),
    ],
)
def test_files_that_hold_no_cases_are_refused(tmp_path: Path, text, problem):
    path = tmp_path / "cases.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=problem):
        read_cases(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"nowhere\.csv"):
        read_cases(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("column", "known", "remedy"),
    [
        ("ttft_mean", "ttft_mean_s", "Convert it to seconds and name it ttft_mean_s"),
        ("ttft_mean_ms", "ttft_mean_s", "Convert it to seconds and name it ttft_mean_s"),
        ("mean_ttft_ms", "ttft_mean_s", "Convert it to seconds"),
        ("TTFT p99 (ms)", "ttft_p99_s", "Convert it to seconds"),
        ("tpot_mean_us", "tpot_mean_s", "Convert it to seconds"),
        ("isl", "isl_tokens", "Convert it to tokens and name it isl_tokens"),
        ("power_mean_kw", "power_mean_w", "Convert it to watts"),
        ("gpu_memory_utilization", "gpu_memory_utilization_frac", "a share from 0 to 1"),
        ("noise_percent", "noise_frac", "a share from 0 to 1"),
        ("rate_per_min", "rate_per_s", "Convert it to per second"),
        ("mean_ttft_s", "ttft_mean_s", "Name it ttft_mean_s"),
    ],
)
def test_a_known_quantity_without_its_unit_is_refused(write_cases, column, known, remedy):
    path = write_cases({column: "12"}, without=known)
    with pytest.raises(InputError) as caught:
        read_cases(path)
    assert f"column {column!r} is" in str(caught.value)
    assert known in str(caught.value)
    assert remedy in str(caught.value)


@pytest.mark.parametrize("column", ["ttft_mean_ms", "weather", "s", "ms", "output_tokens", "ttft_p50_ms", "requests"])
def test_a_column_beside_its_known_one_or_of_another_quantity_is_left_unread(write_cases, column):
    file = read_cases(write_cases({column: "50"}))
    assert file.cases[0].measured["ttft_mean_s"] == 0.05
    assert any(f"not used: {column}" in note for note in file.notes)


@pytest.mark.parametrize(
    ("smaller", "larger"), [("ttft_mean_s", "e2e_mean_s"), ("output_tokens_per_s", "total_tokens_per_s")]
)
def test_a_part_above_its_whole_is_refused(write_cases, smaller, larger):
    path = write_cases({}, {smaller: "2.5", larger: "1.5"})
    with pytest.raises(InputError, match=f"line 3: {smaller} 2.5 is above {larger} 1.5. Correct the row or remove it"):
        read_cases(path)


def test_a_truncated_file_is_refused_with_its_line(write_cases):
    path = write_cases({}, {})
    whole = path.read_text()
    path.write_text(whole[: len(whole) * 5 // 6])
    with pytest.raises(InputError, match=r"line 3: \d+ fields where the header has \d+"):
        read_cases(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"PAR1\x15\x04\x15\xf0\xff\x00\x9c" + bytes(range(256)), "not UTF-8"),
        (b'{"mean_ttft_ms": 12.0, "completed": 4}\n', "not a CSV file"),
        (b'[{"mean_ttft_ms": 12.0}]\n', "column 'case_id' is missing"),
        (
            b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n",
            "column 'case_id' is missing",
        ),
        (b"\x00\x00\x00\x00", "case_id"),
    ],
    ids=["parquet", "benchmark result", "json list", "trace", "zeros"],
)
def test_foreign_files_are_refused(tmp_path: Path, content, problem):
    path = tmp_path / "cases.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=problem):
        read_cases(path)
