"""When steps start and end: host and device time, asynchronous lag, pipelines; every number computed by hand.

On both engines, from what both record.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from toy import ENGINES, Engine, StepTime, ask, flat, per_sequence, serve, try_instance, who

from apex_sim.record.run import FleetRun

SYNC = Engine(host_step_s=0.25)
ASYNC = Engine(host_step_s=0.25, async_scheduling=True)

on_both = pytest.mark.parametrize("by", ENGINES)
Row = tuple[float, int, int, int]


@dataclass(frozen=True, slots=True)
class Trial:
    """One instance asked `rows` of arrival time, prompt, output and maximum output."""

    engine: Engine
    step_time: StepTime
    rows: list[Row]
    by: str

    def run(self) -> FleetRun:
        arrivals, prompts, outputs, limits = zip(*self.rows, strict=True)
        return serve(self.engine, self.step_time, ask(arrivals, prompts, outputs, limits), by=self.by)

    def column(self, name: str) -> list[float]:
        """Return a column of the instance's steps."""
        values: list[float] = self.run().instances[0].steps.column(name).tolist()
        return values

    def scheduled_s(self, request: int) -> float:
        return float(self.run().requests.scheduled_s[request])

    @property
    def host_s(self) -> float:
        """Host time that nothing hides."""
        return self.run().instances[0].stages[0].operators_s["host"]

    def idle_s(self) -> list[float]:
        """Return how long each stage idles until the last has drained."""
        return [stage.idle_s for stage in self.run().instances[0].stages]

    def finish_s(self, request: int) -> float:
        return float(self.run().requests.finish_s[request])

    def tokens_s(self, request: int) -> list[float]:
        """Return when each token of a request left: when it would have ended, had it stopped there.

        Nothing knows beforehand that it stops, so that all is equal up to there; the limit must not be reached before.
        """
        arrival_s, prompt, output, limit = self.rows[request]
        times_s = []
        for stop in range(1, output + 1):
            rows = [*self.rows]
            rows[request] = (arrival_s, prompt, stop, limit)
            times_s.append(Trial(self.engine, self.step_time, rows, self.by).finish_s(request))
        first_s = self.run().requests.first_token_s[request]
        assert times_s[0] == first_s
        return times_s


@on_both
def test_a_synchronous_step_lasts_host_plus_device(by: str) -> None:
    trial = Trial(SYNC, flat(1.0), [(0.0, 4, 3, 9)], by)
    assert trial.column("decided_s") == [0.0, 1.25, 2.5]
    assert trial.column("start_s") == [0.25, 1.5, 2.75]
    assert trial.tokens_s(0) == [1.25, 2.5, 3.75]
    assert trial.host_s == 0.75
    assert trial.idle_s() == [0.0]


@on_both
def test_host_time_grows_with_the_sequences(by: str) -> None:
    trial = Trial(Engine(host_step_s=0.25, host_sequence_s=0.125), flat(1.0), [(0.0, 4, 1, 9)] * 3, by)
    assert trial.finish_s(2) == 1.625


@on_both
def test_an_asynchronous_step_lasts_the_device_time_once_it_runs(by: str) -> None:
    trial = Trial(ASYNC, flat(1.0), [(0.0, 4, 4, 4)], by)
    assert trial.column("decided_s") == [0.0, 0.25, 1.25, 2.25]
    assert trial.tokens_s(0) == [1.25, 2.25, 3.25, 4.25]
    assert trial.host_s == 0.25


@on_both
def test_an_asynchronous_step_lasts_the_host_time_when_that_is_longer(by: str) -> None:
    """A step's tokens leave when the host, busy with the next step, takes them in; the last has nobody behind it."""
    trial = Trial(Engine(host_step_s=1.0, async_scheduling=True), flat(0.25), [(0.0, 4, 4, 4)], by)
    assert trial.column("start_s") == [1.0, 2.0, 3.0, 4.0]
    assert trial.tokens_s(0) == [2.0, 3.0, 4.0, 4.25]
    assert trial.host_s == 1.0 + 3 * 0.75


def test_events_never_go_back_in_time() -> None:
    rows = [(0.3 * index, 4, 3, 9) for index in range(20)]
    trial = try_instance(Engine(host_step_s=1.0, async_scheduling=True), flat(0.25), rows)
    times = [now_s for _, _, now_s in trial.log.events]
    assert times == sorted(times)


@on_both
@pytest.mark.parametrize(("engine", "in_batch", "first_token_s"), [(SYNC, 1, 2.5), (ASYNC, 2, 3.25)])
def test_an_arrival_takes_effect_one_step_later_when_asynchronous(
    engine: Engine, in_batch: int, first_token_s: float, by: str
) -> None:
    """It comes while the first step runs; the second is then already decided."""
    trial = Trial(engine, flat(1.0), [(0.0, 4, 9, 9), (1.0, 4, 1, 1)], by)
    assert [index for index, n_tokens in enumerate(trial.column("n_prefill_tokens")) if n_tokens] == [0, in_batch]
    assert trial.tokens_s(1) == [first_token_s]


@on_both
@pytest.mark.parametrize(
    ("engine", "limit", "n_steps"), [(SYNC, 9, 2), (ASYNC, 9, 3), (ASYNC, 2, 2)], ids=["sync", "async", "limit known"]
)
def test_an_unexpected_stop_wastes_a_token_only_when_asynchronous(
    engine: Engine, limit: int, n_steps: int, by: str
) -> None:
    trial = Trial(engine, flat(1.0), [(0.0, 4, 2, limit)], by)
    assert len(trial.column("end_s")) == n_steps
    assert trial.run().requests.emitted_tokens.tolist() == [2]
    assert trial.finish_s(0) == (2.25 if engine is ASYNC else 2.5)
    assert trial.run().instances[0].n_blocks_held_at_end == 0


@on_both
@pytest.mark.parametrize(
    ("limit", "first_token_s"), [(9, 4.25), (2, 3.5)], ids=["behind the wasted step", "limit known: pipeline drained"]
)
def test_a_finish_makes_room_one_step_later_when_asynchronous(limit: int, first_token_s: float, by: str) -> None:
    """One seat: the second request is decided at 2.25, when the first's last token is there."""
    engine = Engine(host_step_s=0.25, async_scheduling=True, max_num_seqs=1)
    trial = Trial(engine, flat(1.0), [(0.0, 4, 2, limit), (0.0, 4, 1, 1)], by)
    assert trial.scheduled_s(1) == 2.25
    assert trial.tokens_s(1) == [first_token_s]


@on_both
@pytest.mark.parametrize(
    "engine", [Engine(), Engine(async_scheduling=True), Engine("chunked"), Engine("prefill-first")]
)
@pytest.mark.parametrize("arrival_s", [2.0, 3.0])
def test_an_arrival_at_the_very_end_of_a_step_is_seen_by_the_next_decision(
    engine: Engine, arrival_s: float, by: str
) -> None:
    """Whichever of the two events SimPy was told of first: the arrival at 3 is announced at 2.5, that at 2 at 0."""
    rows = [(0.0, 4, 8, 8), (2.5, 4, 1, 1), (3.0, 4, 1, 1)] if arrival_s == 3.0 else [(0.0, 4, 8, 8), (2.0, 4, 1, 1)]
    trial = Trial(engine, flat(1.0), rows, by)
    assert trial.scheduled_s(len(rows) - 1) == arrival_s


@on_both
def test_a_tie_does_not_depend_on_the_last_bit(by: str) -> None:
    """Steps of 0.1 s end at sums of 0.1 s; an arrival at the same sum is a tie, and seen."""
    tie_s, n_steps = 0.0, 7
    for _ in range(n_steps):
        tie_s += 0.1
    assert tie_s != 0.1 * n_steps
    trial = Trial(Engine(), flat(0.1), [(0.0, 4, 20, 20), (tie_s, 4, 1, 1)], by)
    assert trial.scheduled_s(1) == tie_s
    assert trial.column("end_s")[n_steps - 1] == tie_s


@on_both
@pytest.mark.parametrize("policy", ["unified", "prefill-first", "chunked"])
@pytest.mark.parametrize(("n_batches", "pp"), [(1, 1), (1, 3), (4, 2), (6, 3), (8, 4)])
def test_equal_batches_through_equal_stages(policy: str, n_batches: int, pp: int, by: str) -> None:
    """m batches of one prompt each over p stages of 1 s: the last ends at m + p - 1, and each stage idles p - 1."""
    engine = Engine(policy, max_num_batched_tokens=8, max_model_len=8, pp=pp)
    trial = Trial(engine, flat(1.0), [(0.0, 8, 1, 1)] * n_batches, by)
    assert trial.column("end_s") == [pp + index for index in range(n_batches)]
    assert trial.idle_s() == [pp - 1] * pp


@on_both
def test_chunks_of_one_prompt_follow_each_other_through_the_stages_in_v1(by: str) -> None:
    trial = Trial(Engine(max_num_batched_tokens=4, pp=2), flat(1.0), [(0.0, 8, 2, 2)], by)
    assert trial.column("n_prefill_tokens") == [4, 4, 0]
    assert trial.column("n_decode") == [0, 0, 1]
    assert trial.column("end_s") == [2.0, 3.0, 5.0]  # without overlap the prompt would end at 4


@on_both
def test_a_decode_is_not_scheduled_again_while_its_token_is_in_flight(by: str) -> None:
    trial = Trial(Engine(pp=3), flat(1.0), [(0.0, 4, 3, 3), (0.0, 4, 3, 3)], by)
    assert trial.column("n_sequences") == [2, 2, 2]
    assert trial.tokens_s(0) == [3.0, 6.0, 9.0]


@on_both
def test_a_v1_engine_with_nothing_to_schedule_blocks_on_its_oldest_batch(by: str) -> None:
    """The arrival at 0.5 could use the idle first stage, but the engine waits for the batch in flight."""
    trial = Trial(Engine(pp=2), flat(1.0), [(0.0, 4, 2, 2), (0.5, 4, 1, 1)], by)
    assert trial.scheduled_s(1) == 2.0


@on_both
def test_at_most_pp_batches_are_in_flight(by: str) -> None:
    trial = Trial(Engine(max_num_batched_tokens=4, pp=2), flat(1.0), [(0.0, 4, 1, 1)] * 4, by)
    assert trial.column("decided_s") == [0.0, 0.0, 2.0, 3.0]


def test_v0_pipelines_split_queue_and_blocks_and_send_requests_to_the_emptier_queue() -> None:
    engine = Engine("prefill-first", pp=2, n_blocks=7)
    rows = [(0.0, 4, 1, 1), (0.0, 4, 5, 5), (2.5, 4, 5, 5), (2.5, 4, 5, 5)]
    trial = try_instance(engine, flat(1.0), rows, until_s=3.25)
    first, second = trial.instance.queues
    assert (first.pool.n_blocks, second.pool.n_blocks) == (3, 3)
    assert who([*first.running, *first.waiting]) == [2, 3]  # request 0 is gone; the tie goes to the first queue
    assert who([*second.running, *second.waiting]) == [1]
    assert trial.log.times("token", 0) == [2.0]
    assert trial.log.times("token", 1) == [3.0]  # behind batch 0 on the first stage


@on_both
def test_v0_queues_take_turns_on_one_host(by: str) -> None:
    """Both queues are ready at 0; the second is decided when the host is free, not before."""
    engine = Engine("prefill-first", pp=2, host_step_s=0.5)
    trial = Trial(engine, flat(1.0), [(0.0, 4, 1, 1), (0.0, 4, 1, 1), (0.25, 4, 1, 1), (0.25, 4, 1, 1)], by)
    assert trial.column("decided_s")[:2] == [0.0, 0.5]
    assert trial.column("n_prefill_tokens") == [4, 8, 4]
    assert [trial.scheduled_s(request) for request in (1, 3)] == [0.5, 0.5]


@on_both
def test_a_slow_stage_sets_the_pace(by: str) -> None:
    """Two prompts of 2 sequences each at 1 s a sequence: both stages hold a batch for 2 s."""
    engine = Engine(max_num_seqs=8, max_num_batched_tokens=8, pp=2)
    trial = Trial(engine, per_sequence(1.0), [(0.0, 4, 1, 1)] * 4, by)
    assert trial.column("end_s") == [4.0, 6.0]
