"""What do a worker and its parent tell each other?

All of it is bytes that one made for the other: cloudpickle goes to the worker, so that a cost back end of a user's
script or notebook travels with its code; plain pickle comes back.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import cloudpickle

from apex_sim.errors import InputError, WorkerError

#: What a worker says: it is up and wants its work; it cannot have it; an item is done; the work on an item failed.
Kind = Literal["up", "unusable", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Message:
    """What a worker says: for "done" `value` is the result, for "failed" and "unusable" the error with `details`."""

    kind: Kind
    value: Any = None
    details: str = ""


class WorkerTracebackError(Exception):
    """Where an error arose in a worker; it is the cause of that error where `take` raises it."""


def packed(value: object, what: str) -> bytes:
    """Return `value` as bytes for a worker.

    Raises
    ------
    InputError : it holds something that belongs to this process alone.
    """
    try:
        return bytes(cloudpickle.dumps(value))
    except Exception as error:  # whatever the object's own code raises
        raise InputError(
            f"{what} cannot be sent to another process ({type(error).__name__}: {error})",
            remedy="run with one job, or take out what holds files, locks or connections",
        ) from error


def done(work: Callable[[Any], Any], item: Any) -> Message:
    """Return what came of the work on `item`."""
    try:
        return Message("done", work(item))
    except Exception as error:
        return failed("failed", error)


def failed(kind: Kind, error: Exception) -> Message:
    """Return a message about `error`, or about its text where it does not survive the way."""
    details = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return Message(kind, WorkerError("the work", [f"raised {type(error).__name__}: {error}"]), details)
    return Message(kind, error, details)


def bytes_of(message: Message) -> bytes:
    """Return `message` as bytes for the parent; it is about the failure where its value cannot be sent."""
    try:
        return pickle.dumps(message)
    except Exception as error:  # whatever the object's own code raises
        return pickle.dumps(failed("failed", error))


def error_of(message: Message, what: str) -> Exception:
    """Return the error that a worker sent, with a note of `what` it is about and where it arose."""
    error: Exception = message.value
    error.add_note(what)
    error.__cause__ = WorkerTracebackError(f"\n{message.details}")
    return error
