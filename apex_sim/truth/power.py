"""How far is modelled power from that of measured servers?

The measurements give mean batch, mean output length, tokens per second and watts, but no prompts.  A step is therefore
composed from assumed prompt lengths, and power is predicted twice: at the measured step time, which tests the energy
model alone, and at the simulated step time, which tests costs and energy together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from apex_sim.cost.calibrated import best_cost_model
from apex_sim.cost.power import PowerModel, Work
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import StageModel, StepModel, compile_step_model
from apex_sim.errors import InputError
from apex_sim.hardware.cluster import load_cluster
from apex_sim.model.load import load_model
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import Shape, balanced_split, tensor_pipeline_stages
from apex_sim.preset.load import load_preset
from apex_sim.workload.cell import real, whole
from apex_sim.workload.trace_file import columns_of, rows

_MAX_MODEL_LEN: Final = 32_768
_BUDGET_TOKENS: Final = 8192


@dataclass(frozen=True, slots=True)
class PromptLengths:
    """Assumed lengths behind a measurement that publishes only the mean output.

    Parameters
    ----------
    chat_tokens, reasoning_tokens : prompt of the tasks "lm-arena-chat" and "gpqa".
    output_cv2 : squared coefficient of variation of the outputs; a sequence met at a random moment has emitted
        (1 + cv2) / 2 mean outputs, because long ones are met more often.
    """

    chat_tokens: int = 300
    reasoning_tokens: int = 250
    output_cv2: float = 0.6


@dataclass(frozen=True, slots=True)
class PowerCase:
    """One measured server in steady state; power is the total of its devices."""

    model: str
    device: str
    n_devices: int
    tp: int
    weight_dtype: str
    batch_mean: float
    osl_mean_tokens: float
    itl_median_s: float
    output_tokens_per_s: float
    power_mean_w: float
    energy_per_output_token_j: float
    note: str

    @property
    def step_s(self) -> float:
        """Mean step time: every step gives each running sequence a token."""
        return self.batch_mean / self.output_tokens_per_s


@dataclass(frozen=True, slots=True)
class PowerPrediction:
    """Power and energy of all devices of a case, predicted for one step time."""

    power_w: float
    energy_per_output_token_j: float


def read_power_cases(path: Path) -> tuple[PowerCase, ...]:
    """Return the cases of a CSV with the columns of `PowerCase`; further columns are ignored.

    Raises
    ------
    InputError : a column is missing, or a cell is no positive number; with file and line.
    """
    layout, columns = columns_of(path)
    for column in fields(PowerCase):
        if column.name not in columns:
            raise InputError(f"column {column.name!r} is missing", where=str(path), remedy="add it")
    return tuple(_case(row, f"{path}, line {line}") for line, row in rows(path, layout))


def _case(row: Mapping[str, object], where: str) -> PowerCase:
    parsers: dict[str, Any] = {"str": str, "int": whole, "float": real}
    values: dict[str, Any] = {}
    for column in fields(PowerCase):
        cell = str(row[column.name])
        try:
            values[column.name] = parsers[str(column.type)](cell)
        except ValueError as error:
            raise InputError(
                f"{cell!r}: {error}", where=f"{where}, column {column.name}", remedy="correct it"
            ) from None
        if column.type != "str" and not values[column.name] > 0:
            raise InputError(f"{cell} is not above 0", where=f"{where}, column {column.name}", remedy="correct it")
    return PowerCase(**values)


def step_work(case: PowerCase, prompts: PromptLengths, preset_name: str) -> tuple[Work, float]:
    """Return the mean work of one step on one device of `case`, and its host time.

    A finished sequence is replaced at once, so that batch / output prompts begin in each step.  Below one, steps that
    hold a whole prompt are mixed with steps that only decode: a mixture of experts reads very different weights in the
    two.  Data-parallel and expert-parallel layouts are taken as tensor parallel, which spreads the same work.
    """
    step_model = _step_model(case.model, case.device, case.n_devices, case.weight_dtype, preset_name)
    prompt_tokens = prompts.reasoning_tokens if "gpqa" in case.note else prompts.chat_tokens
    arrivals = case.batch_mean / case.osl_mean_tokens
    prefilling = min(1.0, arrivals)
    with_prompt = min(max(1.0, arrivals) * prompt_tokens, _BUDGET_TOKENS - case.batch_mean)
    decode = _batch(step_model, case, prompts, prompt_tokens, 0)
    both = _batch(step_model, case, prompts, prompt_tokens, round(with_prompt))
    light, heavy = (_work(step_model.stages[0], batch) for batch in (decode, both))
    mean = {
        f.name: (1 - prefilling) * getattr(light, f.name) + prefilling * getattr(heavy, f.name) for f in fields(Work)
    }
    host_s = (1 - prefilling) * step_model.host_s(decode) + prefilling * step_model.host_s(both)
    return Work(**mean), host_s


@cache
def _step_model(model_name: str, device: str, tp: int, weight_dtype: str, preset_name: str) -> StepModel:
    model, cluster, preset = load_model(model_name), load_cluster(f"{tp}x{device}"), load_preset(preset_name)
    settings = resolve_settings(
        preset,
        cluster.device,
        _MAX_MODEL_LEN,
        max_num_seqs=4096,
        max_num_batched_tokens=_BUDGET_TOKENS,
        async_scheduling=False,  # off by default up to vLLM 0.13
    )
    stages = tensor_pipeline_stages(balanced_split(model.n_layers, 1), tp)
    shape = Shape(device, stages, Precision(weight_dtype), settings, preset)
    return compile_step_model(model, cluster, shape, best_cost_model(cluster.device))


def _batch(
    step_model: StepModel, case: PowerCase, prompts: PromptLengths, prompt_tokens: int, n_prefill: int
) -> StepBatch:
    batch = StepBatch(step_model.windows)
    n_decode = max(1, round(case.batch_mean))
    span_tokens = case.osl_mean_tokens * (1 + prompts.output_cv2)
    for index in range(n_decode):
        batch.add(prompt_tokens + int(span_tokens * (index + 0.5) / n_decode), 1, samples=True, is_decode=True)
    whole_prompts, rest = divmod(n_prefill, prompt_tokens)
    for new_tokens in [prompt_tokens] * whole_prompts + [rest] * bool(rest):
        batch.add(0, new_tokens, samples=False, is_decode=False)
    return batch


def _work(stage: StageModel, batch: StepBatch) -> Work:
    """Return the work behind a step's price: what a device spends that draws one watt or joule for one thing only."""

    def spent(probe: PowerModel) -> float:
        return stage.with_power(probe).price(batch).dynamic_j

    unlimited = PowerModel(idle_w=0.0, max_w=float("inf"))
    return Work(
        compute_s=spent(replace(unlimited, compute_w=1.0)),
        memory_s=spent(replace(unlimited, memory_w=1.0)),
        device_s=spent(replace(unlimited, active_w=1.0)),
        network_s=spent(replace(unlimited, network_w=1.0)),
        model_tokens=spent(replace(unlimited, token_j=1.0)),
    )


def predict_at(work: Work, power: PowerModel, case: PowerCase, step_s: float) -> PowerPrediction:
    """Return the power of `case` if each of its steps does `work` in `step_s`, kernels running all the time."""
    device_w = mean_power_w(work, power, step_s)
    total_w = device_w * case.n_devices
    return PowerPrediction(total_w, total_w * step_s / case.batch_mean)


def mean_power_w(work: Work, power: PowerModel, step_s: float) -> float:
    """Return the mean power of one device that does `work` in each `step_s`; the time is given, not stretched.

    Examples
    --------
    >>> mean_power_w(Work(0.2, 0.5, 0.6), PowerModel(100.0, 700.0, active_w=150.0, memory_w=200.0), 1.0)
    350.0
    """
    spent_j = (
        power.compute_w * work.compute_s
        + power.memory_w * work.memory_s
        + power.network_w * work.network_s
        + power.token_j * work.model_tokens
    )
    return min(power.idle_w + power.active_w + spent_j / step_s, power.max_w)
