"""What would a run have measured if the server's times were others?  A few milliseconds for each answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from apex_sim.cost.calibrated import best_cost_model
from apex_sim.errors import InputError
from apex_sim.fleet.compiled_plan import compile_plan, with_preset
from apex_sim.fleet.fleet import simulate_plan
from apex_sim.metrics.slo import Slo
from apex_sim.metrics.summary import summarise
from apex_sim.plan.memory import Memory
from apex_sim.plan.shape import Shape
from apex_sim.preset.preset import Preset
from apex_sim.record.run import FleetRun
from apex_sim.truth.benchmarks.benchmark_run import RequestTimes, summarise_times
from apex_sim.truth.benchmarks.engine_log import LoggedPool
from apex_sim.truth.calibration.parameters import scale_preset
from apex_sim.truth.calibration.served_run import ServedRun

#: Multipliers of a preset as it is shipped.
AS_SHIPPED: Final = (1.0, 1.0, 1.0, 1.0)
#: Runs kept for one point of the fit; derivatives and steps come back to few of them.
_MOST_KEPT: Final = 64


class RunSimulator:
    """A served run whose tables are compiled once, under any multipliers of its preset's times.

    Parameters
    ----------
    pool : KV pool that the engine's log states, in place of what memory accounting leaves.
    """

    def __init__(self, run: ServedRun, pool: LoggedPool | None = None) -> None:
        replay = run.replay
        self.run = run
        self._cost = best_cost_model(replay.cluster.device)
        self._compiled = compile_plan(replay.model, replay.cluster, replay.plan, self._cost)
        self.notes: list[str] = []
        if pool is not None:
            self._compiled = {
                shape: (self._as_logged(shape, memory, pool), steps)
                for shape, (memory, steps) in self._compiled.items()
            }
        self._kept: dict[tuple[float, ...], FleetRun] = {}

    @property
    def preset(self) -> Preset:
        """The preset as it is shipped."""
        return self.run.replay.plan.instances[0][0].preset

    @property
    def cost_provenance(self) -> str:
        """What kernel times rest on."""
        return self._cost.provenance

    def mean_users(self) -> float:
        """Return the mean number of requests in an instance, waiting ones included, by the shipped preset."""
        return self._simulate(AS_SHIPPED).mean_users

    def predict(self, multipliers: tuple[float, ...], rows: slice | None = None) -> dict[str, float]:
        """Return the metrics that the run would have measured; with `rows`, those of so many of its requests."""
        run = self._simulate(multipliers)
        if rows is None:
            metrics = summarise(run, self.run.replay.cluster, Slo())
            return {name: value for name, value in metrics.items() if value is not None}
        requests = run.requests
        times = RequestTimes(requests.prompt_tokens, requests.output_tokens, requests.ttft_s, requests.e2e_s)
        return summarise_times(times, rows)

    def _simulate(self, multipliers: tuple[float, ...]) -> FleetRun:
        key = tuple(round(value, 12) for value in multipliers)
        if key not in self._kept:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[key] = self._run_under(scale_preset(self.preset, multipliers))
        return self._kept[key]

    def _run_under(self, preset: Preset) -> FleetRun:
        replay = self.run.replay
        plan, compiled = with_preset(replay.plan, self._compiled, lambda _: preset)
        run = simulate_plan(replay.model, replay.cluster, plan, replay.workload, self._cost, compiled=compiled)
        if not np.isfinite(run.makespan_s) or not run.requests.finished.any():
            raise InputError("no request finishes", where=self.run.where, remedy="state the server as it was started")
        return run

    def _as_logged(self, shape: Shape, memory: Memory, pool: LoggedPool) -> Memory:
        """Return `memory` with the blocks of the log, of each attention rank; vLLM counts tokens of one block list."""
        if pool.n_blocks is not None:
            n_blocks = pool.n_blocks
        else:
            n_blocks = (pool.n_tokens or 0) // memory.layout.block_size_tokens * memory.layout.n_lists
        n_blocks *= shape.attention_dp
        if n_blocks // shape.n_queues < memory.layout.blocks_for(shape.scheduler.max_model_len):
            raise InputError(
                f"a pool of {n_blocks} blocks is below max_model_len {shape.scheduler.max_model_len}",
                where=pool.where,
                remedy="give the log of this server, or state --max-model-len",
            )
        self.notes.append(
            f"KV pool: {n_blocks} blocks by {pool.where}, {memory.n_blocks} by memory accounting"
            f" ({memory.n_blocks / n_blocks - 1:+.1%})"
        )
        return replace(memory, n_blocks=n_blocks)
