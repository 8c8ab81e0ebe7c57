"""What a detector leans on: made-up detectors that lean on one thing each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deepfake.models.backbone import Backbone
from deepfake.models.detector import Detector
from deepfake.models.heads import create_head
from deepfake.models.options import Lstm, Mean
from deepfake.training.evaluation import single_samples
from deepfake.training.leaning import OneClipEach, balanced_rows, fall, mean_interval, saliency_inside
from tests.training.fakes import FakeClips, Pooled, cpu, small_detector


def test_one_clip_of_each_sample_is_the_sources_own() -> None:
    clips = FakeClips(8, failed=2)
    found = OneClipEach(clips, np.array([0, 3, 5]))
    assert found.table["sample_id"].tolist() == ["fake/003", "fake/005"]
    assert found.items.tolist() == [[0, 1], [1, 1]]
    batch, own = found.fetch([1]), clips.fetch([int(found.chosen[1])])
    assert torch.equal(batch.clips, own.clips)
    assert batch.samples.tolist() == [1]


def test_rows_are_of_both_classes_alike_and_the_same_each_time() -> None:
    labels = np.array([0] * 30 + [1] * 10 + [-1] * 5)
    rows = balanced_rows(labels, 24)
    assert np.bincount(labels[rows]).tolist() == [12, 10]
    assert rows.tolist() == balanced_rows(labels, 24).tolist() == sorted(rows)


def test_a_fall_is_told_with_bounds() -> None:
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 50)
    found = fall(labels, labels + 0.1 * rng.normal(size=100), rng.normal(size=100), single_samples(100))
    assert found.before == 1.0
    assert found.drop.value == pytest.approx(found.before - found.after)
    assert 0.2 < found.drop.low < found.drop.value < found.drop.high


def test_nothing_changed_is_no_fall_and_a_few_samples_say_nothing() -> None:
    labels = np.tile([0, 1], 50)
    scores = labels + np.random.default_rng(0).normal(size=100)
    assert fall(labels, scores, scores, single_samples(100)).drop.low <= 0
    few = fall(labels[:8], scores[:8], -scores[:8], single_samples(8))
    assert "too few" in few.reason
    assert math.isnan(few.drop.low)


def test_chance_alone_is_seldom_a_fall() -> None:
    """Two equally good scores of the same samples: how often is the second surely worse by 0.05?"""
    alarms = 0
    labels = np.tile([0, 1], 50)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        before, after = (1.5 * labels + rng.normal(size=100) for _ in range(2))
        alarms += fall(labels, before, after, single_samples(100)).drop.low > 0.05
    assert alarms <= 2


class Edges(Pooled):
    """Sees only the outermost pixels, or only what lies within them."""

    def __init__(self, inside: bool) -> None:
        super().__init__()
        self.weights = torch.zeros(1, 1, 16, 16)
        self.weights[..., 4:12, 4:12] = 1
        self.weights = self.weights if inside else 1 - self.weights

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weights).mean((2, 3), keepdim=True).repeat(1, 2, 1, 1)


@pytest.mark.parametrize(("inside", "share"), [(True, 1.0), (False, 0.0)])
@pytest.mark.parametrize("freeze", [True, False])
def test_the_gradient_lies_where_a_detector_looks(inside: bool, share: float, freeze: bool) -> None:
    torch.manual_seed(0)
    detector = Detector(Backbone(Edges(inside)), create_head(Mean(), 6), "vectors", freeze=freeze)
    shares, places = saliency_inside(detector, OneClipEach(FakeClips(12), np.arange(12)), 0.5, cpu(), most=6)
    assert shares == pytest.approx(np.full(6, share))
    assert places.tolist() == [0, 2, 4, 7, 9, 11]


def test_looking_at_gradients_leaves_a_detector_as_it_was() -> None:
    detector = small_detector(Lstm(hidden=3)).train()
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    saliency_inside(detector, OneClipEach(FakeClips(4), np.arange(4)), 0.5, cpu())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in detector.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())


def test_a_detector_without_gradients_says_nothing() -> None:
    detector = small_detector()
    torch.nn.init.zeros_(detector.backbone.model.conv.weight)
    shares, _ = saliency_inside(detector, OneClipEach(FakeClips(4), np.arange(4)), 0.5, cpu())
    assert np.isnan(shares).all()


def test_no_clips_give_no_gradients() -> None:
    shares, places = saliency_inside(small_detector(), OneClipEach(FakeClips(2, failed=2), np.arange(2)), 0.5, cpu())
    assert len(shares) == len(places) == 0


def test_the_mean_of_units_has_bounds_and_one_unit_has_none() -> None:
    assert str(mean_interval(np.array([0.4, 0.5, 0.6]), np.arange(3))) == "0.500 [0.252, 0.748]"
    assert math.isnan(mean_interval(np.array([0.4, 0.5]), np.zeros(2)).low)
    assert math.isnan(mean_interval(np.zeros(0), np.zeros(0)).value)
