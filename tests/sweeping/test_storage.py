"""Where a study may lie, and what is told when it cannot lie there."""

from __future__ import annotations

import importlib.util
import sqlite3
from pathlib import Path

import optuna
import pytest

from deepfake.errors import UserError
from deepfake.sweeping.storage import locate, open_storage, together


def test_the_default_is_a_journal_in_the_folder(tmp_path: Path) -> None:
    assert locate("journal", tmp_path).journal == tmp_path / "study.journal"


def test_sqlite_is_a_file_in_the_folder(tmp_path: Path) -> None:
    assert locate("sqlite", tmp_path).url == f"sqlite:///{tmp_path}/study.db"


def test_a_word_that_is_no_storage_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no storage"):
        locate("jurnal", tmp_path)


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    assert "hush" not in str(locate("postgresql://u:hush@host/db", tmp_path))


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_what_one_writes_the_next_reads(tmp_path: Path, kind: str) -> None:
    optuna.create_study(storage=open_storage(locate(kind, tmp_path)), study_name="s")
    assert optuna.get_all_study_names(open_storage(locate(kind, tmp_path))) == ["s"]


def test_a_database_of_a_newer_optuna_is_told(tmp_path: Path) -> None:
    open_storage(locate("sqlite", tmp_path)).remove_session()
    with sqlite3.connect(tmp_path / "study.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99.0.0'")
        connection.execute("UPDATE version_info SET schema_version = 99, library_version = '99.0.0'")
    with pytest.raises(UserError, match="another version of Optuna"):
        open_storage(locate("sqlite", tmp_path))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be read"):
        open_storage(locate("journal", tmp_path / "file" / "below"))


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_what_is_written_together_arrives_together(tmp_path: Path, kind: str) -> None:
    storage, other = (open_storage(locate(kind, tmp_path)) for _ in range(2))
    study = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "s")
    with together(storage):
        trial = storage.create_new_trial(study)
        storage.set_trial_user_attr(trial, "a", 1)
        assert storage.get_trial(trial).user_attrs == {"a": 1}
        assert other.get_all_trials(study) == []
        storage.set_trial_user_attr(trial, "b", 2)
    assert [found.user_attrs for found in other.get_all_trials(study)] == [{"a": 1, "b": 2}]
    # Both go on from where the other ended.
    other.set_trial_user_attr(trial, "c", 3)
    storage.set_trial_user_attr(trial, "d", 4)
    assert sorted(other.get_trial(trial).user_attrs) == sorted(storage.get_trial(trial).user_attrs) == list("abcd")


def test_a_server_without_its_driver_names_the_package(tmp_path: Path) -> None:
    if importlib.util.find_spec("MySQLdb") is not None:
        pytest.skip("the driver is installed")
    with pytest.raises(UserError, match="needs the Python package 'MySQLdb'") as caught:
        open_storage(locate("mysql://u@127.0.0.1/db", tmp_path))
    assert caught.value.hint == "pip install mysqlclient"


def test_a_file_is_called_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "x y \u00e9"
    assert str(locate("sqlite", folder)) == f"sqlite:///{folder}/study.db"
