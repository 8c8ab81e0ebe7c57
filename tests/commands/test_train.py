"""A device that is lost in mid-run ends the process, which nothing could use any more, and says how to go on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deepfake.commands import train
from deepfake.errors import TrainingDiverged, is_device_lost
from deepfake.hydra_app import Refusal
from deepfake.runs.context import RunContext

GONE = RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later")


def context(number: int | None) -> RunContext:
    return RunContext(folder=Path("outputs/runs/one"), composed="", resolved="", number=number)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (GONE, True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (TrainingDiverged("the training loss is nan"), False),
    ],
    ids=["error", "cudnn", "no room", "shapes", "diverged"],
)
def test_a_lost_device_is_told_from_other_errors(error: RuntimeError, lost: bool) -> None:
    assert is_device_lost(error) == lost


@pytest.mark.parametrize(("number", "again"), [(None, "resume=outputs/runs/one"), (3, "the same command")])
def test_the_way_on_is_told(number: int | None, again: str, capsys: pytest.CaptureFixture[str]) -> None:
    ended = train._lost(GONE, context(number))
    assert ended is not None
    assert ended.code == 2
    # Of a single run, the guard tells it.
    told = str(ended.error) if isinstance(ended, Refusal) else capsys.readouterr().err
    assert "error: the device was lost in mid-run: CUDA error: unspecified launch failure" in told
    assert again in told


def test_another_error_goes_its_way() -> None:
    assert train._lost(TrainingDiverged("the training loss is nan"), context(None)) is None
