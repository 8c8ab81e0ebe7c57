"""Random changes to clips."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from deepfake.data.augment import Draw, Framing, apply_draws, change_pixels, draw, mix_pairs, stills
from deepfake.data.options import AugmentOptions


def _clip(frames: int = 3) -> np.ndarray:
    y, x = np.mgrid[0:32, 0:40]
    frame = np.stack([x * 6, y * 7, 255 - 3 * (x + y)], 2).clip(0, 255).astype(np.uint8)
    return np.repeat(frame[None], frames, 0)


def _only(seed: int = 0, **change: object) -> Draw:
    return replace(Draw(None, None, None, seed, np.zeros(4, np.float32)), **change)  # type: ignore[arg-type]


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


CHANGES = ["jpeg", "blur", "noise", "crop", "resize", "sharpen", "h264", "cutout"]


@pytest.mark.parametrize("change", [change for change in CHANGES if change not in ("noise", "h264")])
def test_all_frames_of_a_clip_change_alike(change: str) -> None:
    clip = _clip()
    change_pixels(clip, draw(AugmentOptions(**{change: 1.0}), 0, 0, 0))
    assert (clip == clip[:1]).all()


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_changes_something(change: str) -> None:
    clip = _clip()
    change_pixels(clip, draw(AugmentOptions(**{change: 1.0}), 0, 0, 0))
    assert (clip != _clip()).any()


OLD = (46, 847274812, 1.836823, 7.39354, 1.0, 0.858642, 0.987403, 0.8498)


def test_a_draw_of_before_is_drawn_still() -> None:
    """What runs of older versions drew, they draw again: their numbers come out the same."""
    drawn = draw(
        AugmentOptions(flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2, jpeg=1, blur=1, noise=1), 7, 3, 5
    )
    assert (drawn.quality, drawn.seed) == OLD[:2]
    assert (drawn.sigma, drawn.noise, *drawn.device.tolist()) == pytest.approx(OLD[2:])


def test_a_framing_that_takes_all_of_the_picture_leaves_it() -> None:
    clip = _clip()
    change_pixels(clip, _only(framing=Framing(1.0, (1.0, -1.0), 0.0, 1.0, 1)))
    assert (clip == _clip()).all()


@pytest.mark.parametrize(("shift", "corner"), [((-1.0, -1.0), (0, 0)), ((1.0, 1.0), (20, 16)), ((0.0, 0.0), (10, 8))])
def test_a_framing_shows_its_part_of_the_picture(shift: tuple[float, float], corner: tuple[int, int]) -> None:
    clip = _clip()
    change_pixels(clip, _only(framing=Framing(0.5, shift, 0.0, 1.0, 1)))
    x, y = corner
    part = _clip()[0, y : y + 16, x : x + 20].astype(float)
    shown = clip[0].reshape(16, 2, 20, 2, 3).mean((1, 3))
    # A ramp's mean over the pixels that one became is that pixel, but at the border.
    assert np.abs(shown - part)[1:-1, 1:-1].max() <= 3.5


def test_a_framing_turns_anticlockwise() -> None:
    clip = np.zeros((1, 33, 33, 3), np.uint8)
    clip[0, 16, 28] = 255  # on the right
    change_pixels(clip, _only(framing=Framing(1.0, (0.0, 0.0), 90.0, 1.0, 1)))
    assert np.argwhere(clip[0, :, :, 0] > 128).tolist() == [[4, 16]]  # at the top


def test_a_framing_that_is_turned_next_to_nothing_shows_the_same_part() -> None:
    upright, turned = _clip(1), _clip(1)
    change_pixels(upright, _only(framing=Framing(0.5, (0.4, -0.2), 0.0, 1.0, 1)))
    change_pixels(turned, _only(framing=Framing(0.5, (0.4, -0.2), 1e-6, 1.0, 1)))
    assert np.abs(upright.astype(int) - turned)[:, 2:-2, 2:-2].max() <= 8


def test_every_framing_stays_within_the_picture() -> None:
    options = AugmentOptions(crop=1, crop_scale=[0.1, 1.0])
    for item in range(300):
        framing = draw(options, 0, 0, item).framing
        assert framing is not None
        left, top, right, bottom = framing.box(32, 40)
        assert 0 <= left < right <= 40
        assert 0 <= top < bottom <= 32
        corners = framing.matrix(32, 40) @ np.array([[0, 39, 0, 39], [0, 0, 31, 31], [1, 1, 1, 1]])
        assert corners[0].min() > -0.51
        assert corners[0].max() < 39.51
        assert corners[1].min() > -0.51
        assert corners[1].max() < 31.51


def test_lost_frames_stand_still() -> None:
    seen = stills(200, 0.5, 3)
    assert seen[0] == 0
    assert (np.diff(seen) >= 0).all()
    assert np.mean(seen == np.arange(200)) == pytest.approx(0.5, abs=0.1)
    clip = np.arange(8, dtype=np.uint8).repeat(32 * 32 * 3).reshape(8, 32, 32, 3)
    change_pixels(clip, _only(dropped=0.9, seed=1))
    assert len(np.unique(clip)) < 8
    assert (clip == clip[:, :1, :1, :1]).all()


def test_a_cutout_hides_its_rectangle_and_nothing_else() -> None:
    clip = _clip()
    change_pixels(clip, _only(cutout=(0.25, 0.5, 0.5, 0.75)))
    changed = (clip != _clip()).any((0, 3))
    assert changed[16:24, 10:20].mean() > 0.9
    changed[16:24, 10:20] = False
    assert not changed.any()


def test_grey_takes_all_colour() -> None:
    assert {float(draw(AugmentOptions(grey=1), 0, 0, i).device[3]) for i in range(20)} == {0.0}


def test_a_mixture_keeps_the_larger_part_of_each_clip() -> None:
    weights = [draw(AugmentOptions(mixup=0.4), 0, 0, i).mix for i in range(500)]
    assert min(weights) >= 0.5
    assert max(weights) <= 1
    assert np.std(weights) > 0.1
    assert {draw(AugmentOptions(), 0, 0, i).mix for i in range(20)} == {1.0}


def test_pairs_are_mixed_with_their_labels() -> None:
    clips, labels = torch.rand(3, 2, 3, 4, 4), torch.tensor([1.0, 0.0, 0.0])
    mixed, soft = mix_pairs(clips, labels, torch.tensor([1.0, 0.75, 0.5]))
    assert torch.equal(mixed[0], clips[0])
    assert torch.allclose(mixed[1], 0.75 * clips[1] + 0.25 * clips[0])
    assert torch.allclose(soft, torch.tensor([1.0, 0.25, 0.0]))


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
