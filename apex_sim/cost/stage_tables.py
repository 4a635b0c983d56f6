"""How do the tables of a stage look as flat arrays?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from apex_sim.cost import step_tables as at
from apex_sim.cost.decode_table import DecodeTable
from apex_sim.cost.operator_table import OperatorTable
from apex_sim.cost.parts import Floats
from apex_sim.cost.power import PowerModel
from apex_sim.cost.prefill_table import KEY_RATIOS, PrefillTable
from apex_sim.cost.stage_context import StageContext
from apex_sim.cost.step_tables import Ints, StageTables
from apex_sim.cost.swap import swap_block_s

#: Longer than any context.
_NO_LIMIT = 2**62


class _Packer:
    """Arrays end to end; each is told where it begins."""

    def __init__(self, n_scalars: int, n_header: int) -> None:
        self.numbers: list[Floats] = [np.zeros(n_scalars)]
        self.layout: list[int] = [0] * n_header
        self._n_numbers = n_scalars

    def add(self, array: Floats) -> int:
        """Append numbers; return where they begin."""
        start = self._n_numbers
        self.numbers.append(array.ravel())
        self._n_numbers += array.size
        return start

    def add_whole(self, values: Sequence[int]) -> int:
        """Append whole numbers to the layout; return where they begin."""
        start = len(self.layout)
        self.layout.extend(values)
        return start


def tabulate_stage(
    context: StageContext,
    tokens: OperatorTable,
    head: OperatorTable,
    attention: Sequence[tuple[PrefillTable, DecodeTable]],
    classes: Sequence[int],
    power: PowerModel,
    joint: OperatorTable | None = None,
    spread_s: Floats | None = None,
) -> StageTables:
    """Return the tables of one stage; `classes` holds the attention class of each group.

    `joint` is what attention ranks do together, if there are several, `spread_s` how much the experts' time varies.
    """
    scalars = _scalars(context, tokens, joint, head)
    _set_power(scalars, power)

    def pack() -> tuple[Floats, Ints]:
        return _packed(context, tokens, head, attention, classes, joint, spread_s)

    return StageTables(scalars, pack)


def _packed(
    context: StageContext, tokens: OperatorTable, head: OperatorTable,
    attention: Sequence[tuple[PrefillTable, DecodeTable]], classes: Sequence[int], joint: OperatorTable | None,
    spread_s: Floats | None,
) -> tuple[Floats, Ints]:  # fmt: skip
    """Return the tables end to end behind room for the scalars, and their layout."""
    shape, ranks = context.shape, context.shape.preset.ranks
    graphs, packer = shape.preset.graphs, _Packer(at.N_SCALARS, at.N_HEADER)
    largest = (
        (shape.scheduler.max_graph_sequences or max(graphs.sizes, default=0)) if shape.scheduler.cuda_graphs else 0
    )
    sizes = tuple(size for size in graphs.sizes if size <= largest)
    header = {
        at.TOKENS_AT: packer.add(tokens.totals_s),
        at.HEAD_AT: packer.add(head.totals_s),
        at.MAX_TOKENS: shape.scheduler.max_num_batched_tokens,
        at.GRAPHS_AT: packer.add_whole(sizes),
        at.N_GRAPHS: len(sizes),
        at.GRAPHS_DECODE_ONLY: int(graphs.decode_only),
        at.GRAPHS_PAD: int(graphs.pads),
        at.GRAPH_CONTEXT_TOKENS: graphs.max_context_tokens or _NO_LIMIT,
        at.N_GROUPS: len(attention),
        at.JOINT_AT: packer.add(joint.totals_s) if joint else 0,
        at.SPREAD_AT: 0 if spread_s is None else packer.add(spread_s),
        at.EAGER_PADS: int(ranks is not None and ranks.eager == "cheaper"),
        at.DUMMY_TOKENS: ranks.dummy_tokens if ranks else 0,
    }
    groups = [_group(packer, *pair, index) for pair, index in zip(attention, classes, strict=True)]
    header[at.GROUPS_AT] = packer.add_whole([value for group in groups for value in group])
    for position, value in header.items():
        packer.layout[position] = value
    return np.concatenate(packer.numbers), np.array(packer.layout, dtype=np.int64)


def retime_stage(
    tables: StageTables, context: StageContext, tokens: OperatorTable, head: OperatorTable, joint: OperatorTable | None
) -> StageTables:
    """Return the tables under the launches and the slowdown of prompts of another `context`; arguments as above."""
    scalars = _scalars(context, tokens, joint, head)
    scalars[at.ACTIVE_W : at.RANGE_W + 1] = tables.scalars[at.ACTIVE_W : at.RANGE_W + 1]
    return tables.with_scalars(scalars)


def replace_power(tables: StageTables, power: PowerModel) -> StageTables:
    """Return the tables with another power model."""
    scalars = tables.scalars.copy()
    _set_power(scalars, power)
    return tables.with_scalars(scalars)


def _set_power(numbers: Floats, power: PowerModel) -> None:
    numbers[at.ACTIVE_W : at.RANGE_W + 1] = (
        power.active_w,
        power.compute_w,
        power.memory_w,
        power.network_w,
        power.token_j,
        power.range_w,
    )


def _scalars(context: StageContext, tokens: OperatorTable, joint: OperatorTable | None, head: OperatorTable) -> Floats:
    preset, scalars = context.shape.preset, np.zeros(at.N_SCALARS)
    growth = preset.slowdown.growth_of.get(context.shape.precision.weight, preset.slowdown.growth)
    scalars[at.LAUNCH_S], scalars[at.EAGER_LAUNCH_S] = preset.graphs.launch_s, preset.graphs.eager_launch_s
    prompt = preset.factors.prompt / preset.factors.decode  # the tables hold the decodes' kernel times
    slow = prompt * preset.slowdown.base, prompt * growth, preset.slowdown.half_tokens
    scalars[at.SLOW_BASE : at.SLOW_HALF_TOKENS + 1] = slow
    scalars[at.BETWEEN_STEPS_S] = preset.host.between_steps_s
    scalars[at.MODEL_SHARE_FRAC] = context.stage.n_layers / context.model.n_layers / context.stage.n_devices
    scalars[at.TOKEN_LAUNCHES], scalars[at.TOKEN_GAPS] = tokens.n_launches, tokens.gap_launches
    scalars[at.SWAP_BLOCK_S] = swap_block_s(context)
    scalars[at.HEAD_LAUNCHES], scalars[at.HEAD_GAPS] = head.n_launches, head.gap_launches
    if joint:
        scalars[at.JOINT_LAUNCHES], scalars[at.JOINT_GAPS] = joint.n_launches, joint.gap_launches
    return scalars


def _group(packer: _Packer, prefill: PrefillTable, decode: DecodeTable, attention_class: int) -> list[int]:
    knots, coarse = prefill.knots, prefill.coarse
    fields = {
        at.CLASS: attention_class,
        at.WINDOW_TOKENS: prefill.window or 0,
        at.CONTEXTS_AT: packer.add(decode.contexts),
        at.N_CONTEXTS: len(decode.contexts),
        at.DECODE_AT: packer.add(_with_flag(decode.prices_s, decode.outside)),
        at.SEQUENCES_AT: packer.add(knots.sequences),
        at.N_SEQUENCES: len(knots.sequences),
        at.QUERIES_AT: packer.add(knots.queries),
        at.N_QUERIES: len(knots.queries),
        at.PAST_AT: packer.add(knots.past),
        at.N_PAST: len(knots.past),
        at.FIRST_ROW_AT: packer.add_whole(knots.first_row.tolist()),
        at.PREFILL_AT: packer.add(_with_flag(prefill.prices_s, prefill.outside)),
        at.COARSE_SEQUENCES_AT: packer.add(coarse.sequences),
        at.N_COARSE_SEQUENCES: len(coarse.sequences),
        at.COARSE_QUERIES_AT: packer.add(coarse.queries),
        at.N_COARSE_QUERIES: len(coarse.queries),
        at.COARSE_PAST_AT: packer.add(coarse.past),
        at.N_COARSE_PAST: len(coarse.past),
        at.RATIOS_AT: packer.add(np.array(KEY_RATIOS)),
        at.N_RATIOS: len(KEY_RATIOS),
        at.FACTORS_AT: packer.add(prefill.key_factor),
        at.LAUNCHES_AT: packer.add(
            np.array([prefill.n_launches, prefill.gap_launches, decode.n_launches, decode.gap_launches])
        ),
    }
    return [fields[position] for position in range(at.GROUP_FIELDS)]


def _with_flag(prices_s: Floats, outside: NDArray[np.bool_]) -> Floats:
    return np.concatenate([prices_s, outside[..., None].astype(np.float64)], axis=-1)
