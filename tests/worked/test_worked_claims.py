"""Do the scripts behind docs/worked/ run, and does each claim's direction hold at a small size?"""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import worked_claims
import worked_paging as paging
import worked_sarathi as sarathi
import worked_setting as setting
import worked_shortest as shortest
import worked_splitfuse as splitfuse

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "worked"


@pytest.mark.parametrize("part", worked_claims.PARTS)
def test_each_part_has_its_page_with_command_and_figure(part: str) -> None:
    page = (PAGES / f"{part}.md").read_text(encoding="utf-8")
    assert f"python benchmarks/worked_claims.py {part}" in page
    assert f"../images/worked-{part}.png" in page
    assert (ROOT / "docs" / "images" / f"worked-{part}.png").stat().st_size < 150_000
    assert f"({part}.md)" in (PAGES / "README.md").read_text(encoding="utf-8")


def test_an_unknown_part_is_refused() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "worked_claims.py"), "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "paging" in done.stderr


@pytest.mark.parametrize("module", [setting, splitfuse])
def test_examples(module: object) -> None:
    failed, tried = doctest.testmod(module)  # type: ignore[arg-type]
    assert (failed, tried > 0) == (0, True)


def test_a_limit_that_never_holds_is_an_error() -> None:
    with pytest.raises(ValueError, match="do not hold"):
        setting.highest_rate(lambda _: False, 1.0)


def test_the_moving_average_is_that_of_the_published_script() -> None:
    gaps_s = np.random.default_rng(0).exponential(1.0, 200)
    theirs = pd.Series(gaps_s).ewm(span=splitfuse.SPAN).mean()
    assert splitfuse.moving_average(gaps_s.tolist()) == pytest.approx(theirs.to_numpy(), rel=1e-9)


def test_no_reservation_is_below_the_output_or_beyond_the_model() -> None:
    lengths = np.array([1, 100, 1_500]), np.array([33, 64, 400])
    for system in (paging.POW2, paging.ORACLE, paging.POW2_BUDDY, paging.ORACLE_BUDDY):
        reserved = paging.reserved_tokens(system, lengths)
        assert reserved is not None
        assert (reserved >= lengths[1]).all()
        assert (reserved + lengths[0] <= paging.MOST_TOKENS).all()
    buddy = paging.reserved_tokens(paging.ORACLE_BUDDY, lengths)
    assert buddy is not None
    assert (buddy + lengths[0]).tolist() == [64, 256, 2_048]


def test_paging_admits_more_at_once_than_reservation() -> None:
    systems = (paging.MAX, paging.ORACLE_BUDDY, paging.ORACLE, paging.PAGED)
    runs = [paging.served(paging.server_of(each), each, "ShareGPT", 5.0, 0, duration_s=60.0) for each in systems]
    batches = [setting.mean_running(run) for run in runs]
    latencies = [setting.normalised_latency_s(run) for run in runs]
    assert batches == sorted(batches)
    assert batches[0] == pytest.approx(7.0, abs=0.5)  # 15,700 tokens hold 2,048 seven times
    assert latencies == sorted(latencies, reverse=True)


def test_cut_prompts_lower_the_p99_between_tokens_at_equal_rate() -> None:
    found = {}
    for system in ("vLLM", "Sarathi-Serve"):
        server = sarathi.server_of(system, "vllm-0.6", "openchat_sharegpt4", 512)
        found[system] = sarathi.limits_of(sarathi.served(server, "openchat_sharegpt4", 1.5, 0, n=150))[0]
    assert found["Sarathi-Serve"] < 0.5 * found["vLLM"]


def test_fused_prompts_keep_more_promises() -> None:
    old, new = (splitfuse.Loop(splitfuse.server_of(each), (2_600, 60), 8, 0, n=32) for each in splitfuse.SYSTEMS)
    assert new.p95_gap_s < old.p95_gap_s
    assert new.effective_per_s(4.0) > old.effective_per_s(4.0)


def test_shortest_first_lowers_latency_under_load_and_errors_take_some_of_it() -> None:
    latency = [
        setting.normalised_latency_s(paging.served(shortest.server_of(sd), paging.PAGED, "ShareGPT", 5.0, 0, 120.0))
        for sd in (0.0, 1.5, None)
    ]
    assert latency == sorted(latency)
    assert latency[0] < 0.8 * latency[2]
