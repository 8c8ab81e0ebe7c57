"""Every shipped search fits the project's config: its keys exist beside every choice it makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.hydra_app import register_resolvers
from deepfake.installation import CONF, SWEEPS
from deepfake.sweeping.study_plan import StudyPlan
from tests.sweeping import toy

SEARCHES = sorted(path.stem for path in (SWEEPS / "search").glob("*.yaml"))


def planned(folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> StudyPlan:
    """The plan of a study that is not run."""
    plans: list[StudyPlan] = []

    class PlanKnownError(Exception):
        """Ends the sweep once its plan is known."""

    def keep(runner: object, plan: StudyPlan, *_: object) -> None:
        plans.append(plan)
        raise PlanKnownError

    monkeypatch.setattr("deepfake.sweeping.runner.run_study", keep)
    register_resolvers()
    with pytest.raises(PlanKnownError):
        toy.multirun(folder, overrides, conf=CONF)
    return plans[0]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_shipped_search_fits_the_config(search: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(tmp_path, monkeypatch, f"search={search}")
    assert plan.name.endswith("_demo")
    assert plan.total >= 5


def test_what_is_swept_on_the_command_line_joins_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(tmp_path, monkeypatch, "search=lr_batch", "model=cnn_lstm,cnn_gru")
    assert "model" in [parameter.key for parameter in plan.parameters]


def test_what_is_set_on_the_command_line_leaves_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(tmp_path, monkeypatch, "search=lr_batch", "trainer.batch_size=32")
    assert "trainer.batch_size" not in [parameter.key for parameter in plan.parameters]


def test_another_data_set_is_another_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        planned(tmp_path, monkeypatch, "search=seeds", f"dataset={name}", "dataset.root=x").name
        for name in ("images", "videos")
    }
    assert len(names) == 2
