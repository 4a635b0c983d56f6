"""What the fitted back end must get right whatever its coefficients: shapes of curves, choices, and honesty."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from apex_sim.cost.calibrated import PREDICTED_FROM, Calibrated, best_cost_model, calibrated_costs
from apex_sim.cost.coefficient_file import calibrated_devices
from apex_sim.cost.forms.linear_attention import LinearHeads
from apex_sim.cost.parts import Parts
from apex_sim.cost.roofline import Roofline
from apex_sim.cost.sizes import AttentionSizes, DecodeWork, ExpertSizes, LatentSizes, PrefillWork
from apex_sim.cost.step_model import compile_step_model
from apex_sim.errors import UnsupportedError
from apex_sim.hardware.cluster import load_cluster
from apex_sim.hardware.device import load_device
from apex_sim.model.load import load_model
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import Shape, tensor_pipeline_stages
from apex_sim.preset.load import load_preset

LLAMA = AttentionSizes(32, 8, 128, "bf16")
DEEPSEEK = LatentSizes(128, 512, 64, 128, 128, "bf16")
QWEN = LinearHeads(16, 32, 128, 128, 4)
BATCHES = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0])


@cache
def _cost(device: str = "h100-sxm") -> Calibrated:
    return calibrated_costs(load_device(device))


def _all_prices(device: str, n_devices: int = 4) -> dict[str, Parts]:
    """Return the price of every operator at ordinary sizes, arrays of three token counts."""
    cost, n = _cost(device), np.array([1.0, 100.0, 4000.0])
    group = load_cluster(f"8x{device}").group(n_devices)
    return {
        "gemm": cost.gemm(n, 4096, 4096, "bf16", "bf16"),
        "quantise": cost.quantise(n, 4096, "fp8", "fp8"),
        "moe": cost.moe(n, ExpertSizes(8, 2, 4096, 3584.0, 3), "bf16", "bf16"),
        "prefill": cost.prefill_attention(PrefillWork(n * (n + 1) / 2, n, n, np.ones(3)), LLAMA),
        "decode": cost.decode_attention(DecodeWork(n, n * 1000), LLAMA),
        "latent_prefill": cost.latent_prefill(PrefillWork(n * (n + 1) / 2, n, n, np.ones(3)), DEEPSEEK),
        "latent_decode": cost.latent_decode(DecodeWork(n, n * 1000), DEEPSEEK),
        "linear_prefill": cost.linear_prefill(PrefillWork(n * (n + 1) / 2, n, n, np.ones(3)), QWEN),
        "linear_decode": cost.linear_decode(DecodeWork(n, n * 1000), QWEN),
        "elementwise": cost.elementwise(n, 4096, 4.0),
        "all_reduce": cost.all_reduce(n * 8192, group, own="custom"),
        "all_gather": cost.all_gather(n * 8192, group),
        "all_to_all": cost.all_to_all(n * 8192, group),
        "send": cost.send(n * 8192, group.intra_node),
    }


@pytest.mark.parametrize("device", [*calibrated_devices(), *PREDICTED_FROM])
def test_no_price_beats_the_datasheet(device: str) -> None:
    """Every part has the sizes' shape; nothing runs faster than perfect silicon, and more work takes longer.

    Small kernels may find in L2 what the kernel before has written, which DRAM time does not know.
    """
    for name, parts in _all_prices(device).items():
        kernel_s, compute_s, memory_s = (np.asarray(x) for x in (parts.kernel_s, parts.compute_s, parts.memory_s))
        assert kernel_s.shape == compute_s.shape == memory_s.shape == (3,), name
        assert (kernel_s > 0).all(), name
        assert (kernel_s >= compute_s).all(), name
        if name not in ("elementwise", "prefill", "latent_prefill", "quantise"):
            assert (kernel_s >= memory_s).all(), name
        assert (np.diff(kernel_s) >= 0).all(), name


@pytest.mark.parametrize("device", ["h100-sxm", "h200-sxm", "b200"])
def test_everything_but_sends_is_fitted_on_the_devices_with_data(device: str) -> None:
    for name, parts in _all_prices(device).items():
        basis = parts.basis
        assert basis.back_end == ("roofline" if name == "send" else "calibrated"), name
        if name != "send":
            assert device.split("-", maxsplit=1)[0] in basis.source
            assert basis.expected_error_frac is not None
            assert 0 < basis.expected_error_frac < 0.3
            assert parts.gap_launches == 0


def test_what_was_never_measured_falls_back_to_the_roofline_and_says_so() -> None:
    """On A100: no norms, no fp8 KV cache and no narrow experts; the price is exactly the roofline's."""
    cost, plain = _cost("a100-sxm-80gb"), Roofline(load_device("a100-sxm-80gb"))
    work, fp8 = DecodeWork(8.0, 8000.0), AttentionSizes(8, 1, 128, "fp8")
    experts = ExpertSizes(8, 2, 4096, 3584.0, 3)
    for mine, theirs in (
        (cost.elementwise(10.0, 4096, 4.0, 2.0), plain.elementwise(10.0, 4096, 4.0, 2.0)),
        (cost.decode_attention(work, fp8), plain.decode_attention(work, fp8)),
        (cost.moe(8.0, experts, "w4a16", "bf16"), plain.moe(8.0, experts, "w4a16", "bf16")),
    ):
        assert mine == theirs
        assert (mine.basis.back_end, mine.basis.expected_error_frac) == ("roofline", None)
    assert cost.decode_attention(work, AttentionSizes(8, 1, 128, "bf16")).basis.back_end == "calibrated"


def test_decode_grows_with_the_context() -> None:
    """Ten times the context of a long batch costs close to ten times as much: it is bytes."""
    for name in ("h100-sxm", "h200-sxm", "b200", "a100-sxm-80gb"):
        contexts = 64 * np.array([100.0, 1000.0, 10_000.0, 100_000.0])
        times = np.asarray(_cost(name).decode_attention(DecodeWork(np.full(4, 64.0), contexts), LLAMA).kernel_s)
        assert (np.diff(times) > 0).all()
        assert 8 < times[3] / times[2] < 10.5
        latent = np.asarray(_cost(name).latent_decode(DecodeWork(np.full(4, 64.0), contexts), DEEPSEEK).kernel_s)
        assert 8 < latent[3] / latent[2] < 10.5


@pytest.mark.parametrize("device", ["h100-sxm", "a100-sxm-80gb"])
def test_linear_attention_forgets_the_context_but_not_the_prompts(device: str) -> None:
    """Decode at any context, prefill at any past cost the same; a state is gathered and scattered for each prompt."""
    cost, n = _cost(device), np.full(2, 64.0)
    decode = np.asarray(cost.linear_decode(DecodeWork(n, n * [100.0, 100_000.0]), QWEN).kernel_s)
    assert decode[0] == decode[1]
    one, many = (cost.linear_prefill(PrefillWork(1e6, 4096.0, 4096.0, k), QWEN) for k in (1.0, 64.0))
    assert one.kernel_s == cost.linear_prefill(PrefillWork(9e6, 4096.0, 9e4, 1.0), QWEN).kernel_s
    assert one.n_launches == many.n_launches == 5.0
    copies = cost.fallback.linear_copies(PrefillWork(1e6, 0.0, 0.0, 64.0), QWEN)
    assert copies.memory_s == pytest.approx(64 * 2 * 4 * 32 * 128 * 128 / cost.device.memory_bytes_per_s)


def test_a_window_bounds_decode() -> None:
    windowed = AttentionSizes(64, 8, 64, "bf16", 128)
    full = AttentionSizes(64, 8, 64, "bf16")
    short = _cost().decode_attention(DecodeWork(32.0, 32.0 * 128), windowed)
    long = _cost().decode_attention(DecodeWork(32.0, 32.0 * 8192), full)
    assert float(short.kernel_s) < 0.25 * float(long.kernel_s)


@pytest.mark.parametrize("device", ["a100-sxm-80gb", "a10"])
def test_weight_only_int4_is_nearly_four_times_as_fast_while_weights_bind(device: str) -> None:
    """W4A16 moves 4.25 bits a weight and multiplies in bf16: close to 4x up to 16 rows, little is left at 512."""
    cost = best_cost_model(load_device(device))
    rows = np.append(BATCHES, 512.0)
    bf16, int4 = (
        np.asarray(cost.gemm(rows, 28_672, 8192, weight, "bf16").kernel_s, dtype=float) for weight in ("bf16", "w4a16")
    )
    speedup = bf16 / int4
    assert (speedup[:5] > 3.0).all()
    assert (speedup[:5] < 4.2).all()
    assert speedup[7] < 0.75 * speedup[0]
    assert speedup[8] < 1.3


def test_fp8_weights_are_read_in_half_the_time() -> None:
    """Weight-bound GEMMs of a 70B layer on an H100, and at 4,096 rows the doubled matrix rate."""
    for n, k in ((10_240, 8192), (57_344, 8192), (8192, 28_672)):
        for rows, low, high in ((1.0, 0.45, 0.65), (16.0, 0.45, 0.65), (4096.0, 0.45, 0.75)):
            bf16, fp8 = (float(_cost().gemm(rows, n, k, weight, weight).kernel_s) for weight in ("bf16", "fp8"))
            assert low < fp8 / bf16 < high


def test_the_engines_own_all_reduce_is_faster_while_messages_are_small() -> None:
    """Up to some hundred kilobytes one shot beats NCCL's ring; beyond vLLM's limit of 8 MiB both are NCCL."""
    cluster = load_cluster("8xh100-sxm")
    sizes = np.array([8e3, 64e3, 256e3, 64e6])
    for n_devices in (2, 4, 8):
        own = np.asarray(_cost().all_reduce(sizes, cluster.group(n_devices), own="custom").kernel_s)
        nccl = np.asarray(_cost().all_reduce(sizes, cluster.group(n_devices), own="none").kernel_s)
        assert (own[:2] < 0.8 * nccl[:2]).all()
        assert own[3] == nccl[3]
        assert nccl[3] >= 2 * (n_devices - 1) / n_devices * 64e6 / 450e9


def test_a_device_without_data_is_refused_and_priced_by_its_datasheet() -> None:
    device = load_device("a10")
    with pytest.raises(UnsupportedError, match="no kernel times were fitted for a10"):
        calibrated_costs(device)
    assert best_cost_model(device) == Roofline(device)
    assert "not calibrated" in best_cost_model(device).provenance


def test_a_b300_is_predicted_from_the_b200_and_marked() -> None:
    """As many bytes at the same bandwidth: the same time; no error is claimed, and no size is inside the data."""
    b300, b200 = (_cost(name).gemm(BATCHES, 8192, 8192, "bf16", "bf16") for name in ("b300", "b200"))
    assert "fitted to b200" in _cost("b300").provenance
    assert "prediction" in _cost("b300").provenance
    assert b300.basis.expected_error_frac is None
    assert not np.any(b300.basis.in_range)
    assert np.all(b200.basis.in_range)
    assert np.asarray(b300.kernel_s) == pytest.approx(np.asarray(b200.kernel_s), rel=0.1)


def test_sizes_beyond_the_data_are_marked() -> None:
    cost, node = _cost(), load_cluster("8xh100-sxm").group(8)
    assert np.asarray(cost.gemm(np.array([1.0, 40_000.0]), 4096, 4096, "bf16", "bf16").basis.in_range).tolist() == [
        True,
        False,
    ]
    assert not np.any(cost.gemm(1.0, 100_000, 4096, "bf16", "bf16").basis.in_range)
    assert not np.any(
        cost.prefill_attention(PrefillWork(1e6, 2e3, 2e3, 1.0), AttentionSizes(8, 1, 512, "bf16")).basis.in_range
    )
    reduced = cost.all_reduce(np.array([1e6, 1e9]), node, own="custom").basis.in_range
    assert np.asarray(reduced).tolist() == [True, False]
    inside = ExpertSizes(8, 2, 4096, 3584.0, 3)
    assert np.all(cost.moe(100.0, inside, "bf16", "bf16").basis.in_range)
    for outside in (ExpertSizes(1024, 2, 4096, 3584.0, 3), ExpertSizes(8, 2, 16_384, 3584.0, 3)):
        assert not np.any(cost.moe(100.0, outside, "bf16", "bf16").basis.in_range)


def test_hopper_runs_other_fp8_experts_with_expert_parallelism() -> None:
    """vLLM's Triton kernels within one rank, FlashInfer's CUTLASS ones over several; two fits, two sources."""
    alone, spread = (
        _cost().moe(64.0, ExpertSizes(256, 8, 7168, 2048.0, 3, ep), "fp8-block", "fp8").basis for ep in (1, 8)
    )
    assert "triton" in alone.source
    assert "cutlass" in spread.source
    assert np.all(alone.in_range)
    assert np.all(spread.in_range)


@pytest.mark.parametrize("device", ["h100-sxm", "h200-sxm"])
@pytest.mark.parametrize(
    "experts",
    [ExpertSizes(8, 2, 4096, 7168.0, 3), ExpertSizes(128, 8, 4096, 384.0, 3), ExpertSizes(256, 8, 7168, 256.0, 3)],
)
def test_plain_fp8_experts_are_no_slower_than_bf16_ones(device: str, experts: ExpertSizes) -> None:
    """Half the bytes and twice the peak; TensorRT-LLM's kernel (H100) comes closer to the peak than Triton in bf16."""
    tokens = np.array([8.0, 64.0, 512.0, 8192.0])
    fp8, bf16 = (np.asarray(_cost(device).moe(tokens, experts, name, "bf16").kernel_s) for name in ("fp8", "bf16"))
    assert (0.4 * bf16 < fp8).all()
    assert (fp8 < 1.1 * bf16).all()


def test_plain_fp8_experts_take_what_the_tables_say() -> None:
    """256 experts of 7168 x 256 at 64 tokens: 332 us in vLLM 0.19 on an H200, 2,092 in 0.24's untuned kernel."""
    parts = _cost("h200-sxm").moe(64.0, ExpertSizes(256, 8, 7168, 256.0, 3), "fp8", "fp8")
    assert float(np.asarray(parts.kernel_s)) == pytest.approx(332e-6, rel=0.15)
    assert "vllm_fused_moe" in parts.basis.source
    spread = _cost("h200-sxm").moe(64.0, ExpertSizes(256, 8, 7168, 2048.0, 3, 8), "fp8", "fp8")
    assert "moe_torch_flow_cutlass" in spread.basis.source


@pytest.mark.parametrize("weight", ["bf16", "fp8", "fp8-block"])
@pytest.mark.parametrize("device", ["h100-sxm", "h200-sxm"])
@pytest.mark.parametrize("ep", [1, 8])
def test_tensorrt_llm_is_priced_by_its_own_experts(device: str, weight: str, ep: int) -> None:
    experts = ExpertSizes(8, 2, 4096, 14336.0 / 2, 3, ep, "trtllm")
    assert "trtllm/1.3.0rc20" in _cost(device).moe(64.0, experts, weight, weight).basis.source
    elsewhere = _cost("b200").moe(64.0, experts, weight, weight)
    assert elsewhere == _cost("b200").moe(64.0, replace(experts, kernels="triton"), weight, weight)


@pytest.mark.parametrize("other", [{"latent_dim": 256}, {"rope_dim": 32}, {"nope_dim": 192}, {"value_dim": 256}])
def test_latent_attention_of_unmeasured_sizes_is_the_rooflines(other: dict[str, int]) -> None:
    """The fits hold for DeepSeek's sizes alone: others must not be priced as if they had them."""
    sizes, cost = replace(DEEPSEEK, **other), _cost()
    for parts in (
        cost.latent_prefill(PrefillWork(5e6, 3000.0, 3000.0, 1.0), sizes),
        cost.latent_decode(DecodeWork(2.0, 1000.0), sizes),
    ):
        assert parts.basis.back_end == "roofline"


def test_an_engines_own_kernels_go_before_those_that_all_share() -> None:
    """TensorRT-LLM's decode kernel reads an fp8 cache faster than FlashAttention-3; its GEMMs are the shared ones."""
    shared = calibrated_costs(load_device("h100-sxm"))
    own = shared.of_engine("trtllm")
    work, heads = DecodeWork(256.0, 256.0 * 2048), AttentionSizes(8, 1, 128, "fp8")
    assert "/trtllm/" in own.decode_attention(work, heads).basis.source
    ratio = own.decode_attention(work, heads).kernel_s / shared.decode_attention(work, heads).kernel_s
    assert 0.6 < float(ratio) < 0.85
    sources = {cost.gemm(64.0, 8192, 8192, "fp8", "fp8").basis.source for cost in (own, shared)}
    assert len(sources) == 1
    assert shared.of_engine("vllm").decode_attention(work, heads) == shared.decode_attention(work, heads)


def test_fused_quantisation_has_no_kernel_of_its_own() -> None:
    model, cluster = load_model("llama-3.1-8b"), load_cluster("1xh100-sxm")
    names = {}
    for preset in (load_preset("trtllm-0.14"), load_preset("vllm-1")):
        settings = resolve_settings(preset, cluster.device, 2048)
        stages = tensor_pipeline_stages((model.n_layers,), 1, 1, ep=False)
        shape = Shape(cluster.device.name, stages, Precision("fp8", "fp8"), settings, preset)
        step_model = compile_step_model(model, cluster, shape, best_cost_model(cluster.device))
        names[preset.name] = step_model.stages[0].tokens.names
    assert "quantise" in names["vllm-1"]
    assert "quantise" not in names["trtllm-0.14"]
