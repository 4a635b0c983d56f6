"""What came of a plan, as a text for the store, and back?

The text leaves the plan out: whoever asks for it by its key has the plan.
"""

from __future__ import annotations

import json
from typing import Any, Final

from apex_sim.errors import InputError
from apex_sim.plan.plan import Plan
from apex_sim.planner.evaluation import Evaluation
from apex_sim.planner.job import Glimpse, Outcome
from apex_sim.planner.space import Refusal
from apex_sim.planner.store.codec import MalformedError, decode, encode, fields_of

_KINDS: Final[dict[str, Any]] = {"evaluation": Evaluation, "glimpse": Glimpse, "refusal": Refusal}


def encode_outcome(outcome: Outcome) -> str:
    """Return `outcome` but for its plan as JSON.

    Raises
    ------
    TypeError : it holds something that its annotations do not say.
    """
    kind = next(name for name, kind in _KINDS.items() if isinstance(outcome, kind))
    fields = {name: encode(getattr(outcome, name), hint) for name, hint in _fields(kind).items()}
    return json.dumps({"kind": kind, "fields": fields}, allow_nan=False, separators=(",", ":"))


def decode_outcome(text: str, plan: Plan, where: str) -> Outcome:
    """Return the outcome of `plan` that `text`, from the store at `where`, is of.

    Raises
    ------
    InputError : the text is no outcome of this version.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
        if not isinstance(data, dict) or data.keys() != {"kind", "fields"} or data["kind"] not in _KINDS:
            raise MalformedError("it is neither evaluation, glimpse nor refusal")
        hints, given = _fields(data["kind"]), data["fields"]
        if not isinstance(given, dict) or given.keys() != hints.keys():
            raise MalformedError(f"it has not the fields of {data['kind']}")
        fields = {name: decode(given[name], hint, name) for name, hint in hints.items()}
        outcome: Outcome = _KINDS[data["kind"]](plan=plan, **fields)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"what is stored for {plan.label} is no outcome ({error})",
            where=where,
            remedy="give another path (--store), or delete the file if you do not need it",
        ) from None
    return outcome


def _fields(kind: str) -> dict[str, Any]:
    return {name: hint for name, hint in fields_of(_KINDS[kind]).items() if name != "plan"}


def _refuse_constant(name: str) -> float:
    raise MalformedError(f"{name} is no JSON")
