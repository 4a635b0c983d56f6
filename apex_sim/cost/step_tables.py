"""What does the price of a step look up, and of what batch?  Two flat arrays, and the positions of what they hold.

Compiled code takes each array by itself: a structure of thirty arrays costs it more than the look-ups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from apex_sim.cost.parts import Floats

Ints = NDArray[np.int64]


class StageTables:
    """Tables of one stage: `numbers`, and in `layout` where in them each table begins and how long its axes are.

    `pack` puts them end to end when a step is first priced: who asks for bounds needs the scalars only.
    """

    __slots__ = ("_layout", "_numbers", "_pack", "_scalars")

    def __init__(self, scalars: Floats, pack: Callable[[], tuple[Floats, Ints]]) -> None:
        self._scalars, self._pack = scalars, pack
        self._numbers: Floats | None = None
        self._layout: Ints | None = None

    @property
    def scalars(self) -> Floats:
        """The first `N_SCALARS` of the numbers."""
        return self._scalars if self._numbers is None else self._numbers[:N_SCALARS]

    @property
    def numbers(self) -> Floats:
        """All numbers, end to end."""
        if self._numbers is None:
            numbers, self._layout = self._pack()
            numbers[:N_SCALARS] = self._scalars
            self._numbers = numbers
            del self._pack
        return self._numbers

    @property
    def layout(self) -> Ints:
        """Where each table begins."""
        if self._layout is None:
            _ = self.numbers
        assert self._layout is not None
        return self._layout

    def move_to(self, numbers: Floats) -> None:
        """Keep the numbers where they are there, too, so that they need not be kept twice."""
        self._numbers = numbers

    def with_scalars(self, scalars: Floats) -> StageTables:
        """Return the same tables behind other scalars."""
        if self._numbers is None:
            return StageTables(scalars, self._pack)
        numbers, layout = self._numbers, self.layout
        return StageTables(scalars, lambda: (numbers.copy(), layout))


# --- positions in `numbers`; tables follow ----------------------------------------------------------------------------

#: Gap at each kernel inside or outside a graph, and time to issue a kernel outside one.
LAUNCH_S: Final = 0
EAGER_LAUNCH_S: Final = 1
#: What steps with prompts take beyond their kernels: base, growth, tokens at half of it.
SLOW_BASE: Final = 2
SLOW_GROWTH: Final = 3
SLOW_HALF_TOKENS: Final = 4
#: Power above idle while active, and at full compute, memory and network; joules a token; watts of the range.
ACTIVE_W: Final = 5
COMPUTE_W: Final = 6
MEMORY_W: Final = 7
NETWORK_W: Final = 8
TOKEN_J: Final = 9
RANGE_W: Final = 10
#: Share of the model that each device computes.
MODEL_SHARE_FRAC: Final = 11
#: Kernels of the token-wise operators, of them with a gap, and the same of the head.
TOKEN_LAUNCHES: Final = 12
TOKEN_GAPS: Final = 13
HEAD_LAUNCHES: Final = 14
HEAD_GAPS: Final = 15
#: To copy one KV block to the host or back.
SWAP_BLOCK_S: Final = 18
#: The same of what attention ranks do together.
JOINT_LAUNCHES: Final = 16
JOINT_GAPS: Final = 17
#: What the device waits between two steps whatever the host does.
BETWEEN_STEPS_S: Final = 19
N_SCALARS: Final = 20

# --- positions in `layout`; "at" is a position in `numbers` -----------------------------------------------------------

#: Token and head tables: rows of kernel, compute, memory and network time; row 0 is no work.
TOKENS_AT: Final = 0
HEAD_AT: Final = 1
MAX_TOKENS: Final = 2
#: Captured graph sizes stand in `layout` itself.
GRAPHS_AT: Final = 3
N_GRAPHS: Final = 4
GRAPHS_DECODE_ONLY: Final = 5
GRAPHS_PAD: Final = 6
GRAPH_CONTEXT_TOKENS: Final = 7
N_GROUPS: Final = 8
GROUPS_AT: Final = 9
#: Attention DP: the table of what all ranks do together, whether eager steps are padded to the largest rank where that
#: moves no more bytes, and tokens of a rank that has nothing to do.
JOINT_AT: Final = 10
EAGER_PADS: Final = 11
DUMMY_TOKENS: Final = 12
#: One deviation of the experts' time, by the knots of their table; 0 where it does not vary.
SPREAD_AT: Final = 13
N_HEADER: Final = 14

#: A group of layers that attend alike, from `GROUPS_AT` on: its window's index among the batch's, and the window.
CLASS: Final = 0
WINDOW_TOKENS: Final = 1
#: Decode: knots of the mean context, and for each number of sequences and knot four values: kernel, compute and memory
#: time, and 1 where the size lies outside the data.
CONTEXTS_AT: Final = 2
N_CONTEXTS: Final = 3
DECODE_AT: Final = 4
#: Prefill: knots of sequences, queries and past; first row of each number of sequences (in `layout`); four values as
#: for decode, by row and past.
SEQUENCES_AT: Final = 5
N_SEQUENCES: Final = 6
QUERIES_AT: Final = 7
N_QUERIES: Final = 8
PAST_AT: Final = 9
N_PAST: Final = 10
FIRST_ROW_AT: Final = 11
PREFILL_AT: Final = 12
#: What other keys change: knots of a coarse grid and of the ratio of keys, and two factors, of kernel and memory time.
COARSE_SEQUENCES_AT: Final = 13
N_COARSE_SEQUENCES: Final = 14
COARSE_QUERIES_AT: Final = 15
N_COARSE_QUERIES: Final = 16
COARSE_PAST_AT: Final = 17
N_COARSE_PAST: Final = 18
RATIOS_AT: Final = 19
N_RATIOS: Final = 20
FACTORS_AT: Final = 21
#: Kernels of a prefill launch and of them with a gap, and the same of a decode launch; four values at one position.
LAUNCHES_AT: Final = 22
GROUP_FIELDS: Final = 23

# --- sums over a batch, all as floats ---------------------------------------------------------------------------------

N_TOKENS: Final = 0
N_SAMPLED: Final = 1
N_PREFILL_TOKENS: Final = 2
N_PREFILL_SEQUENCES: Final = 3
N_DECODE: Final = 4
LONGEST_CONTEXT: Final = 5
#: From here on, for each attention window of the model: prefill pairs, prefill keys and decode keys.
BY_CLASS: Final = 6
PAIRS: Final = 0
KEYS: Final = 1
DECODE_KEYS: Final = 2
CLASS_FIELDS: Final = 3


def n_sums(n_windows: int) -> int:
    """Return how many sums a batch has over a model with so many attention windows."""
    return BY_CLASS + CLASS_FIELDS * n_windows
