"""What is known of the latent decode attention kernels that the tables name, and what a fit has to find?"""

from __future__ import annotations

from typing import Any

import fitting

#: Kernels that split each context until a block runs on each SM, and hide what a load from DRAM waits for.
FILLS_SMS = {
    "split": "fill",
    "most_parts": 128.0,
    "empty_s": 0.0,
    "blocks_per_sm": 1.0,
    "alone_frac": 0.5,
    "far_ratio": 1.0,
}
#: The times are staircases, on which a search needs more starts.
SETTINGS = fitting.Settings(n_starts=40)
SEARCH: fitting.Search = {
    "launch_s": (9e-6, 5e-7, 1e-4),
    "unit_s": (1e-6, 1e-8, 5e-5),
    "empty_s": (1e-6, 1e-8, 5e-5),
    "block_s": (5e-7, 1e-9, 2e-5),
    "math_frac": (0.4, 0.005, 1.5),
    "least_rows": (32.0, 1.0, 128.0),
    "least_keys": (64.0, 16.0, 256.0),
    "few_ratio": (1.0, 0.2, 5.0),
    "many_s": (1e-6, 1e-8, 2e-5),
    "far_ratio": (1.1, 1.0, 1.5),
    "blocks_per_sm": (1.0, 0.5, 4.0),
    "shared_ratio": (1.3, 1.0, 4.0),
    "alone_frac": (0.9, 0.2, 1.0),
    "part_keys": (200.0, 16.0, 8192.0),
    "split_s": (1e-6, 1e-8, 5e-5),
    "part_s": (1e-8, 1e-10, 1e-6),
    "partial_frac": (1.0, 0.05, 20.0),
    "memory_frac": (0.9, 0.2, 0.95),
    "ramp_bytes": (1e6, 1e3, 2e7),
    "again_frac": (0.3, 1e-3, 1.0),
    "sharpness": (3.0, 1.0, 20.0),
    "query_frac": (0.5, 0.02, 2.0),
    "cached_ratio": (2.0, 1.0, 8.0),
    "cached_frac": (0.8, 0.05, 2.0),
}


def layout(source: str, architecture: str) -> dict[str, Any]:
    """Return what is known of the kernel that a table names, in the fields of `LatentDecodeCoefficients`."""
    if "triton" in source:
        # Tiles of 16 heads: _decode_grouped_att_m_fwd of sglang/srt/layers/attention/triton_ops/decode_attention.py in
        # https://github.com/sgl-project/sglang.  16 parts explain the times of the training rows best.
        one_kind = {"tiles": ((128.0, 16.0, 1.0, 0.0),), "few_ratio": 1.0, "many_s": 0.0}
        return {**one_kind, "split": "logarithm", "most_parts": 16.0, "least_rows": 16.0}
    if "trtllm_mla" in source:
        # selectMlaGenerationKernel of include/flashinfer/trtllm/fmha/fmhaKernels.cuh in
        # https://github.com/flashinfer-ai/flashinfer: tiles of 8 or 16 up to 32 heads, else of 64, two SMs for 128.
        few, many = ((8.0, 8.0, 1.0, 1.0), (32.0, 16.0, 1.0, 1.0)), ((64.0, 64.0, 1.0, 0.0), (128.0, 128.0, 2.0, 0.0))
        return {"tiles": few + many, **FILLS_SMS}
    if "default" in source and architecture != "hopper":
        # No outside source: the training rows' times step with tiles of 64 heads, blocks fill the SMs as two for each
        # tile do, and nothing is split.  Workstation Blackwell runs 128 heads by another kernel, four blocks a tile.
        unsplit = {"split": "none", "most_parts": 1.0, "part_keys": 1.0, "split_s": 0.0, "part_s": 0.0, "empty_s": 0.0}
        unsplit |= {"partial_frac": 1.0, "least_rows": 64.0}
        if architecture == "blackwell-rtx":
            return {"tiles": ((64.0, 64.0, 2.0, 1.0), (128.0, 128.0, 4.0, 0.0)), "blocks_per_sm": 1.0, **unsplit}
        one_kind = {"tiles": ((128.0, 64.0, 2.0, 0.0),), "few_ratio": 1.0, "many_s": 0.0}
        return {**one_kind, "blocks_per_sm": 2.0, **unsplit}
    return {"tiles": ((128.0, 128.0, 1.0, 0.0),), "few_ratio": 1.0, "many_s": 0.0, **FILLS_SMS}
