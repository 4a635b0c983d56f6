"""How do the tables of a stage look as plain arrays?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apex_sim.cost.decode_table import DecodeTable
from apex_sim.cost.operator_table import OperatorTable
from apex_sim.cost.operators import StageContext
from apex_sim.cost.parts import Floats
from apex_sim.cost.power import PowerModel
from apex_sim.cost.prefill_table import KEY_RATIOS, PrefillTable
from apex_sim.cost.step_tables import StageTables

#: Longer than any context.
_NO_LIMIT = 2**62


def tabulate_stage(
    context: StageContext,
    tokens: OperatorTable,
    head: OperatorTable,
    attention: Sequence[tuple[PrefillTable, DecodeTable]],
    classes: Sequence[int],
    power: PowerModel,
) -> StageTables:
    """Return the tables of one stage; `classes` holds the attention class of each group."""
    shape = context.shape
    graphs, slowdown = shape.preset.graphs, shape.preset.slowdown
    prefill, decode = [each for each, _ in attention], [each for _, each in attention]
    growth = slowdown.growth_of.get(shape.precision.weight, slowdown.growth)
    return StageTables(
        token_s=tokens.totals_s,
        head_s=head.totals_s,
        attention_class=np.array(classes, dtype=np.int64),
        window_tokens=np.array([float(table.window or 0) for table in prefill]),
        decode_contexts=_stack([table.contexts for table in decode], np.inf),
        decode_s=_stack([table.prices_s for table in decode]),
        decode_outside=_stack([table.outside for table in decode]),
        prefill_sequences=_stack([table.knots.sequences for table in prefill], np.inf),
        prefill_queries=_stack([table.knots.queries for table in prefill], np.inf),
        prefill_past=_stack([table.knots.past for table in prefill], np.inf),
        prefill_first_row=_stack([table.knots.first_row for table in prefill]),
        prefill_s=_stack([table.prices_s for table in prefill]),
        prefill_outside=_stack([table.outside for table in prefill]),
        coarse_sequences=prefill[0].coarse.sequences[None],
        coarse_queries=prefill[0].coarse.queries[None],
        coarse_past=_stack([table.coarse.past for table in prefill], np.inf),
        key_ratios=np.array([KEY_RATIOS]),
        key_factor=_stack([table.key_factor for table in prefill]),
        launches=np.array([[p.n_launches, p.gap_launches, d.n_launches, d.gap_launches] for p, d in attention]),
        other_launches=np.array([tokens.n_launches, tokens.gap_launches, head.n_launches, head.gap_launches]),
        graph_sizes=np.array(graphs.sizes if shape.scheduler.cuda_graphs else (), dtype=np.int64),
        graphs_decode_only=graphs.decode_only,
        graphs_pad=graphs.pads,
        graph_context_tokens=graphs.max_context_tokens or _NO_LIMIT,
        launch_s=graphs.launch_s,
        eager_launch_s=graphs.eager_launch_s,
        slowdown=np.array([slowdown.base, growth, slowdown.half_tokens]),
        power=power_array(power),
        max_tokens=shape.scheduler.max_num_batched_tokens,
        model_share_frac=context.stage.n_layers / context.model.n_layers / context.stage.n_devices,
    )


def power_array(power: PowerModel) -> Floats:
    """Return what `StageTables.power` holds of a power model."""
    return np.array([power.active_w, power.compute_w, power.memory_w, power.network_w, power.token_j, power.range_w])


def _stack(arrays: Sequence[NDArray[Any]], padding: float = 0.0) -> NDArray[Any]:
    """Return the arrays on a new first axis, shorter ones padded at their ends."""
    shape = tuple(np.max([array.shape for array in arrays], axis=0).tolist())
    stacked = np.full((len(arrays), *shape), padding, dtype=arrays[0].dtype)
    for row, array in zip(stacked, arrays, strict=True):
        row[tuple(slice(n) for n in array.shape)] = array
    return stacked
