"""Settings of research policies and of sorted queues: what is filled in, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from apex_sim.errors import InputError
from apex_sim.hardware.cluster import load_cluster
from apex_sim.plan.scheduler import QUEUE_ORDERS, resolve_settings
from apex_sim.plan.shape import SchedulerSettings
from apex_sim.preset.load import load_preset
from apex_sim.preset.research import RESEARCH_POLICIES

H100 = load_cluster("1xh100-sxm").device


def settings(preset: str = "vllm-1", max_model_len: int = 4096, **stated: Any) -> SchedulerSettings:
    return resolve_settings(load_preset(preset), H100, max_model_len, **stated)


@pytest.mark.parametrize("policy", RESEARCH_POLICIES)
@pytest.mark.parametrize("preset", ["vllm-0.6", "vllm-1"])
def test_a_research_policy_runs_on_the_figures_of_any_built_preset(preset: str, policy: str) -> None:
    chosen = settings(preset, policy=policy)
    assert (chosen.policy, chosen.async_scheduling, chosen.block_size_tokens) == (policy, False, 16)


def test_budgets_are_the_published_ones_or_room_for_the_longest_prompt_beside_all_decodes() -> None:
    assert [settings(policy=policy).max_num_batched_tokens for policy in RESEARCH_POLICIES] == [
        512,
        768,
        4096 + 1024,
        4096 + 1024,
    ]
    assert settings(policy="orca", max_num_seqs=8).max_num_batched_tokens == 4104
    assert settings(policy="sarathi").max_num_seqs == 512


def test_every_preset_lends_its_figures_to_a_research_policy() -> None:
    assert settings("sglang", policy="sarathi").policy == "sarathi"
    assert not settings("sglang", policy="sarathi").async_scheduling


@pytest.mark.parametrize(
    ("stated", "problem"),
    [
        ({"policy": "orca", "max_num_batched_tokens": 4095}, "orca runs a prompt in one step"),
        ({"policy": "sarathi", "async_scheduling": True}, "asynchronous scheduling"),
        ({"queue_order": "lifo"}, "no queue order 'lifo'"),
        ({"prediction_log_sd": 0.0}, "predicts nothing"),
        ({"queue_order": "shortest-predicted-first", "prediction_log_sd": -1.0}, "prediction_log_sd is -1.0"),
        ({"max_num_waiting": 0}, "max_num_waiting 0"),
    ],
)
def test_contradictions_are_refused(stated: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        settings(**stated)


@pytest.mark.parametrize("policy", ["prefill-first", "chunked"])
def test_vllm_0_6_serves_first_come_first_served_only(policy: str) -> None:
    with pytest.raises(InputError, match="serves first come, first served"):
        settings("vllm-0.6", policy=policy, queue_order="priority")


def test_the_command_line_and_the_study_file_offer_these_orders() -> None:
    from typing import get_args

    from apex_sim.cli import scheduler_flags
    from apex_sim.planner.study_file import SchedulerEntry

    assert scheduler_flags.QUEUE_ORDERS == QUEUE_ORDERS
    assert get_args(SchedulerEntry.model_fields["queue_order"].annotation) == QUEUE_ORDERS
