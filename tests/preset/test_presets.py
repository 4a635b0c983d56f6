"""Presets: what the cited releases say, as figures."""

import pytest

from apex_sim.errors import UnknownNameError
from apex_sim.preset.load import PRESETS, load_preset
from apex_sim.units import GIB, MIB

H100_BYTES, H200_BYTES = 81_559 * MIB, 143_771 * MIB  # as nvidia-smi lists them


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_complete_and_sourced(name: str) -> None:
    preset = load_preset(name)
    assert preset.name == name
    assert preset.policy in preset.policies
    assert all(part.source for part in (preset.graphs, preset.host, preset.buffers))
    assert preset.sources
    assert list(preset.graphs.sizes) == sorted(set(preset.graphs.sizes))
    assert preset.defaults[-1].min_memory_bytes == 0.0  # the last entry takes every device
    assert not preset.defaults[-1].except_devices
    assert preset.defaults[-1].min_tp == 1
    limits = {entry.max_graph_sequences for entry in preset.defaults} - {None}
    assert limits <= set(preset.graphs.sizes)  # a limit between two sizes would never be reached


def test_captured_sizes_of_the_two_engines() -> None:
    """0.6.0: 1, 2, 4 and 32 multiples of 8 up to 256; 0.13.0: 51 sizes up to 512."""
    v0, v1 = load_preset("vllm-0.6").graphs.sizes, load_preset("vllm-1").graphs.sizes
    assert (len(v0), v0[-1]) == (35, 256)
    assert (len(v1), v1[-1]) == (51, 512)


@pytest.mark.parametrize(
    ("name", "n_tokens", "padded"),
    [
        ("vllm-0.6", 1, 1),
        ("vllm-0.6", 3, 4),
        ("vllm-0.6", 5, 8),
        ("vllm-0.6", 256, 256),
        ("vllm-0.6", 257, None),
        ("vllm-1", 249, 256),
        ("vllm-1", 257, 272),
        ("vllm-1", 512, 512),
        ("vllm-1", 513, None),
        ("sglang", 9, 12),
        ("sglang", 13, 16),
        ("sglang", 500, 512),
        ("trtllm", 31, 31),
        ("trtllm", 33, None),  # no padding by default: 64 is captured, 33 runs without a graph
        ("trtllm", 64, 64),
        ("trtllm", 129, None),
    ],
)
def test_padding(name: str, n_tokens: int, padded: int | None) -> None:
    assert load_preset(name).graphs.padded(n_tokens) == padded


def test_captured_sizes_of_sglang_and_tensorrt_llm() -> None:
    """0.5.6: 5 small ones, 31 multiples of 8 from 16, 16 of 16 from 272; TensorRT-LLM: 1 to 32, 64 and 128."""
    sglang, trtllm = load_preset("sglang").graphs.sizes, load_preset("trtllm").graphs.sizes
    assert (len(sglang), sglang[-1]) == (5 + 31 + 16, 512)
    assert (len(trtllm), trtllm[-1]) == (34, 128)


def test_sglang_reserves_seven_tenths_at_first_and_a_tenth_at_last() -> None:
    rule = load_preset("sglang").reservation
    assert rule is not None
    assert (rule.first_ratio, rule.least_ratio) == (0.7, pytest.approx(0.098))
    assert rule.decay_ratio == pytest.approx(0.602 / 600)


@pytest.mark.parametrize(
    ("memory_bytes", "tp", "chunk_tokens", "largest_graph"),
    [
        (192 * GIB, 1, 16_384, 512),  # MI300X
        (H200_BYTES, 2, 8192, 256),
        (H100_BYTES, 3, 8192, 256),
        (H100_BYTES, 4, 8192, 512),
        (48 * GIB, 1, 4096, 32),  # L40S
        (48 * GIB, 8, 4096, 160),
        (24 * GIB, 1, 2048, 24),
        (24 * GIB, 4, 2048, 80),
        (16 * GIB, 8, 2048, 8),  # T4
    ],
)
def test_sglang_defaults_by_memory_and_tp(memory_bytes: float, tp: int, chunk_tokens: int, largest_graph: int) -> None:
    defaults = load_preset("sglang").defaults_on("any", memory_bytes, tp)
    assert defaults.budget_tokens["sglang"] == chunk_tokens
    assert defaults.max_graph_sequences == largest_graph


@pytest.mark.parametrize(
    ("memory_bytes", "tp", "share"),
    [
        # MiB: 512 + 1.5 x 8192 + 2 x 256 + 128 = 13,440 of 81,559; servers with this chunk log 0.835
        (H100_BYTES, 1, 0.835),
        # 512 + 12,288 + 2 x 512 + 1,024 = 14,848
        (H100_BYTES, 8, 0.818),
        (H200_BYTES, 1, 0.907),
        # 512 + 3,072 + 48 + 128 = 3,760 of 24,564: no least reserve on small devices
        (24_564 * MIB, 1, 0.847),
    ],
)
def test_sglang_memory_share(memory_bytes: float, tp: int, share: float) -> None:
    preset = load_preset("sglang")
    defaults, reserve = preset.defaults_on("any", memory_bytes, tp), preset.buffers.reserve
    chunk_tokens, largest_graph = defaults.budget_tokens["sglang"], defaults.max_graph_sequences
    assert reserve is not None
    assert chunk_tokens is not None
    assert largest_graph is not None
    assert reserve.share_frac(memory_bytes, chunk_tokens, largest_graph, tp) == share


def test_reserve_is_at_least_ten_gib_on_large_devices_and_counts_at_least_2048_tokens() -> None:
    reserve = load_preset("sglang").buffers.reserve
    assert reserve is not None
    assert reserve.share_frac(80 * GIB, 2048, 8, 1) == 0.875
    # MiB: 512 + 1.5 x 2048 + 2 x 8 + 128 = 3,728 of 40,960
    assert reserve.share_frac(40 * GIB, 512, 8, 1) == 0.909


def test_defaults_of_tensorrt_llm() -> None:
    preset = load_preset("trtllm")
    defaults = preset.defaults_on("h200-sxm", H200_BYTES, 8)
    assert (defaults.max_num_seqs, defaults.budget_tokens) == (2048, dict.fromkeys(preset.policies, 8192))
    assert preset.policies == ("no-evict", "no-evict-chunked", "max-utilization")
    assert (preset.block_size_tokens, preset.gpu_memory_utilization_frac) == (32, 0.9)
    assert (preset.buffers.pool_rule, preset.async_scheduling) == ("share-of-rest", True)


def test_host_time_grows_with_batch_and_ranks() -> None:
    sglang, v0 = load_preset("sglang").host, load_preset("vllm-0.6").host
    assert sglang.on_step_s(100, 8) == pytest.approx(1.5e-3 + 100 * 10e-6 + 7 * 50e-6)
    assert v0.on_step_s(100, 8) == v0.on_step_s(100, 1) == pytest.approx(4.3e-3 + 100 * 210e-6)


def test_chunked_prefill_begins_above_32768_tokens_in_v0_only() -> None:
    assert load_preset("vllm-0.6").default_policy(32_768) == "prefill-first"
    assert load_preset("vllm-0.6").default_policy(32_769) == "chunked"
    assert load_preset("vllm-1").default_policy(131_072) == "unified"


def test_v0_splits_its_queue_and_keeps_a_watermark() -> None:
    v0, v1 = load_preset("vllm-0.6"), load_preset("vllm-1")
    assert (v0.queue_per_batch, v0.watermark_frac, v0.async_scheduling) == (True, 0.01, False)
    assert (v1.queue_per_batch, v1.watermark_frac, v1.async_scheduling) == (False, 0.0, True)


def test_an_unknown_preset_gets_its_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match=r"'vllm-0\.6'"):
        load_preset("vllm-0.6.0")
