"""A saved config made ready to run again: what stays, what moves, what is changed by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from deepfake.commands.compose import compose_config
from deepfake.commands.restore import check_places, restore
from deepfake.config import to_plain, without_sweep
from deepfake.errors import UserError
from deepfake.tracking.folder import RunFolder
from deepfake.tracking.record import RunRecord, from_folder

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
        check_places(["trainer.epochs=3"])
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
