"""Letting go of a run's weights: wherever they lie, and not where somebody refers to them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deepfake.errors import UserError
from deepfake.models.options import BackboneOptions, Mean
from deepfake.tracking.model import DetectorSpec
from deepfake.tracking.removal import LeftError, remove, taken
from deepfake.tracking.run import track
from deepfake.tracking.run_folder import LET_GO, LET_GO_TAG, RESOLVED, UNFINISHED, WEIGHTS, RunFolder
from deepfake.tracking.run_record import from_folder
from deepfake.tracking.search import find_run
from deepfake.tracking.store import Store, local_folder
from deepfake.tracking.weights import Forgetter, References

SPEC = DetectorSpec(BackboneOptions(name="tiny", pretrained=False), Mean(), frames=3, size=32).to_json()
SIZE = 1 << 20


@dataclass
class Made:
    """A run with weights: in its folder, among its artifacts, as a model."""

    id: str
    folder: Path
    artifacts: Path
    model: Path


@pytest.fixture
def outputs(store: Store) -> Path:
    assert store.database is not None
    return store.database.parent


@pytest.fixture
def make(store: Store, client: Any, experiment: str, quiet: Any, outputs: Path) -> Callable[..., Made]:
    def make(name: str = "run", *, models: bool = True, **params: str) -> Made:
        folder = RunFolder(outputs / "sweeps" / experiment / name)
        (folder.path / RESOLVED).write_text(f"name: {name}\n")
        folder.best_weights.parent.mkdir(exist_ok=True)
        folder.best_weights.write_bytes(os.urandom(SIZE))
        folder.write_metrics({"metrics": {}})
        tags = {"run_dir": folder.path} | ({"job": name} if name.isdigit() else {})
        with track(store, experiment, name, folder=folder.path, tags=tags, options=quiet) as run:
            run.params(params)
            run.folder(folder.path, skip=UNFINISHED)
            model = run.model(folder.best_weights, SPEC) if models else None
        artifacts, place = local_folder(client.get_run(run.id).info.artifact_uri), Path()
        if model is not None:
            place = local_folder(client.get_logged_model(model.removeprefix("models:/")).artifact_location) or place
        assert artifacts is not None
        return Made(run.id, folder.path, artifacts, place)

    return make


@pytest.fixture
def forget(store: Store, client: Any, outputs: Path) -> Callable[..., Forgetter]:
    def forget(*runs: Made) -> Forgetter:
        forgetter = Forgetter(client, store, outputs)
        for run in runs:
            forgetter.forget(run.id, run.folder, "the study kept others", References(client, outputs))
        return forgetter

    return forget


def test_weights_lie_once_on_disk(make: Callable[..., Made]) -> None:
    run = make()
    names = [run.folder / WEIGHTS, run.artifacts / WEIGHTS, run.model / "data" / "detector" / "detector.safetensors"]
    assert len({name.stat().st_ino for name in names}) == 1
    assert names[0].stat().st_nlink == len(names)


def test_they_go_wherever_they_lie_and_all_else_stays(
    make: Callable[..., Made], forget: Callable[..., Forgetter], client: Any
) -> None:
    run = make()
    total = forget(run).total
    assert (total.runs, total.left) == (1, [])
    assert total.freed >= SIZE
    assert not run.model.exists()
    for place in (run.folder, run.artifacts):
        assert not (place / WEIGHTS).exists()
        assert (place / RESOLVED).is_file()
        assert (place / "metrics.json").is_file()
        assert json.loads((place / LET_GO).read_text())["why"] == "the study kept others"
    assert client.get_run(run.id).data.tags[LET_GO_TAG] == "the study kept others"


def test_what_asks_for_them_is_told_why_and_how_to_have_them_again(
    make: Callable[..., Made], forget: Callable[..., Forgetter], store: Store, outputs: Path
) -> None:
    run = make()
    forget(run)
    for record in (find_run(run.id, store, outputs), from_folder(run.folder)):
        with pytest.raises(UserError, match="the study kept others") as told:
            record.weights()
        assert "reproduce" in told.value.hint


def test_it_may_be_done_again(make: Callable[..., Made], forget: Callable[..., Forgetter]) -> None:
    run = make()
    forget(run)
    assert forget(run, run).total.runs == 0


def test_the_next_goes_on_where_one_was_killed(
    make: Callable[..., Made], forget: Callable[..., Forgetter], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make()
    with monkeypatch.context() as patch:
        patch.setattr("deepfake.tracking.weights.remove_artifacts", _killed)
        with pytest.raises(KeyboardInterrupt):
            forget(run)
    assert (run.folder / WEIGHTS).is_file()
    # What is half gone can be read for as long as the weights are there.
    assert from_folder(run.folder).weights() == run.folder / WEIGHTS
    assert forget(run).total.runs == 1
    assert not (run.artifacts / WEIGHTS).exists()
    assert not (run.folder / WEIGHTS).exists()


def _killed(*arguments: object) -> int:
    raise KeyboardInterrupt


def test_a_run_whose_folder_is_gone_or_moved_lets_go_of_its_artifacts(
    make: Callable[..., Made], forget: Callable[..., Forgetter]
) -> None:
    run = make()
    run.folder.rename(run.folder.with_name("moved"))
    assert forget(run).total.runs == 1
    assert not (run.artifacts / WEIGHTS).exists()
    assert (run.folder.with_name("moved") / WEIGHTS).is_file()


def test_nothing_is_touched_of_a_run_that_goes_on(
    make: Callable[..., Made], forget: Callable[..., Forgetter], client: Any
) -> None:
    run = make()
    client.update_run(run.id, status="RUNNING")
    assert forget(run).total.runs == 0
    assert (run.folder / WEIGHTS).is_file()
    assert run.model.is_dir()
    client.set_terminated(run.id)


@pytest.mark.parametrize("of_run", [True, False])
def test_nor_of_one_that_is_registered(
    make: Callable[..., Made],
    forget: Callable[..., Forgetter],
    client: Any,
    store: Store,
    experiment: str,
    of_run: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make()
    # MLflow looks the model up in the store that is set for the whole process.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    name = f"{experiment}-registered"
    client.create_registered_model(name)
    source = f"models:/{run.model.parent.name}"
    version = client.create_model_version(name, source, run_id=run.id if of_run else None)
    client.set_registered_model_alias(name, "champion", version.version)
    (said,) = forget(run).total.left
    assert f"the registered model {name}" in said
    assert (run.folder / WEIGHTS).is_file()
    assert run.model.is_dir()


def test_nor_of_an_ensembles_member(
    make: Callable[..., Made], forget: Callable[..., Forgetter], outputs: Path, experiment: str
) -> None:
    run, other = make(), make("other")
    members = [{"name": "run", "run_id": run.id, "folder": str(run.folder), "weights": "", "metrics": {}}]
    RunFolder(outputs / "runs" / f"joined {experiment}").write_members({"format": 1, "members": members})
    (said,) = forget(run, other).total.left
    assert f"the ensemble joined {experiment}" in said
    assert (run.folder / WEIGHTS).is_file()
    assert not (other.folder / WEIGHTS).exists()


@pytest.mark.parametrize("how", ["id", "folder", "file", "number"])
def test_nor_of_one_that_another_began_with(
    make: Callable[..., Made], forget: Callable[..., Forgetter], how: str
) -> None:
    run = make("3")
    reference = {
        "id": run.id,
        "folder": str(run.folder),
        "file": str(run.folder / WEIGHTS),
        "number": f"{run.folder.parent.name}:3",
    }
    make("child", models=False, **{"trainer.init_from": reference[how]})
    (said,) = forget(run).total.left
    assert "which began with them" in said
    assert (run.folder / WEIGHTS).is_file()


def test_a_folder_outside_or_behind_a_link_is_left(
    make: Callable[..., Made], forget: Callable[..., Forgetter], tmp_path: Path
) -> None:
    outside, linked = make("outside"), make("linked")
    outside.folder.rename(tmp_path / "outside")
    linked.folder.rename(tmp_path / "linked")
    linked.folder.symlink_to(tmp_path / "linked")
    outside.folder = tmp_path / "outside"
    assert len(forget(outside, linked).total.left) == 2
    for name in ("outside", "linked"):
        assert (tmp_path / name / WEIGHTS).is_file()


def test_checkpoints_behind_a_link_are_left(
    make: Callable[..., Made], forget: Callable[..., Forgetter], tmp_path: Path
) -> None:
    run = make()
    (run.folder / "checkpoints").rename(tmp_path / "checkpoints")
    (run.folder / "checkpoints").symlink_to(tmp_path / "checkpoints")
    assert len(forget(run).total.left) == 1
    assert (tmp_path / "checkpoints" / Path(WEIGHTS).name).is_file()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_left(
    make: Callable[..., Made], forget: Callable[..., Forgetter]
) -> None:
    run = make()
    run.folder.chmod(0o500)
    assert len(forget(run).total.left) == 1
    run.folder.chmod(0o700)


def test_what_cannot_be_deleted_on_a_server_is_said(
    make: Callable[..., Made], forget: Callable[..., Forgetter], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make()

    def refuse(*arguments: object) -> int:
        raise LeftError("it does not delete")

    monkeypatch.setattr("deepfake.tracking.weights.remove_model", refuse)
    assert forget(run).total.left == ["it does not delete"]


def test_bytes_count_once_and_what_has_another_name_is_not_freed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"x" * 8192)
    os.link(tmp_path / "a" / "one", tmp_path / "a" / "two")
    os.link(tmp_path / "a" / "one", tmp_path / "three")
    assert taken([tmp_path / "a", tmp_path / "three"]) == 8192
    assert taken([tmp_path / "a"], freed=True) == 0
    assert remove(tmp_path / "a", [tmp_path]) == 0
    assert remove(tmp_path / "three", [tmp_path]) == 8192
    assert remove(tmp_path / "three", [tmp_path]) == 0


def test_nothing_is_followed_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").write_text("theirs")
    (tmp_path / "ours" / "folder").symlink_to(tmp_path / "theirs")
    (tmp_path / "ours" / "file").symlink_to(tmp_path / "theirs" / "file")
    remove(tmp_path / "ours", [tmp_path])
    assert (tmp_path / "theirs" / "file").read_text() == "theirs"
    with pytest.raises(LeftError, match="outside"):
        remove(tmp_path / "theirs", [tmp_path / "elsewhere"])
