"""Studies of the atlas: each loads, and its space holds plans that can run."""

from pathlib import Path

import pytest

from apex_sim import catalogue
from apex_sim.planner.space import enumerate_space
from apex_sim.planner.study import load_study

ATLAS = catalogue.folder("search") / "atlas"


@pytest.mark.parametrize("path", sorted(ATLAS.glob("*.toml")), ids=lambda path: Path(path).stem)
def test_a_study_of_the_atlas_has_plans_that_can_run(path: Path) -> None:
    study = load_study(path)
    assert enumerate_space(study).feasible


def test_the_atlas_is_not_empty() -> None:
    assert {path.stem for path in ATLAS.glob("*.toml")} >= {"across-nodes", "energy-gpt-oss", "energy-llama-70b"}
