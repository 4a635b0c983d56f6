"""Each rule of the compiled engine, dropped by itself, makes some scenario differ from the reference."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import apex_sim
from apex_sim.instance.kernel.policies import COMPILED_POLICIES

ROOT = Path(__file__).parents[2]

#: Without a rule the engine may run for ever; the slowest scenarios take a fifth of this.
_PATIENCE_S = 240

#: Rules of the kernel, each with the line that keeps it and what stands there without it.
RULES = {
    "a growing sequence takes blocks": ("blocks.py", 'state.queues[queue]["n_free"] -= n_blocks', "pass"),
    "cached tokens are not computed": ("prefixes.py", "return int(n * unit_tokens)", "return 0"),
    "the last token is always computed": ("prefixes.py", "(n_tokens - 1) // unit_tokens", "n_tokens // unit_tokens"),
    "what others hold is not free": ("blocks.py", "- n_units * unit_blocks + n_idle >", "- n_units * unit_blocks >"),
    "a request's last blocks are forgotten first": (
        "prefixes.py",
        'range(first + record["seen"] - 1, first - 1, -1)',
        'range(first, first + record["seen"])',
    ),
    "blocks that are taken are forgotten": ("prefixes.py", 'state.units[place]["references"] = -1', "pass"),
    "a preempted sequence computes all again": ("blocks.py", 'state.requests[request]["computed"] = 0', "pass"),
    "a preempted sequence waits first": (
        "blocks.py",
        "push_front(state, queue, request)",
        "push_back(state, queue, request)",
    ),
    "a prompt leaves the watermark free": (
        "prefill_first.py",
        'record["n_free"] - need >= record["n_watermark"]',
        'record["n_free"] >= need',
    ),
    "v0 keeps one block free for each decode": ("prefill_first.py", '["n_free"] < 1', '["n_free"] < 0'),
    "who comes back finds a block beside its own": ("swap.py", "n_blocks + 1", "n_blocks"),
    "who went first comes back first": (
        "swap.py",
        "request = int(state.swapped[queue, 0])",
        'request = int(state.swapped[queue, record["n_swapped"] - 1])',
    ),
    "nobody is admitted while anybody is swapped out": ("prefill_first.py", 'if record["n_swapped"] == 0 else 0', ""),
    "blocks are copied before the step": ("batch.py", "device_s += copy_s", "pass"),
    "neighbouring holes become one": ("holes.py", "holes[queue, index - 1, 1] == place:", "holes[queue, 0, 1] < 0:"),
    "a reservation takes the first hole": ("holes.py", "if holes[queue, index, 1] < n_blocks:", "if index == 0:"),
    "the step budget is spent once": ("unified.py", "        budget -= n_new\n    if", "    if"),
    "nobody is admitted after a preemption": ("unified.py", 'if record["n_running"] == n_before:\n', "if True:\n"),
    "a known last token is not scheduled twice": ("unified.py", '>= record["limit"]', '> record["limit"]'),
    "max_num_seqs limits the running": (
        "unified.py",
        'record["n_running"] < state.engine[0]["max_num_seqs"]',
        'record["n_running"] < 16',
    ),
    "chunked: decodes go first in the next step": ("chunked.py", "for decodes in (0, 1):", "for decodes in (1, 0):"),
    "sglang: running sequences reserve for their outputs": ("sglang.py", "free - most * _ratio(state, queue)", "free"),
    "sglang: the share that they reserve falls": ("sglang.py", 'record["n_decays"] += 1', "pass"),
    "sglang: also in a leap": ("leap.py", 'record["n_decays"] += n_steps', "pass"),
    "sglang: the fewest outputs are retracted first": ("sglang.py", "_sort_running(state, queue)\n    while", "while"),
    "sglang: a full batch admits nobody": (
        "sglang.py",
        '        record["is_full"] = 1\n        return False\n    n_new',
        "        return False\n    n_new",
    ),
    "sglang: one prompt is chunked at a time": ("sglang.py", 'record["under_way"] = request + 1', "pass"),
    "no-evict: started requests keep their blocks to come": (
        "no_evict.py",
        "n_left -= blocks_at_end(state, request)",
        "n_left -= 0",
    ),
    "no-evict: a prompt pledges its whole output": (
        "no_evict.py",
        'return blocks_for(state, state.requests[request]["prompt"] + state.requests[request]["limit"])',
        'return blocks_for(state, state.requests[request]["prompt"])',
    ),
    "no-evict: decodes leave less for prompts": (
        "no_evict.py",
        'state.engine[0]["budget"] - n_decodes',
        'state.engine[0]["budget"]',
    ),
    "no-evict-chunked: a chunk ends with a block": (
        "no_evict_chunked.py",
        'int(budget - budget % state.engine[0]["block_size"])',
        "budget",
    ),
    "no-evict-chunked: a started prompt goes on before another starts": (
        "no_evict_chunked.py",
        "budget -= n_new\n    return budget",
        "budget -= 0\n    return budget",
    ),
    "no-evict-chunked: started requests keep their blocks to come": (
        "no_evict_chunked.py",
        "n_left -= blocks_at_end(state, request)",
        "n_left -= 0",
    ),
    "max-utilization: the youngest is paused": ("max_utilization.py", "if victim == request:", "if True:"),
    "max-utilization: the next token takes a block": (
        "max_utilization.py",
        'state.requests[request]["computed"] + 1',
        'state.requests[request]["computed"]',
    ),
    "max-utilization: max_num_seqs limits the running": (
        "max_utilization.py",
        'record["n_running"] < state.engine[0]["max_num_seqs"]',
        'record["n_running"] < 16',
    ),
    "sarathi: decodes count in the budget": ("sarathi.py", '["budget"] - n_decodes', '["budget"]'),
    "sarathi: a prompt takes all its blocks at admission": (
        "sarathi.py",
        "grow(state, queue, request, n_tokens_of(state, request))",
        "grow(state, queue, request, 1)",
    ),
    "sarathi: decodes are served in order of rank and arrival": ("sarathi.py", "    sort_running(state, queue)\n", ""),
    "splitfuse: a prompt needs blocks for the whole of it": (
        "splitfuse.py",
        'missing <= state.queues[queue]["n_free"]',
        "missing >= 0",
    ),
    "splitfuse: all start over if nothing can run": (
        "splitfuse.py",
        'record["n_entries"] == 0',
        'record["n_entries"] < 0',
    ),
    "splitfuse: whoever was left out goes first": (
        "splitfuse.py",
        "running[queue, n_left_out + index] = state.preempted[index]",
        "running[queue, record['n_running'] - 1 - index] = state.preempted[index]",
    ),
    "orca and static: the longest answer is reserved": (
        "blocks.py",
        'record["prompt"] + record["limit"]',
        'record["prompt"] + record["output"] // 2',
    ),
    "orca: max_num_seqs limits the running": (
        "orca.py",
        'record["n_running"] < engine["max_num_seqs"]',
        'record["n_running"] < 16',
    ),
    "static: nobody joins a batch": ("static.py", 'if record["n_running"] == 0:', "if True:"),
    "static: a prompt that does not fit the step holds up the others": (
        "static.py",
        "            break",
        "            continue",
    ),
    "static: max_num_seqs limits the batch": (
        "static.py",
        'record["n_running"] < state.engine[0]["max_num_seqs"]',
        'record["n_running"] < 16',
    ),
    "arrivals go where they belong": (
        "loop.py",
        "put_in_place(state, best, request)",
        "push_back(state, best, request)",
    ),
    "a victim returns to where it belongs": (
        "blocks.py",
        "put_in_place(state, queue, request)",
        "push_front(state, queue, request)",
    ),
    "the victim stands last in the order": ("unified.py", "last_place(state, queue) if is_sorted else ", ""),
    "a victim leaves the batch": ("unified.py", "withdraw(state, queue, victim) if is_sorted else 0", "0"),
    "as many wait as may": ("loop.py", '>= engine["most_waiting"]', '> engine["most_waiting"]'),
    "a refusal is not put off by a leap": ("loop.py", 'engine["now_s"] = state.requests[request]["queued_s"]', "pass"),
    "a leap ends before a request finishes": ("leap.py", 'request["generated"] - 1)', 'request["generated"])'),
    "a leap ends before blocks run out": ("leap.py", "most = _n_with_blocks(state, queue, most)", "pass"),
    "a leap ends before an arrival is seen": ("leap.py", "if line_end_s(state, oldest + most) < time_s:", "if True:"),
    "a leap ends with its line": ("leap.py", 'engine["line_steps"] - engine["line_done"]', "1000"),
    "a leap ends before what others may send": (
        "leap.py",
        'most = _n_before(state, oldest, most, engine["until_s"])',
        "pass",
    ),
    "an instance stops where others may send": ("loop.py", '>= engine["until_s"]', ">= np.inf"),
    "no request leaves in the quiet": (
        "leap.py",
        'engine["quiet_s"] = line_end_s(state, oldest + most)',
        'engine["quiet_s"] = line_end_s(state, oldest + most + 9)',
    ),
    "a fleet looks ahead no further than the frontend": (
        "../../fleet/dependent_fleet.py",
        "for instance in self.instances) + self._look_ahead_s",
        "for instance in self.instances) + 9 * self._look_ahead_s",
    ),
    "ends come before arrivals": ("../../fleet/dependent_fleet.py", "rank < _ARRIVALS", "rank > _ARRIVALS"),
    "instances end in their order": (
        "../../fleet/dependent_fleet.py",
        "rank, place in sorted(events)",
        "rank, place in sorted(events, key=lambda event: (event[0], -event[2]))",
    ),
    "unified: the draft looks ahead": (
        "unified.py",
        "min(computed + n_new + n_drafts, most_tokens)",
        "computed + n_new",
    ),
    "unified: rejected tokens are computed again": (
        "speculation.py",
        'record["computed"] -= n_drafts - n_kept',
        "pass",
    ),
    "unified: the budget cuts drafts": ("unified.py", '["drafts"], budget, most_tokens', '["drafts"], most_tokens'),
    "unified: an answer ends with its output": (
        "speculation.py",
        'min(1 + n_kept, record["output"] - record["generated"])',
        "1 + n_kept",
    ),
    "unified: a preempted sequence loses its drafts": (
        "blocks.py",
        'state.requests[request]["drafts"] = 0',
        "pass",
    ),
    "unified: draws belong to the fleet's numbers": (
        "../compiled_instance.py",
        "np.arange(len(requests)) if asked.numbers is None else asked.numbers",
        "np.arange(len(requests))",
    ),
    "unified: the draft samples one token for each sequence": (
        "speculation.py",
        "sums[0, of.N_SAMPLED] += 1.0",
        'sums[0, of.N_SAMPLED] += entry["samples"]',
    ),
    "attention DP: the host takes the time of the fullest rank": (
        "loop.py",
        'most = max(most, state.queues[queue + rank]["n_entries"])',
        'most = max(1, state.queues[queue]["n_entries"])',
    ),
    "attention DP: a step waits for the slowest rank": ("ranks.py", "if rank_s > longest_s:", "if rank == 0:"),
    "attention DP: in a graph all ranks are padded to the largest": (
        "ranks.py",
        "n_own * n_ranks if in_graph else",
        "n_own * n_ranks if n_own < 0 else",
    ),
    "attention DP: a rank without work brings a dummy batch": (
        "ranks.py",
        "n_joint += n_own if n_own > 0 else layout[of.DUMMY_TOKENS]",
        "n_joint += n_own",
    ),
    "attention DP: SGLang's ranks take requests in turn": (
        "loop.py",
        'range(len(state.queues) if engine["waiting_weight"] > 0 else 0)',
        "range(len(state.queues))",
    ),
    "the experts' loads are drawn anew for each step": (
        "batch.py",
        'normal(engine["seed"], record["n_steps"],',
        'normal(engine["seed"], engine["seed"],',
    ),
    "attention DP: prefixes are cached by rank": (
        "prefixes.py",
        'state.unit_numbers[index] += state.queues[queue]["first_unit"]',
        "pass",
    ),
    "requests reach the scheduler after the frontend": ("../compiled_instance.py", "+ delay_s", "+ 0.0 * delay_s"),
}


#: Policies that use a file of the kernel, where not all do; others cannot tell its rules apart.  Rules may begin with
#: the policies that they concern.
USERS = {
    "prefill_first.py": "prefill-first chunked sarathi",
    "swap.py": "prefill-first",
    "holes.py": "orca static",
    "prefixes.py": "unified",
} | {f"{name.replace('-', '_')}.py": name for name in COMPILED_POLICIES if name != "prefill-first"}


#: Policies that some scenarios of another turn into.
DRAWN_AS = {"no-evict-chunked": "no-evict"}


def _users(rule: str) -> list[str]:
    named = rule.partition(":")[0].split(" and ")
    users = named if set(named) <= set(COMPILED_POLICIES) else USERS.get(RULES[rule][0], "").split()
    return [DRAWN_AS.get(user, user) for user in users]


def _first_difference(
    folder: Path, change: tuple[str, str, str] | None, n_scenarios: int, users: Sequence[str] = ()
) -> str:
    """Return what first differs in a copy of the package with one line changed, its kernel run uncompiled."""
    package = folder / "apex_sim"
    shutil.copytree(Path(apex_sim.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("hardware_profiles", "workloads", "search", "reports"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    if change:
        name, kept, dropped = change
        path = package / "instance" / "kernel" / name
        source = path.read_text(encoding="utf-8")
        assert source.count(kept) >= 1, f"{name} has no line with {kept!r}"
        path.write_text(source.replace(kept, dropped, 1), encoding="utf-8")
    code = (
        "import sys, apex_sim, scenario\n"
        "assert apex_sim.__file__.startswith(sys.argv[1])\n"
        "users, seed, n_left = sys.argv[3:], -1, int(sys.argv[2])\n"
        "assert set(users) <= {name.removesuffix('-async') for name in scenario.NAMES}\n"
        "while n_left:\n"
        "    seed += 1\n"
        "    if users and scenario.policy_of(seed) not in users:\n"
        "        continue\n"
        "    n_left -= 1\n"
        "    try:\n"
        "        found, _ = scenario.compare(seed)\n"
        "    except (AssertionError, IndexError, scenario.InvariantError) as error:\n"
        "        found = [repr(error)]\n"
        "    if found:\n"
        "        sys.exit(print(f'scenario {seed}: {found[0]}'))\n"
    )
    path_entries = [str(folder), str(ROOT / "tests" / "instance")]
    try:
        run = subprocess.run(
            [sys.executable, "-c", code, str(folder), str(n_scenarios), *users],
            cwd=folder,
            env=os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join(path_entries)},
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_S,
        )
    except subprocess.TimeoutExpired:
        return "it never ends"
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("rule", RULES)
def test_without_any_one_rule_the_engines_differ(rule: str, tmp_path: Path) -> None:
    assert _first_difference(tmp_path, RULES[rule], 400, _users(rule))


def test_with_all_rules_they_do_not_differ_uncompiled_either(tmp_path: Path) -> None:
    """Guards the test above: a copy of the package differs by nothing but the line that is changed."""
    assert _first_difference(tmp_path, None, 40) == ""
