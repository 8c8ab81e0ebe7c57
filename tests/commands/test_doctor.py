from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepfake.cli import main
from deepfake.commands import doctor
from deepfake.runs.checkup import FAILURE, OK, WARNING, Check


def _checks(*checks: Check) -> object:
    def check_all(config: object) -> Iterator[Check]:
        yield from checks

    return check_all


def test_a_warning_is_no_failure(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "check_all", _checks(Check("disk", WARNING, "full \x1b[31m", "make room")))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "warning disk" in out
    assert "to do: make room" in out
    assert "\x1b[31m" not in out


def test_failures_are_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "check_all", _checks(Check("a", OK, "fine"), Check("b", FAILURE, "gone", "mend it")))
    assert main(["doctor"]) == 1
    assert "1 of 2 stand in the way of a run" in capsys.readouterr().out


def test_json_is_all_that_stands_on_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "check_all", _checks(Check("a", OK, "fine")))
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "a", "state": "ok", "said": "fine", "todo": ""}]


def test_a_mistyped_key_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "trainer.epoch=3"]) == 2
    assert "trainer.epochs" in capsys.readouterr().err
