"""The reader's command ends as other programs do, and no name makes a line of its own."""

from __future__ import annotations

import io
from typing import Any

import pytest

from deepfake.reading import cli
from deepfake.reading.cli import main
from deepfake.reading.detector import Detector


class Scripted:
    """Says the same of every file."""

    name, threshold = "made", 0.5

    def predict_all(self, paths: list[str]) -> list[dict[str, Any]]:
        same = {"class": "FAKE", "score": 0.9, "probability": None, "reason": None}
        return [{**same, "path": path} for path in paths]


@pytest.fixture(autouse=True)
def _loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Detector, "load", lambda folder, quantized: Scripted())


def test_a_name_with_a_line_end_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["folder", "a.mp4\nb.mp4: REAL (score 0.0100)"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["a.mp4%0Ab.mp4: REAL (score 0.0100): FAKE (score 0.9000)"]


def test_an_empty_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["folder", ""]) == 2
    assert capsys.readouterr().err.startswith("error: an empty name")


def test_an_interruption_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(folder: object, quantized: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Detector, "load", interrupted)
    assert main(["folder", "a.mp4"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_nobody_who_reads_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

        def fileno(self) -> int:
            return 1

    silenced: list[int] = []
    monkeypatch.setattr(cli.sys, "stdout", Closed())
    monkeypatch.setattr(cli.os, "dup2", lambda source, target: silenced.append(target))
    assert main(["folder", "a.mp4"]) == 141
    assert silenced == [1]
