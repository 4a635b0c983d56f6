"""Do imports run one way, and is `import apex_sim` cheap?"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "apex_sim"

#: Lowest first; parts of one layer do not know each other, except in the lowest.  docs/design.md, section 3.
LAYERS = (
    {"errors", "units", "files", "catalogue", "machine_code", "numba_library", "draw"},
    {"hardware", "model", "workload"},
    {"preset"},
    {"plan"},
    {"cost"},
    {"record"},
    {"instance"},
    {"fleet"},
    {"metrics"},
    {"truth"},
    {"planner"},
    {"report"},
    {"cli"},
    {"__main__"},
)
RANKS = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield (line, part of apex_sim) of each import, at whatever depth it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            top, *rest = name.split(".")
            if top == "apex_sim" and rest != ["__version__"]:
                yield node.lineno, rest[0] if rest else "(the package itself)"


def upward_imports(source: str, part: str) -> list[str]:
    """Return one sentence for each import in `source`, a file of `part`, that the order forbids."""
    found = []
    for line, target in imported_parts(ast.parse(source)):
        allowed = target == part or (target in RANKS and RANKS[target] < max(RANKS[part], 1))
        if not allowed:
            found.append(f"line {line}: {part} imports {target}")
    return found


def test_every_part_has_its_place_in_the_order() -> None:
    assert {part_of(path) for path in SOURCES} <= set(RANKS)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_goes_up(path: Path) -> None:
    assert upward_imports(path.read_text(encoding="utf-8"), part_of(path)) == []


@pytest.mark.parametrize(
    "source",
    [
        "from apex_sim.plan.plan import Plan",
        "import apex_sim.fleet.fleet",
        "def f():\n    from apex_sim import planner",
        "if TYPE_CHECKING:\n    from apex_sim.workload.requests import Requests",
        "import apex_sim",
    ],
)
def test_an_upward_import_is_found_wherever_it_stands(source: str) -> None:
    assert len(upward_imports(source, "model")) == 1


def test_a_downward_import_is_allowed() -> None:
    source = "from apex_sim import __version__, units\nfrom apex_sim.model.cells import AttentionCell\nimport numpy"
    assert upward_imports(source, "plan") == []


def modules_after(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after `statement`."""
    code = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {"pandas", "scipy", "matplotlib", "joblib", "pulp", "highspy", "jinja2"}


def test_importing_the_package_imports_no_dependency() -> None:
    assert modules_after("import apex_sim") & (HEAVY | {"numpy", "simpy", "pydantic", "rich", "click"}) == set()


def test_help_imports_nothing_heavy() -> None:
    help_page = "from apex_sim.cli.main import commands\ncommands(['--help'], standalone_mode=False)"
    assert modules_after(help_page) & (HEAVY | {"numpy", "simpy"}) == set()
