"""`search`, `simulate` and `space`: what flags mean, and where answers go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner, Result

from apex_sim.cli import study_flags
from apex_sim.cli.main import commands
from apex_sim.cli.output import choose_folder, file_name
from apex_sim.cli.study_flags import overrides_of, study_of

SMALL = ("--model", "llama-3.1-8b", "--cluster", "2xh100-sxm", "--workload", "chat", "--n-requests", "12")


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, exit_code: int = 0) -> Result:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(commands, list(arguments))
    assert result.exit_code == exit_code, result.output
    return result


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_every_key_of_a_study_file_has_a_flag() -> None:
    from apex_sim.files import StrictModel
    from apex_sim.planner.study_file import LoadEntry, SchedulerEntry, SpaceEntry, StudyFile

    tables: dict[str, type[StrictModel]] = {"load": LoadEntry, "space": SpaceEntry, "scheduler": SchedulerEntry}
    keys = set(StudyFile.model_fields) - set(tables) - {"title"}
    keys |= {f"{table}__{key}" for table, entry in tables.items() for key in entry.model_fields}
    flags = {parameter.name for parameter in commands.commands["search"].params}
    assert keys <= flags
    run_only = {"study", "jobs", "check", "reference", "strict", "out", "no_files", "as_json"}
    run_only |= {"gap", "exhaustive", "dask", "item_timeout_s", "store", "log_jobs"}
    assert flags - keys == run_only


def test_choices_are_those_of_the_planner() -> None:
    from apex_sim.metrics.definitions import STATISTICS
    from apex_sim.planner.study import OBJECTIVES
    from apex_sim.planner.study_file import StudyFile

    assert study_flags.OBJECTIVES == OBJECTIVES == get_args(StudyFile.model_fields["objective"].annotation)
    assert study_flags.STATISTICS == STATISTICS


def test_flags_override_the_study_and_leave_the_rest() -> None:
    study = study_of("quickstart", {"cluster": "4xh200-sxm", "space__tp": [2, 4], "slo": {"ttft_p99_s": 1.0}})
    assert study.cluster.name == "4xh200-sxm"
    assert study.model.name == "llama-3.1-70b"
    assert study.space.tp == [2, 4]
    assert study.space.weight_dtypes == ["bf16", "fp8"]
    assert dict(study.slo.limits) == {"ttft_p99_s": 1.0, "tpot_p99_s": 0.1}


def test_flags_alone_make_a_study_with_a_name() -> None:
    study = study_of(None, {"model": "llama-3.1-8b", "cluster": "1xl40s", "workload": "chat", "objective": "cost"})
    assert study.name == "llama-3.1-8b_1xl40s_chat"
    assert study.objective.name == "usd_per_million_output_tokens"


def test_flags_are_read_into_the_tables_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def catch(name: str | None, flags: dict[str, Any]) -> None:
        seen.update(overrides_of(flags))
        raise KeyboardInterrupt

    monkeypatch.setattr("apex_sim.cli.search.study_of", catch)
    flags = "--weight-dtype bf16,fp8 --weight-dtype fp8 --kv-dtype FP8 --tp 1,2 --rate 2.5 --no-allow-idle"
    more = "--slo ttft_p99_s=2 --slo tpot_mean_s=0.05 --offline --block-size 32 --gpu-memory-utilization 0.8"
    run("search", *flags.split(), *more.split(), exit_code=130)
    assert seen == {
        "slo": {"ttft_p99_s": 2.0, "tpot_mean_s": 0.05},
        "load": {"rate_per_s": 2.5, "offline": True},
        "space": {"weight_dtypes": ["bf16", "fp8"], "kv_dtypes": ["fp8"], "tp": [1, 2], "allow_idle": False},
        "scheduler": {"block_size_tokens": 32, "gpu_memory_utilization_frac": 0.8},
    }


def test_flags_of_attention_ranks_make_plans_with_them() -> None:
    """Four devices: TP 2 on two ranks and TP 1 on four, experts whole on each device, or divided with --no-ep."""
    asked = ("space", "--model", "gpt-oss-20b", "--cluster", "4xh100-sxm", "--workload", "chat", "--dp", "1")
    ranks = ("--attention-dp", "2,4", "--pp", "1", "--expert-imbalance", "1")
    plans = [entry["plan"] for entry in json.loads(run(*asked, *ranks, "--json").stdout)["feasible"]]
    found = {(each["label"], each["instances"][0]["attention_dp"], each["instances"][0]["ep"]) for each in plans}
    assert found == {("DP1 TP2 ADP2 EP4 PP1 mxfp4", 2, 4), ("DP1 TP1 ADP4 EP4 PP1 mxfp4", 4, 4)}
    assert {each["instances"][0]["expert_imbalance"] for each in plans} == {1.0}
    assert "DP1 TP1 ADP4 PP1 mxfp4" in run(*asked, *ranks, "--no-ep").stdout
    dense = json.loads(run("space", "quickstart", "--attention-dp", "2", "--pp", "1", "--no-ep", "--json").stdout)
    assert dense["feasible"]
    assert {entry["plan"]["instances"][0]["attention_dp"] for entry in dense["feasible"]} == {2}


def test_an_attention_rank_is_simulated_under_check_in_both_engines() -> None:
    asked = ("simulate", "--model", "gpt-oss-20b", "--cluster", "2xh100-sxm", "--workload", "chat", "--n-requests", "8")
    ranks = ("--tp", "1", "--attention-dp", "2", "--dp", "1", "--pp", "1", "--check", "--json")
    one, other = (json.loads(run(*asked, *ranks, *more).stdout) for more in ((), ("--reference",)))
    assert one["metrics"] == pytest.approx(other["metrics"], nan_ok=True)
    assert (one["engine"], other["engine"]) == ("compiled", "reference")


def test_layers_decide_the_number_of_stages() -> None:
    flags = {"space__layers": [38, 42], "space__tp": [4], "space__weight_dtypes": ["bf16"]}
    assert study_of("quickstart", flags).space.pp == [2]
    document = json.loads(run("space", "quickstart", "--layers", "38,42", "--tp", "4", "--json").stdout)
    plans = [entry["plan"] for entry in document["feasible"]]
    assert {tuple(plan["instances"][0]["layers"]) for plan in plans} == {(38, 42)}
    assert plans[0]["label"] == "DP1 TP4 PP2(38+42) bf16"


def test_a_workload_of_the_current_folder_wins_over_one_beside_the_study(tmp_path: Path) -> None:
    header = "arrival_s,prompt_tokens,output_tokens\n"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.csv").write_text(f"{header}0,10,2\n")
    (tmp_path / "mine.csv").write_text(f"{header}0,10,2\n1,10,2\n")
    study = tmp_path / "elsewhere" / "study.toml"
    study.write_text('model = "llama-3.1-8b"\ncluster = "1xh100-sxm"\nworkload = "mine.csv"\n')
    assert study_of(str(study), {}).workload.requests.n == 1
    assert study_of(str(study), {"workload": "mine.csv"}).workload.requests.n == 2


def test_search_writes_three_files_and_prints_a_table(tmp_path: Path) -> None:
    result = run("search", *SMALL, "--out", "answer")
    assert files(tmp_path) == {"answer/report.html", "answer/plans.csv", "answer/result.json"}
    assert "Wrote report.html, plans.csv, result.json to answer" in result.stderr
    assert "DP1 TP2 PP1 bf16" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    document = json.loads((tmp_path / "answer" / "result.json").read_text())
    assert [plan["rank"] for plan in document["plans"]] == [1, 2, 3]
    assert len((tmp_path / "answer" / "plans.csv").read_text().splitlines()) == 1 + 3


def test_the_default_folder_is_named_after_the_study(tmp_path: Path) -> None:
    run("search", "quickstart", "--n-requests", "8", "--tp", "8", "--weight-dtype", "fp8")
    assert files(tmp_path) == {f"apex-sim-out/quickstart/{n}" for n in ("report.html", "plans.csv", "result.json")}


def test_json_is_the_only_thing_on_stdout_and_writes_nothing_unasked(tmp_path: Path) -> None:
    result = run("search", *SMALL, "--json")
    document = json.loads(result.stdout)
    assert {"study", "plans", "infeasible", "pareto", "certificate", "provenance", "schema_version"} <= set(document)
    assert document["certificate"]["n_simulated"] == 3
    assert files(tmp_path) == set()
    run("search", *SMALL, "--json", "--out", "here", "--jobs", "1")
    written = json.loads((tmp_path / "here" / "result.json").read_text())
    assert [plan["metrics"] for plan in written["plans"]] == [plan["metrics"] for plan in document["plans"]]


def test_a_symbolic_link_in_the_folder_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.html").symlink_to(tmp_path / "precious.txt")
    run("search", *SMALL, "--out", "out")
    assert (tmp_path / "precious.txt").read_text() == "precious"


def test_simulate_writes_one_line_for_each_request(tmp_path: Path) -> None:
    result = run("simulate", *SMALL, "--tp", "2")
    assert "DP1 TP2 PP1 bf16" in result.stdout
    folder = tmp_path / "apex-sim-out" / "llama-3.1-8b_2xh100-sxm_chat" / "DP1-TP2-PP1-bf16"
    assert files(folder) == {"report.html", "requests.csv", "series.csv", "result.json"}
    assert len((folder / "requests.csv").read_text().splitlines()) == 1 + 12


def test_simulate_and_search_agree() -> None:
    searched = json.loads(run("search", *SMALL, "--json").stdout)["plans"]
    simulated = json.loads(run("simulate", *SMALL, "--tp", "2", "--check", "--json").stdout)
    assert {"plan", "metrics", "steady", "breakdown", "intervals", "provenance"} <= set(simulated)
    (same,) = [plan for plan in searched if plan["plan"]["label"] == simulated["plan"]["label"]]
    assert same["metrics"] == simulated["metrics"]


def test_space_counts_plans_and_gives_their_kv_capacity() -> None:
    document = json.loads(run("space", "quickstart", "--json").stdout)
    assert document["n_enumerated"] == 20  # ten splits of 8 into DP x TP x PP by powers of two, two weight formats
    assert document["n_feasible"] + document["n_infeasible"] == 20
    for entry in document["feasible"]:
        (instance,) = entry["plan"]["instances"]
        assert entry["kv_tokens"] == instance["count"] * entry["kv_tokens_per_instance"]
    refused = {entry["plan"]["label"]: entry["reason"] for entry in document["infeasible"]}
    assert refused["DP8 TP1 PP1 bf16"].startswith("memory: stage 1 of 1 needs 131.4 GiB of weights")
    table = run("space", "quickstart").stdout
    assert "20 plans" in table
    assert "refused" in table
    assert max(map(len, table.splitlines())) <= 80


def test_validate_hands_on_what_the_flags_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def fake(path: str, **options: Any) -> str:
        seen.update(path=path, **options)
        return "validation"

    monkeypatch.setattr("apex_sim.truth.validation.validate_serving", fake)
    monkeypatch.setattr("apex_sim.report.document.validation_document", lambda v: {"cases": [], "summary": v})
    monkeypatch.setattr("apex_sim.report.csv_text.validation_csv", lambda v: "case_id\n")
    monkeypatch.setattr("apex_sim.report.csv_text.errors_csv", lambda v: "axis\n")
    monkeypatch.setattr("apex_sim.report.validation_page.errors_page", lambda v: "<html>")
    monkeypatch.setattr("apex_sim.report.error_scatter.scatter_of", lambda v: v)
    monkeypatch.setattr("apex_sim.report.error_scatter.draw_scatter", lambda v: ("<svg>", b"png"))
    flags = ("--limit", "3", "--source", "a", "--source", "b", "--profile", "p", "--jobs", "2", "--out", "v", "--json")
    chosen = ("--engine", "vllm", "--model", "m", "--device", "d")
    result = run("validate", "serving", "cases.csv", *flags, *chosen)
    assert json.loads(result.stdout) == {"cases": [], "summary": "validation"}
    options = {"n_jobs": 2, "progress": None, "limit": 3, "profile": Path("p")}
    names = {"sources": ("a", "b"), "engines": ("vllm",), "models": ("m",), "devices": ("d",)}
    assert seen == {"path": "cases.csv", **options, **names}
    written = {"cases.csv", "errors.csv", "result.json", "index.html", "scatter.svg", "scatter.png"}
    assert files(tmp_path) == {f"v/{name}" for name in written}
    run("validate", "serving", "--json")
    assert (seen["path"], seen["engines"]) == ("published", None)


def test_validate_replays_published_cases_and_leaves_a_report(tmp_path: Path) -> None:
    result = run("validate", "serving", "--source", "inferencex", "--limit", "1", "--out", "v")
    assert "published: 1 of 1 cases replayed" in result.stdout
    assert "Wrote cases.csv" in result.stderr
    assert (tmp_path / "v/scatter.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "v/index.html").read_text()
    document = json.loads((tmp_path / "v/result.json").read_text())
    assert document["cases"][0]["note"].endswith("https://github.com/SemiAnalysisAI/InferenceX")
    assert (tmp_path / "v/errors.csv").read_text().startswith("axis,value,metric,n,")


@pytest.mark.parametrize(
    ("text", "expected"), [("../../etc", "etc"), ("..", "study"), ("a b/c", "a-b-c"), ("", "study")]
)
def test_a_name_never_leaves_the_folder(text: str, expected: str) -> None:
    assert file_name(text) == expected


def test_checking_the_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = choose_folder(Path("a/b"), no_files=False, as_json=True, default=Path("c"), names=("x",))
    assert folder == Path("a/b")
    assert list(tmp_path.iterdir()) == []


def offered(*arguments: str) -> Iterator[str]:
    env = {"_APEX_SIM_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(("apex-sim", *arguments))}
    env["COMP_CWORD"] = str(len(arguments))
    result = CliRunner(env=env).invoke(commands, prog_name="apex-sim")
    return (line.partition(",")[2] for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (("search", "qui"), "quickstart"),
        (("search", "--model", "llama-3.1-7"), "llama-3.1-70b"),
        (("search", "--cluster", "2x8xh1"), "2x8xh100-sxm"),
        (("search", "--slo", "ttft_p9"), "ttft_p99_s="),
        (("search", "--preset", "vllm-0"), "vllm-0.6"),
        (("search", "--router", "le"), "least-outstanding"),
        (("search", "--policy", "chu"), "chunked"),
        (("search", "--objective", "thr"), "throughput"),
        (("hardware", "show", "l4"), "l40s"),
        (("workloads", "show", "summ"), "summarization"),
        (("models", "show", "gpt-oss-2"), "gpt-oss-20b"),
    ],
)
def test_the_shell_completes_names(typed: tuple[str, ...], expected: str) -> None:
    assert expected in offered(*typed)
