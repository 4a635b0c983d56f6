"""FastServe's skip-join multi-level feedback queue: short prompts and short answers so far go first.

Rules of Wu et al., Fast Distributed Inference Serving for Large Language Models, https://arxiv.org/abs/2305.05920,
section 4.1: each level has twice the quantum of the one above; a request joins the first level whose quantum holds its
first iteration, the prompt, and is demoted by one whenever it has used the quantum of its level.

Assumed: an iteration of one token takes as long as a prompt of `ITERATION_TOKENS`, about where kernels begin to be
bound by compute.  Not modelled: promotion of those that wait too long; swapping out what is demoted, ahead of time.
"""

from __future__ import annotations

from typing import Final

from apex_sim.instance.orders.queue_order import QueueOrder
from apex_sim.instance.sequence import Sequence

#: Prompt tokens whose prefill takes as long as one decode iteration, the quantum of the first level (assumed).
ITERATION_TOKENS: Final = 256


def level_of(prompt_tokens: int, n_generated: int) -> int:
    """Return the level of a request, 0 first.

    Level k lasts for 2^k output tokens, so that a request that joined at j has left it after 2^j, the next after
    2^j (1 + 2), and so on.

    Examples
    --------
    >>> [level_of(prompt, 0) for prompt in (1, 256, 257, 1024, 1025)]
    [0, 0, 1, 2, 3]
    >>> [level_of(1, generated) for generated in (0, 1, 2, 3, 6, 7)]
    [0, 1, 1, 2, 2, 3]
    >>> [level_of(1024, generated) for generated in (3, 4, 11, 12)]
    [2, 3, 3, 4]
    """
    joined = max(0, -(-prompt_tokens // ITERATION_TOKENS) - 1).bit_length()
    return joined + ((n_generated >> joined) + 1).bit_length() - 1


class MultiLevelFeedback(QueueOrder):
    """By level, and by arrival within one."""

    def place(self, sequence: Sequence) -> tuple[float, int]:
        """Return the level of `sequence`, and its number."""
        return float(level_of(sequence.prompt_tokens, sequence.n_generated)), sequence.request
