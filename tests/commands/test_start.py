"""The weights a run begins with: its own, another run's, and what is told where those do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deepfake.commands.shelf import Shelf
from deepfake.commands.start import first_detector
from deepfake.config import PathOptions, RunConfig
from deepfake.errors import UserError
from deepfake.models.options import BackboneOptions, HeadOptions, Lstm
from deepfake.tracking.store import locate
from deepfake.training.checkpoint import save_weights
from deepfake.training.options import TrainerOptions
from tests.training.fakes import tiny_detector


def config_for(outputs: Path, origin: str | None, head: HeadOptions) -> RunConfig:
    return RunConfig(
        paths=PathOptions(str(outputs)),
        backbone=BackboneOptions(name="tiny", pretrained=False),
        head=head,
        trainer=TrainerOptions(init_from=origin),
    )


def first(outputs: Path, origin: str | None, head: HeadOptions) -> torch.nn.Module:
    config = config_for(outputs, origin, head)
    return first_detector(config, locate(config.tracking, config.outputs), Shelf())


def test_a_run_begins_with_the_weights_of_a_file(tmp_path: Path) -> None:
    head = Lstm(hidden=4)
    trained = tiny_detector(head)
    with torch.no_grad():
        for tensor in trained.state_dict().values():
            tensor.add_(1)
    save_weights(trained, tmp_path / "best.safetensors", {})
    begun = first(tmp_path, str(tmp_path / "best.safetensors"), head)
    for name, tensor in begun.state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name]), name


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_weights(tiny_detector(Lstm(hidden=4)), tmp_path / "best.safetensors", {})
    with pytest.raises(UserError, match="do not fit this model") as raised:
        first(tmp_path, str(tmp_path / "best.safetensors"), Lstm(hidden=5))
    assert "head they were trained with" in raised.value.hint


@pytest.mark.parametrize("origin", ["/nowhere/best.safetensors", "no such run", "best:no such sweep"])
def test_a_run_that_is_not_there_is_refused(tmp_path: Path, origin: str) -> None:
    with pytest.raises(UserError):
        first(tmp_path, origin, Lstm(hidden=4))


def test_without_one_a_run_begins_with_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    begun = first(tmp_path, None, Lstm(hidden=4)).state_dict()
    for name, tensor in tiny_detector(Lstm(hidden=4)).state_dict().items():
        assert torch.equal(tensor, begun[name]), name
