"""How long does one step of an instance take?

A back end is evaluated once for each shape, vectorised, into tables of the token-wise operators against tokens, of the
head against sampled sequences, and of attention against queries and contexts.  A step is then priced by look-ups, and
what each operator took follows afterwards from how often each table cell was visited.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from apex_sim.cost import step_tables as at
from apex_sim.cost.attention_tables import OneLayer, tabulate_attention
from apex_sim.cost.calibrated import Calibrated
from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.decode_line import price_line
from apex_sim.cost.decode_table import DecodeTable
from apex_sim.cost.draft_cost import DraftCost
from apex_sim.cost.look_up import knots, locate
from apex_sim.cost.lowered_clock import LoweredClock
from apex_sim.cost.operator_table import OperatorTable, tabulate_operators
from apex_sim.cost.operators import (
    attention_groups,
    expert_spread_s,
    head_operators,
    joint_operators,
    tokenwise_operators,
)
from apex_sim.cost.parts import Floats
from apex_sim.cost.power import PowerModel, power_model
from apex_sim.cost.prefill_table import PrefillTable
from apex_sim.cost.rank_price import price_ranks
from apex_sim.cost.stage_context import StageContext
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
    launches by group of layers, `outside_s` what of them lies outside the data; `joint_knot` and
    `joint_fraction` belong to the table of what attention ranks do together.  `imbalance_s` is what of the time came of
    drawn loads of the experts, below 0 where they were better balanced than usual.
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
    joint_knot: int = 0
    joint_fraction: float = 0.0
    imbalance_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StageModel:
    """Tables of one stage, by operator and, in `tables`, as a step needs them."""

    context: StageContext
    tokens: OperatorTable
    head: OperatorTable
    attention: tuple[tuple[PrefillTable, DecodeTable], ...]
    power: PowerModel
    tables: StageTables
    joint: OperatorTable | None = None
    spread_s: Floats | None = None
    classes: tuple[int, ...] = ()

    @property
    def n_joint_knots(self) -> int:
        """Knots of the table of what attention ranks do together, 0 if there is but one rank."""
        return self.joint.kernel_s.shape[1] if self.joint else 0

    def price(self, batch: StepBatch) -> StagePrice:
        """Return what `batch` costs on this stage; of several attention ranks each has one like it.

        Raises
        ------
        ValueError : more tokens than the tables were built for; the scheduler's budget forbids it.
        """
        if self.joint:
            return self.price_ranks([batch] * self.context.shape.attention_dp)
        attention_s = np.zeros((2, len(self.attention)))
        device_s, dynamic_j, launch_s, slowdown_s, outside_s, knot, fraction = price_step(
            self.tables.numbers, self.tables.layout, batch.sums(), attention_s
        )
        prefill_s, decode_s = attention_s.tolist()
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
        )

    def copy_s(self, n_blocks: int) -> float:
        """Return how long it takes to copy KV blocks to the host's memory or back."""
        return float(n_blocks * self.tables.numbers[at.SWAP_BLOCK_S])

    def price_ranks(self, batches: Sequence[StepBatch]) -> StagePrice:
        """Return what a step costs whose attention ranks have these batches; errors as in `price`."""
        price = price_ranks(self.tables, [batch.sums() for batch in batches], len(self.attention))
        prefill_s, decode_s = price.attention_s.tolist()
        return StagePrice(
            price.device_s,
            price.dynamic_j,
            price.launch_s,
            price.slowdown_s,
            *locate(price.n_own),
            tuple(prefill_s),
            tuple(decode_s),
            price.outside_s,
            *locate(price.n_joint),
        )

    def varied(self, price: StagePrice, deviation: float) -> StagePrice:
        """Return `price` with the experts' time so many deviations from the usual; the device is active as long."""
        if self.spread_s is None:
            return price
        knot, fraction = (price.joint_knot, price.joint_fraction) if self.joint else (price.knot, price.fraction)
        high = knot + 1 if fraction > 0.0 else knot
        spread_s = float(self.spread_s[knot] * (1.0 - fraction) + self.spread_s[high] * fraction)
        imbalance_s = deviation * spread_s
        return replace(
            price,
            device_s=price.device_s + imbalance_s,
            dynamic_j=price.dynamic_j + self.power.active_w * imbalance_s,
            imbalance_s=imbalance_s,
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

    @property
    def n_bytes(self) -> int:
        """About the memory of all tables once steps are priced: attention's and its packed copy, by distinct stage."""
        distinct = {id(stage.tables): stage.attention for stage in self.stages}
        return 2 * sum(table.prices_s.nbytes for each in distinct.values() for pair in each for table in pair)

    def host_s(self, batch: StepBatch) -> float:
        """Return the processor's time for one step."""
        return self.shape.preset.host.on_step_s(batch.n_sequences, self.shape.n_shards)


def compile_step_model(model: Model, cluster: Cluster, shape: Shape, cost: CostModel) -> StepModel:
    """Evaluate `cost`, of the shape's device, into the tables of `shape`.

    Raises
    ------
    UnsupportedError : the model has cells without a cost.
    UnknownNameError : the cluster has no pool of the shape's device.
    """
    cost, cluster = _at_clock(cost, shape), cluster.pool(shape.device)
    windows, speculation = model.attention_classes(), shape.scheduler.speculation
    if speculation is None:
        contexts = [StageContext(cost, model, cluster, shape, index) for index in range(shape.pp)]
        return StepModel(shape, _stage_models(contexts, windows), windows, cost.name, cost.provenance)
    draft = draft_model_of(model, speculation)
    windows = tuple(dict.fromkeys((*windows, *draft.attention_classes())))
    stage = _stage_model(StageContext(cost, model, cluster, shape, 0), windows, 1 + speculation.n_draft_tokens)
    draft_cost = _draft_cost(model, draft, cluster, shape, speculation, cost, windows)
    return StepModel(shape, (stage,), windows, cost.name, cost.provenance, draft_cost)


def _at_clock(cost: CostModel, shape: Shape) -> CostModel:
    """Return the back end for the shape's engine and clock, whatever those of `cost` are."""
    if isinstance(cost, LoweredClock):
        cost = cost.highest
    if isinstance(cost, Calibrated):
        cost = cost.of_engine(shape.preset.engine)
    return LoweredClock(cost, shape.clock_frac) if shape.clock_frac < 1.0 else cost


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
        tables.scalars[at.MODEL_SHARE_FRAC] *= share_frac
        tables.scalars[at.BETWEEN_STEPS_S] = 0.0  # the model's own step has waited
    n_next = speculation.n_draft_tokens - 1
    return DraftCost(draft.name, first.tables, follow.tables, n_next, len(first.attention))


def _stage_models(contexts: Sequence[StageContext], windows: tuple[Window, ...]) -> tuple[StageModel, ...]:
    """Return the tables of all stages; those that cost the same share theirs, and all share one layer's attention."""
    priced: dict[tuple[object, ...], StageModel] = {}
    one_layer: OneLayer = {}
    for context in contexts:
        if context.price_key not in priced:
            priced[context.price_key] = _stage_model(context, windows, one_layer=one_layer)
    return tuple(replace(priced[context.price_key], context=context) for context in contexts)


def _stage_model(
    context: StageContext, windows: tuple[Window, ...], n_rows: int = 1, n_heads: int | None = None,
    one_layer: OneLayer | None = None,
) -> StageModel:  # fmt: skip
    """Return the tables of a stage whose decodes have `n_rows` queries; the head computes `n_heads` of them, or all.

    `one_layer` as in `tabulate_attention`.
    """
    scheduler = context.shape.scheduler
    max_tokens, max_seqs = scheduler.max_num_batched_tokens, scheduler.max_num_seqs
    token_knots = knots(max_tokens)
    n_sampled = min(max_seqs * (n_heads or n_rows), max(max_tokens, max_seqs))
    head_knots = np.arange(n_sampled + 1, dtype=np.float64)
    attention = tabulate_attention(context, n_rows, {} if one_layer is None else one_layer)
    tokens = tabulate_operators(list(tokenwise_operators(context, token_knots[1:])), len(token_knots))
    joint = _joint_table(context, max_tokens) if context.shape.attention_dp > 1 else None
    head = tabulate_operators(list(head_operators(context, head_knots[1:])), len(head_knots))
    classes = tuple(windows.index(group.window) for group in attention_groups(context))
    spread_s, factor = _spread_s(context, max_tokens), context.shape.preset.factors.decode
    return close_stage(context, classes, tokens, head, attention, joint, spread_s, factor)


def close_stage(
    context: StageContext, classes: tuple[int, ...], tokens: OperatorTable, head: OperatorTable,
    attention: Sequence[tuple[PrefillTable, DecodeTable]], joint: OperatorTable | None, spread_s: Floats | None,
    factor: float,
) -> StageModel:  # fmt: skip
    """Return the stage of these tables, their kernels `factor` times as long; `classes` as in `tabulate_stage`."""
    if factor != 1.0:
        tokens, head, joint = tokens.scaled(factor), head.scaled(factor), joint.scaled(factor) if joint else None
        attention = tuple((prefill.scaled(factor), decode.scaled(factor)) for prefill, decode in attention)
        spread_s = None if spread_s is None else spread_s * factor
    power, clock_frac = power_model(context.cluster.device), context.shape.clock_frac
    power = power.at_clock(clock_frac) if clock_frac < 1.0 else power
    tables = tabulate_stage(context, tokens, head, attention, classes, power, joint, spread_s)
    return StageModel(context, tokens, head, tuple(attention), power, tables, joint, spread_s, classes)


def _spread_s(context: StageContext, max_tokens: int) -> Floats | None:
    """Return how much the experts' time varies, at the knots of the table that holds it; None where it does not."""
    if not context.shape.scheduler.expert_imbalance or context.shape.ep == 1:
        return None
    token_knots = knots(max_tokens * context.shape.attention_dp)
    return np.append(0.0, expert_spread_s(context, token_knots[1:]))


def _joint_table(context: StageContext, max_tokens: int) -> OperatorTable:
    """Return the table of what the attention ranks do together, by the tokens of all of them."""
    token_knots = knots(max_tokens * context.shape.attention_dp)
    return tabulate_operators(list(joint_operators(context, token_knots[1:])), len(token_knots))
