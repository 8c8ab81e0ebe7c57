"""An open study: the storage it is held to, the program that wrote it, and what it knows of the code."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from deepfake.errors import UserError
from deepfake.sweeping.search_space import parse_space
from deepfake.sweeping.storage import locate, open_storage
from deepfake.sweeping.study import Study
from deepfake.sweeping.study_plan import StudyPlan
from tests.sweeping import toy
from tests.sweeping.toy import claimed, completed, opened


def test_what_is_told_to_end_waits_moments_for_the_storage_and_knows_what_it_saw_last(
    plan: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepfake.sweeping.study._LAST_SECONDS", 0.05)
    claims = opened(plan)
    claim = claimed(claims)
    seen = claims.study.trials()
    back = threading.Event()
    asked: list[object] = []
    monkeypatch.setattr(claims, "_recorded", lambda claim: (asked.append(claim), back.wait(30), None)[-1])
    monkeypatch.setattr(claims.study, "read_trials", lambda: (asked.append("trials"), back.wait(30)))
    claims.release(claim)
    # It was silent once, and is not waited for again.
    assert claims.study.last_trials() == seen
    assert asked == [claim]
    back.set()


def test_another_storage_under_the_same_name_is_refused(plan: StudyPlan, tmp_path: Path) -> None:
    Study(plan)
    with pytest.raises(UserError, match=r"kept in study\.journal, and sweep\.storage=.*study\.db is another") as caught:
        Study(replace(plan, location=locate("sqlite", tmp_path)))
    assert "sweep.storage=journal" in caught.value.hint
    assert not (tmp_path / "study.db").exists()


def test_another_storage_is_refused_in_a_folder_of_before_it_was_kept(plan: StudyPlan, tmp_path: Path) -> None:
    Study(plan)
    (tmp_path / "storage.json").unlink()
    with pytest.raises(UserError, match="is another"):
        Study(replace(plan, location=locate("sqlite", tmp_path)))
    Study(plan)
    assert (tmp_path / "storage.json").exists()


def test_the_same_storage_written_in_another_way_goes_on(plan: StudyPlan, tmp_path: Path) -> None:
    Study(plan)
    assert Study(replace(plan, location=locate(str(tmp_path / "study.journal"), tmp_path))).resumed


def test_a_study_refused_for_its_space_does_not_bind_the_folder(plan: StudyPlan, tmp_path: Path) -> None:
    Study(plan)
    elsewhere = replace(plan, folder=tmp_path / "new", parameters=parse_space({"x": "interval(0,2)"}, [], {}))
    with pytest.raises(UserError, match="begun differently"):
        Study(elsewhere)
    assert not (tmp_path / "new" / "storage.json").exists()


def test_a_study_of_a_newer_program_is_told(plan: StudyPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr("deepfake.sweeping.study.FORMAT", 2)
        Study(plan)
    with pytest.raises(UserError, match="another version"):
        Study(plan)


def test_the_code_is_kept_with_the_study(tmp_path: Path) -> None:
    plan = toy.make_plan(tmp_path, code={"version": "1"})
    claims = toy.opened(plan)
    assert claims.study.note_code() is None
    claims.claim()
    assert Study(replace(plan, code={"version": "2"})).note_code() is not None
    kept = optuna.load_study(study_name="s", storage=open_storage(plan.location)).user_attrs["code"]
    assert '"1"' in kept
    assert '"2"' in kept


def test_a_run_that_was_named_late_is_found_with_its_trial_whether_that_has_ended_or_not(plan: StudyPlan) -> None:
    claims = opened(replace(plan, total=3))
    for number in range(3):
        claim = claimed(claims)
        claims.report(claim, {}, {"run_dir": str(number)})
        if number != 1:
            claims.finish(
                claim, replace(completed(claim), run_dir=str(number), run_id="c" * 32 if number == 2 else None)
            )
    claims.study.note_runs({str(number): "ab"[number % 2] * 32 for number in range(3)})
    again = opened(replace(plan, total=3)).study
    assert [trial.user_attrs["run_id"] for trial in again.with_runs(again.trials())] == [
        "a" * 32,
        "b" * 32,
        "c" * 32,
    ]
    assert again.trials()[1].user_attrs["run_id"] == "b" * 32
