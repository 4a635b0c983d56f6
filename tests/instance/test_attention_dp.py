"""Attention ranks in one loop, on toy costs: a step takes the largest rank's batch, its end is everyone's."""

import pytest
from toy import Engine, ask, serve
from toy_steps import affine, flat

by_tokens = affine(0.0, 1.0)


def test_all_ranks_wait_for_the_slowest() -> None:
    """10 and 2 prompt tokens, 2 outputs each: both first tokens after 10 s, both second ones after 11 s."""
    run = serve(Engine(attention_dp=2), by_tokens, ask([0.0, 0.0], [10, 2], 2))
    assert run.requests.first_token_s.tolist() == [10.0, 10.0]
    assert run.requests.finish_s.tolist() == [11.0, 11.0]
    alone = serve(Engine(), by_tokens, ask([0.0, 0.0], [10, 2], 2))
    assert alone.requests.first_token_s.tolist() == [12.0, 12.0]


def test_the_host_takes_the_time_of_the_fullest_rank() -> None:
    """Three requests on two ranks: two on the first, so that a step takes 0.5 + 2 x 0.25 s of the host."""
    engine = Engine(attention_dp=2, host_step_s=0.5, host_sequence_s=0.25)
    run = serve(engine, flat(), ask([0.0] * 3, 4, 1))
    assert run.requests.finish_s.tolist() == [2.0, 2.0, 2.0]


def test_a_rank_without_work_takes_part() -> None:
    """One request: as long as alone; the other rank joins between steps with a prompt that both then wait for."""
    run = serve(Engine(attention_dp=2), by_tokens, ask([0.0, 4.5], [4, 7], [4, 1]))
    assert run.requests.first_token_s.tolist() == [4.0, 12.0]
    assert run.requests.finish_s.tolist() == [4.0 + 1 + 7 + 1, 12.0]


def test_each_rank_has_its_own_blocks() -> None:
    """Two sequences grow to 48 of a pool of 64 tokens in all: each fits in 32 tokens only until it is preempted."""
    asked = ask([0.0] * 4, 16, 12)
    shared = serve(Engine(n_blocks=28, max_model_len=28), flat(), asked)
    assert shared.requests.n_preemptions.sum() == 0
    split = serve(Engine(n_blocks=28, max_model_len=28, attention_dp=2), flat(), asked)
    assert split.requests.n_preemptions.sum() == 0
    tight = serve(Engine(n_blocks=18, max_model_len=28, attention_dp=2), flat(), asked)
    assert tight.requests.n_preemptions.sum() > 0


@pytest.mark.parametrize(
    ("policy", "second"),
    [("unified", 1), ("sglang", 1)],
)
def test_the_second_of_two_requests_goes_to_the_other_rank(policy: str, second: int) -> None:
    run = serve(Engine(policy, attention_dp=2), by_tokens, ask([0.0, 0.0], [6, 6], 1))
    assert run.requests.first_token_s.tolist() == [6.0, 6.0 * second]


def test_vllm_counts_a_waiting_request_four_times() -> None:
    """One seat each.  Rank 0 runs one and, with equal sums, gets none before rank 1 has one as well."""
    engine = Engine(attention_dp=2, max_num_seqs=1)
    run = serve(engine, flat(), ask([0.0, 0.0, 0.5, 0.5], 4, [9, 3, 1, 1]))
    # Third: both run one, the first rank gets it; fourth: 4 + 1 against 1, the second rank.
    assert run.requests.first_token_s.tolist() == [1.0, 1.0, 10.0, 4.0]


def test_sglang_gives_requests_to_the_ranks_in_turn() -> None:
    """The third goes to the first rank again, though that one is still busy and the other is not."""
    engine = Engine("sglang", attention_dp=2, max_num_seqs=1)
    run = serve(engine, flat(), ask([0.0, 0.0, 5.0], 4, [9, 2, 1]))
    assert run.requests.first_token_s[2] > 9.0


def test_asynchronous_ranks_decide_while_the_step_before_runs() -> None:
    """Host and device take a second each: four tokens take a second each after the first two seconds."""
    engine = Engine(attention_dp=2, async_scheduling=True, host_step_s=1.0)
    run = serve(engine, flat(), ask([0.0, 0.0], 4, 4))
    assert run.requests.finish_s.tolist() == [5.0, 5.0]
