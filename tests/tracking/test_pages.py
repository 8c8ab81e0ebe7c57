"""The page that a user means."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.errors import UserError
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.pages import find_page
from deepfake.tracking.run import Origin, track
from deepfake.tracking.store import Store, connect, locate


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store whose newest run is a sweep's child, of a sweep that an older version made."""
    folder = tmp_path_factory.mktemp("own")
    store, quiet = locate(TrackingOptions(uri=f"sqlite:///{folder}/mlflow.db"), folder), TrackingOptions(None)
    quiet.system_metrics = False
    with track(store, "e", "alone", options=quiet):
        pass
    with track(store, "e", "seed=1,2", tags={"sweep": "mine"}, options=quiet) as parent:
        parent.params({"space.seed": "1,2", "seed": 1})
        with track(store, "e", "cnn seed=1", origin=Origin(parent.id), tags={"job": 0}, options=quiet):
            pass
    return store


def test_without_a_name_it_is_what_was_begun_last_as_a_whole(own: Store, tmp_path: Path) -> None:
    page = find_page(None, own, tmp_path)
    assert (page.name, page.sweep) == ("seed=1,2", True)


@pytest.mark.parametrize(
    ("reference", "name"),
    [("mine", "seed=1,2"), ("seed=1,2", "seed=1,2"), ("cnn seed=1", "cnn seed=1"), ("mine:0", "cnn seed=1"),
     ("alone", "alone")],
)  # fmt: skip
def test_a_sweep_or_a_run_is_found_as_everywhere(own: Store, tmp_path: Path, reference: str, name: str) -> None:
    assert find_page(reference, own, tmp_path).name == name


def test_a_sweep_is_found_by_its_folder(own: Store, tmp_path: Path) -> None:
    folder = tmp_path / "sweeps" / "mine"
    folder.mkdir(parents=True)
    assert find_page(str(folder), own, tmp_path).sweep


def test_a_sweeps_page_compares_its_runs_and_a_runs_page_is_its_own(own: Store, tmp_path: Path) -> None:
    sweep, run = find_page("mine", own, tmp_path), find_page("alone", own, tmp_path)
    assert f"runs?viewStateShareKey={sweep.run_id}" in sweep.address("http://x")
    assert f"runs/{run.run_id}?" in run.address("http://x")
    assert (sweep.charts("http://x") or "").endswith("compareRunsMode=CHART")
    assert run.charts("http://x") is None


def test_a_sweep_of_an_older_version_gets_a_view_of_what_it_swept(own: Store, tmp_path: Path) -> None:
    page = find_page("mine", own, tmp_path)
    tags = connect(own).get_experiment(page.experiment).tags
    assert "params.`seed`" in tags[f"mlflow.sharedViewState.{page.run_id}"]


def test_where_nothing_was_trained_it_says_what_to_do(tmp_path: Path) -> None:
    store = locate(TrackingOptions(uri=f"sqlite:///{tmp_path}/none.db"), tmp_path)
    with pytest.raises(UserError, match="no tracking store yet") as told:
        find_page(None, store, tmp_path)
    assert "train something first" in told.value.hint
    assert not (tmp_path / "none.db").exists()


def test_an_empty_store_and_an_unknown_name_are_told(own: Store, tmp_path: Path) -> None:
    empty = locate(TrackingOptions(uri=f"sqlite:///{tmp_path}/empty.db"), tmp_path)
    connect(empty)
    with pytest.raises(UserError, match="holds no run yet"):
        find_page(None, empty, tmp_path)
    with pytest.raises(UserError, match="no run named 'alonf'") as told:
        find_page("alonf", own, tmp_path)
    assert "alone" in told.value.hint
