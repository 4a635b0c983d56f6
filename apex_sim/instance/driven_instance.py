"""How does one instance of a fleet serve its requests, compiled, while others decide when the next one comes?"""

from __future__ import annotations

import numpy as np

from apex_sim.cost.step_model import StepModel
from apex_sim.instance.compiled_instance import Served, run, served_of, start
from apex_sim.instance.kernel import state as at
from apex_sim.plan.memory import Memory
from apex_sim.plan.shape import Shape
from apex_sim.record.request_records import REJECTED, RUNNING


class DrivenInstance:
    """One instance that runs up to a time, takes requests, and runs on.

    Parameters
    ----------
    shape, step_model, memory : what the instance is, what its steps cost, and its KV pool.
    most_requests : no more are ever submitted.
    seed : of draws during the run.
    """

    def __init__(self, shape: Shape, step_model: StepModel, memory: Memory, most_requests: int, seed: int = 0) -> None:
        self._shape = shape
        self._step_model = step_model
        self._state = start(shape, step_model, memory, np.zeros(most_requests, dtype=at.REQUEST))
        self._state.engine[0]["seed"] = seed
        self._numbers: list[int] = []
        self._n_told = 0
        self._engine = {name: self._state.engine[name] for name in ("until_s", "quiet_s", "n_left")}

    @property
    def quiet_until_s(self) -> float:
        """Before this time no request leaves unless another is submitted; infinite without requests."""
        return float(self._engine["quiet_s"][0])

    def submit(
        self, number: int, prompt_tokens: int, output_tokens: int, limit_tokens: int, arrival_s: float, queued_s: float
    ) -> None:
        """Take the fleet's request `number`, which reaches the scheduler at `queued_s`, not before the clock."""
        local = len(self._numbers)
        self._numbers.append(number)
        record = self._state.requests[local]
        record["number"] = number
        record["prompt"], record["output"], record["limit"] = prompt_tokens, output_tokens, limit_tokens
        record["status"], record["arrival_s"] = RUNNING, arrival_s
        for name in ("queued_s", "scheduled_s", "first_s", "finish_s", "last_s"):
            record[name] = np.nan
        self._let_come(local, queued_s)
        self._engine["quiet_s"][0] = min(self.quiet_until_s, queued_s)

    def _let_come(self, local: int, queued_s: float) -> None:
        """Put a request among those that are to reach the scheduler, after those that do so no later."""
        engine, coming_s, coming = self._state.engine[0], self._state.coming_s, self._state.coming
        first = int(engine["first_coming"])
        place = first + int(engine["n_coming"])
        engine["n_coming"] += 1
        while place > first and coming_s[place - 1] > queued_s:
            coming_s[place], coming[place] = coming_s[place - 1], coming[place - 1]
            place -= 1
        coming_s[place], coming[place] = queued_s, local

    def run_until(self, until_s: float) -> list[tuple[float, bool, int]]:
        """Do all that happens before `until_s`; return when requests left, whether rejected, and their numbers.

        Raises
        ------
        InvariantError : INV-1, if requests can never end.
        """
        if self.quiet_until_s == np.inf:
            return []
        self._engine["until_s"][0] = until_s
        run(self._shape, self._state)
        n_left = int(self._engine["n_left"][0])
        gone = [self._departure(int(local)) for local in self._state.left[self._n_told : n_left]]
        self._n_told = n_left
        return gone

    def _departure(self, local: int) -> tuple[float, bool, int]:
        request = self._state.requests[local]
        is_rejected = bool(request["status"] == REJECTED)
        return float(request["last_s" if is_rejected else "finish_s"]), is_rejected, self._numbers[local]

    def result(self) -> Served:
        """Return what came of all requests.

        Raises
        ------
        InvariantError : INV-1, if some never ended.
        """
        return served_of(self._state, self._state.requests[: len(self._numbers)], self._step_model)
