"""Can the hardware have done what a case says was measured?

Bounds that hold whatever the engine does, so that what breaks one is a wrong unit, a wrong column or another model.
They are those of the roofline (Williams et al., Communications of the ACM 52(4), 2009, p. 65-76), with the datasheet's
dense peaks: a device neither computes nor reads memory faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from apex_sim.errors import ImplausibleError
from apex_sim.model.cells import MoeCell
from apex_sim.model.model import Model
from apex_sim.plan.precision import PEAK_OF_ACTIVATION, Precision
from apex_sim.truth.case import Case
from apex_sim.truth.replay import Replay
from apex_sim.units import BYTES_PER_NUMBER

#: Times between two tokens of a request.  The median ITL is left out: streams may bundle tokens.
_TOKEN_TIMES: Final = ("tpot_mean_s", "tpot_median_s", "itl_mean_s")


@dataclass(frozen=True, slots=True)
class HardwareBounds:
    """What no engine can beat.

    Parameters
    ----------
    weight_read_s : one token through all stages: the weights that it is multiplied with, read once by the devices that
        share them.
    prompt_s : the mean prompt's matrix products on all devices of an instance.
    output_tokens_per_s : of the whole plan, from reading weights and from computing, the smaller.
    total_tokens_per_s : prompt and output tokens, from computing.
    n_at_once : most requests that run at the same time, on which the first of them rests.
    """

    weight_read_s: float
    prompt_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    n_at_once: int


def require_plausible(case: Case, replay: Replay) -> None:
    """Check that the hardware can have reached the measured values of `case`.

    Raises
    ------
    ImplausibleError : naming line, column, value, bound and remedy.
    """
    for column, bound, is_lower, reason in _checks(hardware_bounds(case, replay)):
        value = case.measured.get(column)
        if value is not None and (value < bound if is_lower else value > bound):
            raise ImplausibleError(
                f"{column} is {value:g}, {'below' if is_lower else 'above'} {bound:.3g}: {reason}",
                where=case.where,
                remedy=f"check unit, model and number of devices, or leave {column} empty",
            )


def _checks(bounds: HardwareBounds) -> Iterator[tuple[str, float, bool, str]]:
    for column in _TOKEN_TIMES:
        yield column, bounds.weight_read_s, True, "reading the weights takes longer"
    yield "ttft_mean_s", bounds.prompt_s, True, "the mean prompt's matrix products take longer at peak"
    reason = f"beyond the roofline with {bounds.n_at_once} requests at once"
    yield "output_tokens_per_s", bounds.output_tokens_per_s, False, reason
    yield "total_tokens_per_s", bounds.total_tokens_per_s, False, "beyond the peak of matrix products"


def hardware_bounds(case: Case, replay: Replay) -> HardwareBounds:
    """Return the bounds of a case.

    With B the bytes and W the number of weights that one token is multiplied with, n devices that share them, b bytes/s
    and p FLOP/s of a device, N devices in all and K requests at once, weights are read in B / (n b), a token takes 2 W
    FLOP, and output is at most the smaller of K n b / B tokens/s and N p over the FLOP of an output token, its share of
    the prompts included.  K is what the load asks for, and no more than the batch that the case states: the engine's
    default may not be what ran.
    """
    shape, model, device = replay.plan.instances[0][0], replay.model, replay.cluster.device
    requests = replay.workload.requests
    active = sum(n * layer.n_active_matmul_params(model.hidden_size) for layer, n in model.layer_groups())
    n_devices_stage = shape.stages[0].n_devices
    weight_read_s = active_weight_bytes(model, shape.precision) / (n_devices_stage * device.memory_bytes_per_s)
    peak = max(device.flops(PEAK_OF_ACTIVATION[kind]) for kind in {"bf16", shape.precision.activation})
    total, output = int((requests.prompt_tokens + requests.output_tokens).sum()), int(requests.output_tokens.sum())
    flop_per_output_token = 2.0 * (model.n_head_params or model.n_embedding_params) + 2.0 * active * total / output
    asked = min(requests.n, replay.workload.load.concurrency or requests.n)
    seats = case.settings.max_num_seqs
    n_at_once = min(asked, seats * shape.attention_dp * shape.pp * replay.plan.n_instances) if seats else asked
    return HardwareBounds(
        weight_read_s=weight_read_s,
        prompt_s=2.0 * active * float(requests.prompt_tokens.mean()) / (shape.n_devices * peak),
        output_tokens_per_s=min(n_at_once / weight_read_s, replay.plan.n_devices * peak / flop_per_output_token),
        total_tokens_per_s=replay.plan.n_devices * peak / (2.0 * active),
        n_at_once=n_at_once,
    )


def active_weight_bytes(model: Model, precision: Precision) -> float:
    """Return the bytes of the weights that one token is multiplied with, LM head included.

    Router and shared network of a mixture of experts count in the format of dense layers.
    """
    total_bytes = BYTES_PER_NUMBER["bf16"] * model.n_embedding_params
    for layer, n in model.layer_groups():
        width = {part: _bytes(model, precision, part) for part in ("attention", "ffn", "experts")}
        cell_bytes = layer.attention.n_matmul_params(model.hidden_size) * width["attention"]
        if isinstance(layer.ffn, MoeCell):
            experts = layer.ffn.n_active_experts * layer.ffn.expert.n_matmul_params(model.hidden_size)
            others = layer.ffn.n_active_matmul_params(model.hidden_size) - experts
            cell_bytes += experts * width["experts"] + others * width["ffn"]
        else:
            cell_bytes += layer.ffn.n_matmul_params(model.hidden_size) * width["ffn"]
        total_bytes += n * cell_bytes
    return total_bytes


def _bytes(model: Model, precision: Precision, part: str) -> float:
    return BYTES_PER_NUMBER[precision.weight_dtype_of(model, part)]
