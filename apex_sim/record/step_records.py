"""What did each step of an instance do?"""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

#: Columns of a step: when it was decided, when its first stage began and its last stage ended, its batch, the state of
#: queue and KV blocks as it was decided, and the energy above idle that all devices have taken with this step.
STEP_COLUMNS = (
    "decided_s",
    "start_s",
    "end_s",
    "n_prefill_tokens",
    "n_decode",
    "n_sequences",
    "n_waiting",
    "n_running",
    "n_blocks_used",
    "dynamic_j",
)


class StepRecords:
    """Steps of one instance in the order in which they were decided: one row each, or an even sample of them."""

    def __init__(self) -> None:
        self._values = array("d")
        self._n_steps: int | None = None
        self._most_blocks_used = 0.0

    @classmethod
    def sample(cls, rows: NDArray[np.float64], n_steps: int, most_blocks_used: float) -> StepRecords:
        """Return a sample of `n_steps` steps, of which one held `most_blocks_used` KV blocks and none more."""
        steps = cls()
        steps._values.frombytes(rows.tobytes())
        steps._n_steps, steps._most_blocks_used = n_steps, most_blocks_used
        return steps

    @property
    def n_steps(self) -> int:
        """Steps that were run, kept or not."""
        return len(self) if self._n_steps is None else self._n_steps

    @property
    def most_blocks_used(self) -> float:
        """KV blocks held as the fullest step was decided; 0 without steps."""
        if self._n_steps is not None:
            return self._most_blocks_used
        return float(self.column("n_blocks_used").max()) if len(self) else 0.0

    def add(self, *row: float) -> None:
        """Append one step; values in the order of `STEP_COLUMNS`."""
        if len(row) != len(STEP_COLUMNS):
            raise TypeError(f"{len(row)} values for {len(STEP_COLUMNS)} columns of a step")
        self._values.extend(row)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._values) // len(STEP_COLUMNS)

    def table(self) -> NDArray[np.float64]:
        """Return the steps as rows, columns as in `STEP_COLUMNS`."""
        return np.frombuffer(self._values, dtype=np.float64).reshape(-1, len(STEP_COLUMNS))

    def column(self, name: str) -> NDArray[np.float64]:
        """Return one column."""
        column: NDArray[np.float64] = self.table()[:, STEP_COLUMNS.index(name)]
        return column
