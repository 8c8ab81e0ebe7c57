"""Which configs may store features; the others are refused before a run is begun."""

from __future__ import annotations

import pytest

from deepfake.commands.features import check_features
from deepfake.config import RunConfig
from deepfake.data.options import AugmentOptions
from deepfake.errors import UserError
from deepfake.models.detector import create_detector
from deepfake.models.options import BackboneOptions, Mean
from deepfake.training.options import FeatureOptions


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
