"""Which tables price the attention of a stage?  Layers that attend alike share one evaluation, over all stages."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from functools import lru_cache
from typing import Final

from apex_sim.cost.attention_launch import AttentionGroup
from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.decode_table import DecodeTable, tabulate_decode
from apex_sim.cost.operators import attention_groups
from apex_sim.cost.prefill_table import PrefillTable, tabulate_prefill
from apex_sim.cost.stage_context import StageContext

#: Tables of one layer that a process keeps for other shapes, some five to ten MB each: those of a space of cells.
_MOST_KEPT: Final = 48

AttentionTables = tuple[PrefillTable, DecodeTable]
#: Tables of one layer of each group.
OneLayer = dict[AttentionGroup, AttentionTables]


def tabulate_attention(context: StageContext, n_rows: int, one_layer: OneLayer) -> tuple[AttentionTables, ...]:
    """Return the tables of each of the stage's groups, whose decodes have `n_rows` queries.

    `one_layer` holds what other stages of the shape, with as many rows, have evaluated, and takes in what this one has.
    """
    tables = []
    for group in attention_groups(context):
        one = replace(group, n_layers=1)
        if one not in one_layer:
            one_layer[one] = _evaluated(context, one, n_rows)
        prefill, decode = one_layer[one]
        tables.append((prefill.of_layers(group.n_layers), decode.of_layers(group.n_layers)))
    return tuple(tables)


def _evaluated(context: StageContext, group: AttentionGroup, n_rows: int) -> AttentionTables:
    scheduler, cost = context.shape.scheduler, context.cost
    sizes = (
        scheduler.max_num_batched_tokens,
        scheduler.max_num_seqs,
        scheduler.max_model_len,
        context.cluster.device.n_sms,
        n_rows,
    )
    if isinstance(cost, Hashable) and _has_hash(cost):
        return _kept(cost, group, *sizes)
    return _kept.__wrapped__(cost, group, *sizes)  # a back end of the caller's own


@lru_cache(maxsize=_MOST_KEPT)
def _kept(
    cost: CostModel, group: AttentionGroup, n_tokens: int, n_sequences: int, n_context: int, n_sms: int, n_rows: int
) -> AttentionTables:
    prefill = tabulate_prefill(cost, group, n_tokens, n_sequences, n_context, n_sms)
    return prefill, tabulate_decode(cost, group, n_sequences, n_context, n_rows)


def _has_hash(cost: Hashable) -> bool:
    """Whether `cost` is equal to another by its values; a frozen value may still hold a table without a hash."""
    try:
        hash(cost)
    except TypeError:
        return False
    return True
