"""The weights a run begins with: its own, another run's, and what is told where those do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepfake.commands.shelf import Shelf
from deepfake.commands.start import first_detector, size_note
from deepfake.config import PathOptions, RunConfig
from deepfake.data.options import DatasetOptions
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


def noted(size: int, origin: str | None = None, **backbone: Any) -> str:
    return size_note(
        RunConfig(
            dataset=DatasetOptions(size=size),
            backbone=BackboneOptions(name="inception_v3", **backbone),
            trainer=TrainerOptions(init_from=origin),
        )
    )


def test_weights_that_read_another_size_than_they_were_made_for_say_so() -> None:
    wanted = "inception_v3 was made for images of 299 pixels and reads 224 here; dataset.size=auto takes 299"
    assert noted(224) == noted(224, pretrained=False, weights="file.pth") == wanted


def test_what_was_made_for_no_size_or_for_this_one_says_nothing() -> None:
    assert [noted(299), noted(224, pretrained=False), noted(224, origin="best:heads")] == ["", "", ""]


def test_runs_that_share_a_shelf_say_it_once() -> None:
    shelf = Shelf()
    assert [shelf.first(text) for text in ("a", "b", "c", "a", "b", "c")] == [True] * 3 + [False] * 3
