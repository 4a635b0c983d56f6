"""Which preset stands for which release, and when a case says that it is only the nearest."""

from __future__ import annotations

from itertools import pairwise

import pytest

from apex_sim.errors import UnsupportedError
from apex_sim.truth.engine_version import ENGINE_RELEASES, preset_of_release
from apex_sim.truth.validation import validate_serving


@pytest.mark.parametrize(
    ("engine", "version", "preset", "is_nearest"),
    [
        ("vllm", "0.6.0", "vllm-0.6", False),
        ("vllm", "v0.6.6.post1", "vllm-0.6", False),
        ("vllm", "0.5.4", "vllm-0.6", True),
        ("vllm", "0.7.3", "vllm-0.6", True),
        ("vllm", "0.8.5", "vllm-1", True),
        ("vllm", "0.10.2", "vllm-1", True),
        ("vllm", "0.11.0", "vllm-1", False),
        ("vllm", "0.22.0", "vllm-1", False),
        ("vLLM", "1.2", "vllm-1", False),
        ("sglang", "0.4.9", "sglang", True),
        ("sglang", "0.5.6", "sglang", False),
        ("sglang", "0.9", "sglang", True),
        ("trtllm", "1.0", "trtllm", False),
        ("trtllm", "2", "trtllm", False),
    ],
)
def test_each_release_has_its_preset_and_says_when_it_is_the_nearest(engine, version, preset, is_nearest):
    found, note = preset_of_release(engine, version)
    assert found.name == preset
    assert bool(note) is is_nearest
    if is_nearest:
        assert f"engine_version {version} is replayed by the nearest preset, {preset}: " in note


@pytest.mark.parametrize(
    ("engine", "version", "reason"),
    [
        ("sglang", "1.0", "engine sglang 1.0: no preset was made from a release near it"),
        ("tgi", "3.0", "engine tgi 3.0 is not built yet: known engines are vllm, sglang, trtllm"),
        ("vllm", "main", "engine vllm main is not built yet: the version must be a number"),
    ],
)
def test_what_no_preset_stands_for_is_refused(engine, version, reason):
    with pytest.raises(UnsupportedError, match=reason):
        preset_of_release(engine, version)


def test_the_releases_of_an_engine_follow_each_other_without_a_gap():
    for engine in {row.engine for row in ENGINE_RELEASES}:
        rows = [row for row in ENGINE_RELEASES if row.engine == engine]
        assert rows[0].first == (0, 0)
        assert all(one.before == other.first for one, other in pairwise(rows))
        assert rows[-1].before > (999, 0)
        assert all(row.reason for row in rows if row.preset is None)


def test_a_case_of_an_unknown_release_says_which_preset_it_was_replayed_by(write_cases):
    known, unknown = validate_serving(write_cases({}, {"engine_version": "0.9.2"})).cases
    assert unknown.predicted == known.predicted
    said = [note for note in unknown.notes if note.startswith("engine_version 0.9.2 is replayed by the nearest preset")]
    assert len(said) == 1
    assert not any("nearest preset" in note for note in known.notes)
