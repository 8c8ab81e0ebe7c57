"""A finished run for what is done with runs afterwards, and the command line without a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from deepfake.cli import main


@dataclass
class Said:
    """What a command printed, and how it ended."""

    status: int
    out: str
    err: str


class Here:
    """Runs ``deepfake …`` in this process: importing torch and MLflow again for each test would take most of its time.

    Args:
        outputs: The outputs folder.
        patch: Sets the environment.
        capture: Reads what was printed.
    """

    def __init__(self, outputs: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        patch.setenv("DEEPFAKE_OUTPUTS", str(outputs))
        patch.setenv("COLUMNS", "200")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        self._capture = capture

    def __call__(self, *words: str) -> Said:
        self._capture.readouterr()
        status = main([*words])
        printed = self._capture.readouterr()
        return Said(status, printed.out, printed.err)


def told(said: Said) -> Sequence[str]:
    """Which lines a mistake was told in."""
    return [line.split(":")[0] for line in said.err.splitlines() if line.startswith(("error:", "hint:"))]
