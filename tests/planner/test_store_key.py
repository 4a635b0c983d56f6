"""Keys of the store: equal for equal content, different for any other, and refused where content cannot be read."""

import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apex_sim.cost.roofline import Roofline
from apex_sim.errors import InputError
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.store.key import content_key
from apex_sim.planner.store.version import _PACKAGE, code_files, code_version
from apex_sim.planner.study import load_study


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Point:
    x: object
    y: object = 0
    _seen: dict[str, int] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Place:
    x: object
    y: object = 0


VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**70, 0.0, -0.0, 1.0, math.nan, math.inf, 0.1, 0.1 + 2**-56, "", "1", "None", b"",
    b"1", (), [], {}, frozenset(), (1,), [1], {1}, {1: 1}, {"1": 1}, {1: "1"}, ((1,), 2), ((1, 2),), (1, (2,)), (1, 2),
    (2, 1), ("int", "1"), ["int", "1"], Colour.RED, Colour.BLUE, Point(1), Point(1, 1), Point((1, 0)), Place(1),
    Point(Point(1)), np.array([1.0]), np.array([1]), np.array([[1.0]]), np.array([1.0], dtype=np.float32), np.array([]),
    np.float32(1.0), np.array([(1, 2.0)], dtype="i8,f8"), np.array([(1, 2.0)], dtype=[("a", "i8"), ("b", "f8")]),
]  # fmt: skip


def test_different_values_have_different_keys() -> None:
    keys = [content_key(value) for value in VALUES]
    twice = [VALUES[i] for i, key in enumerate(keys) if keys.count(key) > 1]
    assert twice == []
    assert content_key(1, 2) != content_key((1, 2)) != content_key(1, (2,))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": {"c": 2.0, "d": 3}}, {"b": {"d": 3, "c": 2.0}, "a": 1}),
        ({"a": 1}, MappingProxyType({"a": 1})),
        ({3, 1, 2}, frozenset([2, 3, 1])),
        (Point(1, _seen={}), Point(1, _seen={"cached": 1})),
        (np.arange(6).reshape(2, 3).T, np.ascontiguousarray(np.arange(6).reshape(2, 3).T)),
    ],
)
def test_equal_contents_have_equal_keys(one: object, other: object) -> None:
    assert content_key(one) == content_key(other)


@given(st.floats(), st.floats())
def test_keys_of_floats_are_equal_when_their_bits_are(one: float, other: float) -> None:
    assert (content_key(one) == content_key(other)) == (repr(one) == repr(other))


@pytest.mark.parametrize(
    "value",
    [
        abs, lambda: 1, "x".join, Colour, object(), iter([]), np.array([object()]), np.random.default_rng(0), sys,
        Point(abs), {"a": [object()]}, math.sqrt, range, (x for x in ()),
    ],
)  # fmt: skip
def test_what_has_no_content_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="no content for a key"):
        content_key(value)


def test_a_value_of_code_that_is_in_no_file_is_refused() -> None:
    space: dict[str, Any] = {"__name__": "made_up"}
    exec("from dataclasses import dataclass\n@dataclass\nclass Own:\n    x: int", space)
    with pytest.raises(TypeError, match=r"made_up\.Own is defined in no file"):
        content_key(space["Own"](1))


def test_the_code_of_a_users_own_type_is_part_of_the_key(tmp_path: Path) -> None:
    code = "from dataclasses import dataclass\n@dataclass\nclass Own:\n    x: int\n"
    run = "import own; from apex_sim.planner.store.key import content_key; print(content_key(own.Own(1)))"

    def key_of(text: str) -> str:
        (tmp_path / "own.py").write_text(text)
        search = [str(tmp_path), *filter(None, sys.path)]
        script = f"import sys; sys.path[:] = {search!r}; {run}"
        return subprocess.run([sys.executable, "-B", "-c", script], capture_output=True, text=True, check=True).stdout

    assert key_of(code) == key_of(code) != key_of(code + "    # slower\n")


def test_files_and_folders_count_by_their_content(tmp_path: Path) -> None:
    one, other = tmp_path / "one" / "tables", tmp_path / "other" / "tables"
    for folder in (one, other):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "a.csv").write_text("1")
    assert content_key(one) == content_key(other)
    assert content_key(one / "deep" / "a.csv") == content_key(other / "deep" / "a.csv")
    (other / "deep" / "a.csv").write_text("2")
    assert content_key(one) != content_key(other)
    (other / "deep" / "a.csv").write_text("1")
    (other / "deep" / "a.csv").rename(other / "a.csv")
    assert content_key(one) != content_key(other)
    with pytest.raises(InputError, match=r"nowhere: cannot be read"):
        content_key(tmp_path / "nowhere")


def test_keys_of_studies_tell_apart_what_may_change_an_answer() -> None:
    study = load_study("quickstart", {"load": {"n_requests": 20}})
    other_device = replace(study.cluster.device, price_usd_per_h=study.cluster.device.price_usd_per_h + 0.01)
    studies = [
        study,
        load_study("quickstart", {"load": {"n_requests": 21}}),
        load_study("quickstart", {"load": {"n_requests": 20, "seed": 7}}),
        replace(study, cluster=replace(study.cluster, device=other_device)),
        replace(study, cost=Roofline(study.cluster.device)),
        replace(study, cost=Roofline(other_device)),
    ]
    keys = [content_key(each) for each in studies]
    assert len(set(keys)) == len(studies)
    assert content_key(load_study("quickstart", {"load": {"n_requests": 20}})) == keys[0]
    plans = enumerate_space(study).feasible
    assert len({content_key(plan) for plan in plans}) == len(plans) > 1


def test_keys_are_the_same_in_another_process() -> None:
    code = (
        "from apex_sim.planner.store.key import content_key; from apex_sim.planner.store.version import code_version; "
        "from apex_sim.planner.study import load_study; "
        "print(content_key(load_study('quickstart'), {'b', 'a', 'c'}), code_version())"
    )
    environment = {"PYTHONPATH": str(_PACKAGE.parent), "PYTHONHASHSEED": "5"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [content_key(load_study("quickstart"), {"c", "b", "a"}), code_version()]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(_PACKAGE, tmp_path / "apex_sim", ignore=ignored))


def version_of(package: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("apex_sim.planner.store.version._PACKAGE", package)
    return code_version.__wrapped__()


def append(name: str) -> Callable[[Path], object]:
    def change(package: Path) -> None:
        with (package / name).open("a") as stream:
            stream.write("\n")

    return change


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (append("instance/reference.py"), True),
        (append("truth/validated.toml"), True),
        (append("cost/coefficients/h100-sxm/gemm.toml"), True),
        (append("model/configs/llama-3.1-8b.json"), True),
        (lambda package: (package / "draw.py").rename(package / "drawn.py"), True),
        (lambda package: (package / "cost" / "new.py").touch(), True),
        (append("cli/main.py"), False),
        (append("report/html.py"), False),
        (lambda package: (package / "__pycache__").mkdir() or (package / "__pycache__" / "a.pyc").touch(), False),
        (lambda package: (package / "units.py").touch(), False),
    ],
)
def test_the_version_follows_every_file_that_an_answer_depends_on(
    package: Path, change: Callable[[Path], object], counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = version_of(package, monkeypatch)
    assert before == code_version()
    change(package)
    assert (version_of(package, monkeypatch) != before) == counts


def test_the_version_is_quick() -> None:
    assert len(code_files(_PACKAGE)) > 200
    took_s = []
    for _ in range(5):
        started = time.process_time()
        code_version.__wrapped__()
        took_s.append(time.process_time() - started)
    assert min(took_s) < 0.1
