"""Which tokens does a cheaper draft propose, for the model to verify all at once?

Speculative decoding (Leviathan, Kalman and Matias, "Fast inference from transformers via speculative decoding", ICML
2023, arXiv:2211.17192): a draft proposes k tokens, the model computes them in one step, keeps the leading ones that it
agrees with and adds one of its own.  How many it agrees with is a property of models and text: an assumption here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apex_sim.errors import InputError


@dataclass(frozen=True, slots=True)
class Speculation:
    """What proposes tokens, and how many of them the model is assumed to keep.

    Parameters
    ----------
    draft : "mtp" for the model's own multi-token prediction, else a draft model's catalogue name or path.
    n_draft_tokens : tokens proposed for each sequence and step.
    acceptance_frac : for each of them the probability that it is kept, given that all before it were.
    """

    draft: str
    n_draft_tokens: int
    acceptance_frac: tuple[float, ...]

    @property
    def expected_tokens(self) -> float:
        """Return the mean tokens of a step: 1 + a1 + a1 a2 + ... (Leviathan et al., equation 1, where all are equal).

        Examples
        --------
        >>> Speculation("mtp", 2, (0.5, 0.5)).expected_tokens
        1.75
        """
        expected, kept = 1.0, 1.0
        for frac in self.acceptance_frac:
            kept *= frac
            expected += kept
        return expected

    @property
    def label(self) -> str:
        """Short description for notes."""
        kept = ", ".join(f"{frac:g}" for frac in self.acceptance_frac)
        return f"{self.n_draft_tokens} draft tokens of {self.draft}, accepted with probability {kept}"


def make_speculation(
    draft: str | None, n_draft_tokens: int | None, acceptance_frac: float | Sequence[float] | None, where: str
) -> Speculation | None:
    """Return the speculation of settings that were given, None if none was; one probability stands for all positions.

    Raises
    ------
    InputError : some but not all were given, or a value is out of its range.
    """
    if draft is None or n_draft_tokens is None or acceptance_frac is None:
        given = {"draft": draft, "n_draft_tokens": n_draft_tokens, "acceptance_frac": acceptance_frac}
        missing = [key for key, value in given.items() if value is None]
        if len(missing) == len(given):
            return None
        stated = ", ".join(f"{key} = {value!r}" for key, value in given.items() if value is not None)
        raise InputError(
            f"speculation without {' and '.join(missing)} ({stated})",
            where=where,
            remedy='give draft ("mtp" or a model), n_draft_tokens and acceptance_frac, or none of them',
        )
    if n_draft_tokens < 1:
        raise InputError(
            f"n_draft_tokens is {n_draft_tokens}",
            where=where,
            remedy="give a whole number from 1, or leave speculation out",
        )
    if isinstance(acceptance_frac, int | float):
        acceptance_frac = [acceptance_frac] * n_draft_tokens
    fracs = tuple(float(frac) for frac in acceptance_frac)
    if len(fracs) != n_draft_tokens:
        raise InputError(
            f"acceptance_frac has {len(fracs)} numbers, n_draft_tokens is {n_draft_tokens}",
            where=where,
            remedy="give one probability for each draft token, or a single one for all",
        )
    for frac in fracs:
        if not 0.0 <= frac <= 1.0:
            raise InputError(f"acceptance_frac {frac:g}", where=where, remedy="give probabilities from 0 to 1")
    return Speculation(draft, n_draft_tokens, fracs)
