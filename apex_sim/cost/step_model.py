"""How long does one step of an instance take?

A back end is evaluated once for each shape, vectorised, into tables of the token-wise operators against tokens, of the
head against sampled sequences, and of attention against queries and contexts.  A step is then priced by look-ups, and
what each operator took follows afterwards from how often each table cell was visited.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from apex_sim.cost import step_tables as at
from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.decode_line import price_line
from apex_sim.cost.decode_table import DecodeTable, tabulate_decode
from apex_sim.cost.draft_cost import DraftCost
from apex_sim.cost.look_up import DENSE_TOKENS, TILE_TOKENS
from apex_sim.cost.operator_table import OperatorTable, tabulate_operators
from apex_sim.cost.operators import StageContext, attention_groups, head_operators, tokenwise_operators
from apex_sim.cost.parts import Floats
from apex_sim.cost.power import PowerModel, power_model
from apex_sim.cost.prefill_table import PrefillTable, tabulate_prefill
from apex_sim.cost.stage_tables import replace_power, tabulate_stage
from apex_sim.cost.step_batch import StepBatch, Window
from apex_sim.cost.step_price import price_step
from apex_sim.cost.step_tables import StageTables
from apex_sim.hardware.cluster import Cluster
from apex_sim.model.model import Model
from apex_sim.plan.draft import MTP, draft_model_of, draft_shape_of
from apex_sim.plan.shape import Shape
from apex_sim.plan.speculation import Speculation


@dataclass(frozen=True, slots=True)
class StagePrice:
    """Price of one step on one stage: device time and energy above idle of each of the stage's devices.

    `knot` and `fraction` say where in the token table the price was read; `prefill_s` and `decode_s` are the attention
    launches by group of layers, `outside_s` what of them lies outside the data.
    """

    device_s: float
    dynamic_j: float
    launch_s: float
    slowdown_s: float
    knot: int
    fraction: float
    prefill_s: tuple[float, ...]
    decode_s: tuple[float, ...]
    outside_s: float
    swap_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StageModel:
    """Tables of one stage, by operator and, in `tables`, as a step needs them."""

    context: StageContext
    tokens: OperatorTable
    head: OperatorTable
    attention: tuple[tuple[PrefillTable, DecodeTable], ...]
    power: PowerModel
    tables: StageTables

    def price(self, batch: StepBatch) -> StagePrice:
        """Return what `batch` costs on this stage.

        Raises
        ------
        ValueError : more tokens than the tables were built for; the scheduler's budget forbids it.
        """
        attention_s = np.zeros((2, len(self.attention)))
        device_s, dynamic_j, launch_s, slowdown_s, outside_s, knot, fraction = price_step(
            self.tables.numbers, self.tables.layout, batch.sums(), attention_s
        )
        prefill_s, decode_s = attention_s.tolist()
        swap_s = 0.0
        if batch.n_copied_blocks:
            swap_s = float(batch.n_copied_blocks * self.tables.numbers[at.SWAP_BLOCK_S])
            device_s, dynamic_j = device_s + swap_s, dynamic_j + float(self.tables.numbers[at.ACTIVE_W] * swap_s)
        return StagePrice(
            device_s,
            dynamic_j,
            launch_s,
            slowdown_s,
            knot,
            fraction,
            tuple(prefill_s),
            tuple(decode_s),
            outside_s,
            swap_s,
        )

    def decode_line(self, batch: StepBatch, price: StagePrice) -> tuple[int, float]:
        """Return for how many steps a decode batch that costs `price` grows along one line, and what each adds."""
        growing, room = np.array(batch.growing, dtype=np.float64), np.array(batch.room)
        growth = np.zeros((2, len(self.attention)))
        n_steps, growth_s, _ = price_line(
            self.tables.numbers,
            self.tables.layout,
            batch.sums(),
            growing,
            room,
            price.dynamic_j,
            price.device_s,
            growth,
        )
        return n_steps, growth_s

    def with_power(self, power: PowerModel) -> StageModel:
        """Return the stage with another power model."""
        return replace(self, power=power, tables=replace_power(self.tables, power))


@dataclass(frozen=True, slots=True)
class StepModel:
    """Prices the steps of one shape: a table for each stage, the host's time, and what a draft adds."""

    shape: Shape
    stages: tuple[StageModel, ...]
    windows: tuple[Window, ...]
    cost_name: str
    provenance: str
    draft: DraftCost | None = None

    def host_s(self, batch: StepBatch) -> float:
        """Return the processor's time for one step."""
        return self.shape.preset.host.on_step_s(batch.n_sequences, self.shape.tp)


def compile_step_model(model: Model, cluster: Cluster, shape: Shape, cost: CostModel) -> StepModel:
    """Evaluate `cost` into the tables of `shape`.

    Raises
    ------
    UnsupportedError : the model has cells without a cost.
    """
    windows, speculation = model.attention_classes(), shape.scheduler.speculation
    if speculation is None:
        stages = [_stage_model(StageContext(cost, model, cluster, shape, index), windows) for index in range(shape.pp)]
        return StepModel(shape, tuple(stages), windows, cost.name, cost.provenance)
    draft = draft_model_of(model, speculation)
    windows = tuple(dict.fromkeys((*windows, *draft.attention_classes())))
    stage = _stage_model(StageContext(cost, model, cluster, shape, 0), windows, 1 + speculation.n_draft_tokens)
    draft_cost = _draft_cost(model, draft, cluster, shape, speculation, cost, windows)
    return StepModel(shape, (stage,), windows, cost.name, cost.provenance, draft_cost)


def _draft_cost(
    model: Model, draft: Model, cluster: Cluster, shape: Shape, speculation: Speculation, cost: CostModel,
    windows: tuple[Window, ...],
) -> DraftCost:  # fmt: skip
    """Return the tables of `draft`: over a step's tokens, several queries a sequence, and over one token each."""
    context = StageContext(cost, draft, cluster, draft_shape_of(draft, shape), 0, speculation.draft == MTP)
    first = _stage_model(context, windows, 1 + speculation.n_draft_tokens, n_heads=1)
    follow = _stage_model(context, windows)
    share_frac = draft.n_layers / model.n_layers
    for tables in (first.tables, follow.tables):  # energy of a token through the whole model, layer by layer
        tables.numbers[at.MODEL_SHARE_FRAC] *= share_frac
    n_next = speculation.n_draft_tokens - 1
    return DraftCost(draft.name, first.tables, follow.tables, n_next, len(first.attention))


def knots(max_tokens: int) -> Floats:
    """Return the token counts that a table holds, from 0 to at least `max_tokens`."""
    dense = np.arange(min(max_tokens, DENSE_TOKENS) + 1, dtype=np.float64)
    if max_tokens <= DENSE_TOKENS:
        return dense
    edges = np.arange(DENSE_TOKENS, max_tokens, TILE_TOKENS, dtype=np.float64)
    sparse = [edges + 1, edges + TILE_TOKENS - 1, edges + TILE_TOKENS]
    return np.concatenate([dense, np.stack(sparse, axis=1).ravel()])


def _stage_model(
    context: StageContext, windows: tuple[Window, ...], n_rows: int = 1, n_heads: int | None = None
) -> StageModel:
    """Return the tables of a stage whose decodes have `n_rows` queries; the head computes `n_heads` of them, or all."""
    scheduler, cost = context.shape.scheduler, context.cost
    max_tokens, max_seqs, max_context = (
        scheduler.max_num_batched_tokens,
        scheduler.max_num_seqs,
        scheduler.max_model_len,
    )
    token_knots = knots(max_tokens)
    n_sampled = min(max_seqs * (n_heads or n_rows), max(max_tokens, max_seqs))
    head_knots = np.arange(n_sampled + 1, dtype=np.float64)
    groups = attention_groups(context)
    attention = tuple(
        (
            tabulate_prefill(cost, group, max_tokens, max_seqs, max_context, context.cluster.device.n_sms),
            tabulate_decode(cost, group, max_seqs, max_context, n_rows),
        )
        for group in groups
    )
    tokens = tabulate_operators(list(tokenwise_operators(context, token_knots[1:])), len(token_knots))
    head = tabulate_operators(list(head_operators(context, head_knots[1:])), len(head_knots))
    power = power_model(context.cluster.device)
    classes = [windows.index(group.window) for group in groups]
    tables = tabulate_stage(context, tokens, head, attention, classes, power)
    return StageModel(context, tokens, head, attention, power, tables)
