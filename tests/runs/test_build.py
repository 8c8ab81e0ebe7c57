"""What a run is built from: a detector to begin with, features, and what a process keeps for the next trial."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deepfake.config import PathOptions, RunConfig
from deepfake.data.options import AugmentOptions, DatasetOptions
from deepfake.errors import DataError, UserError
from deepfake.models.detector import create_detector
from deepfake.models.options import BackboneOptions, HeadOptions, Lstm, Mean
from deepfake.runs.build import Cache, clips_key, first_detector, process_cache, samples_key, size_note
from deepfake.runs.checks import check_features
from deepfake.tracking.store import locate
from deepfake.training.checkpoint import save_weights
from deepfake.training.options import AdamW, FeatureOptions, TrainerOptions
from tests.training.fakes import tiny_detector


def test_a_thing_is_made_once() -> None:
    cache = Cache()
    first = cache.get("kind", "key", list)
    assert cache.get("kind", "key", list) is first
    assert cache.get("other kind", "key", list) is not first


def test_the_one_longest_unused_goes() -> None:
    cache = Cache()
    used, unused = cache.get("kind", "a", list), cache.get("kind", "b", list)
    cache.get("kind", "a", list)
    cache.get("kind", "c", list)
    assert cache.get("kind", "a", list) is used
    assert cache.get("kind", "b", list) is not unused


def test_what_could_not_be_made_is_tried_again() -> None:
    cache = Cache()

    def fail() -> object:
        raise DataError("no such folder", "")

    with pytest.raises(DataError):
        cache.get("kind", "key", fail)
    assert cache.get("kind", "key", lambda: "made") == "made"


def test_trials_of_a_process_share_a_cache() -> None:
    assert process_cache() is process_cache()


@pytest.mark.parametrize(
    "changed",
    [
        {"dataset": DatasetOptions(frames=5)},
        {"augment": AugmentOptions(flip=0.1)},
        {"seed": 1},
        {"head": Lstm()},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_other_clips_have_another_key(changed: dict[str, object]) -> None:
    config = RunConfig(head=Mean())
    assert clips_key(config) != clips_key(replace(config, **changed))  # type: ignore[arg-type]


def test_rates_and_heads_of_a_kind_share_their_data() -> None:
    config = RunConfig(head=Lstm())
    other = replace(config, head=Lstm(hidden=7), optimizer=AdamW(lr=0.1))
    assert clips_key(config) == clips_key(other)
    assert samples_key(config) == samples_key(other)


def test_a_cache_tells_whether_a_run_came_before() -> None:
    cache = Cache()
    assert cache.is_empty
    cache.get("samples", "a", lambda: 1)
    assert not cache.is_empty


def config_for(outputs: Path, origin: str | None, head: HeadOptions) -> RunConfig:
    return RunConfig(
        paths=PathOptions(str(outputs)),
        backbone=BackboneOptions(name="tiny", pretrained=False),
        head=head,
        trainer=TrainerOptions(init_from=origin),
    )


def first(outputs: Path, origin: str | None, head: HeadOptions) -> torch.nn.Module:
    config = config_for(outputs, origin, head)
    return first_detector(config, locate(config.tracking, config.outputs), Cache())


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


def test_runs_that_share_a_cache_say_it_once() -> None:
    cache = Cache()
    assert [cache.is_first(text) for text in ("a", "b", "c", "a", "b", "c")] == [True] * 3 + [False] * 3


def checked(*, flip: float = 0.0, cached: bool = True, views: int | None = None, freeze: bool = True) -> None:
    config = RunConfig(
        backbone=BackboneOptions(name="tiny", pretrained=False, freeze=freeze),
        augment=AugmentOptions(flip=flip),
        features=FeatureOptions(cached=cached, views=views),
    )
    check_features(config, create_detector(config.backbone, Mean(), 32))


@pytest.mark.parametrize("allowed", [{}, {"flip": 0.5, "views": 2}, {"cached": False, "flip": 0.5, "freeze": False}])
def test_what_gives_an_ordinary_runs_features_is_allowed(allowed: dict[str, object]) -> None:
    checked(**allowed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("refused", "hint"),
    [
        ({"freeze": False}, "backbone.freeze=true"),
        ({"flip": 0.5}, "features.views=4"),
        ({"views": 2}, "augment=basic"),
        ({"views": 2, "cached": False}, "features=cached"),
    ],
)
def test_what_would_not_is_refused_with_the_way_out(refused: dict[str, object], hint: str) -> None:
    with pytest.raises(UserError) as raised:
        checked(**refused)  # type: ignore[arg-type]
    assert hint in raised.value.hint
