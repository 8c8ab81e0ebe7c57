"""Fakes made of real clips."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepfake.data.crop_geometry import TEMPLATE
from deepfake.data.options import AugmentOptions
from deepfake.data.self_blend import Blend, blend_clip, blended, draw_blend

ALWAYS = AugmentOptions(self_blend=0.95)


def _still(frames: int = 4, side: int = 96) -> np.ndarray:
    noise = np.random.default_rng(0).integers(60, 200, (side, side, 3), np.uint8)
    return np.repeat(noise[None], frames, 0)


def _face(frames: int, side: float, x: float, y: float) -> np.ndarray:
    """Landmarks of a frontal face ``side`` wide with its corner at (x, y)."""
    return np.repeat((TEMPLATE * side + [x, y]).astype(np.float32)[None], frames, 0)


def _plain(**changes: object) -> Blend:
    """A blend that only darkens, within a mask with an edge."""
    darker = np.column_stack([np.eye(3), [-40.0, -40.0, -40.0]])
    drawn = replace(
        draw_blend(ALWAYS, 0, 0, 0),
        size=1.0, shift=(0.0, 0.0), waves=np.zeros((4, 2)), feather=0.03, opacity=1.0, colour=darker, detail=1.0,
        placing=np.eye(2, 3), inside=True, drift=0.0,
    )  # fmt: skip
    return replace(drawn, **changes)  # type: ignore[arg-type]


def _middle(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where a frame was changed: x, y."""
    change = np.abs(after.astype(float) - before).sum(-1)
    rows, columns = np.mgrid[: change.shape[0], : change.shape[1]]
    return np.array([(columns * change).sum(), (rows * change).sum()]) / change.sum()


def test_the_same_numbers_draw_the_same_fakes() -> None:
    first, second = (_still() for _ in range(2))
    for clip in (first, second):
        blend_clip(clip, draw_blend(ALWAYS, 3, 4, 5), None)
    assert np.array_equal(first, second)


@pytest.mark.parametrize("where", [(4, 4, 5), (3, 5, 5), (3, 4, 6)], ids=["seed", "epoch", "item"])
def test_other_numbers_draw_others(where: tuple[int, int, int]) -> None:
    assert draw_blend(ALWAYS, 3, 4, 5).seed != draw_blend(ALWAYS, *where).seed


def test_which_clips_become_fakes_follows_seed_epoch_and_item() -> None:
    options = AugmentOptions(self_blend=0.3)
    chosen = blended(options, 1, 2, 4000)
    assert chosen.mean() == pytest.approx(0.3, abs=0.03)
    assert np.array_equal(blended(options, 1, 2, 50), chosen[:50])
    assert not np.array_equal(blended(options, 1, 3, 4000), chosen)


def test_what_lies_far_from_the_face_is_left() -> None:
    clip = _still(1)
    blend_clip(clip, _plain(), _face(1, 40, 28, 28))
    changed = (clip != _still(1)).any(-1)[0]
    assert changed[45:55, 45:50].all()
    assert not changed[:20].any()
    assert not changed[:, -20:].any()


def test_the_mask_goes_with_the_face() -> None:
    landmarks = np.concatenate([_face(1, 40, x, 30) for x in (10, 30, 45)])
    clip = _still(3)
    blend_clip(clip, _plain(), landmarks)
    places = [_middle(before, after)[0] for before, after in zip(_still(3), clip, strict=True)]
    assert np.diff(places) == pytest.approx([20, 15], abs=1)


def test_a_turned_face_is_blended_on_the_side_that_is_seen() -> None:
    frontal, turned = _face(1, 40, 28, 28), _face(1, 40, 28, 28)
    turned[0, 2, 0] -= 6  # its nose points to the left
    places = []
    for landmarks in (frontal, turned):
        clip = _still(1)
        blend_clip(clip, _plain(), landmarks)
        places.append(_middle(_still(1)[0], clip[0])[0])
    assert places[1] > places[0] + 2


def test_an_oval_lies_in_the_middle() -> None:
    clip = _still(1)
    blend_clip(clip, _plain(brow=1.0), None)
    assert _middle(_still(1)[0], clip[0]) == pytest.approx([47.5, 47.5], abs=1.5)


def test_the_edge_is_soft() -> None:
    clip = _still(1)
    blend_clip(clip, _plain(), _face(1, 60, 18, 18))
    row = (_still(1).astype(int) - clip)[0, 55, :, 0]
    assert row.max() == 40
    assert np.abs(np.diff(row)).max() <= 14


def test_without_drift_a_still_clip_stays_still() -> None:
    clip = _still()
    blend_clip(clip, draw_blend(replace(ALWAYS, self_blend_drift=0), 0, 0, 1), None)
    assert (clip != _still()).any()
    assert (clip == clip[:1]).all()


def test_with_drift_each_frame_is_blended_otherwise() -> None:
    clip = _still()
    blend_clip(clip, draw_blend(ALWAYS, 0, 0, 1), None)
    assert all((clip[i] != clip[i + 1]).any() for i in range(3))


def test_a_single_frame_does_not_drift() -> None:
    clips = [_still(1), _still(1)]
    for clip, drift in zip(clips, (0.0, 3.0), strict=True):
        blend_clip(clip, draw_blend(replace(ALWAYS, self_blend_drift=drift), 0, 0, 1), None)
    assert np.array_equal(*clips)


@pytest.mark.parametrize("inside", [False, True])
def test_detail_is_lost_on_one_side_of_the_edge_only(inside: bool) -> None:
    clip = _still(1)
    blend_clip(clip, _plain(colour=np.eye(3, 4), detail=0.3, inside=inside), _face(1, 40, 28, 28))
    rough = [clip[0, 42:58, 42:54].std(), clip[0, :16].std()]
    assert (rough[0] < 0.7 * rough[1]) == inside
    assert (rough[1] < 0.7 * rough[0]) != inside


@pytest.mark.parametrize(("height", "width"), [(16, 16), (40, 33), (224, 224)])
@pytest.mark.parametrize("place", [(0, 0), (-500, 900)], ids=["at the corner", "far outside"])
def test_faces_anywhere_in_pictures_of_any_size_are_taken(height: int, width: int, place: tuple[int, int]) -> None:
    extreme = AugmentOptions(
        self_blend_size=[0.1, 1.5], self_blend_colour=1, self_blend_shift=0.3, self_blend_drift=3
    )  # fmt: skip
    for item in range(8):
        clip = np.full((3, height, width, 3), 99, np.uint8)
        blend_clip(clip, draw_blend(extreme, 0, 0, item), _face(3, height / 2, *place))
        assert clip.shape == (3, height, width, 3)


def test_landmarks_that_are_one_point_break_nothing() -> None:
    clip = _still(2)
    blend_clip(clip, draw_blend(ALWAYS, 0, 0, 0), np.zeros((2, 5, 2), np.float32))
    assert clip.dtype == np.uint8
