"""How wrong may the price of a step be, operator by operator?

The error of an operator on a device is one number: the same in every step and under every plan.  That is what
correlated residuals mean, and why two plans that spend their time in the same kernels are told apart better than either
is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from apex_sim.cost.basis import Basis
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import StageModel, StepModel

#: Median of the absolute value of a standard normal variable.
_MEDIAN_ABS_NORMAL: Final = 0.6745
#: Where nobody measured a price's error: that of datasheet rooflines against measured kernels, 39 to 69 % in the median
#: by operator (docs/kernels.md, all operators).
_UNKNOWN_ERROR_FRAC: Final = 0.55
#: The same where the price is derived from fits of another device, so that no size is in range: B300 and GB300 from
#: B200 and GB200, 6 to 26 % in the median (docs/kernels.md, worst tables).
_DERIVED_ERROR_FRAC: Final = 0.15
#: Assumed: how much more a price errs at sizes outside its data.
_OUTSIDE_FACTOR: Final = 2.0

#: An operator and what its price rests on: what errs together.
ErrorTerm = tuple[str, str]


@dataclass(frozen=True, slots=True)
class TypicalLoad:
    """What an instance's steps look like: mean prompt and output tokens, decodes in a step, and its token budget."""

    prompt_tokens: int
    output_tokens: int
    n_decode: int


def error_log_sd(basis: Basis, outside_frac: float = 0.0) -> float:
    """Return the standard deviation of the log of a price over its true value.

    Examples
    --------
    >>> round(error_log_sd(Basis("calibrated", "fit", 0.05)), 3), round(error_log_sd(Basis("roofline", "sheet")), 2)
    (0.072, 0.65)
    """
    known = basis.expected_error_frac
    if known is None:
        inside, outside = _UNKNOWN_ERROR_FRAC, _DERIVED_ERROR_FRAC
    else:
        inside, outside = known, _OUTSIDE_FACTOR * known
    return math.log1p(inside + (outside - inside) * outside_frac) / _MEDIAN_ABS_NORMAL


def phase_errors(model: StepModel, load: TypicalLoad) -> tuple[dict[ErrorTerm, float], dict[ErrorTerm, float]]:
    """Return how much longer a typical step with a prompt, and one of decodes alone, takes for one sd of each term."""
    past = load.prompt_tokens + load.output_tokens // 2
    decodes = _batch(model, load, past, with_prompt=False)
    prompts = _batch(model, load, past, with_prompt=True)
    return _step_errors(model, prompts), _step_errors(model, decodes)


def _batch(model: StepModel, load: TypicalLoad, past_tokens: int, *, with_prompt: bool) -> StepBatch:
    scheduler, batch = model.shape.scheduler, StepBatch(model.windows)
    past_tokens = min(past_tokens, scheduler.max_model_len - 1)
    n_decode = min(load.n_decode, scheduler.max_num_seqs - with_prompt, scheduler.max_num_batched_tokens - with_prompt)
    for _ in range(max(n_decode, 0 if with_prompt else 1)):
        batch.add(past_tokens, 1, 1, True)
    if with_prompt:
        room = scheduler.max_num_batched_tokens - batch.n_tokens
        batch.add(0, max(1, min(load.prompt_tokens, room)), 1, False)
    return batch


def _step_errors(model: StepModel, batch: StepBatch) -> dict[ErrorTerm, float]:
    """Return each term's share of a step's kernel time, times its standard deviation."""
    spent: dict[ErrorTerm, float] = {}
    total_s = 0.0
    for stage in model.stages:
        for term, seconds, log_sd in _priced(stage, batch):
            spent[term] = spent.get(term, 0.0) + seconds * log_sd
            total_s += seconds
    return {term: weighted / total_s for term, weighted in spent.items() if weighted} if total_s else {}


def _priced(stage: StageModel, batch: StepBatch) -> list[tuple[ErrorTerm, float, float]]:
    """Return each operator's kernel seconds in the step and the sd of its price."""
    price = stage.price(batch)
    rows = []
    tables = [(stage.tokens, price.knot), (stage.head, min(batch.n_sampled, stage.head.kernel_s.shape[1] - 1))]
    if stage.joint:
        tables.append((stage.joint, price.joint_knot))
    for table, knot in tables:
        for index, (name, basis) in enumerate(zip(table.names, table.bases, strict=True)):
            outside = 0.0 if table.in_range[index, knot] else 1.0
            rows.append(((name, basis.source), float(table.kernel_s[index, knot]), error_log_sd(basis, outside)))
    attention_s = sum(price.prefill_s) + sum(price.decode_s)
    outside = price.outside_s / attention_s if attention_s else 0.0
    for (prefill, decode), prefill_s, decode_s in zip(stage.attention, price.prefill_s, price.decode_s, strict=True):
        for name, basis, seconds in (
            ("prefill_attention", prefill.basis, prefill_s),
            ("decode_attention", decode.basis, decode_s),
        ):
            rows.append(((name, basis.source), seconds, error_log_sd(basis, outside)))
    return rows


def total_log_sd(errors: Mapping[ErrorTerm, float]) -> float:
    """Return the standard deviation of a sum of independent terms.

    Examples
    --------
    >>> total_log_sd({("a", ""): 0.03, ("b", ""): 0.04})
    0.05
    """
    return math.sqrt(sum(value * value for value in errors.values()))
