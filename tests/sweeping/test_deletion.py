"""Finding a study that is to go, who is at work on it, and removing its entry from storages that hold others."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from deepfake.errors import UserError
from deepfake.sweeping.deletion import delete_study, stored_study, workers_of
from deepfake.sweeping.storage import locate, open_storage
from tests.sweeping import toy

_SAID: list[str] = []


def say(text: str) -> None:
    _SAID.append(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sweeps" / "s"


@pytest.mark.parametrize("storage", ["journal", "sqlite"])
def test_a_study_in_its_folder_is_found_and_goes_with_it(folder: Path, storage: str) -> None:
    toy.opened(toy.make_plan(folder, location=locate(storage, folder)))
    found = stored_study(folder, "s", None)
    assert found is not None
    assert (found.name, found.inside) == ("s", True)


def test_one_of_an_older_version_is_found_by_its_file(folder: Path) -> None:
    toy.opened(toy.make_plan(folder))
    (folder / "storage.json").unlink()
    found = stored_study(folder, "s", None)
    assert found is not None
    assert found.inside


@pytest.mark.parametrize("ending", ["journal", "db"])
def test_of_a_storage_that_holds_others_the_entry_alone_goes(folder: Path, tmp_path: Path, ending: str) -> None:
    location = locate(str(tmp_path / f"shared.{ending}"), folder)
    toy.opened(toy.make_plan(folder, location=location))
    toy.opened(toy.make_plan(folder.with_name("other"), location=location, name="other"))
    found = stored_study(folder, "s", None)
    assert found is not None
    assert not found.inside
    delete_study(found)
    assert optuna.get_all_study_names(open_storage(location)) == ["other"]
    # Again, and of one that is gone.
    delete_study(found)
    assert stored_study(folder, "s", None) is None


def test_a_grid_and_a_folder_that_is_gone_have_none(folder: Path) -> None:
    assert stored_study(folder, "s", None) is None
    folder.mkdir(parents=True)
    assert stored_study(folder, "s", None) is None
    assert not list(folder.iterdir())


def test_a_server_must_be_named_by_who_may_enter(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "storage.json").write_text('{"storage": "postgresql://host/db"}')
    with pytest.raises(UserError, match="names without a user") as told:
        stored_study(folder, "s", None)
    assert "--storage" in told.value.hint


def test_another_storage_than_the_recorded_one_is_refused(folder: Path, tmp_path: Path) -> None:
    toy.opened(toy.make_plan(folder))
    with pytest.raises(UserError, match="is another"):
        stored_study(folder, "s", str(tmp_path / "other.db"))


def test_a_living_owner_is_named(folder: Path) -> None:
    claims = toy.opened(toy.make_plan(folder))
    claim = toy.claimed(claims)
    found = stored_study(folder, "s", None)
    assert found is not None
    (worker,) = workers_of(found, say)
    assert "(trial 0)" in worker
    claims.finish(claim, toy.completed(claim))
    assert workers_of(found, say) == []


def test_a_trial_that_was_let_go_of_has_no_owner(folder: Path) -> None:
    claims = toy.opened(toy.make_plan(folder))
    claims.release(toy.claimed(claims))
    found = stored_study(folder, "s", None)
    assert found is not None
    assert workers_of(found, say) == []


@pytest.mark.parametrize("beats", [True, False])
def test_another_machine_is_known_by_its_heartbeats(folder: Path, beats: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = toy.make_plan(folder, heartbeat=0.2)
    claims = toy.opened(plan)
    claims.study.owner["host"] = "elsewhere|boot"
    claim = toy.claimed(claims)
    monkeypatch.setattr("deepfake.sweeping.deletion._LOOK_SECONDS", 0.05)
    if beats:

        def send(text: str) -> None:
            # As it would while somebody waits.
            claims.send_heartbeat(claim)
            assert "elsewhere" in text

    found = stored_study(folder, "s", None)
    assert found is not None
    workers = workers_of(found, send if beats else say)
    assert [worker.split(" (")[0].split(" on ")[1] for worker in workers] == (["elsewhere"] if beats else [])
