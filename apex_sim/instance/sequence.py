"""What does the scheduler know about a request in its care?

The actual output length is deliberately absent (INV-8): only the engine, which plays the model that stops, knows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Sequence:
    """Scheduler's view of one request.

    `n_computed` counts the tokens whose KV is computed or in flight, `n_generated` the output tokens that are known,
    `n_pending` those that steps in flight will sample, `n_blocks` the KV blocks held.  With `runs_ahead` (asynchronous
    scheduling) a pending token counts as there, so that the next one can be scheduled before it is known.  Sequences of
    a lower `rank` go first where the queue order uses it; it never derives from what the scheduler cannot know.
    `units` are the identities of the prompt's full hashed blocks, of which it has looked at the first `n_seen` and
    holds `held`, alone or with others; `n_hit_tokens` were cached when it was last admitted, `n_cached_tokens` when it
    first was.  `place` is where blocks reserved in one piece begin, `n_host_blocks` counts those that were swapped out.
    `n_drafts` tokens are proposed to follow what it has.
    """

    request: int
    prompt_tokens: int
    max_output_tokens: int
    runs_ahead: bool = False
    rank: float = 0.0
    n_computed: int = 0
    n_generated: int = 0
    n_pending: int = 0
    n_blocks: int = 0
    n_preemptions: int = 0
    is_finished: bool = False
    last_token_s: float = 0.0
    units: tuple[int, ...] = ()
    held: list[int] = field(default_factory=list)
    n_seen: int = 0
    n_hit_tokens: int = 0
    n_cached_tokens: int = 0
    place: int | None = None
    n_host_blocks: int = 0
    n_drafts: int = 0

    @property
    def n_tokens(self) -> int:
        """Prompt and output tokens that a step may compute."""
        return self.prompt_tokens + self.n_generated + (self.n_pending if self.runs_ahead else 0)

    @property
    def n_uncomputed(self) -> int:
        """Tokens that could be computed now."""
        return self.n_tokens - self.n_computed

    @property
    def is_decoding(self) -> bool:
        """Whether all but the newest token are computed and that one was generated."""
        return self.n_uncomputed == 1 and self.n_computed >= self.prompt_tokens


@dataclass(frozen=True, slots=True)
class Entry:
    """One sequence's share of a step: `n_new` tokens behind `past`; `samples` if the step emits a token for it.

    The last `n_drafts` of the new tokens are proposed by a draft, to be verified.
    """

    sequence: Sequence
    past: int
    n_new: int
    samples: bool
    is_decode: bool
    n_drafts: int = 0

    @property
    def n_sampled(self) -> int:
        """Tokens that the head computes: one, and one for each draft token."""
        return self.samples * (1 + self.n_drafts)
