"""Random changes to clips."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from deepfake.data.augment import Draw, apply_draws, change_pixels, draw
from deepfake.data.options import AugmentOptions


def _clip(frames: int = 3) -> np.ndarray:
    y, x = np.mgrid[0:32, 0:40]
    frame = np.stack([x * 6, y * 7, 255 - 3 * (x + y)], 2).clip(0, 255).astype(np.uint8)
    return np.repeat(frame[None], frames, 0)


def test_the_same_numbers_draw_the_same() -> None:
    options = AugmentOptions(jpeg=0.5, blur=0.5, noise=0.5, flip=0.5, brightness=0.3)
    first, second = draw(options, 1, 2, 3), draw(options, 1, 2, 3)
    assert (first.quality, first.sigma, first.noise, first.seed) == (
        second.quality,
        second.sigma,
        second.noise,
        second.seed,
    )


def test_switching_one_change_off_moves_no_other() -> None:
    both, one = AugmentOptions(jpeg=1, blur=1), AugmentOptions(blur=1)
    assert [draw(both, 0, 0, i).sigma for i in range(9)] == [draw(one, 0, 0, i).sigma for i in range(9)]


def test_probabilities_are_kept() -> None:
    options = AugmentOptions(jpeg=0.3, flip=0.8)
    drawn = [draw(options, 0, 0, i) for i in range(2000)]
    assert np.mean([d.quality is not None for d in drawn]) == pytest.approx(0.3, abs=0.04)
    assert np.mean([d.device[0] for d in drawn]) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("change", ["jpeg", "blur"])
def test_all_frames_of_a_clip_change_alike(change: str) -> None:
    clip = _clip()
    change_pixels(clip, draw(AugmentOptions(**{change: 1.0}), 0, 0, 0))
    assert (clip == clip[:1]).all()


@pytest.mark.parametrize("change", ["jpeg", "blur", "noise"])
def test_each_change_changes_something(change: str) -> None:
    clip = _clip()
    change_pixels(clip, draw(AugmentOptions(**{change: 1.0}), 0, 0, 0))
    assert (clip != _clip()).any()


@pytest.mark.parametrize("quality", [60, 95])
def test_compression_loses_what_the_format_loses(quality: int) -> None:
    """No more than a fifth above what Pillow's exact DCT loses; the fast DCT loses a third more at quality 95."""
    rng = np.random.default_rng(0)
    clip = (
        np.rint(128 + 40 * np.cumsum(rng.normal(0, 0.1, (1, 64, 64, 1)), 2)).repeat(3, 3).clip(0, 255).astype(np.uint8)
    )
    stream = io.BytesIO()
    Image.fromarray(clip[0]).save(stream, "JPEG", quality=quality, subsampling=2)
    lost = np.abs(np.asarray(Image.open(stream)).astype(int) - clip[0]).mean()
    out = clip.copy()
    change_pixels(out, Draw(quality, None, None, 0, np.zeros(4, np.float32)))
    assert np.abs(out[0].astype(int) - clip[0]).mean() < 1.2 * lost


def test_noise_is_new_in_every_frame() -> None:
    clip = _clip()
    change_pixels(clip, draw(AugmentOptions(noise=1.0, noise_std=20.0), 0, 0, 1))
    assert (clip[0] != clip[1]).any()


def test_noise_has_the_deviation_drawn() -> None:
    clip = np.full((2, 64, 64, 3), 128, np.uint8)
    drawn = draw(AugmentOptions(noise=1.0, noise_std=20.0), 0, 0, 2)
    change_pixels(clip, drawn)
    assert drawn.noise is not None
    assert clip.astype(float).std() == pytest.approx(drawn.noise, abs=0.6)


def test_neutral_draws_leave_clips_as_they_are() -> None:
    clips = torch.rand(2, 3, 3, 8, 8)
    assert torch.allclose(apply_draws(clips, torch.tensor([[0.0, 1, 1, 1]] * 2)), clips, atol=1e-6)


def test_a_flip_mirrors_only_the_clip_that_drew_it() -> None:
    clips = torch.rand(2, 3, 3, 8, 8)
    out = apply_draws(clips, torch.tensor([[1.0, 1, 1, 1], [0.0, 1, 1, 1]]))
    assert torch.allclose(out[0], clips[0].flip(-1), atol=1e-6)
    assert torch.allclose(out[1], clips[1], atol=1e-6)


def test_no_saturation_is_grey() -> None:
    out = apply_draws(torch.rand(1, 2, 3, 8, 8), torch.tensor([[0.0, 1, 1, 0]]))
    assert torch.allclose(out[:, :, 0], out[:, :, 2], atol=1e-6)


def test_colours_stay_in_range() -> None:
    out = apply_draws(torch.rand(1, 2, 3, 8, 8), torch.tensor([[0.0, 3, 3, 3]]))
    assert (out.min(), out.max()) == (0, 1)


def test_colours_change_one_after_the_other() -> None:
    clips = torch.rand(2, 3, 3, 8, 8, dtype=torch.float64) * 0.4 + 0.3
    brightness, contrast, saturation = 1.1, 0.8, 1.3
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(1, 1, 3, 1, 1)
    step = clips * brightness
    mean = (step * weights).sum(2, keepdim=True).mean((1, 2, 3, 4), keepdim=True)
    step = mean + (step - mean) * contrast
    grey = (step * weights).sum(2, keepdim=True)
    step = grey + (step - grey) * saturation
    drawn = torch.tensor([[0.0, brightness, contrast, saturation]] * 2, dtype=torch.float64)
    assert torch.allclose(apply_draws(clips, drawn), step.clamp(0, 1))
