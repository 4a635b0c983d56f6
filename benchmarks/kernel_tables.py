"""Which measured kernel times does a systems-data folder hold, and which of them may a fit see?

The folder is `aiconfigurator_core/systems/data` of the package aiconfigurator-core 0.12.0 (Apache-2.0).
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

PACKAGE = "aiconfigurator-core 0.12.0"

#: Our device names, and the folders of the tables.
DEVICES = {
    "h100-sxm": "h100_sxm",
    "h200-sxm": "h200_sxm",
    "b200": "b200_sxm",
    "gb200": "gb200",
    "a100-sxm-80gb": "a100_sxm",
    "l40s": "l40s",
    "rtx-pro-6000": "rtx_pro_6000_server",
}

#: What makes two rows relatives.  Whole families are held out: a random point of a grid only tests interpolation.
FAMILY = {
    "gemm": ["n", "k"],
    "context_attention": ["num_heads", "num_key_value_heads", "head_dim", "window_size"],
    "generation_attention": ["num_heads", "num_key_value_heads", "head_dim", "window_size"],
    "mla": ["num_heads"],
    "linear_attention": ["num_k_heads", "num_v_heads"],
}


def load(data: Path, system: str, table: str, backend: str) -> tuple[pd.DataFrame, str] | None:
    """Return the newest table of a back end, or that of "backend/version", with its path; None if there is none.

    `table` is "gemm/gemm"; the frame gains `seconds` and loses rows without a usable time.
    """
    group, name = table.split("/")
    backend, _, version = backend.partition("/")
    found = (data / system / group / backend).glob(f"{version or '*'}/{name}_perf.parquet")
    released = [path for path in found if ".dev" not in str(path)]
    if not released:
        return None
    path = max(released, key=lambda p: [int(part) for part in re.findall(r"\d+", p.parent.name)])
    rows = pd.read_parquet(path)
    rows["seconds"] = rows.latency * 1e-3
    rows = rows[np.isfinite(rows.seconds) & (rows.seconds > 0)].reset_index(drop=True)
    return rows, str(path.relative_to(data))


def held_out(rows: pd.DataFrame, kind: str) -> np.ndarray:
    """Return True for the rows whose family is reserved for reporting: one family in five, by its CRC-32."""
    columns = [column for column in FAMILY[kind] if column in rows]
    families = rows[columns].drop_duplicates()
    keys = [",".join(str(int(value)) for value in family) for family in families.itertuples(index=False, name=None)]
    reserved = dict(zip(families.itertuples(index=False, name=None), (_fifth(kind, key) for key in keys), strict=True))
    return np.array([reserved[family] for family in rows[columns].itertuples(index=False, name=None)])


def _fifth(kind: str, key: str) -> bool:
    return zlib.crc32(f"{kind}:{key}".encode()) % 5 == 0


def n_families(rows: pd.DataFrame, kind: str) -> int:
    """Return how many shape families the rows cover."""
    return len(rows[[column for column in FAMILY[kind] if column in rows]].drop_duplicates())
