"""A saved config run again and gone on with: what may change, what may not, what a stranger's cannot do."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from deepfake.config import load_config, to_plain, without_sweep
from deepfake.errors import UserError
from deepfake.hydra_app import compose_config
from deepfake.installation import started_ticks
from deepfake.runs.context import RunContext
from deepfake.runs.saved_config import REPRODUCE, read_changes, read_overrides, restore, resume_config, with_changes
from deepfake.tracking.options import TrackingOptions
from deepfake.tracking.run import track
from deepfake.tracking.run_folder import RunFolder
from deepfake.tracking.run_record import RunRecord, from_folder
from deepfake.tracking.store import locate

Kept = Callable[..., RunRecord]


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """A run folder as a run of these overrides leaves it, with its resolved values changed by ``resolved``."""

    def make(*overrides: str, resolved: dict[str, object] | None = None, **provenance: object) -> RunRecord:
        config = compose_config(overrides)
        values = OmegaConf.create(to_plain(config))
        for key, value in (resolved or {}).items():
            OmegaConf.update(values, key, value, force_add=True)
        folder = RunFolder(tmp_path / "run")
        folder.write_config(OmegaConf.to_yaml(without_sweep(config)), OmegaConf.to_yaml(values), overrides)
        folder.write_provenance({"format": 1, **provenance})
        return from_folder(folder.path)

    return make


def test_the_values_are_the_saved_ones_whatever_the_config_folder_says_now(kept: Kept) -> None:
    restored = restore(kept("model=cnn_gru", resolved={"head.hidden": 77, "trainer.epochs": 3}), [], [])
    assert restored.config.trainer.epochs == 3
    assert restored.values["head"]["hidden"] == 77
    assert restored.changes == {}


def test_outputs_are_those_of_this_command(kept: Kept, tmp_path: Path) -> None:
    record = kept(resolved={"paths.outputs": "/gone/outputs"})
    assert restore(record, [], []).values["paths"]["outputs"] == compose_config().paths.outputs
    moved = restore(record, [f"paths.outputs={tmp_path}/new"], [])
    assert moved.context.folder.parent == tmp_path / "new" / "runs"
    assert OmegaConf.create(moved.context.composed).paths.outputs == f"{tmp_path}/new"


def test_a_batch_size_that_was_found_is_kept(kept: Kept) -> None:
    record = kept("trainer.batch_size=auto")
    RunFolder(record.places[0]).write_metrics({"metrics": {"batch_size": 48.0}})
    restored = restore(record, [], [])
    assert restored.config.trainer.batch_size == 48
    assert restored.changes == {}


def test_an_automatic_size_is_the_number_it_came_to_then(kept: Kept) -> None:
    record = kept("backbone=xception", "dataset.size=auto", resolved={"dataset.size": 288})
    restored = restore(record, [], [])
    assert restored.config.dataset.size == 288
    assert restored.changes == {}
    assert restore(record, [], ["backbone=efficientnet_b4"]).config.dataset.size == 320


def test_the_name_is_another_one_but_grows_only_once(kept: Kept) -> None:
    once = restore(kept("name=mine"), [], [])
    assert once.config.name == "mine-reproduced"
    assert restore(kept("name=mine-reproduced"), [], []).config.name == "mine-reproduced"


def test_places_and_overrides_are_remembered_in_the_order_they_apply(kept: Kept) -> None:
    restored = restore(kept("seed=3", "model=cnn_gru"), ["trainer.num_workers=2"], ["seed=4"])
    assert restored.context.overrides == ["seed=3", "model=cnn_gru", "trainer.num_workers=2", "seed=4"]
    assert (restored.config.seed, restored.config.trainer.num_workers) == (4, 2)
    assert restored.changes == {"seed": (3, 4)}


def test_a_change_to_what_the_config_says_counts_where_the_saved_value_is_another(kept: Kept) -> None:
    record = kept(resolved={"trainer.epochs": 3, "trainer.num_workers": 2})
    restored = restore(record, ["trainer.num_workers=0"], ["trainer.epochs=12"])
    assert (restored.config.trainer.epochs, restored.config.trainer.num_workers) == (12, 0)
    assert restored.changes == {"trainer.epochs": (3, 12)}


def test_where_things_go_may_be_said_as_a_change_too(kept: Kept, tmp_path: Path) -> None:
    restored = restore(kept(), [], [f"paths.outputs={tmp_path}/new", "tracking.uri=http://here", "name=mine"])
    assert restored.context.folder.parent == tmp_path / "new" / "runs"
    assert (restored.config.tracking.uri, restored.config.name) == ("http://here", "mine")


def test_what_follows_a_changed_key_changes_with_it(kept: Kept) -> None:
    restored = restore(kept(), [], ["optimizer.lr=0.5"])
    assert restored.config.backbone.lr == 0.5
    assert restored.changes == {"optimizer.lr": (0.002, 0.5), "backbone.lr": (0.002, 0.5)}


def test_another_choice_of_a_group_brings_its_keys_and_leaves_the_rest(kept: Kept) -> None:
    record = kept("optimizer=adam", resolved={"head.hidden": 77}, data={"choices": {"optimizer": "adam"}})
    restored = restore(record, [], ["optimizer=sgd"])
    assert type(restored.config.optimizer).__name__ == "Sgd"
    assert "betas" not in restored.values["optimizer"]
    assert restored.values["head"]["hidden"] == 77
    assert restored.context.choices["optimizer"] == "sgd"


def test_keys_of_a_mapping_may_hold_dots(kept: Kept) -> None:
    restored = restore(kept(resolved={"tracking.tags": {"a.b": "c"}}), [], ["seed=1"])
    assert restored.config.tracking.tags == {"a.b": "c"}


def test_a_change_that_is_not_named_as_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"trainer\.epochs=3 would change what the run is") as caught:
        read_overrides(["trainer.epochs=3"], REPRODUCE)
    assert "--set trainer.epochs=3" in caught.value.hint


def test_several_values_are_refused(kept: Kept) -> None:
    with pytest.raises(UserError, match="one value"):
        restore(kept(), [], ["seed=1,2"])


def test_a_key_this_version_does_not_know_names_the_version_that_did(kept: Kept) -> None:
    record = kept(resolved={"trainer.telepathy": True}, packages={"deepfake-sweeps": "0.0.9"}, git={"commit": "abc123"})
    with pytest.raises(UserError, match=r"trainer\.telepathy") as caught:
        restore(record, [], [])
    assert "0.0.9" in caught.value.hint
    assert "abc123" in caught.value.hint


def test_a_run_of_a_newer_version_is_refused(kept: Kept) -> None:
    record = kept(packages={"deepfake-sweeps": "99.0"}, git={"commit": "abc123"})
    with pytest.raises(UserError, match=r"version 99\.0, which is newer"):
        restore(record, [], [])


def test_nothing_is_looked_up_in_the_environment_for_a_saved_config(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SECRET", "swordfish")
    record = kept("tracking.uri=http://there/x")
    for name in ("config.yaml", "resolved.yaml"):
        path = record.file(name)
        path.write_text(path.read_text().replace("name: cnn_lstm", "name: a${oc.env:MY_SECRET}"))
    restored = restore(record, [], ["optimizer.lr=1e-4", "head=gru"])
    assert "swordfish" not in str(restored)
    assert restored.config.name == "a${oc.env:MY_SECRET}-reproduced"


def test_where_a_run_was_tracked_is_no_place_to_send_another(kept: Kept) -> None:
    record = kept("tracking.uri=http://there/x")
    assert restore(record, [], []).config.tracking.uri is None
    assert restore(record, ["tracking.uri=http://here"], []).config.tracking.uri == "http://here"


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
        return resume_config(config, RunContext(tmp_path / "new", "", "", overrides=typed))

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


@pytest.mark.slow
def test_a_killed_run_is_found_in_the_store(go: Go, folder: Path, tmp_path: Path) -> None:
    run_id = tracked(folder, tmp_path)
    for reference in (run_id, folder, "mine"):
        assert go(reference)[1].resume_id == run_id


@pytest.mark.slow
def test_a_run_that_is_going_on_is_refused(go: Go, folder: Path, tmp_path: Path) -> None:
    parent = os.getppid()
    run_id = tracked(folder, tmp_path, pid=parent, process_ticks=str(started_ticks(parent)), host=socket.gethostname())
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


def test_a_strangers_run_does_not_go_on_through_a_link_that_leads_out_and_ones_own_does(
    go: Go, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (folder / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="checkpoints in"):
        go(folder)
    tracked(folder, tmp_path)
    assert go(folder)[1].folder == folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """A trained run, as far as its config is read."""
    folder = tmp_path_factory.mktemp("run")
    overrides = ["dataset=images", "dataset.root=/data/own", "dataset.size=48", "dataset.margin=0.7", "model=cnn"]
    (folder / "resolved.yaml").write_text(yaml.safe_dump(to_plain(compose_config(overrides))))
    return RunRecord("own", None, "FINISHED", None, (folder,))


def test_another_data_set_is_cut_as_the_run_was_trained(run: RunRecord) -> None:
    config = with_changes(run, read_changes(["dataset=faceforensics", "dataset.root=/other"]))
    assert (config.dataset.layout, config.dataset.root) == ("faceforensics", "/other")
    assert (config.dataset.size, config.dataset.margin, config.dataset.faces) == (48, 0.7, "none")


def test_what_is_typed_of_the_cutting_counts(run: RunRecord) -> None:
    assert with_changes(run, read_changes(["dataset=videos", "dataset.faces=mtcnn"])).dataset.faces == "mtcnn"


def test_without_a_data_set_it_is_the_runs_own(run: RunRecord) -> None:
    config = with_changes(run, read_changes(["dataset.root=/moved"]))
    assert (config.dataset.name, config.dataset.root) == ("images", "/moved")


def test_a_relative_root_means_the_folder_of_then(run: RunRecord, tmp_path: Path) -> None:
    folder = tmp_path / "relative"
    folder.mkdir()
    (folder / "resolved.yaml").write_text(run.file("resolved.yaml").read_text().replace("/data/own", "../own"))
    (folder / "provenance.json").write_text('{"format": 1, "data": {"roots": {"images": "/data/own"}}}')
    moved = RunRecord("relative", None, "FINISHED", None, (folder,))
    assert with_changes(moved, read_changes([])).dataset.root == "/data/own"


def test_the_model_is_the_runs_own(run: RunRecord) -> None:
    assert type(with_changes(run, read_changes(["dataset=demo"])).head).__name__ == "Mean"


@pytest.mark.parametrize("override", ["head=gru", "backbone.name=tiny", "trainer.epochs=3", "optimizer.lr=1"])
def test_what_would_change_the_model_is_refused(override: str) -> None:
    with pytest.raises(UserError, match="trained already"):
        read_changes([override])


def test_another_size_is_refused(run: RunRecord) -> None:
    with pytest.raises(UserError, match="trained on crops of 48 pixels"):
        with_changes(run, read_changes(["dataset.size=64"]))


@pytest.mark.parametrize("data", [[], ["dataset=images", "dataset.root=/b"]])
def test_an_automatic_size_is_the_one_it_was_trained_at(run: RunRecord, data: list[str]) -> None:
    assert with_changes(run, read_changes([*data, "dataset.size=auto"])).dataset.size == 48


def test_one_column_of_a_table_may_be_typed(run: RunRecord) -> None:
    data = ["dataset=table", "dataset.table=/b.csv", "+dataset.columns.label=is_fake"]
    assert with_changes(run, read_changes(data)).dataset.columns == {"label": "is_fake"}
