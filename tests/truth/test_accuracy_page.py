"""The accuracy page says what is missing, weighs sources equally and takes its texts from the notes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from apex_sim.truth.validation import CaseResult

ROOT = Path(__file__).parents[2]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("accuracy")


def case(case_id: str, source: str, error: float, predicted: float = 1.0, plan: str = "TP1") -> CaseResult:
    return CaseResult(
        case_id=case_id,
        source=source,
        engine="vllm",
        engine_version="0.13.0",
        model="m",
        device="h100-sxm",
        plan=plan,
        measured={"ttft_mean_s": predicted / (1 + error)},
        predicted={"ttft_mean_s": predicted},
        error={"ttft_mean_s": error},
        interval={},
        noise_frac=None,
        skipped_reason="",
        notes=(),
        axes={"engine": "vllm 0.13.0", "device": "h100-sxm", "family": "f", "plan": plan, "load": "0 to 1 at once"},
    )


def test_sources_weigh_equally(page: ModuleType) -> None:
    cases = [case("a", "one", 0.1), case("b", "one", 0.1), case("c", "one", -0.1), case("d", "two", 0.5)]
    lines = page.tables.sources_table(cases).splitlines()[2:]
    assert lines == [
        "| TTFT | `one` | 3 | 10.0 | 10.0 | +10.0 |",
        "| TTFT | `two` | 1 | 50.0 | 50.0 | +50.0 |",
        "| TTFT | **all sources** | 4 | 30.0 | 30.0 | +30.0 |",
    ]


def test_worst_cases_show_repeats_once(page: ModuleType) -> None:
    cases = [case("a", "one", 0.1), case("b", "one", -0.4, 2.0), case("c", "one", -0.3, 2.0)]
    rows = page.tables.worst_table(cases, "ttft").splitlines()[2:]
    assert [line.split(" | ")[0].strip("| ") for line in rows] == ["`b`", "`a`"]


def test_axes_with_one_value_have_no_table(page: ModuleType) -> None:
    text = page.tables.axis_tables([case("a", "one", 0.1), case("b", "one", 0.2, plan="TP2")])
    assert text.splitlines()[0] == "| plan | n | TTFT |"
    assert text.count("---") == 3


def test_results_are_shown_or_said_to_be_missing(page: ModuleType, tmp_path: Path) -> None:
    show = page.tables.left_out_table
    missing = page.from_results(tmp_path, "fit_presets", show)
    assert (
        missing
        == "*Not run for this page: `benchmarks/fit_presets.py`.*"
        == page.from_results(None, "fit_presets", show)
    )
    (tmp_path / "fit_presets.txt").write_text("printed\n", encoding="utf-8")
    assert page.from_results(tmp_path, "fit_presets", show) == "```\nprinted\n```"
    row = {"preset": "vllm-1", "left_out": "one", "metric": "tpot", "n": 9, "p90_frac": 0.1, "bias_frac": 0.01}
    result = {
        "fitted": [row | {"median_frac": 0.02}, row | {"left_out": "two", "median_frac": 0.04}],
        "left_out_source": [row | {"median_frac": 0.06}],
        "left_out_model": [row | {"left_out": "m, three", "median_frac": 0.06}],
        "not_left_out": [{"preset": "sglang", "reason": "one source only"}],
    }
    (tmp_path / "fit_presets.json").write_text(json.dumps(result), encoding="utf-8")
    rows = page.from_results(tmp_path, "fit_presets", show).splitlines()[2:]
    assert rows[0].endswith("| 6.0 | 10.0 | +1.0 | 3.0 |")  # of the same source
    assert rows[1].endswith("| 6.0 | 10.0 | +1.0 | 2.0 |")  # of the mean over sources
    assert rows[2] == "| fitted | one | vllm-1 | `tpot` | 9 | 2.0 | 10.0 | +1.0 |  |"
    assert rows[-1] == "* sglang: one source only."


def test_the_notes_have_every_text_of_the_page(page: ModuleType) -> None:
    source = (ROOT / "benchmarks" / "accuracy.py").read_text(encoding="utf-8")
    headings = {part.split('"')[0] for part in source.split('note("')[1:]}
    assert len(headings) > 15
    assert all(page.note(heading) for heading in headings)
    with pytest.raises(SystemExit, match="no heading 'Nothing'"):
        page.note("Nothing")


def test_kernel_errors_are_those_of_the_coefficient_files(page: ModuleType) -> None:
    lines = page.tables.kernels_table().splitlines()
    assert lines[0].startswith("| operator | floor / aim | h100-sxm | h200-sxm |")
    import tomllib

    text = (ROOT / "apex_sim" / "cost" / "coefficients" / "h100-sxm" / "gemm.toml").read_text(encoding="utf-8")
    held_out = tomllib.loads(text)["gemm"]["bf16"]["held_out"]["median_frac"]
    assert lines[2].startswith(f"| GEMM bf16 | 8 / 5 | {100 * held_out:.1f} |")
