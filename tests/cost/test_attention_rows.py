"""Decode attention with several queries for each sequence, as verification of draft tokens needs it."""

from __future__ import annotations

import numpy as np
import pytest

from apex_sim.cost.attention_launch import AttentionGroup, LaunchSizes, decode_launch, with_query_rows
from apex_sim.cost.calibrated import calibrated_costs
from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.decode_table import tabulate_decode
from apex_sim.cost.forms.linear_attention import LinearHeads
from apex_sim.cost.roofline import Roofline
from apex_sim.cost.sizes import AttentionSizes, DecodeWork, LatentSizes
from apex_sim.errors import UnsupportedError
from apex_sim.hardware.device import load_device

H200 = load_device("h200-sxm")
GROUPED, LATENT = AttentionSizes(16, 2, 128, "bf16"), LatentSizes(16, 512, 64, 128, 128, "bf16")


@pytest.mark.parametrize("cost", [Roofline(H200), calibrated_costs(H200)], ids=["roofline", "calibrated"])
@pytest.mark.parametrize("sizes", [GROUPED, LATENT], ids=["grouped", "latent"])
def test_rows_multiply_the_flop_and_share_the_keys(cost: CostModel, sizes: LaunchSizes) -> None:
    """Keys dominate the bytes at 16,384 tokens of context; queries and outputs add less than 2 %."""
    work = DecodeWork(8.0, 8.0 * 16_384)
    one, four = (decode_launch(cost, work, with_query_rows(sizes, n)) for n in (1, 4))
    assert np.asarray(four.compute_s) == pytest.approx(4 * np.asarray(one.compute_s))
    assert np.asarray(four.memory_s) == pytest.approx(np.asarray(one.memory_s), rel=0.02)
    assert one.kernel_s <= four.kernel_s < 4 * one.kernel_s


def test_launches_with_several_rows_lie_outside_the_data() -> None:
    group = AttentionGroup(GROUPED, None, 1)
    one, four = (tabulate_decode(calibrated_costs(H200), group, 8, 4096, n) for n in (1, 4))
    assert not one.outside.all()
    assert four.outside.all()


def test_a_state_has_one_row() -> None:
    state = LinearHeads(4, 8, 128, 128, 4)
    assert with_query_rows(state, 1) == state
    with pytest.raises(UnsupportedError, match="Leave speculation out"):
        with_query_rows(state, 2)
