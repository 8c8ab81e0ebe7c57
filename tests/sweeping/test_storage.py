"""Where a study may lie, and what is told when it cannot lie there."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import optuna
import pytest

from deepfake.errors import UserError
from deepfake.sweeping.storage import locate, open_storage


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
