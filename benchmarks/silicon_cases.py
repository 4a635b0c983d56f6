"""Turn the served measurements that ship with AIConfigurator into measured cases for `apex-sim validate serving`.

    python benchmarks/silicon_cases.py silicon_sample.csv silicon_cases.csv

`silicon_sample.csv` is `aiconfigurator_core/systems/silicon_sample.csv` of the package aiconfigurator-core 0.12.0
(Apache-2.0).  Its `agg` rows are closed loops on one server; the others, disaggregated, are left out.  What a row does
not say is taken from scripts: those of https://github.com/SemiAnalysisAI/InferenceX (formerly InferenceMAX; folder
benchmarks) for the rows that are dumps of that project.  The note of each case says what was assumed.

What the columns stand for, and how we know:

* TTFT and TPOT are means.  Where cases of InferenceX with mean and median are known (gpt-oss-120b and DeepSeek-R1 on
  H200 at the same plan and load, older engines), TTFT is within 2 % of 27 of the means, and 2 to 4 times the medians.
* `batch_size` is the batch of one rank of attention DP; `silicon_concurrency` in the source's text is the load.
* In the dumps of April `tp_size` or `moe_ep_size` of rows with expert parallelism is a product (64 for TP8 with EP8):
  the same measurement stands in the dump of March with 8.
* Rows of `aic-auto-gap-analysis` ran what the generator of https://github.com/ai-dynamo/aiconfigurator writes: fixed
  lengths, EOS ignored, 20 requests for each user (tests/baseline/precutover_ref/sglang_dense_agg/bench_run.sh) and
  room for the batch, a prompt and 1,500 tokens in a step (src/aiconfigurator/generator/rule_plugin/benchmark).  Mean
  TTFT times the requests is a whole number of nanoseconds: 20 fits TensorRT-LLM and SGLang, 10 the rows of vLLM.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

COLUMNS = [
    "case_id",
    "source",
    "engine",
    "engine_version",
    "model",
    "device",
    "n_devices",
    "tp",
    "pp",
    "ep",
    "dp",
    "attention_dp",
    "weight_dtype",
    "act_dtype",
    "kv_dtype",
    "gpu_memory_utilization_frac",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "block_size",
    "chunked_prefill",
    "prefix_cache",
    "cuda_graphs",
    "async_scheduling",
    "custom_all_reduce",
    "speculation",
    "n_gpu_blocks",
    "workload",
    "isl_tokens",
    "osl_tokens",
    "length_low_frac",
    "load_kind",
    "concurrency",
    "rate_per_s",
    "n_requests",
    "n_warmup",
    "seed",
    "ttft_mean_s",
    "tpot_mean_s",
    "noise_frac",
    "note",
]

DEVICES = {
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "b200_sxm": "b200",
    "b300_sxm": "b300",
    "gb200": "gb200",
    "gb300": "gb300",
}
#: Model names of the catalogue, and what is to be said where they are not the row's own.
MODELS = {
    "deepseek-ai/DeepSeek-R1": ("deepseek-r1", ""),
    "nvidia/DeepSeek-R1-NVFP4": ("deepseek-r1", ""),
    "deepseek-ai/DeepSeek-V3": ("deepseek-r1", "called DeepSeek-V3 there, DeepSeek-R1 in the id: same shapes"),
    "nvidia/DeepSeek-V3.1-NVFP4": ("deepseek-v3", ""),
    "MiniMaxAI/MiniMax-M2.5": ("minimax-m2", "MiniMax-M2.5 has the shapes of MiniMax-M2"),
    "openai/gpt-oss-120b": ("gpt-oss-120b", ""),
    "meta-llama/Llama-3.1-70B": ("llama-3.1-70b", ""),
    "meta-llama/Llama-3.1-8B-Instruct": ("llama-3.1-8b", ""),
    "nvidia/Llama-3.1-8B-Instruct-FP8": ("llama-3.1-8b", ""),
    "Qwen/Qwen3-32B": ("qwen3-32b", ""),
    "nvidia/Qwen3-32B-NVFP4": ("qwen3-32b", ""),
    "Qwen/Qwen3-235B-A22B-FP8": ("qwen3-235b-a22b", ""),
    "moonshotai/Kimi-K2.5": ("kimi-k2", "the language model of Kimi-K2.5 has the shapes of Kimi-K2"),
    "Qwen/Qwen3.5-397B-A17B": ("qwen3.5-397b-a17b", ""),
    "zhipuai/GLM-5": ("glm-5", ""),
}
#: Checkpoints that are fp8 in blocks whatever the row's label; they also have a layer to speculate with.
BLOCK_FP8 = ("deepseek-r1", "deepseek-v3", "minimax-m2", "qwen3-235b-a22b", "qwen3.5-397b-a17b", "glm-5")
SPECULATES = ("deepseek-r1", "deepseek-v3", "qwen3.5-397b-a17b", "glm-5")
#: Versions by month for rows without a number: what InferenceX ran then, or the release before it.
VERSIONS = {
    "vllm": (("2025-11", "0.11.0"), ("2026-01", "0.11.2"), ("9999", "0.19.0")),
    "sglang": (("2026-01", "0.5.5"), ("2026-03", "0.5.8"), ("9999", "0.5.9")),
    "trtllm": (("2026-02", "1.1.0rc2"), ("9999", "1.2.0rc6")),
}
#: TensorRT-LLM images with which InferenceX ran DeepSeek only with speculation in that month: their TPOT is 0.5 to
#: 0.8 of that of the other images at every load.  A row within 5 % of the slowest is not taken as such.
SPECULATING = (("1.2.0rc6.post3", ""), ("1.1.0rc2.post2", "2026-01"))
#: Otherwise two rows of one image, deployment and load that differ by more than this may be with and without.
_FASTER_FRAC = 0.93
_OFFICIAL = ("vllm/vllm-openai", "lmsysorg/sglang", "tensorrt-llm/release")

Row = dict[str, str]


class InexpressibleError(Exception):
    """The row cannot be written in the columns of a measured case; the text is the reason."""


def main() -> None:
    """Read the one file, write the other, and count on stderr what was left out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sample", type=Path)
    parser.add_argument("cases", type=Path)
    paths = parser.parse_args()
    with paths.sample.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    cases, dropped = convert(rows)
    with paths.cases.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(cases)
    print(f"{len(rows)} rows, {len(cases)} cases; left out:", file=sys.stderr)
    for reason, n in dropped.most_common():
        print(f"{n:6d}  {reason}", file=sys.stderr)


def convert(rows: Iterable[Row]) -> tuple[list[Row], Counter[str]]:
    """Return the cases, each measurement once, and how many rows were left out for which reason."""
    dropped: Counter[str] = Counter()
    cases: dict[tuple[str, ...], Row] = {}
    for row in sorted(rows, key=_preference):
        if row["mode"] != "agg":
            dropped["disaggregated"] += 1
            continue
        try:
            case = _case(row)
        except InexpressibleError as error:
            dropped[str(error)] += 1
            continue
        key = tuple(case[name] for name in ("engine", "model", "device", "tp", "concurrency", "isl_tokens"))
        key += (case["osl_tokens"], f"{float(case['ttft_mean_s']):.4f}", f"{float(case['tpot_mean_s']):.5f}")
        if key in cases:
            dropped["the same measurement as another row"] += 1
        else:
            cases[key] = case
    _mark_speculation(list(cases.values()))
    return sorted(cases.values(), key=lambda case: case["case_id"]), dropped


def _preference(row: Row) -> tuple[int, str]:
    """Sort key: of equal measurements the row that says most comes first."""
    text = row["silicon_data_source"]
    return (not any(name in text for name in _OFFICIAL), text)


def _case(row: Row) -> Row:
    text = row["silicon_data_source"]
    ours = "aic-auto-gap-analysis" in text
    model, renamed = MODELS[row["model_path"]]
    concurrency = _concurrency(row)
    case = {
        "case_id": row["id"],
        "source": "silicon_aic" if ours else "silicon_inferencex",
        "engine": row["backend"],
        "model": model,
        "device": DEVICES[row["system"]],
        "pp": row["pp_size"],
        "dp": "1",
        "prefix_cache": "" if ours else "0",
        "isl_tokens": row["isl"],
        "osl_tokens": row["osl"],
        "load_kind": "closed",
        "concurrency": str(concurrency),
        "ttft_mean_s": f"{float(row['silicon_ttft_ms']) / 1e3:.9g}",
        "tpot_mean_s": f"{float(row['silicon_tpot_ms']) / 1e3:.9g}",
        "noise_frac": "0.03",
    }
    notes = [renamed]
    case["engine_version"], version_note = _version(row)
    case |= _plan(row, ours)
    case["n_devices"] = str(int(case["tp"]) * int(case["pp"]))
    case["weight_dtype"], dtype_note = _weights(row, model)
    case["length_low_frac"] = "1" if ours else "0.8"
    times = 20 if ours and row["backend"] != "vllm" else 10
    case["n_requests"] = str(times * concurrency)
    case["n_warmup"] = str(2 * concurrency)
    notes += [version_note, dtype_note, f"{times} requests for each user"]
    if ours:
        case |= _generated(case)
        notes.append("lengths and settings as AIConfigurator's generator writes them")
    else:
        case |= _script(case)
        notes.append("lengths and settings as in InferenceX's scripts")
    case["note"] = "; ".join(note for note in (*notes, f"measured {_month(text)}") if note)
    return case


def _concurrency(row: Row) -> int:
    stated = re.search(r"silicon_concurrency=(\d+)", row["silicon_data_source"])
    if not stated:
        raise InexpressibleError("no concurrency")
    if not row["batch_size"]:
        raise InexpressibleError("no batch size")
    dense = row["moe_ep_size"] in ("0", "1") and row["moe_tp_size"] in ("0", "1")
    if dense and int(stated[1]) != int(row["batch_size"]):
        raise InexpressibleError("several replicas, their number not stated")
    return int(stated[1])


def _plan(row: Row, ours: bool) -> Row:
    """Return tp, ep and attention_dp."""
    tp, moe_tp, moe_ep = (int(row[name]) for name in ("tp_size", "moe_tp_size", "moe_ep_size"))
    ranks = int(row["attention_dp_size"] or 0)
    if ours:
        return _plan_of_harness(row, tp, moe_tp, moe_ep)
    if row["system"] == "gb200":
        raise InexpressibleError("a disaggregated run on GB200 that is labelled agg: its TP is the sum of all devices")
    stated = re.search(r"_tp(\d+)(?:_0)?_ep(\d+)", row["id"])
    if stated:
        n_devices, ep = int(stated[1]), int(stated[2])
    elif moe_tp > 1 and moe_ep > 1:
        n_devices, ep = moe_tp, moe_ep
    else:
        n_devices, ep = tp * (ranks if tp == 1 else 1), min(moe_ep, tp if tp > 1 else moe_ep)
    attention_dp = int(tp == 1 and ranks > 1)
    if ep not in (1, n_devices):
        raise InexpressibleError(f"TP{n_devices} with EP{ep}")
    return {"tp": str(n_devices), "ep": str(ep), "attention_dp": str(attention_dp)}


def _plan_of_harness(row: Row, tp: int, moe_tp: int, moe_ep: int) -> Row:
    """Return the plan of a row whose experts may lie on more devices than its attention: attention DP."""
    n_expert_devices = max(moe_tp, 1) * max(moe_ep, 1)
    shared = int(re.search(r"silicon_concurrency=(\d+)", row["silicon_data_source"])[1]) // int(row["batch_size"])
    if n_expert_devices > tp > 1:
        raise InexpressibleError(f"attention TP{tp} x DP{n_expert_devices // tp}")
    if shared > 1 and shared != tp:
        raise InexpressibleError("batch size and concurrency do not fit the plan")
    n_devices = max(tp, n_expert_devices)
    if moe_ep not in (0, 1, n_devices):
        raise InexpressibleError(f"TP{moe_tp} with EP{moe_ep} in the experts")
    attention_dp = int(n_expert_devices > tp or shared > 1)
    return {"tp": str(n_devices), "ep": str(max(moe_ep, 1)), "attention_dp": str(attention_dp)}


def _weights(row: Row, model: str) -> tuple[str, str]:
    label = row["gemm_quant_mode"] or row["precision"]
    if model == "gpt-oss-120b":
        return "mxfp4", f"labelled {label}: the checkpoint's mxfp4"
    if label in ("nvfp4", "fp4"):
        return "nvfp4", ""
    if label == "int4_wo":
        return "w4a16", "all linear layers taken as int4"
    if label in ("fp8", "fp8_block"):
        return ("fp8-block" if model in BLOCK_FP8 or label == "fp8_block" else "fp8"), ""
    return "bf16", ""


def _version(row: Row) -> tuple[str, str]:
    stated = row["backend_version"]
    if re.match(r"\d+\.\d+", stated) and not stated.startswith("0.8."):
        return stated, ""
    month = _month(row["silicon_data_source"])
    version = next(version for before, version in VERSIONS[row["backend"]] if month < before)
    return version, f"engine_version assumed by the date, stated {stated or 'nothing'}"


def _month(text: str) -> str:
    stated = re.search(r"measured=(\d{4}-\d{2})", text)
    return stated[1] if stated else "2026-03"


def _script(case: Row) -> Row:
    """Return the server's flags in InferenceX's scripts, as far as they were found; else nothing."""
    users, isl, osl = (int(case[name]) for name in ("concurrency", "isl_tokens", "osl_tokens"))
    hopper, model = case["device"] in ("h100-sxm", "h200-sxm"), case["model"]
    longest = isl + osl + (20 if isl == osl == 1024 else 200)
    match case["engine"], model:
        case "vllm", "gpt-oss-120b" | "llama-3.1-70b":
            kv = "bf16" if hopper and model == "gpt-oss-120b" else "fp8"
            flags = {"kv_dtype": kv, "max_num_batched_tokens": 8192, "max_num_seqs": users if hopper else 512}
            flags |= {"max_model_len": longest, "async_scheduling": 1, "gpu_memory_utilization_frac": 0.9}
        case "sglang", "deepseek-r1":
            flags = _sglang_deepseek(case, hopper)
        case "trtllm", "gpt-oss-120b":
            flags = {"kv_dtype": "bf16" if hopper else "fp8", "max_num_batched_tokens": 20000}
            flags |= {"max_num_seqs": users if hopper else 512, "gpu_memory_utilization_frac": 0.85}
            flags |= {"max_model_len": longest}
        case "trtllm", "llama-3.1-70b":
            flags = {"kv_dtype": "fp8", "max_num_batched_tokens": 16384, "max_model_len": longest}
        case "trtllm", "deepseek-r1":
            flags = _trtllm_deepseek(case, hopper)
        case "vllm", "minimax-m2":
            flags = {"max_model_len": longest, "gpu_memory_utilization_frac": 0.95}
        case "vllm", _:
            flags = {"max_num_seqs": users, "max_model_len": longest}
        case _:
            flags = {}
    return {name: str(value) for name, value in flags.items()}


def _generated(case: Row) -> Row:
    """Return the server's flags that AIConfigurator's generator sets, for the ranks' share of the users as batch."""
    ranks = int(case["tp"]) if case["attention_dp"] == "1" else 1
    batch, isl, osl = max(int(case["concurrency"]) // ranks, 1), int(case["isl_tokens"]), int(case["osl_tokens"])
    tokens = batch + isl + 1500
    match case["engine"]:
        case "vllm":
            flags = {"max_num_seqs": batch, "max_num_batched_tokens": tokens, "max_model_len": isl + osl + 1500}
        case "trtllm":
            flags = {"max_num_seqs": batch, "max_num_batched_tokens": -(-tokens // 32) * 32}
        case _:
            flags = {}
    return {name: str(value) for name, value in flags.items()}


def _trtllm_deepseek(case: Row, hopper: bool) -> dict[str, object]:
    users, isl, osl = (int(case[name]) for name in ("concurrency", "isl_tokens", "osl_tokens"))
    if not hopper:
        tokens = max((users + isl + 127) // 64 * 64, 8192)
        return {
            "kv_dtype": "fp8",
            "max_num_batched_tokens": tokens,
            "max_model_len": max(isl + osl + 200, 8192),
        } | _share(0.8)
    of_rank = max(users // int(case["tp"]), 1) if case["attention_dp"] == "1" else users
    tokens = (of_rank + isl + 127) // 64 * 64
    flags = {"kv_dtype": "fp8", "max_num_seqs": of_rank, "max_num_batched_tokens": tokens}
    return flags | {"max_model_len": isl + osl + 200} | _share(0.75)


def _sglang_deepseek(case: Row, hopper: bool) -> dict[str, object]:
    if case["weight_dtype"] == "nvfp4":
        return {"kv_dtype": "fp8", "max_num_batched_tokens": 16384, "max_num_seqs": 256} | _share(0.85)
    if hopper:
        short = case["isl_tokens"] == case["osl_tokens"]
        return {"kv_dtype": "bf16", "max_num_batched_tokens": 32768, "max_num_seqs": 512 if short else 256} | _share(
            0.82
        )
    if case["tp"] == "4":
        return {"kv_dtype": "fp8", "max_num_batched_tokens": 8192, "max_num_seqs": 32} | _share(0.95)
    return {"kv_dtype": "fp8", "max_num_batched_tokens": 32768, "max_num_seqs": 128} | _share(0.82)


def _share(fraction: float) -> dict[str, object]:
    return {"gpu_memory_utilization_frac": fraction}


def _mark_speculation(cases: list[Row]) -> None:
    """Flag the rows that did or may have speculated: far faster than others of the same load."""
    load = ("source", "engine", "model", "device", "tp", "weight_dtype", "concurrency", "isl_tokens", "osl_tokens")
    for names, images_only in ((load, True), ((*load, "ep", "attention_dp", "engine_version"), False)):
        groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
        for case in cases:
            groups[tuple(case[name] for name in names)].append(case)
        for group in groups.values():
            _mark_group([case for case in group if case["model"] in SPECULATES], images_only)


def _mark_group(group: list[Row], images_only: bool) -> None:
    slowest_s = max((float(case["tpot_mean_s"]) for case in group), default=0.0)
    for case in group:
        share = float(case["tpot_mean_s"]) / slowest_s
        month = case["note"].rpartition("measured ")[2]
        image = case["engine"] == "trtllm" and any(
            case["engine_version"] == version and month.startswith(when) for version, when in SPECULATING
        )
        if images_only and image and (share < 0.95 or len(group) == 1):
            case["speculation"] = "mtp"
            case["note"] = f"speculation inferred from the image and TPOT; {case['note']}"
        elif not images_only and share < _FASTER_FRAC and not case.get("speculation"):
            case["speculation"] = "unstated"
            case["note"] = f"may speculate, TPOT is {share:.2f} of another row's of this deployment; {case['note']}"


if __name__ == "__main__":
    main()
