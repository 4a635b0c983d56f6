"""The price of a step: by hand at batch 1, and the properties that every price must have."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_sim.cost.calibrated import calibrated_costs
from apex_sim.cost.cost_model import CostModel
from apex_sim.cost.look_up import locate
from apex_sim.cost.meter import StageMeter
from apex_sim.cost.operators import attention_groups, head_operators, tokenwise_operators
from apex_sim.cost.roofline import Roofline
from apex_sim.cost.sizes import AttentionSizes, DecodeWork, PrefillWork
from apex_sim.cost.step_batch import StepBatch
from apex_sim.cost.step_model import StageModel, StepModel, compile_step_model, knots
from apex_sim.hardware.cluster import load_cluster
from apex_sim.hardware.device import Device
from apex_sim.model.load import load_model
from apex_sim.plan.precision import Precision
from apex_sim.plan.scheduler import resolve_settings
from apex_sim.plan.shape import CellParallelism, Shape, Stage, balanced_split, tensor_pipeline_stages
from apex_sim.plan.weights import stage_weight_bytes
from apex_sim.preset.load import load_preset

BANDWIDTH = 3.35e12 * 0.8  # what the roofline reaches


@cache
def _step_model(
    name: str = "llama-3.1-70b",
    tp: int = 8,
    pp: int = 1,
    preset: str = "vllm-1",
    weight: str = "bf16",
    cuda_graphs: bool = True,
    cluster: str = "8xh100-sxm",
    fitted: bool = False,
) -> StepModel:
    model, devices, engine = load_model(name), load_cluster(cluster), load_preset(preset)
    scheduler = resolve_settings(engine, devices.device, 16_384, pp=pp, cuda_graphs=cuda_graphs)
    stages = tensor_pipeline_stages(balanced_split(model.n_layers, pp), tp)
    shape = Shape(devices.device.name, stages, Precision(weight), scheduler, engine)
    cost = calibrated_costs(devices.device) if fitted else Roofline(devices.device)
    return compile_step_model(model, devices, shape, cost)


def _batch(step_model: StepModel, decodes: list[int], prompts: list[tuple[int, int]] | None = None) -> StepBatch:
    """Return a batch of decodes behind so many tokens, and prompt chunks (past, new) that do not finish."""
    batch = StepBatch(step_model.windows)
    for past in decodes:
        batch.add(past, 1, samples=True, is_decode=True)
    for past, n_new in prompts or []:
        batch.add(past, n_new, samples=False, is_decode=False)
    return batch


def _exact_s(stage: StageModel, n_tokens: int) -> float:
    """Return the token-wise time without tables."""
    operators = tokenwise_operators(stage.context, np.array([float(n_tokens)]))
    return sum(float(np.sum(parts.kernel_s)) for _, parts in operators)


def test_a_single_token_of_llama_70b_at_tp8_reads_the_weights() -> None:
    """17.64 GB a device less its embedding slice (0.263 GB) at 2.68 TB/s: 6.48 ms; and the collectives."""
    stage = _step_model().stages[0]
    price = stage.price(_batch(_step_model(), [0]))
    weights_s = (17_640_734_720 - 2 * 16_032 * 8192) / BANDWIDTH
    assert weights_s == pytest.approx(6.48e-3, rel=2e-3)
    collectives_s = 161 * 14 * (0.47e-6 + 2048 / 450e9) + 7 * (0.47e-6 + 128_256 * 2 / 8 / 450e9)
    device_s = price.device_s - price.launch_s
    assert device_s == pytest.approx(weights_s + collectives_s, rel=0.01)
    assert device_s > weights_s + collectives_s


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(("tp", "measured_s"), [(8, 14.0e-3), (4, 20.4e-3), (2, 32.2e-3)])
def test_a_single_token_of_llama_70b_takes_about_the_measured_time(tp: int, measured_s: float, fitted: bool) -> None:
    """Batch-1 steps of vLLM 0.6.0 on H100, from apex_plus's published runs; nothing here was fitted to them."""
    step_model = _step_model(tp=tp, preset="vllm-0.6", fitted=fitted)
    batch = _batch(step_model, [200])
    step_s = step_model.stages[0].price(batch).device_s + step_model.host_s(batch)
    assert step_s == pytest.approx(measured_s, rel=0.1)


@pytest.mark.parametrize(("name", "fitted"), [("llama-3.1-8b", False), ("llama-3.1-70b", True)])
def test_fp8_nearly_halves_a_weight_bound_step(name: str, fitted: bool) -> None:
    times = {}
    for weight in ("bf16", "fp8"):
        step_model = _step_model(name, 1, weight=weight, fitted=fitted)
        price = step_model.stages[0].price(_batch(step_model, [100]))
        times[weight] = price.device_s - price.launch_s
    assert 0.5 < times["fp8"] / times["bf16"] < 0.6


@pytest.mark.parametrize(
    ("name", "tp", "weight"),
    [
        ("llama-3.1-70b", 8, "fp8"),
        ("mixtral-8x7b", 2, "bf16"),
        ("gpt-oss-120b", 1, "mxfp4"),
        ("qwen3-30b-a3b", 4, "bf16"),
    ],
)
@pytest.mark.parametrize("cluster", ["8xh100-sxm", "8xh200-sxm"])
@pytest.mark.parametrize("fitted", [False, True])
def test_tables_agree_with_direct_evaluation(name: str, tp: int, weight: str, cluster: str, fitted: bool) -> None:
    stage = _step_model(name, tp, weight=weight, cluster=cluster, fitted=fitted).stages[0]
    rng = np.random.default_rng(1)
    errors = []
    for n_tokens in rng.integers(1025, 8192, 200).tolist():
        knot, fraction = locate(n_tokens)
        totals_s = stage.tokens.totals_s[:, 0]
        upper = totals_s[min(knot + 1, len(totals_s) - 1)]
        looked_up = totals_s[knot] * (1 - fraction) + upper * fraction
        errors.append(abs(looked_up / _exact_s(stage, n_tokens) - 1))
    assert np.median(errors) <= 0.01
    assert max(errors) <= 0.03
    for n_tokens in (1, 7, 1000, 1024, 1025, 1088, 8129, 8192):
        assert stage.tokens.totals_s[locate(n_tokens)[0], 0] == pytest.approx(_exact_s(stage, n_tokens))


@given(st.integers(1, 20_000))
def test_knots_cover_every_step_that_a_budget_allows(max_tokens: int) -> None:
    at = knots(max_tokens)
    knot, fraction = locate(max_tokens)
    assert at[knot] <= max_tokens <= at[-1]
    assert at[knot] + fraction * (at[knot + 1] - at[knot] if fraction else 0) == max_tokens


_LENGTHS = st.lists(st.integers(0, 12_000), max_size=40)
_CHUNKS = st.lists(st.tuples(st.integers(0, 8000), st.integers(1, 1500)), max_size=4)


@settings(max_examples=60, deadline=None)
@given(_LENGTHS, _CHUNKS, st.sampled_from(["vllm-0.6", "vllm-1"]), st.sampled_from([1, 2]), st.booleans())
def test_operator_times_add_up_and_power_stays_in_range(
    decodes: list[int], prompts: list[tuple[int, int]], preset: str, pp: int, fitted: bool
) -> None:
    """INV-5 for one stage, and idle power <= power <= maximum power."""
    step_model = _step_model("gpt-oss-20b", 2, pp, preset, fitted=fitted)
    batch = _batch(step_model, decodes, prompts)
    if not batch.n_tokens:
        return
    device = load_cluster("8xh100-sxm").device
    for stage in step_model.stages:
        meter = StageMeter(stage)
        price = stage.price(batch)
        meter.count(batch, price, 0.003)
        meter.count(batch, price, 0.0)
        assert sum(meter.operators_s().values()) == pytest.approx(meter.busy_s + meter.host_s)
        assert min(meter.operators_s().values()) >= 0
        assert meter.busy_s == pytest.approx(2 * price.device_s)
        assert 0 <= price.dynamic_j <= (device.max_w - device.idle_w) * price.device_s * (1 + 1e-12)


@pytest.mark.parametrize(("preset", "mixed_in_graph"), [("vllm-0.6", False), ("vllm-1", True)])
def test_decodes_are_padded_to_the_captured_size(preset: str, mixed_in_graph: bool) -> None:
    step_model = _step_model(preset=preset)
    stage = step_model.stages[0]
    for n, padded in ((3, 4), (5, 8), (9, 16), (250, 256)):
        assert stage.price(_batch(step_model, [100] * n)).knot == padded
    mixed = stage.price(_batch(step_model, [100] * 3, [(0, 10)]))
    assert mixed.knot == (16 if mixed_in_graph else 13)


def test_v0_runs_eagerly_beyond_8192_tokens_of_context_and_v1_beyond_512_tokens() -> None:
    v0, v1 = _step_model(preset="vllm-0.6"), _step_model()
    assert v0.stages[0].price(_batch(v0, [8191, 3, 3])).knot == 4
    assert v0.stages[0].price(_batch(v0, [8192, 3, 3])).knot == 3
    assert v1.stages[0].price(_batch(v1, [100] * 497)).knot == 512
    assert v1.stages[0].price(_batch(v1, [100] * 513)).knot == 513


def test_eager_launches_show_only_where_kernels_are_shorter() -> None:
    """Some 1,300 launches at 25 us take longer than a single token's kernels, and are hidden by a long prompt's."""
    step_model = _step_model(preset="vllm-0.6", cuda_graphs=False)
    stage = step_model.stages[0]
    short, long = (stage.price(_batch(step_model, [], [(0, n)])) for n in (1, 8000))
    n_launches = stage.tokens.n_launches + 80
    assert short.device_s == pytest.approx(n_launches * 25e-6)
    assert long.launch_s == pytest.approx(n_launches * 2e-6)


def test_fitted_kernels_hold_their_start_up_gaps_themselves() -> None:
    """In a graph nothing is left to add but the gaps of what the roofline prices; at one device that is nothing."""
    step_model = _step_model("llama-3.1-8b", 1, fitted=True)
    between_s = step_model.shape.preset.host.between_steps_s
    assert step_model.stages[0].price(_batch(step_model, [100] * 8)).launch_s == between_s
    assert step_model.stages[0].tokens.n_launches > 32 * 8


def test_a_step_that_samples_nothing_does_not_read_the_head() -> None:
    step_model = _step_model(preset="vllm-0.6")
    stage = step_model.stages[0]
    silent = _batch(step_model, [], [(0, 4000)])
    samples = _batch(step_model, [])
    samples.add(0, 4000, samples=True, is_decode=False)
    head_s = sum(float(np.sum(p.kernel_s)) for _, p in head_operators(stage.context, np.array([1.0])))
    gap_s = stage.head.n_launches * 2e-6
    slowdown = load_preset("vllm-0.6").slowdown.factor("bf16", 4000)
    assert stage.price(samples).device_s - stage.price(silent).device_s == pytest.approx(head_s * slowdown + gap_s)
    meter = StageMeter(stage)
    meter.count(silent, stage.price(silent), 0.0)
    assert meter.operators_s()["lm_head"] == 0.0


def _prices(step_model: StepModel, sizes: list[int], prompts: bool) -> Iterator[float]:
    for n in sizes:
        batch = _batch(step_model, [], [(0, n)]) if prompts else _batch(step_model, [500] * n)
        yield step_model.stages[0].price(batch).device_s


@pytest.mark.parametrize("preset", ["vllm-0.6", "vllm-1"])
@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt-oss-20b"])
def test_more_work_never_takes_less_time(name: str, preset: str) -> None:
    """Within decodes in graphs, and within prompts in graphs or without."""
    step_model = _step_model(name, 1, preset=preset)
    for sizes, prompts in (
        (list(range(1, 257)), False),
        (list(range(1, 513, 7)), True),
        (list(range(513, 8193, 61)), True),
    ):
        times = list(_prices(step_model, sizes, prompts))
        assert times == sorted(times)


def test_decode_attention_follows_the_context_and_stops_at_the_window() -> None:
    """Llama: 8 KV heads / TP8 x 128 x 2 x 2 bytes in 80 layers a token.  gpt-oss: half of the layers see 128 tokens."""
    llama = _step_model()
    long, short = (sum(llama.stages[0].price(_batch(llama, [n])).decode_s) for n in (16_000, 1000))
    assert long - short == pytest.approx(80 * 15_000 * 512 / BANDWIDTH)
    oss = _step_model("gpt-oss-120b", 1, weight="mxfp4")
    long, short = (sum(oss.stages[0].price(_batch(oss, [n])).decode_s) for n in (16_000, 1000))
    assert long - short == pytest.approx(18 * 15_000 * 2 * 8 * 64 * 2 / BANDWIDTH)


def test_stages_of_a_pipeline_share_the_work() -> None:
    """Twice 40 layers: less than the whole by nothing but embedding and head, plus the hand-over and a second wait."""
    whole, half = _step_model(tp=4), _step_model(tp=4, pp=2)
    batch = _batch(whole, [300] * 8)
    whole_s = whole.stages[0].price(batch).device_s
    halves_s = [stage.price(batch).device_s for stage in half.stages]
    assert sum(halves_s) - half.shape.preset.host.between_steps_s == pytest.approx(whole_s, rel=0.01)
    assert halves_s[1] > halves_s[0]  # the head


def test_no_work_costs_nothing() -> None:
    """The first knot of every table is a step without tokens: nothing is launched, read or reduced."""
    for fitted in (False, True):
        stage = _step_model("llama-3.1-8b", 1, cuda_graphs=False, fitted=fitted).stages[0]
        assert stage.tokens.totals_s[0, 0] == stage.head.totals_s[0, 0] == 0.0
        price = stage.price(StepBatch((None,)))
        assert price.device_s == price.launch_s
        assert (price.prefill_s, price.decode_s) == ((0.0,), (0.0,))


@pytest.mark.parametrize("fitted", [False, True])
def test_a_step_never_draws_more_than_the_device_may(fitted: bool) -> None:
    """From an idle step to a full prompt: energy above idle within the dynamic range, and more of it for more work."""
    step_model = _step_model("llama-3.1-8b", 1, fitted=fitted)
    stage, device = step_model.stages[0], load_cluster("8xh100-sxm").device
    spent = []
    for prompt in (1, 100, 1000, 8000):
        price = stage.price(_batch(step_model, [500] * 10, [(0, prompt)]))
        assert 0 < price.dynamic_j <= (device.max_w - device.idle_w) * price.device_s * (1 + 1e-12)
        spent.append(price.dynamic_j)
    assert spent == sorted(spent)


def test_shares_name_what_each_price_rests_on() -> None:
    """On an H100 all kernels are fitted, on an A10 none; attention beyond the data's 2,048 sequences is marked."""
    for cluster, fitted, expected in (("8xh100-sxm", True, {"calibrated"}), ("1xa10", False, {"roofline"})):
        step_model = _step_model("llama-3.1-8b", 1, cluster=cluster, fitted=fitted)
        meter = StageMeter(step_model.stages[0])
        batch = _batch(step_model, [500] * 10, [(0, 300)])
        meter.count(batch, step_model.stages[0].price(batch), 0.0)
        shares = [share for share in meter.shares() if share.spent_s]
        assert {share.basis.back_end for share in shares} == expected
        assert all((share.basis.expected_error_frac is not None) == fitted for share in shares)
        assert all(0.0 <= share.outside_s <= share.spent_s for share in shares)
        spent = sum(share.spent_s for share in shares)
        assert spent == pytest.approx(meter.busy_s - meter.launch_s)


def test_prompts_outside_graphs_run_slower_and_decodes_do_not() -> None:
    step_model = _step_model(preset="vllm-0.6")
    stage, slowdown = step_model.stages[0], load_preset("vllm-0.6").slowdown
    prompt = stage.price(_batch(step_model, [], [(0, 4000)]))
    kernel_s = prompt.device_s - prompt.launch_s - prompt.slowdown_s
    assert prompt.slowdown_s == pytest.approx((slowdown.factor("bf16", 4000) - 1) * kernel_s)
    assert prompt.slowdown_s > 0
    for decodes in ([100, 3, 3], [8192, 3, 3]):  # inside a graph, and with too long a context for one
        assert stage.price(_batch(step_model, decodes)).slowdown_s == 0.0


def test_host_time_counts_sequences() -> None:
    step_model, host = _step_model(preset="vllm-0.6"), load_preset("vllm-0.6").host
    eight = step_model.host_s(_batch(step_model, [10] * 7, [(0, 5)]))
    assert eight == pytest.approx(host.step_s + 8 * host.sequence_s)
    assert eight > step_model.host_s(_batch(step_model, [10] * 7))


def test_a_step_above_the_budget_is_a_defect() -> None:
    step_model = _step_model()
    with pytest.raises(ValueError, match="more tokens than its table"):
        step_model.stages[0].price(_batch(step_model, [], [(0, 8193)]))


@pytest.mark.parametrize("back_end", [Roofline, calibrated_costs])
def test_llama_405b_compiles_within_half_a_second(back_end: Callable[[Device], CostModel]) -> None:
    model, cluster = load_model("llama-3.1-405b"), load_cluster("8xh100-sxm")
    shape = replace(_step_model().shape, stages=tensor_pipeline_stages((126,), 8))
    started = time.process_time()
    compile_step_model(model, cluster, shape, back_end(cluster.device))
    assert time.process_time() - started <= 0.5


@pytest.mark.parametrize("back_end", [Roofline, calibrated_costs])
def test_deepseek_r1_over_64_ranks_compiles_within_two_seconds(back_end: Callable[[Device], CostModel]) -> None:
    """Its steps are priced too: 64 decodes on each rank take longer than reading the rank's weights."""
    model, cluster = load_model("deepseek-r1"), load_cluster("8x8xh200-sxm")
    stages = (Stage(0, model.n_layers, CellParallelism(attention_dp=64), CellParallelism(ep=64)),)
    shape = replace(_step_model().shape, device="h200-sxm", stages=stages, precision=Precision("fp8-block"))
    started = time.process_time()
    step_model = compile_step_model(model, cluster, shape, back_end(cluster.device))
    assert time.process_time() - started <= 2.0
    price = step_model.stages[0].price(_batch(step_model, [2000] * 64))
    read_s = stage_weight_bytes(model, stages, 0, shape.precision) / cluster.device.memory_bytes_per_s
    assert read_s < price.device_s < 0.1


def test_a_step_is_priced_in_tens_of_microseconds() -> None:
    """Look-ups only: some 150,000 prices a second on one core, and 10,000 on a slow and busy one."""
    step_model = _step_model(fitted=True)
    batch = _batch(step_model, [500] * 64, [(0, 300)])
    started = time.process_time()
    for _ in range(1000):
        step_model.stages[0].price(batch)
    assert time.process_time() - started <= 0.1


def _direct_s(step_model: StepModel, batch: StepBatch) -> float:
    """Return the kernels of a step on its first stage, each operator evaluated at the batch itself."""
    stage = step_model.stages[0]
    context, cost = stage.context, stage.context.cost
    parts = [part for _, part in tokenwise_operators(context, np.array([float(batch.n_tokens)]))]
    parts += (
        [part for _, part in head_operators(context, np.array([float(batch.n_sampled)]))] if batch.n_sampled else []
    )
    spent_s = sum(float(np.sum(part.kernel_s)) for part in parts)
    for group in attention_groups(context):
        at = step_model.windows.index(group.window)
        sums = (batch.prefill_pairs[at], batch.n_prefill_tokens, batch.prefill_keys[at], batch.n_prefill_sequences)
        prefill, decode = (
            PrefillWork(*map(float, sums)),
            DecodeWork(float(batch.n_decode), float(batch.decode_keys[at])),
        )
        plain = isinstance(group.sizes, AttentionSizes)
        launches: list[tuple[int, Any, Any]] = [
            (batch.n_prefill_tokens, cost.prefill_attention if plain else cost.latent_prefill, prefill),
            (batch.n_decode, cost.decode_attention if plain else cost.latent_decode, decode),
        ]
        for count, price, work in launches:
            spent_s += float(np.sum(price(work, group.sizes).kernel_s)) * group.n_layers if count else 0.0
    return spent_s


@pytest.mark.parametrize(
    ("name", "tp", "cluster", "weight"),
    [
        ("llama-3.1-8b", 1, "8xh100-sxm", "bf16"),
        ("llama-3.1-70b", 8, "8xh100-sxm", "bf16"),
        ("gpt-oss-120b", 2, "8xh200-sxm", "mxfp4"),
        ("deepseek-r1", 8, "8xh200-sxm", "fp8-block"),
    ],
)
@pytest.mark.parametrize("fitted", [False, True])
def test_whole_steps_agree_with_direct_evaluation(name: str, tp: int, cluster: str, weight: str, fitted: bool) -> None:
    """Decodes alone, beside one chunk, beside prompts, beside short chunks that each have their own past."""
    step_model = _step_model(name, tp, weight=weight, cluster=cluster, fitted=fitted, cuda_graphs=False)
    rng, errors = np.random.default_rng(7), []
    for index in range(160):
        decodes = np.exp(rng.uniform(2.0, 9.5, int(rng.integers(1, 200)))).astype(int).tolist()
        n, past, longest = [(0, 0.0, 0.0), (1, 9.0, 8.9), (int(rng.integers(2, 12)), 0.0, 6.5), (30, 9.0, 5.5)][
            index % 4
        ]
        pasts = (np.exp(rng.uniform(0.0, past, n)) - 1.0).astype(int).tolist()
        chunks = np.exp(rng.uniform(0.0, longest, n)).astype(int).tolist()
        batch = _batch(step_model, decodes, list(zip(pasts, chunks, strict=True)))
        price = step_model.stages[0].price(batch)
        errors.append((price.device_s - price.launch_s - price.slowdown_s) / _direct_s(step_model, batch) - 1)
    assert np.median(np.abs(errors)) <= 0.01
    assert np.abs(errors).max() <= 0.03
