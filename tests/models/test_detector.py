"""Backbone and head together: inputs, freezing, chunks, parameter groups."""

from __future__ import annotations

import pytest
import torch

from deepfake.models.detector import Detector, create_detector
from deepfake.models.options import BackboneOptions, ConvLstm, Gru, HeadOptions, Mean, Vit


def detector_of(head: HeadOptions | None = None, name: str = "tiny", **changes: object) -> Detector:
    torch.manual_seed(0)
    backbone = BackboneOptions(name=name, pretrained=False, **changes)  # type: ignore[arg-type]
    return create_detector(backbone, head or Mean(), 64)


def clips_of(batch: int = 2, frames: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, frames, 3, 64, 64), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("head", [Mean(), Gru(hidden=8), Vit(width=16, depth=1), ConvLstm(hidden=8)], ids=repr)
def test_every_pairing_gives_logits(head: HeadOptions) -> None:
    output = detector_of(head)(clips_of(), torch.ones(2, 3, dtype=torch.bool))
    assert output.logits.shape == (2,)


def test_bytes_and_fractions_are_the_same_picture() -> None:
    detector = detector_of().eval()
    clips = clips_of()
    torch.testing.assert_close(detector.extract(clips), detector.extract(clips.float() / 255), rtol=1e-4, atol=1e-4)


def test_the_backbones_own_mean_and_std_are_used() -> None:
    detector = detector_of()
    seen: list[torch.Tensor] = []
    detector.backbone.model.forward_features = lambda x: seen.append(x) or torch.zeros(len(x), 128, 4, 4)
    clips = torch.zeros(1, 1, 3, 64, 64)
    clips[:] = torch.tensor(detector.backbone.mean)[:, None, None]
    detector.extract(clips)
    torch.testing.assert_close(seen[0], torch.zeros_like(seen[0]))


def test_frames_are_brought_to_the_side_that_is_asked_for() -> None:
    seen: list[torch.Tensor] = []
    detector = detector_of(size=32)
    detector.backbone.model.forward_features = lambda x: seen.append(x) or torch.zeros(len(x), 128, 2, 2)
    detector.extract(clips_of())
    assert seen[0].shape == (6, 3, 32, 32)
    small = torch.zeros(1, 1, 3, 32, 32, dtype=torch.uint8)
    detector.extract(small)
    assert seen[1].shape == (1, 3, 32, 32)


def test_a_side_smaller_than_stored_averages_and_does_not_skip() -> None:
    detector = detector_of(size=32).eval()
    stripes = torch.zeros(1, 1, 3, 64, 64)
    stripes[..., ::2] = 1.0
    grey = torch.full((1, 1, 3, 64, 64), 0.5)
    torch.testing.assert_close(detector.extract(stripes), detector.extract(grey), rtol=0.1, atol=0.15)


def test_the_same_side_as_stored_changes_nothing() -> None:
    torch.testing.assert_close(
        detector_of(size=64).eval().extract(clips_of()), detector_of().eval().extract(clips_of())
    )


def test_chunks_change_nothing() -> None:
    whole, parts = detector_of().eval(), detector_of(chunk=2).eval()
    torch.testing.assert_close(whole.extract(clips_of()), parts.extract(clips_of()))


def test_a_frozen_backbone_keeps_its_statistics() -> None:
    detector = detector_of(name="resnet18", freeze=True).train()
    before = {k: v.clone() for k, v in detector.backbone.state_dict().items()}
    detector(clips_of(), torch.ones(2, 3, dtype=torch.bool)).logits.sum().backward()
    assert all(torch.equal(before[k], v) for k, v in detector.backbone.state_dict().items())
    assert all(p.grad is None for p in detector.backbone.parameters())
    assert all(p.grad is not None for p in detector.head.parameters())


@pytest.mark.slow
def test_layers_a_maps_head_never_reads_are_not_trained() -> None:
    detector = detector_of(Vit(width=16, depth=1), name="mobilenetv3_small_100").train()
    detector(clips_of(), torch.ones(2, 3, dtype=torch.bool)).logits.sum().backward()
    trained = [name for name, p in detector.named_parameters() if p.requires_grad]
    assert all(detector.get_parameter(name).grad is not None for name in trained)
    assert not any("conv_head" in name for name in trained)


def test_a_clip_equals_the_same_clip_padded() -> None:
    detector = detector_of(Gru(hidden=8)).eval()
    clips = clips_of(frames=4)
    mask = torch.tensor([[True, True, True, False]] * 2)
    short = detector(clips[:, :3], mask[:, :3]).logits
    torch.testing.assert_close(detector(clips, mask).logits, short)
