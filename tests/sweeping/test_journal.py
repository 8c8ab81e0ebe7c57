"""Appends to a journal are whole or not there, whatever fails meanwhile."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from deepfake.sweeping.storage import locate, open_storage, together


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
