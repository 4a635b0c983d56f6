"""What can go wrong, and what should the user do about it?

Every error that a user can cause is an `ApexError`.  The command line prints its text without a traceback and exits
with its `exit_code`: 2 for input that cannot be used, 1 for a question that was understood and whose answer is "none".
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


def shorten(text: str, most: int = 80) -> str:
    """Return `text`, cut to `most` characters: a stranger's value must not fill the screen.

    Examples
    --------
    >>> shorten("abcdefgh", 6)
    'abc...'
    """
    return text if len(text) <= most else f"{text[: most - 3]}..."


class ApexError(Exception):
    """Base of every error with a message for the user."""

    exit_code: ClassVar[int] = 2


class InputError(ApexError):
    """Input that cannot be used: says where it stands, what is wrong with it and what would mend it.

    Parameters
    ----------
    problem : what is wrong, with the offending value.
    where : file, with line or key where known ("trace.csv, line 7", "study.toml, key 'slo.ttft'").
    remedy : what the user can do.

    Examples
    --------
    >>> print(InputError("prompt_tokens is -3", where="trace.csv, line 7", remedy="give a whole number above 0"))
    trace.csv, line 7: prompt_tokens is -3. Give a whole number above 0.
    """

    def __init__(self, problem: str, *, where: str = "", remedy: str = "") -> None:
        self.problem, self.where, self.remedy = problem, where, remedy
        text = f"{where}: {problem}" if where else problem
        if remedy:
            text = f"{text.rstrip('.')}. {remedy[0].upper()}{remedy[1:].rstrip('.')}."
        super().__init__(text)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.problem, self.where, self.remedy)


def _rebuild(kind: type[InputError], problem: str, where: str, remedy: str) -> InputError:
    error = kind.__new__(kind)
    InputError.__init__(error, problem, where=where, remedy=remedy)
    return error


class UnknownNameError(InputError):
    """A name that the catalogue, a file format or a table does not know; the message offers the nearest names."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, where: str = "", remedy: str = "") -> None:
        options = sorted(known)
        near = difflib.get_close_matches(name.lower()[:80], options, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(repr(n) for n in near)}" if near else f"known: {', '.join(options[:20])}"
        super().__init__(
            f"unknown {kind} {shorten(name)!r}", where=where, remedy=f"{hint}; {remedy}" if remedy else hint
        )


class UnsupportedError(InputError):
    """Input that is well formed but that APEX-Sim cannot model yet; refusing is better than guessing."""


class ImplausibleError(InputError):
    """A measured value that no hardware can have reached; comparing with it would say nothing."""


class InfeasiblePlanError(ApexError):
    """A plan that is illegal or does not fit; `reason` is the refusal that tables and reports show."""

    exit_code: ClassVar[int] = 1

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class OutsideEnvelopeError(InputError):
    """A result that no measured server backs, where `--strict` asks for one; `reasons` say in which respects."""

    def __init__(self, what: str, reasons: Iterable[str]) -> None:
        self.what, self.reasons = what, tuple(reasons)
        super().__init__(
            f"outside the validated range: {'; '.join(self.reasons)}",
            where=what,
            remedy="leave out --strict and mind the error bars, or ask for what was measured",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return OutsideEnvelopeError, (self.what, self.reasons)


class WorkerError(ApexError):
    """An item of work that no worker brought to an end; `what` names the item, `events` what became of each try."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, events: Iterable[str], *, remedy: str = "") -> None:
        self.what, self.events, self.remedy = what, tuple(events), remedy
        tail = f". {remedy[0].upper()}{remedy[1:].rstrip('.')}." if remedy else ""
        super().__init__(f"{what}: {'; then '.join(self.events)}{tail}")

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_worker_error, (self.what, self.events, self.remedy)


def _rebuild_worker_error(what: str, events: tuple[str, ...], remedy: str) -> WorkerError:
    return WorkerError(what, events, remedy=remedy)


class NoAnswerError(ApexError):
    """A well-posed question whose answer is "none": no feasible plan, or none that meets the SLOs."""

    exit_code: ClassVar[int] = 1


class InvariantError(ApexError):
    """A numbered invariant of docs/design.md does not hold: a defect of the simulator or of a user's policy."""

    def __init__(self, number: int, detail: str) -> None:
        self.number, self.detail = number, detail
        super().__init__(f"INV-{number} broken: {detail}")

    def __reduce__(self) -> tuple[object, ...]:
        return InvariantError, (self.number, self.detail)
