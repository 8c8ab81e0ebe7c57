"""Where a study may lie, and what is told when it cannot lie there."""

from __future__ import annotations

import errno
import importlib.util
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from deepfake.errors import UserError
from deepfake.sweeping.outage import is_outage, ride_out
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


def test_an_exception_while_writing_together_leaves_the_journal_usable(tmp_path: Path) -> None:
    storage = open_storage(locate("journal", tmp_path))
    study = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "s")

    def write_and_fail() -> None:
        with together(storage):
            storage.create_new_trial(study)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    storage.set_trial_user_attr(storage.create_new_trial(study), "a", 1)
    trials = open_storage(locate("journal", tmp_path)).get_all_trials(study)
    assert [trial.user_attrs for trial in trials] == [{}, {"a": 1}]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, without making them."""
    now, pauses = [0.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr("deepfake.sweeping.outage.time.sleep", sleep)
    monkeypatch.setattr("deepfake.sweeping.outage.time.monotonic", lambda: now[0])
    return pauses


def full(times: int) -> Callable[[int], None]:
    """A disk that is full so many times."""
    left, real = [times], os.fsync

    def fsync(descriptor: int) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    return fsync


def test_a_full_disk_is_waited_out_and_costs_no_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    storage = open_storage(locate("journal", tmp_path))
    study = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "s")
    monkeypatch.setattr("deepfake.sweeping.journal.os.fsync", full(3))
    with together(storage):
        storage.set_trial_user_attr(storage.create_new_trial(study), "a", 1)
    assert len(waits) == 3
    assert [trial.user_attrs for trial in open_storage(locate("journal", tmp_path)).get_all_trials(study)] == [{"a": 1}]


def test_an_append_that_failed_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(locate("journal", tmp_path))
    before = (tmp_path / "study.journal").read_bytes()
    monkeypatch.setattr("deepfake.sweeping.journal.os.fsync", full(1))
    with pytest.raises(OSError, match="No space"):
        storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "s")
    assert (tmp_path / "study.journal").read_bytes() == before


def test_after_its_patience_an_outage_ends_in_an_error(waits: list[float]) -> None:
    def away() -> None:
        raise ConnectionResetError("gone")

    with pytest.raises(UserError, match="x has not answered for 60 s: gone"):
        ride_out(away, "x", 60.0)
    assert sum(waits) == pytest.approx(60.0)


def test_without_patience_the_first_failure_is_told(waits: list[float]) -> None:
    def away() -> None:
        raise ConnectionResetError("gone")

    with pytest.raises(UserError, match="x does not answer: gone"):
        ride_out(away, "x", 0.0)
    assert waits == []


def test_a_mistake_is_no_outage(waits: list[float]) -> None:
    def mistaken() -> None:
        raise KeyError("a")

    with pytest.raises(KeyError):
        ride_out(mistaken, "x", 60.0)
    assert waits == []


def test_a_missing_table_or_file_is_told_from_a_silent_server() -> None:
    from sqlalchemy.exc import IntegrityError, OperationalError

    silent, twice = OperationalError("q", {}, Exception("refused")), IntegrityError("q", {}, Exception("twice"))
    assert [is_outage(error) for error in (silent, twice, FileNotFoundError())] == [True, False, False]


def test_a_server_without_its_driver_names_the_package(tmp_path: Path) -> None:
    if importlib.util.find_spec("MySQLdb") is not None:
        pytest.skip("the driver is installed")
    with pytest.raises(UserError, match="needs the Python package 'MySQLdb'") as caught:
        open_storage(locate("mysql://u@127.0.0.1/db", tmp_path))
    assert caught.value.hint == "pip install mysqlclient"
