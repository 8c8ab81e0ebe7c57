"""Features to one vector for each sample."""

from __future__ import annotations

import numpy as np
import torch

from deepfake.data.clips import Batch
from deepfake.training.features.probe import frozen_copy, sample_vectors
from tests.training.fakes import FakeClips, small_detector


class Numbers(FakeClips):
    """Batches whose features say which item and which frame they are of; maps where ``side`` is given."""

    side: tuple[int, ...] = ()

    def fetch(self, items: object, epoch: int = 0) -> Batch:
        batch = super().fetch(items, epoch)  # type: ignore[arg-type]
        item = torch.tensor(list(items), dtype=torch.float32)  # type: ignore[call-overload]
        frame = torch.arange(batch.mask.shape[1], dtype=torch.float32)
        features = (item[:, None] + 100 * frame)[:, :, None]
        batch.clips = features.reshape(*features.shape, *(1 for _ in self.side)).expand(*features.shape, *self.side)
        return batch


def test_frames_that_are_fillers_do_not_count_and_failed_samples_are_nan() -> None:
    clips = Numbers(6, failed=1)
    found = sample_vectors(clips)
    assert found.shape == (6, 1)
    assert np.isnan(found[0])
    # Clips 0 and 1 are the first sample's; of clip 0 the second frame is a filler.
    assert found[1, 0] == ((0 + 0) + (1 + 50)) / 2


def test_maps_are_averaged_over_place() -> None:
    plain, maps = Numbers(6), Numbers(6)
    maps.side = (2, 3)
    assert np.allclose(sample_vectors(plain), sample_vectors(maps))


def test_a_split_without_clips_gives_nothing_to_know() -> None:
    assert np.isnan(sample_vectors(Numbers(2, failed=2))).all()


def test_the_frozen_copy_leaves_the_detector_trainable() -> None:
    detector = small_detector().train()
    copied = frozen_copy(detector)
    assert copied.freeze
    assert all(parameter.requires_grad for parameter in detector.parameters())
    assert detector.backbone.training
    assert not any(parameter.requires_grad for parameter in copied.backbone.parameters())
