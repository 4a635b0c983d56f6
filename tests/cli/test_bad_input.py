"""Every kind of bad input ends in one message that names the place and the remedy, an exit code, and nothing else."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from apex_sim.cli.main import commands

HEADER = "arrival_s,prompt_tokens,output_tokens\n"
STUDY = 'model = "llama-3.1-8b"\ncluster = "1xh100-sxm"\nworkload = "chat"\n'
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096}
LINE_BYTES = 100 * 2**20

FILES: dict[str, str | bytes] = {
    "syntax.toml": 'model = "llama-3.1-8b"\nworkload = \n',
    "void.toml": "",
    "unknown-key.toml": f"{STUDY}objectve = 'e2e'\n",
    "unknown-nested.toml": f"{STUDY}[space]\nptp = [1]\n",
    "wrong-type.toml": f"{STUDY}[load]\nn_requests = 1.5\n",
    "nan.toml": f"{STUDY}[load]\nrate_per_s = nan\n",
    "degree.toml": f"{STUDY}[space]\ntp = [0]\n",
    "format.toml": f"{STUDY}[space]\nweight_dtypes = ['int3']\n",
    "slo.toml": f"{STUDY}[slo]\nttft_p99_s = -1.0\n",
    "seats.toml": f"{STUDY}[scheduler]\nmax_num_seqs = 0\n",
    "contradiction.toml": f"{STUDY}[slo]\nttft_p99_s = 2.0\ne2e_p99_s = 1.0\n",
    "latin1.toml": "model = 'é'\n".encode("latin-1"),
    "model/config.json": json.dumps(LLAMA),
    "broken.json": '{"model_type": "llama",\n "hidden_size": }',
    "deep.json": "[" * 100_000,
    "empty.csv": HEADER,
    "void.csv": "",
    "zero.csv": f"{HEADER}0,100,10\n1,0,10\n",
    "negative.csv": f"{HEADER}0,-3,10\n",
    "nan.csv": f"{HEADER}0,nan,10\n",
    "fraction.csv": f"{HEADER}0,1.5,10\n",
    "huge.csv": f"{HEADER}0,1e30,10\n",
    "order.csv": f"{HEADER}1,5,3\n0,5,3\n",
    "arrival.csv": f"{HEADER}-1,5,3\n",
    "short-row.csv": f"{HEADER}0,5\n",
    "columns.csv": "when,what\n1,2\n",
    "latin1.csv": f"{HEADER}0,".encode() + b"\xe9,3\n",
    "long.csv": f"{HEADER}0,200000,3\n",
    "broken.jsonl": '{"StartTimeOffset": 0, "ContextTokens": 5\n',
    "cases.csv": "case_id,source\n1,me\n",
}

#: What is typed, and what the message must say.  All of it ends with exit code 2.
REFUSED: dict[str, tuple[str, ...]] = {
    # commands and flags
    "search": ("Give a STUDY, or --model, --cluster and --workload", "quickstart"),
    "search --model llama-3.1-8b": ("missing: --cluster, --workload",),
    "serch quickstart": ("serch",),
    "search quickstart --modle x": ("--modle", "--model"),
    "search quickstart --tp 0": ("--tp", "'0' is not a whole number from 1"),
    "search quickstart --tp 1,x": ("--tp", "'x'"),
    "search quickstart --tp 1.5": ("--tp", "'1.5'"),
    "search quickstart --n-draft-tokens 2": ("without draft and acceptance_frac", "Give draft"),
    "search quickstart --draft llama-3.2-1b --acceptance 0.8": ("without n_draft_tokens", "Give draft"),
    "search quickstart --draft llama-3.2-1b --n-draft-tokens 0 --acceptance 0.8": ("n_draft_tokens is 0", "from 1"),
    "search quickstart --draft llama-3.2-1b --n-draft-tokens 3 --acceptance 0.8,0.7": ("acceptance_frac has 2", "one"),
    "search quickstart --draft llama-3.2-1b --n-draft-tokens 1 --acceptance 1.2": (
        "acceptance_frac 1.2",
        "from 0 to 1",
    ),
    "search quickstart --draft llama-3.2-1b --n-draft-tokens 1 --acceptance x": ("--acceptance", "'x'"),
    "search quickstart --draft mtp --n-draft-tokens 1 --acceptance 0.8": (
        "llama-3.1-70b",
        "multi-token",
        "Name a draft",
    ),
    "search quickstart --draft llama-2-70b --n-draft-tokens 1 --acceptance 0.8": ("32000", "128256", "same tokenizer"),
    "search quickstart --draft nobody --n-draft-tokens 1 --acceptance 0.8": ("unknown model 'nobody'",),
    "search quickstart --preset vllm-0.6 --draft llama-3.2-1b --n-draft-tokens 1 --acceptance 0.8": (
        "policy 'prefill-first'",
        "Use policy unified of preset vllm-1",
    ),
    "search quickstart --policy sarathi --draft llama-3.2-1b --n-draft-tokens 1 --acceptance 0.8": (
        "policy 'sarathi'",
    ),
    "search quickstart --pp 2 --draft llama-3.2-1b --n-draft-tokens 1 --acceptance 0.8": (
        "2 pipeline stages",
        "--pp 1",
    ),
    "search quickstart --async-scheduling --draft llama-3.2-1b --n-draft-tokens 1 --acceptance 0.8": (
        "async_scheduling = true",
        "switches it off",
    ),
    "search quickstart --model qwen3-next-80b-a3b --draft qwen3-30b-a3b --n-draft-tokens 1 --acceptance 0.8": (
        "linear attention (qwen3-next-80b-a3b)",
        "Leave speculation out",
    ),
    "search quickstart --tp 99999999999": ("--tp", "65536"),
    "search quickstart --rate nan": ("--rate", "'nan' is not a finite number above 0"),
    "search quickstart --rate -1": ("--rate", "'-1'"),
    "search quickstart --n-requests 0": ("--n-requests", "0"),
    "search quickstart --n-requests 99999999999": ("n_requests is 99999999999", "20000000"),
    "search quickstart --seed 99999999999999999999": ("seed is 99999999999999999999",),
    "search quickstart --jobs 0": ("--jobs", "0"),
    "search quickstart --gpu-memory-utilization 1.2": ("--gpu-memory-utilization", "'1.2'", "up to 1"),
    "search quickstart --objective latency": ("--objective", "'latency'", "throughput"),
    "search quickstart --weight-dtype int4": ("--weight-dtype", "'int4'", "mxfp4"),
    "search quickstart --kv-dtype mxfp4": ("--kv-dtype", "'mxfp4'", "fp8"),
    "search quickstart --slo fast": ("--slo", "'fast' has no '='", "ttft_p99_s=2"),
    "search quickstart --slo ttft_p99=2": ("--slo", "unknown metric 'ttft_p99'", "'ttft_p99_s'"),
    "search quickstart --slo ttft_p99_s=": ("--slo", "the limit ''"),
    "search quickstart --slo ttft_p99_s=nan": ("--slo", "the limit 'nan'"),
    "search quickstart --slo ttft_p99_s=0": ("--slo", "the limit '0'"),
    "search quickstart --slo busy_frac=1": ("--slo", "busy_frac has no better direction"),
    "search quickstart --slo ttft_p99_s=1 --slo ttft_p99_s=2": ("--slo", "limits 1 and 2"),
    "search quickstart --slo e2e_p99_s=1": ("ttft_p99_s 2.0 allows more than e2e_p99_s 1.0",),
    "search quickstart --concurrency 4 --rate 3": ("rate_per_s, concurrency and offline exclude each other",),
    "search quickstart --layers 40,40 --pp 4": ("--layers states 2 stages, and --pp 4",),
    "search quickstart --tp 3": ("no DP x TP x PP of the stated degrees gives 8 devices",),
    "search quickstart --max-num-seqs 100000": ("max_num_batched_tokens 8192 is below max_num_seqs 100000",),
    "search quickstart --max-num-seqs 0": ("--max-num-seqs", "0"),
    "search quickstart --max-num-batched-tokens 0": ("--max-num-batched-tokens", "0"),
    "search seats.toml": ("seats.toml, key 'scheduler.max_num_seqs'", "0", "greater than or equal to 1"),
    "search quickstart --preset sglang --max-num-batched-tokens 8 --max-num-seqs 8 --block-size 16": (
        "max_num_batched_tokens 8 is below block_size_tokens 16",
        "Raise the budget or lower the block size",
    ),
    **{
        f"search quickstart {engine} --max-num-batched-tokens 8 --max-num-seqs 8 --block-size 16": (
            "max_num_batched_tokens 8 is below max_model_len",
            "runs a prompt in one step",
            "Raise the budget",
        )
        for engine in (
            "--preset vllm-0.6 --policy prefill-first",
            "--preset trtllm --policy max-utilization",
            "--policy orca",
            "--policy static",
        )
    },
    "search quickstart --out x --no-files": ("--out and --no-files exclude each other",),
    "search quickstart --out void.csv": ("void.csv: not a folder", "--out"),
    "search quickstart --out void.csv/deeper": ("void.csv: not a folder", "--out"),
    "search quickstart --out /proc/nothing": ("cannot be written", "--out"),
    "simulate quickstart": ("20 plans", "State one value for --tp, --pp, --dp, --weight-dtype."),
    "simulate quickstart --tp 8": ("2 plans", "State one value for --weight-dtype."),
    "simulate quickstart --weight-dtype fp8 --tp 4": ("2 plans", "State one value for --pp, --dp."),
    "simulate quickstart --model llama-3.1-8b --cluster 2xh100-sxm+1xl40s --tp 1 --pp 1": (
        "4 plans",
        "State one value for --weight-dtype.",
    ),
    # names
    "search nosuch": ("unknown study 'nosuch'", "quickstart"),
    "search quickstrat": ("'quickstart'",),
    "search quickstart --model llama-3.1-71b": ("unknown model 'llama-3.1-71b'", "'llama-3.1-70b'"),
    "search quickstart --cluster 8xh1000": ("unknown device 'h1000'", "'h100-sxm'"),
    "search quickstart --cluster 0xh100-sxm": ("0xh100-sxm",),
    "search quickstart --cluster 9xh100-sxm": ("9xh100-sxm", "the largest node holds 8"),
    "search quickstart --workload chta": ("unknown workload 'chta'", "'chat'"),
    "search quickstart --preset vllm-2": ("unknown preset 'vllm-2'", "'vllm-1'"),
    "search quickstart --router round": ("unknown router 'round'", "round-robin"),
    "search quickstart --policy greedy": ("no policy 'greedy'", "unified"),
    "models show lama": ("unknown model 'lama'",),
    "hardware show h100": ("unknown device or cluster 'h100'", "'h100-sxm'"),
    "workloads show chta": ("unknown workload 'chta'", "'chat'"),
    # study files
    "search nosuch.toml": ("nosuch.toml", "no study file there"),
    "search model": ("unknown study 'model'",),
    "search ./model": ("./model", "no study file there"),
    "search syntax.toml": ("syntax.toml: not valid TOML", "line 2"),
    "search void.toml": ("void.toml, key 'model': missing",),
    "search unknown-key.toml": ("unknown-key.toml, key 'objectve'", "'objective'"),
    "search unknown-nested.toml": ("unknown-nested.toml, key 'space.ptp'", "'tp'"),
    "search wrong-type.toml": ("wrong-type.toml, key 'load.n_requests'", "1.5"),
    "search nan.toml": ("nan.toml, key 'load.rate_per_s'", "nan"),
    "search degree.toml": ("degree.toml, key 'space.tp'", "below 1"),
    "search format.toml": ("format.toml, key 'space.weight_dtypes'", "'int3'", "fp8"),
    "search slo.toml": ("slo.toml, table [slo], key 'ttft_p99_s'", "-1"),
    "search contradiction.toml": ("contradiction.toml, table [slo]", "ttft_p99_s 2.0 allows more"),
    "search latin1.toml": ("latin1.toml: not UTF-8",),
    # models and hardware
    "models show ./nosuch": ("./nosuch", "no model config there"),
    "models show model": ("config.json, key 'num_attention_heads': missing",),
    "search quickstart --model ./model": ("config.json, key 'num_attention_heads': missing",),
    "models show broken.json": ("broken.json, line 2: not valid JSON",),
    "models show deep.json": ("deep.json: not usable JSON",),
    "hardware show nosuch.toml": ("nosuch.toml", "no device file there"),
    "hardware show syntax.toml": ("syntax.toml: not valid TOML", "line 2"),
    # traces
    "workloads show nosuch.csv": ("nosuch.csv: no such file",),
    "workloads show void.csv": ("void.csv: the file is empty",),
    "workloads show empty.csv": ("empty.csv: a header and no requests",),
    "workloads show zero.csv": ("zero.csv, line 3: prompt_tokens is 0",),
    "workloads show negative.csv": ("negative.csv, line 2: prompt_tokens is -3",),
    "workloads show nan.csv": ("nan.csv, line 2: prompt_tokens is 'nan'",),
    "workloads show fraction.csv": ("fraction.csv, line 2: prompt_tokens is '1.5': not a whole number",),
    "workloads show huge.csv": ("huge.csv, line 2: prompt_tokens is '1e30'",),
    "workloads show order.csv": ("order.csv, line 3: arrival_s 0 is earlier",),
    "workloads show arrival.csv": ("arrival.csv, line 2", "-1"),
    "workloads show short-row.csv": ("short-row.csv, line 2",),
    "workloads show columns.csv": ("columns.csv",),
    "workloads show latin1.csv": ("latin1.csv", "not UTF-8"),
    "workloads show broken.jsonl": ("broken.jsonl, line 1: not valid JSON",),
    "search quickstart --workload zero.csv": ("zero.csv, line 3: prompt_tokens is 0",),
    "search quickstart --workload long.csv": ("200000 prompt", "llama-3.1-70b has a context of 131072"),
    # measured cases
    "validate serving nosuch.csv": ("nosuch.csv", "No such file"),
    "validate serving publishd": ("unknown set of cases 'publishd'", "Did you mean 'published'"),
    "validate serving --engine vlm": ("unknown engine 'vlm'", "Did you mean 'vllm'"),
    "validate serving cases.csv": ("cases.csv: column",),
    "validate serving cases.csv --out void.csv": ("void.csv: not a folder",),
}

#: A good question whose answer is "none": exit code 1.
NO_ANSWER: dict[str, tuple[str, ...]] = {
    "search quickstart --n-requests 8 --layers 20,20,20,21": ("no plan can run", "do not cover the model's 80"),
    "search quickstart --n-requests 8 --cluster 1xl40s": ("no plan can run", "memory:"),
    "search quickstart --n-requests 8 --tp 8 --slo ttft_p99_s=1e-9": ("keeps every SLO", "above 1e-09"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(commands, arguments.split())


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("typed", REFUSED)
def test_bad_input_ends_in_a_message(folder: Path, typed: str) -> None:
    result = run(typed)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr
    for fragment in REFUSED[typed]:
        assert fragment in result.stderr
    assert names(folder) == set(FILES)


@pytest.mark.parametrize("typed", NO_ANSWER)
def test_no_answer_prints_the_table_and_exits_with_1(folder: Path, typed: str) -> None:
    result = run(f"{typed} --no-files")
    assert result.exit_code == 1
    assert "llama-3.1-70b" in result.stdout
    assert "Error: no plan " in result.stderr
    for fragment in NO_ANSWER[typed]:
        assert fragment in result.stderr
    document = json.loads(run(f"{typed} --json").stdout)
    assert document["problem"] in result.stderr


def test_simulating_a_plan_that_cannot_run_gives_the_reason(folder: Path) -> None:
    result = run("simulate quickstart --tp 1 --pp 1 --weight-dtype bf16")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: DP8 TP1 PP1 bf16: memory: stage 1 of 1 needs 131.4 GiB of weights")
    assert names(folder) == set(FILES)


@pytest.mark.parametrize("name", ["line.csv", "line.jsonl"])
def test_an_endless_line_is_refused_without_being_read(folder: Path, name: str) -> None:
    with (folder / name).open("wb") as stream:
        stream.write(HEADER.encode() if name.endswith(".csv") else b"")
        stream.truncate(LINE_BYTES)
    tracemalloc.start()
    try:
        result = run(f"workloads show {name}")
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.exit_code == 2
    assert "longer than" in result.stderr
    assert peak_bytes < LINE_BYTES / 2


def test_a_study_of_100_megabytes_is_refused(folder: Path) -> None:
    with (folder / "large.toml").open("wb") as stream:
        stream.truncate(LINE_BYTES)
    result = run("search large.toml")
    assert result.exit_code == 2
    assert "large.toml" in result.stderr
    assert str(LINE_BYTES) in result.stderr


def test_a_failure_while_writing_leaves_no_half_written_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("apex_sim.files.os.replace", full)
    flags = "--model llama-3.1-8b --cluster 1xh100-sxm --workload chat --n-requests 4"
    result = run(f"search {flags} --out answer")
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    assert names(folder) == set(FILES)


#: Policies that cut prompts work with any budget: blocks fill over several steps.
CUTS_PROMPTS = ("--preset vllm-0.6 --policy chunked", "--policy unified", "--policy sarathi", "--policy splitfuse")


@pytest.mark.parametrize("engine", [*CUTS_PROMPTS, "--preset sglang --block-size 8"])
def test_a_budget_below_a_block_is_no_contradiction_where_prompts_are_cut(folder: Path, engine: str) -> None:
    flags = "--model llama-3.2-1b --cluster 1xh100-sxm --workload chat --n-requests 3 --json"
    block = "" if "--block-size" in engine else "--block-size 16"
    result = run(f"simulate {flags} {engine} {block} --max-num-batched-tokens 8 --max-num-seqs 4")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["metrics"]["n_finished"] == 3


def test_a_budget_that_no_prompt_fits_refuses_each_and_says_so(folder: Path) -> None:
    flags = "--model llama-3.2-1b --cluster 1xh100-sxm --workload chat --n-requests 3 --no-files"
    result = run(f"search {flags} --preset trtllm --policy no-evict --max-num-batched-tokens 8 --max-num-seqs 8")
    assert result.exit_code == 1
    assert "every request was rejected" in result.stderr


def test_an_interrupt_while_files_are_written_leaves_the_old_ones(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = "--model llama-3.2-1b --cluster 1xh100-sxm --workload chat --n-requests 3"
    run(f"search {flags} --out answer")
    before = {path: path.read_bytes() for path in (folder / "answer").iterdir()}
    n_written = 0

    def interrupted(self: Path, mode: int) -> None:
        nonlocal n_written
        n_written += 1
        if n_written == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("apex_sim.files.Path.chmod", interrupted)
    result = run(f"search {flags} --seed 5 --out answer")
    assert result.exit_code == 130
    assert "Interrupted" in result.stderr
    assert {path: path.read_bytes() for path in (folder / "answer").iterdir()} == before


def test_a_folder_where_a_file_shall_go_is_found_before_the_work(folder: Path) -> None:
    (folder / "out" / "report.html").mkdir(parents=True)
    result = run("search quickstart --out out")
    assert result.exit_code == 2
    assert "a folder stands where a file shall go" in result.stderr
