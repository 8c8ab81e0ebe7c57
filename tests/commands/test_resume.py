"""Which runs may be gone on with, and with what."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from deepfake.commands.compose import compose_config
from deepfake.commands.context import RunContext
from deepfake.commands.resume import resumed
from deepfake.config import load_config, to_plain
from deepfake.errors import UserError
from deepfake.tracking.folder import RunFolder
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.run import track
from deepfake.tracking.store import locate

Go = Callable[..., tuple]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a run that was killed before its first checkpoint leaves in its folder."""
    config = compose_config(["seed=5", f"paths.outputs={tmp_path}"])
    kept = RunFolder(tmp_path / "runs" / "mine")
    kept.write_config(OmegaConf.to_yaml(config), OmegaConf.to_yaml(OmegaConf.create(to_plain(config))), ["seed=5"])
    kept.write_provenance({"format": 1, "data": {"choices": {"model": "cnn"}}, "machine": {"threads": 3}})
    return kept.path


@pytest.fixture
def go(folder: Path, tmp_path: Path) -> Go:
    def resume(reference: object, *overrides: str) -> tuple:
        typed = [f"resume={reference}", *overrides]
        config = load_config(compose_config([f"paths.outputs={tmp_path}", *typed]))
        return resumed(config, RunContext(tmp_path / "new", "", "", overrides=typed))

    return resume


def tracked(folder: Path, outputs: Path, **tags: object) -> str:
    """A run in the store whose process is gone without a word."""
    options = TrackingOptions(system_metrics=False)
    store = locate(options, outputs)
    with track(store, "e", "mine", tags={"run_dir": folder, **tags}, options=options) as run:
        pass
    run.client.update_run(run.id, status="RUNNING")
    return run.id


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many processor threads torch was told to take, in order; it is not told."""
    told: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", told.append)
    return told


def test_it_goes_on_with_as_many_threads_as_it_began_with(go: Go, folder: Path, threads: list[int]) -> None:
    go(folder)
    assert threads == [3]


def test_a_run_without_a_checkpoint_goes_on_in_its_folder_with_its_config(go: Go, folder: Path) -> None:
    config, context = go(folder)
    assert config.seed == 5
    assert (context.folder, context.resume, context.resume_id) == (folder, True, None)
    assert context.overrides == ["seed=5"]
    assert context.choices == {"model": "cnn"}


def test_places_may_be_others(go: Go, folder: Path, tmp_path: Path) -> None:
    config, _ = go(folder, f"tracking.uri=sqlite:///{tmp_path}/other.db")
    assert config.tracking.uri == f"sqlite:///{tmp_path}/other.db"


def test_data_may_lie_elsewhere_and_another_machine_may_read_it(go: Go, folder: Path) -> None:
    config, _ = go(folder, "dataset.root=/mnt/here", "trainer.num_workers=3")
    assert (config.dataset.root, config.trainer.num_workers, config.seed) == ("/mnt/here", 3, 5)
    with pytest.raises(UserError, match="'name=other' would change it"):
        go(folder, "name=other")


def test_a_change_is_refused_and_the_way_to_make_it_is_named(go: Go, folder: Path) -> None:
    with pytest.raises(UserError, match="would change it") as caught:
        go(folder, "trainer.epochs=9")
    assert f"deepfake reproduce {folder} --set trainer.epochs=9" in caught.value.hint


def test_a_finished_run_is_refused(go: Go, folder: Path) -> None:
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="is finished"):
        go(folder)


def test_a_killed_run_is_found_in_the_store(go: Go, folder: Path, tmp_path: Path) -> None:
    run_id = tracked(folder, tmp_path)
    for reference in (run_id, folder, "mine"):
        assert go(reference)[1].resume_id == run_id


def test_a_run_that_is_going_on_is_refused(go: Go, folder: Path, tmp_path: Path) -> None:
    run_id = tracked(folder, tmp_path, pid=os.getppid(), host=socket.gethostname())
    with pytest.raises(UserError, match=f"still going on, in process {os.getppid()}"):
        go(run_id)


def test_a_run_whose_folder_is_gone_is_refused(go: Go, folder: Path, tmp_path: Path) -> None:
    run_id = tracked(folder / "gone", tmp_path)
    with pytest.raises(UserError, match="is gone, and what it saved with it"):
        go(run_id)


def test_where_a_folder_says_it_was_tracked_counts_only_once_it_is_typed(go: Go, folder: Path) -> None:
    for name in ("config.yaml", "resolved.yaml"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("uri: null", "uri: http://bob:S3cret@there/${oc.env:HOME}"))
    with pytest.raises(UserError, match="not typed") as caught:
        go(folder)
    assert "S3cret" not in str(caught.value)
    assert os.environ["HOME"] not in str(caught.value)
    config, _ = go(folder, "tracking.uri=sqlite:///mine.db")
    assert config.tracking.uri == "sqlite:///mine.db"


def test_outputs_are_the_commands_where_the_folder_was_moved(go: Go, folder: Path, tmp_path: Path) -> None:
    path = folder / "resolved.yaml"
    path.write_text(path.read_text().replace(f"outputs: {tmp_path}", "outputs: /somebody/elses"))
    config, _ = go(folder)
    assert config.paths.outputs == str(tmp_path)
