"""Outcomes as texts for the store: the same value comes back, and nothing else does."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from apex_sim.errors import InputError
from apex_sim.planner.evaluation import Evaluation, evaluate
from apex_sim.planner.space import Refusal, enumerate_space
from apex_sim.planner.store.codec import MalformedError, decode, encode
from apex_sim.planner.store.outcome import decode_outcome, encode_outcome
from apex_sim.planner.study import load_study


@cache
def evaluated() -> Evaluation:
    study = load_study("quickstart", {"load": {"n_requests": 40}})
    return evaluate(study, enumerate_space(study).feasible[0])


def differences(mine: Any, other: Any, where: str = "") -> list[str]:
    """Return where two values differ in type or by a bit."""
    if type(mine) is not type(other):
        return [f"{where}: {type(mine)} and {type(other)}"]
    if is_dataclass(mine):
        pairs = [(getattr(mine, f.name), getattr(other, f.name), f".{f.name}") for f in fields(mine)]
    elif isinstance(mine, dict):
        if list(mine) != list(other):
            return [f"{where}: keys"]
        pairs = [(mine[key], other[key], f"[{key}]") for key in mine]
    elif isinstance(mine, tuple | list):
        if len(mine) != len(other):
            return [f"{where}: length"]
        pairs = [(a, b, f"[{i}]") for i, (a, b) in enumerate(zip(mine, other, strict=True))]
    elif isinstance(mine, np.ndarray):
        bits = [np.where(np.isnan(array), np.nan, array).tobytes() for array in (mine, other)]  # one NaN is as good
        same = mine.dtype == other.dtype and mine.shape == other.shape and bits[0] == bits[1]
        return [] if same else [f"{where}: array"]
    else:
        return [] if repr(mine) == repr(other) else [f"{where}: {mine!r} and {other!r}"]
    return [found for a, b, name in pairs for found in differences(a, b, where + name)]


def test_an_evaluation_comes_back_field_by_field() -> None:
    evaluation = evaluated()
    assert evaluation.spread is not None
    assert evaluation.intervals
    assert evaluation.cost_shares
    text = encode_outcome(evaluation)
    again = decode_outcome(text, evaluation.plan, "here")
    assert differences(evaluation, again) == []
    assert encode_outcome(again) == text
    assert evaluation.plan.label not in text
    assert len(text) < 200_000


def test_what_an_evaluation_may_also_hold_comes_back() -> None:
    evaluation = evaluated()
    odd = replace(
        evaluation,
        metrics={"a": None, "b": math.nan, "c": -math.inf, "d": -0.0, "e": 5e-324, "f": 3},
        stability=replace(evaluation.stability, steady=None, backlog_growth=math.inf),
        slo_violations=('"quoted"', "\u2028\ud7ff", ""),
        curves_s={"ttft": ()},
        standing=None,
        spread=None,
        intervals={},
    )
    assert differences(odd, decode_outcome(encode_outcome(odd), odd.plan, "here")) == []


def test_numbers_of_numpy_come_back_as_pythons() -> None:
    odd = replace(evaluated(), n_steps=np.int64(7), cpu_s=np.float64(0.1))  # type: ignore[arg-type]
    again = decode_outcome(encode_outcome(odd), odd.plan, "here")
    assert isinstance(again, Evaluation)
    assert (again.n_steps, type(again.n_steps), again.cpu_s, type(again.cpu_s)) == (7, int, 0.1, float)


def test_a_refusal_comes_back() -> None:
    refusal = Refusal(evaluated().plan, "the pool holds 3 tokens")
    assert decode_outcome(encode_outcome(refusal), refusal.plan, "here") == refusal


def test_the_comparison_of_these_tests_sees_a_last_bit() -> None:
    evaluation = evaluated()
    assert evaluation.spread is not None
    name = next(iter(evaluation.spread.blocks))
    blocks = {**evaluation.spread.blocks, name: np.nextafter(evaluation.spread.blocks[name], 9.0)}
    assert differences(evaluation, replace(evaluation, spread=replace(evaluation.spread, blocks=blocks)))
    assert differences(evaluation, replace(evaluation, cpu_s=np.nextafter(evaluation.cpu_s, 9.0).item()))
    assert differences(evaluation, replace(evaluation, slo_violations=["x"]))  # type: ignore[arg-type]


def changed(change: Callable[[Any], Any]) -> str:
    data = json.loads(encode_outcome(evaluated()))
    return json.dumps(change(data) or data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        '{"kind": "evaluation"}',
        '{"kind": "__import__", "fields": {}}',
        '{"kind": [], "fields": {}}',
        '{"kind": "refusal", "fields": {"reason": 3}}',
        '{"kind": "refusal", "fields": {"reason": "a", "plan": null}}',
        '{"kind": "evaluation", "fields": {"metrics": NaN}}',
        "[" * 100_000,
        '{"kind": ' + "9" * 5_000 + ', "fields": {}}',
        changed(lambda d: d["fields"].pop("metrics") and None),
        changed(lambda d: d["fields"].update(n_steps=1.5)),
        changed(lambda d: d["fields"].update(n_steps=True)),
        changed(lambda d: d["fields"].update(cpu_s="1")),
        changed(lambda d: d["fields"].update(cpu_s={"number": "1"})),
        changed(lambda d: d["fields"].update(metrics=[["a"]])),
        changed(lambda d: d["fields"].update(slo_violations={})),
        changed(lambda d: d["fields"]["stability"].pop("reason") and None),
        changed(lambda d: d["fields"]["spread"]["blocks"][0][1].update(shape=[10**9])),
        changed(lambda d: d["fields"]["spread"]["blocks"][0][1].update(shape=[-1])),
    ],
    ids=range(22),
)
def test_a_malformed_text_is_refused_with_the_store_and_a_remedy(text: str) -> None:
    with pytest.raises(InputError, match=r"^store\.db: what is stored for DP.* is no outcome .*--store"):
        decode_outcome(text, evaluated().plan, "store.db")


@dataclass(frozen=True, slots=True)
class Inner:
    pair: tuple[str, int]
    kind: Literal["a", "b"]


@dataclass(frozen=True, slots=True)
class Outer:
    by_pair: Mapping[tuple[str, str], float]
    inner: Inner | None
    many: tuple[Inner, ...]
    array: NDArray[np.float64]
    flag: bool


_NUMBERS = st.floats(width=64)
_INNER = st.builds(Inner, st.tuples(st.text(), st.integers()), st.sampled_from(["a", "b"]))
_OUTER = st.builds(
    Outer,
    st.dictionaries(st.tuples(st.text(), st.text()), _NUMBERS),
    st.none() | _INNER,
    st.lists(_INNER).map(tuple),
    st.lists(_NUMBERS, min_size=4, max_size=4).map(lambda numbers: np.array(numbers).reshape(2, 2)),
    st.booleans(),
)


@given(_OUTER)
def test_any_value_comes_back_through_json(value: Outer) -> None:
    text = json.dumps(encode(value, Outer), allow_nan=False)
    assert differences(value, decode(json.loads(text), Outer)) == []


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["pair", "kind", "number"]), inner),
)


@given(_JSON)
def test_any_other_json_is_refused_or_read_as_what_it_says(data: Any) -> None:
    try:
        value = decode(data, Inner)
    except MalformedError:
        return
    assert encode(value, Inner) == data


@pytest.mark.parametrize(
    ("value", "hint"),
    [("x", int), (1.0, int), (True, int), ({1}, set), (1, int | str), (np.array([1]), NDArray[np.float64])],
)
def test_what_could_not_be_read_back_is_not_written(value: Any, hint: Any) -> None:
    with pytest.raises(TypeError):
        encode(value, hint)
