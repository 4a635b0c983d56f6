"""Inside only where engine, device, family, layout and load were measured; each way out is a reason of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from apex_sim.metrics.cost_basis import CostShare
from apex_sim.truth.envelope import standing_of
from apex_sim.truth.footing import Footing
from apex_sim.truth.validated import ClassErrors, Group, Validated

GROUP = Group(
    source="mine",
    preset="vllm-1",
    device="h100-sxm",
    family="LlamaForCausalLM",
    models=["llama-3.1-8b"],
    engine_versions=["0.13.0"],
    n_cases=7,
    tp=[1, 4],
    n_at_once=[4.0, 64.0],
    prompt_tokens=[900.0, 7400.0],
    errors={"ttft": ClassErrors(n=7, log_sd=0.05, bias_log=0.0, cost_log_sd=0.03)},
)
VALIDATED = Validated((GROUP,), {})
HERE = Footing("vllm-1", "h100-sxm", "LlamaForCausalLM", "llama-3.1-8b", (4,), "TP4", 32.0, 1000.0)
FITTED = (CostShare("gemm", "calibrated", "fit", 0.05, 1.0, 0.0),)


def test_what_was_measured_is_inside_and_says_where():
    standing = standing_of(HERE, FITTED, VALIDATED)
    assert standing.inside
    assert standing.outside == ()
    assert standing.checked_on == ("mine: llama-3.1-8b, 7 cases",)
    assert standing.kernel_frac == {"calibrated": 1.0, "unbacked": 0.0, "beyond": 0.0}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"preset": "sglang"}, "no measured server of engine preset sglang"),
        ({"device": "b200"}, "no measured server of vllm-1 on b200"),
        ({"family": "GptOss"}, "no measured server of GptOss with vllm-1 on h100-sxm"),
        ({"tp": (2,)}, "TP2 was not measured, only TP1, 4"),
        ({"n_at_once": 200.0}, "200 requests at a time in an instance, measured servers had 4 to 64"),
        ({"prompt_tokens": 100.0}, "100 prompt tokens on average, measured servers had 900 to 7.4e+03"),
    ],
)
def test_each_way_out_is_named(change, reason):
    standing = standing_of(replace(HERE, **change), FITTED, VALIDATED)
    assert not standing.inside
    assert standing.outside == (reason,)


def test_prices_from_a_datasheet_and_beyond_the_data_are_outside():
    shares = (
        CostShare("gemm", "calibrated", "fit", 0.05, 0.7, 0.5),
        CostShare("moe", "roofline", "datasheet", None, 0.3, 0.0),
    )
    standing = standing_of(HERE, shares, VALIDATED)
    assert standing.outside == (
        "30% of kernel time has prices that no measured kernel backs",
        "35% of kernel time is at sizes beyond the measured kernels",
    )
