"""The measured cases that ship with the project: each has a source, and each can be replayed."""

from __future__ import annotations

import re

import pytest

from apex_sim import catalogue
from apex_sim.errors import UnknownNameError
from apex_sim.truth.case_choice import cases_path
from apex_sim.truth.cases import read_cases
from apex_sim.truth.plausibility import require_plausible
from apex_sim.truth.replay import make_replay
from apex_sim.truth.validation import validate_serving

SHIPPED = cases_path("published")
CASES = read_cases(SHIPPED).cases


def test_published_is_a_file_of_the_user_s_folders():
    assert catalogue.folder("workloads") / "served" / "published.csv" == SHIPPED
    assert 15 <= len(CASES) <= 30
    assert len({case.source for case in CASES}) >= 3
    assert {case.deployment.engine for case in CASES} == {"vllm", "sglang", "trtllm"}


def test_no_column_goes_unread():
    assert not [note for note in read_cases(SHIPPED).notes if note.startswith("columns not used")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.case_id)
def test_each_case_links_its_source_and_replays_without_further_files(case):
    assert re.search(r"https://\S+$", case.note)
    assert case.load.workload is None
    assert len(case.measured) >= 1
    replay = make_replay(case, SHIPPED.parent)
    require_plausible(case, replay)
    assert not any("nearest preset" in note for note in replay.notes)


def test_names_and_paths_of_cases(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cases_path("PUBLISHED") == SHIPPED
    assert str(cases_path("mine.csv")) == "mine.csv"
    assert str(cases_path("some/published")) == "some/published"
    (tmp_path / "published").write_text("")
    assert str(cases_path("published")) == "published"  # a file of the user's comes first
    with pytest.raises(UnknownNameError, match=r"unknown set of cases 'publishd'.*'published'"):
        cases_path("publishd")


def test_cases_are_chosen_by_engine_model_and_device():
    chosen = validate_serving("published", engines=["vllm"], models=["gpt-oss-120b"], devices=["h200-sxm"], limit=1)
    assert [case.case_id for case in chosen.cases] == [CASES[0].case_id]
    assert f"1 of {len(CASES)} cases" in chosen.notes
    with pytest.raises(UnknownNameError, match=r"unknown engine 'vlm'.*'vllm'"):
        validate_serving("published", engines=["vlm"])
    with pytest.raises(UnknownNameError, match="unknown device 'h100-sxm'"):
        validate_serving("published", devices=["h100-sxm"])
