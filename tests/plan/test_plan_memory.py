"""Memory terms worked out by hand, refusals, and the published launches of docs/memory.md."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_sim.errors import InfeasiblePlanError, InputError
from apex_sim.hardware.cluster import load_cluster
from apex_sim.model.load import load_model
from apex_sim.plan.memory import activation_bytes_per_token, instance_memory, stage_memory
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import Shape, balanced_split, tensor_pipeline_stages
from apex_sim.preset.load import load_preset
from apex_sim.units import GIB, MIB

H100 = load_cluster("8xh100-sxm").device
LLAMA_70B = load_model("llama-3.1-70b")
ROOT = Path(__file__).resolve().parents[2]


def _shape(
    tp: int,
    pp: int = 1,
    precision: Precision = Precision(),  # noqa: B008 - a frozen value
    preset: str = "vllm-1",
    max_model_len: int = 4096,
    n_layers: int = 80,
    utilization_frac: float | None = None,
    max_num_batched_tokens: int | None = None,
) -> Shape:
    engine = load_preset(preset)
    scheduler = resolve_settings(
        engine,
        H100,
        max_model_len,
        pp=pp,
        gpu_memory_utilization_frac=utilization_frac,
        max_num_batched_tokens=max_num_batched_tokens,
    )
    stages = tensor_pipeline_stages(balanced_split(n_layers, pp), tp)
    return Shape("h100-sxm", stages, precision, scheduler, engine)


def test_terms_of_llama_70b_at_tp8_by_hand() -> None:
    """vLLM 0.6 with max_model_len 8192: N = 8192 tokens, 256 sampled rows, one of 8 KV heads on each device."""
    memory = stage_memory(LLAMA_70B, H100, _shape(8, preset="vllm-0.6", max_model_len=8192), 0)
    assert memory.budget_bytes == pytest.approx(0.9 * 84_942_979_072)
    assert memory.weight_bytes == 17_640_734_720
    assert memory.activation_bytes == 8192 * 2 * (3 * 8192 + 3 * 3584)
    assert memory.sampler_bytes == 256 * 128_256 * 32
    assert (memory.communicator_bytes, memory.misc_bytes) == (GIB, 100 * MIB)
    assert memory.kv_bytes_per_token == 80 * 2 * 128 * 2
    fixed = 17_640_734_720 + 578_813_952 + 1_050_673_152 + GIB + 100 * MIB
    assert memory.kv_bytes == pytest.approx(0.9 * 84_942_979_072 - fixed)
    blocks = instance_memory(LLAMA_70B, H100, _shape(8, preset="vllm-0.6", max_model_len=8192))
    assert blocks.n_blocks == int((0.9 * 84_942_979_072 - fixed) / (40_960 * 16))
    assert blocks.kv_tokens == blocks.n_blocks * 16


def test_the_v1_engine_counts_the_larger_peak_only() -> None:
    memory = stage_memory(LLAMA_70B, H100, _shape(8), 0)
    assert memory.activation_bytes == 8192 * 2 * (3 * 8192 + 3 * 3584)
    assert memory.sampler_bytes == 1024 * 128_256 * 32
    assert memory.peak_bytes == memory.sampler_bytes


def test_reported_terms_add_up() -> None:
    for preset in ("vllm-0.6", "vllm-1"):
        terms = instance_memory(LLAMA_70B, H100, _shape(4, 2, preset=preset)).as_dict()
        spent = sum(terms[f"{name}_bytes"] for name in ("weight", "peak", "communicator", "misc", "kv"))
        assert spent == pytest.approx(terms["budget_bytes"])


def test_moe_activations_by_hand() -> None:
    """Mixtral at TP2: two experts of 7,168 columns a device; each routed row holds input, gate, up, product, output."""
    layer = load_model("mixtral-8x7b").layers[0]
    numbers = 3 * 4096 + 2 * (3 * 7168 + 4096)
    assert activation_bytes_per_token(layer, 4096, 2) == 2 * numbers
    assert activation_bytes_per_token(layer, 4096, 2, "fp8") == 2 * numbers + 2 * 7168


def test_dense_fp8_keeps_a_copy_of_the_product() -> None:
    layer = LLAMA_70B.layers[0]
    assert activation_bytes_per_token(layer, 8192, 2) == 2 * (3 * 8192 + 3 * 14_336)
    assert activation_bytes_per_token(layer, 8192, 2, "fp8") == 2 * (3 * 8192 + 3 * 14_336) + 14_336


def test_fp8_kv_halves_the_bytes_of_a_token() -> None:
    full = instance_memory(LLAMA_70B, H100, _shape(4))
    half = instance_memory(LLAMA_70B, H100, _shape(4, precision=Precision("bf16", "fp8")))
    assert half.stages[0].kv_bytes_per_token == full.stages[0].kv_bytes_per_token / 2
    assert half.n_blocks in (2 * full.n_blocks, 2 * full.n_blocks + 1)


def test_kv_heads_replicate_beyond_tp_8() -> None:
    """8 KV heads on 16 devices: one whole head each, as on 8 devices."""
    wide = stage_memory(LLAMA_70B, H100, _shape(16), 0).kv_bytes_per_token
    assert wide == stage_memory(LLAMA_70B, H100, _shape(8), 0).kv_bytes_per_token == 40_960


def test_kv_bytes_of_all_stages_make_up_the_models() -> None:
    for pp in (1, 2, 4):
        shape = _shape(1, pp)
        stages = [stage_memory(LLAMA_70B, H100, shape, index) for index in range(pp)]
        assert sum(stage.kv_bytes_per_token for stage in stages) == LLAMA_70B.kv_bytes_per_token("bf16")


def test_only_the_last_stage_samples_and_the_tightest_decides() -> None:
    memory = instance_memory(LLAMA_70B, H100, _shape(2, 4, preset="vllm-0.6"))
    assert [stage.sampler_bytes > 0 for stage in memory.stages] == [False, False, False, True]
    blocks = [int(stage.kv_bytes // (stage.kv_bytes_per_token * 16)) for stage in memory.stages]
    assert memory.n_blocks == min(blocks) == blocks[3] < blocks[1]
    assert memory.as_dict()["sampler_bytes"] == memory.stages[3].sampler_bytes


def test_one_device_has_no_communicators() -> None:
    model = load_model("llama-3.1-8b")
    assert stage_memory(model, H100, _shape(1, n_layers=32), 0).communicator_bytes == 0


def test_llama_70b_does_not_fit_one_h100() -> None:
    with pytest.raises(InfeasiblePlanError, match=r"131\.4 GiB of weights .* 71\.2 GiB are usable"):
        instance_memory(LLAMA_70B, H100, _shape(1))


def test_a_pool_below_max_model_len_is_refused() -> None:
    fits = instance_memory(LLAMA_70B, H100, _shape(2, utilization_frac=0.95)).kv_tokens
    assert 4096 <= fits < 65_536
    with pytest.raises(InfeasiblePlanError, match=f"{fits} tokens of KV, below max_model_len 65536"):
        instance_memory(LLAMA_70B, H100, _shape(2, utilization_frac=0.95, max_model_len=65_536))


def test_the_v0_engine_needs_max_model_len_in_every_queue() -> None:
    shape = _shape(2, 2, preset="vllm-0.6", max_model_len=32_768)
    memory = instance_memory(LLAMA_70B, H100, shape)
    too_long = memory.n_blocks // 2 * 16 + 16
    scheduler = replace(shape.scheduler, max_model_len=too_long)
    with pytest.raises(InfeasiblePlanError, match=f"{too_long - 16} tokens of KV in each of 2 queues"):
        instance_memory(LLAMA_70B, H100, replace(shape, scheduler=scheduler))
    one_queue = replace(shape, scheduler=scheduler, preset=replace(shape.preset, queue_per_batch=False))
    assert instance_memory(LLAMA_70B, H100, one_queue).n_blocks == memory.n_blocks


@settings(max_examples=40, deadline=None)
@given(
    st.floats(0.5, 0.99),
    st.floats(0.0, 0.01),
    st.integers(1024, 16_384),
    st.integers(0, 4096),
    st.sampled_from([(4, 1), (8, 1), (4, 2), (2, 4)]),
)
def test_more_memory_and_smaller_steps_leave_more_kv(
    share: float, more: float, budget: int, fewer: int, degrees: tuple[int, int]
) -> None:
    def blocks(utilization_frac: float, n: int) -> float:
        shape = _shape(*degrees, utilization_frac=utilization_frac, max_num_batched_tokens=n)
        stages = (stage_memory(LLAMA_70B, H100, shape, index) for index in range(shape.pp))
        return min(stage.kv_bytes / stage.kv_bytes_per_token for stage in stages)

    assert blocks(share + more, budget) >= blocks(share, budget)
    assert blocks(share, max(1024, budget - fewer)) >= blocks(share, budget)


@pytest.mark.parametrize(
    ("preset", "max_model_len", "policy", "budget", "n_seqs"),
    [
        ("vllm-0.6", 1024, "prefill-first", 2048, 256),
        ("vllm-0.6", 32_768, "prefill-first", 32_768, 256),
        ("vllm-0.6", 32_769, "chunked", 512, 256),
        ("vllm-1", 131_072, "unified", 8192, 1024),
        ("sglang", 131_072, "sglang", 8192, 2048),
        ("trtllm", 131_072, "no-evict", 8192, 2048),
    ],
)
def test_engine_defaults(preset: str, max_model_len: int, policy: str, budget: int, n_seqs: int) -> None:
    settings = resolve_settings(load_preset(preset), H100, max_model_len)
    assert (settings.policy, settings.max_num_batched_tokens, settings.max_num_seqs) == (policy, budget, n_seqs)


def test_small_and_a100_devices_get_the_small_defaults() -> None:
    for name in ("l40s", "a100-sxm-80gb"):
        settings = resolve_settings(load_preset("vllm-1"), load_cluster(f"1x{name}").device, 4096)
        assert (settings.max_num_batched_tokens, settings.max_num_seqs) == (2048, 256)


def test_pools_of_engines_that_share_out_something_else_than_the_memory() -> None:
    """SGLang: weights and KV fill the share of what was free; TensorRT-LLM: KV fills the share of what is left."""
    memories = {}
    for name in ("sglang", "trtllm"):
        preset = load_preset(name)
        settings = resolve_settings(preset, H100, 8192, tp=8)
        shape = replace(_shape(8), scheduler=settings, preset=preset)
        memories[name] = stage_memory(LLAMA_70B, H100, shape, 0)
    sglang, trtllm = memories["sglang"], memories["trtllm"]
    assert sglang.kv_bytes == pytest.approx(0.817 * (H100.memory_bytes - GIB) - sglang.weight_bytes)
    rest = trtllm.total_bytes - trtllm.weight_bytes - trtllm.peak_bytes - trtllm.misc_bytes - GIB
    assert trtllm.kv_bytes == pytest.approx(0.9 * rest)


def test_asynchronous_scheduling_is_off_in_a_pipeline() -> None:
    assert _shape(4).scheduler.async_scheduling
    assert not _shape(4, 2).scheduler.async_scheduling


@pytest.mark.parametrize(
    ("preset", "given", "problem"),
    [
        ("vllm-1", {"policy": "prefill-first"}, "has no policy 'prefill-first'"),
        ("vllm-0.6", {"async_scheduling": True}, "asynchronous scheduling"),
        ("vllm-0.6", {"max_num_batched_tokens": 4095}, "below max_model_len 4096"),
        ("vllm-1", {"max_num_seqs": 300, "max_num_batched_tokens": 299}, "below max_num_seqs 300"),
        ("vllm-1", {"max_num_seqs": 0}, "max_num_seqs is 0"),
        ("vllm-1", {"gpu_memory_utilization_frac": 1.01}, "is 1.01"),
    ],
)
def test_contradictory_settings_are_refused(preset: str, given: dict[str, object], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        resolve_settings(load_preset(preset), H100, 4096, **given)  # type: ignore[arg-type]


def test_the_document_shows_what_the_script_prints() -> None:
    table = runpy.run_path(str(ROOT / "benchmarks" / "kv_capacity.py"))["table"]()
    assert table in (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")


def test_buffers_for_all_seats_grow_with_the_batch_beyond_the_budget() -> None:
    """TensorRT-LLM's C++ runtime holds logits of `max_batch_size` rows, PyTorch engines those of a profiled run."""
    rows = {}
    for name in ("trtllm-0.14", "trtllm"):
        for n_seqs in (1024, 4096):
            shape = _shape(8, preset=name, max_num_batched_tokens=2048)
            scheduler = replace(shape.scheduler, max_num_seqs=n_seqs, max_num_batched_tokens=1024)
            shape = replace(shape, scheduler=scheduler)
            rows[name, n_seqs] = stage_memory(LLAMA_70B, H100, shape, 0).sampler_bytes
    assert rows["trtllm-0.14", 4096] == 4 * rows["trtllm-0.14", 1024]
    assert rows["trtllm", 4096] == rows["trtllm", 1024]


def test_only_chunks_allow_more_seats_than_budget() -> None:
    """Nobody starts without a token of the budget, so that seats beyond it only cost buffers."""
    limits = {"max_num_seqs": 2048, "max_num_batched_tokens": 1024}
    preset = load_preset("trtllm-0.14")
    assert resolve_settings(preset, H100, 4096, policy="no-evict-chunked", **limits).max_num_seqs == 2048
    with pytest.raises(InputError, match="is below max_num_seqs 2048"):
        resolve_settings(preset, H100, 4096, policy="no-evict", **limits)
