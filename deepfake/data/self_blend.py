"""A real clip into a fake: a copy of itself, changed a little, blended into it inside a face-shaped mask.

Shiohara and Yamasaki, "Detecting Deepfakes with Self-Blended Images" (CVPR 2022, arXiv:2204.08376), with an outline
made from five landmarks where theirs has 81. Over a clip's frames the mask goes with the face, and what was drawn
drifts slowly and flickers, as a manipulation done frame by frame does. Knows no store and no batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from deepfake.data.crop_geometry import TEMPLATE
from deepfake.data.faces.base import Landmarks
from deepfake.data.media import Pixels
from deepfake.data.options import AugmentOptions

Floats = NDArray[np.float64]

#: Enters the numbers that say which clips become fakes, which must not be those that say how clips change.
_WHICH = 0x5B1
#: A frontal face about its middle, in sides of the square of which TEMPLATE gives places: half as wide as it is, and
#: what lies above and below its middle.
_MIDDLE, _WIDE, _ABOVE, _BELOW = np.array([0.5, 0.60]), 0.36, 0.46, 0.42
_EYES_AND_MOUTH, _NOSE = [0, 1, 3, 4], 2  # of the five landmarks
_CORNERS, _WAVES = 40, 4
_SOFT = 2.5  # pixels of feather in the small copy in which a mask is drawn, to be enlarged


@dataclass(frozen=True)
class Blend:
    """What makes one clip a fake.

    Attributes:
        size: The mask's, of the face's.
        shift: Its middle from the face's, of what the face leaves, across and down.
        brow: Where it ends above, of the height above the face's middle.
        waves: float64 [W, 2]: cosine and sine of each wave that its outline deviates by, of its radius.
        feather: The deviation of the Gaussian that softens its edge, of the face's width.
        opacity: How much of the changed copy is seen inside it.
        colour: float64 [3, 4]: RGB and one to the RGB of the changed copy, in grey levels.
        detail: The fraction of the side that the copy is shrunk to and enlarged from; above 1 it is sharpened, by
            what is above 1; at 1 it is left.
        interpolation: OpenCV's, of its way back.
        placing: float64 [2, 3]: where the copy takes its pixels from, in sides about the middle.
        inside: Whether the detail changes inside the mask, or outside, so that neither is always the poorer.
        drift: How much all this changes over a clip, of how much it is drawn to be.
        seed: Of these changes.
    """

    size: float
    shift: tuple[float, float]
    brow: float
    waves: Floats
    feather: float
    opacity: float
    colour: Floats
    detail: float
    interpolation: int
    placing: Floats
    inside: bool
    drift: float
    seed: int


def blended(options: AugmentOptions, seed: int, epoch: int, count: int) -> NDArray[np.bool_]:
    """Which of a set's items, if they are real, become fakes in an epoch, bool [count]; each by itself."""
    chance: NDArray[np.float64] = np.random.default_rng((seed, epoch, _WHICH)).random(count)
    return chance < options.self_blend


def draw_blend(options: AugmentOptions, seed: int, epoch: int, item: int) -> Blend:
    """How an item becomes a fake in an epoch."""
    rng = np.random.default_rng((seed, epoch, item, _WHICH))
    low, high = min(options.self_blend_size), max(options.self_blend_size)
    # Waves of a face's outline: the shorter, the flatter.
    inside, detail = bool(rng.random() < 0.5), _detail(rng)
    waves = rng.normal(0, 0.07, (_WAVES, 2)) / np.arange(1, _WAVES + 1)[:, None] ** 0.5
    return Blend(
        size=float(rng.uniform(low, high)),
        shift=(float(rng.uniform(-0.7, 0.7)), float(rng.uniform(-0.7, 0.7))),
        brow=float(rng.uniform(0.5, 1)),
        waves=waves,
        feather=float(rng.uniform(0.02, 0.1)),
        # Those of the paper.
        opacity=float(rng.choice([0.25, 0.5, 0.75, 1, 1, 1])),
        colour=_colour(options.self_blend_colour, rng),
        # Outside a little: a picture that is soft all over must not tell by itself.
        detail=detail if inside else detail**0.5,
        interpolation=int(rng.choice([1, 2, 4])),
        placing=_placing(options.self_blend_shift, rng),
        inside=inside,
        drift=options.self_blend_drift,
        seed=int(rng.integers(2**31)),
    )


def _colour(strength: float, rng: np.random.Generator) -> Floats:
    """Saturation, contrast, brightness, and a shift of each channel, as one change of RGB."""
    saturation, contrast, brightness = 1 + rng.uniform(-1, 1, 3) * [2 * strength, strength, strength]
    grey = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    linear = contrast * brightness * (saturation * np.eye(3) + (1 - saturation) * grey)
    shift = rng.uniform(-1, 1, 3) * 0.25 * strength * 255 + 118 * brightness * (1 - contrast)
    return np.column_stack([linear, shift])


def _detail(rng: np.random.Generator) -> float:
    kind, much = rng.random(2).tolist()
    if kind < 0.4:
        return float(0.25 + 0.65 * much)
    return float(1.2 + 0.8 * much) if kind < 0.75 else 1.0


def _placing(strength: float, rng: np.random.Generator) -> Floats:
    across, down, turn = rng.uniform(-1, 1, 3).tolist()
    sides = 1 + rng.uniform(-1, 1, 2) * 1.6 * strength
    angle = turn * strength * 0.7
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([rotation * sides, [across * strength, down * strength / 2]])


def blend_clip(clip: Pixels, drawn: Blend, landmarks: Landmarks | None) -> None:
    """Make a fake of a real clip, in place.

    Args:
        clip: uint8 [T, H, W, 3].
        drawn: How.
        landmarks: float32 [T, 5, 2], in the clip's pixels; None for a face that fills the middle of the picture.
    """
    frames, height, width = clip.shape[:3]
    faces = _oval(frames, height, width) if landmarks is None else _faces(landmarks)
    rng = np.random.default_rng(drawn.seed)
    # One column each for the outline's waves, the mask's place, the copy's place, its colours and its opacity.
    paths = drawn.drift * _paths(frames, 2 * _WAVES + 8, rng)
    for i, frame in enumerate(clip):
        waves, place, offset, tint, fading = np.split(paths[i], [2 * _WAVES, 2 * _WAVES + 2, 2 * _WAVES + 4, -1])
        outline = _outline(drawn, drawn.waves + 0.03 * waves.reshape(-1, 2), 0.04 * place)
        corners = outline @ faces[i, :, :2].T + faces[i, :, 2]
        opacity = drawn.opacity * (1 - min(0.3 * abs(float(fading[0])), 0.9))
        weights = opacity * _mask(corners, drawn.feather * _width(faces[i]), height, width)
        _blend_frame(frame, weights, drawn, 0.004 * offset, 4 * tint)


def _blend_frame(frame: Pixels, weights: NDArray[np.float32], drawn: Blend, offset: Floats, tint: Floats) -> None:
    """One frame, in place; ``offset`` moves the copy by so many sides, ``tint`` adds to its colours."""
    import cv2

    height, width = frame.shape[:2]
    colour = drawn.colour + np.column_stack([np.zeros((3, 3)), tint])
    # Only the copy has other colours: what surrounds a face must not tell by itself.
    source, target = cv2.transform(frame, colour), frame
    if drawn.inside:
        source = _changed(source, drawn.detail, drawn.interpolation)
    else:
        target = _changed(target, drawn.detail, drawn.interpolation)
    middle = np.array([width - 1, height - 1]) / 2
    linear = drawn.placing[:, :2]
    matrix = np.column_stack([linear, middle - linear @ middle + (drawn.placing[:, 2] + offset) * [width, height]])
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    source = cv2.warpAffine(source, matrix, (width, height), flags=how, borderMode=cv2.BORDER_REFLECT_101)
    frame[:] = cv2.blendLinear(source, target, weights, 1 - weights)


def _changed(frame: Pixels, detail: float, interpolation: int) -> Pixels:
    """The frame with less detail or with more; see :class:`Blend`."""
    import cv2

    if detail == 1:
        return frame
    if detail < 1:
        height, width = frame.shape[:2]
        small = (max(1, round(width * detail)), max(1, round(height * detail)))
        shrunk = cv2.resize(frame, small, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(shrunk, (width, height), interpolation=interpolation), np.uint8)
    soft = cv2.GaussianBlur(frame, (5, 5), 1.0, borderType=cv2.BORDER_REFLECT)
    return np.asarray(cv2.addWeighted(frame, detail, soft, 1 - detail, 0), np.uint8)


def _paths(frames: int, count: int, rng: np.random.Generator) -> Floats:
    """How each of some numbers moves over a clip, [T, count], about 0 by about 1: slowly, and a little at random.

    A single frame does not move: what was drawn for it stands.
    """
    if frames == 1:
        return np.zeros((1, count))
    turns, phases = rng.uniform(0.3, 1.0, count), rng.random(count)
    slow = np.cos(2 * np.pi * (turns * np.arange(frames)[:, None] / frames + phases))
    return slow + rng.normal(0, 0.4, (frames, count))


def _outline(drawn: Blend, waves: Floats, offset: Floats) -> Floats:
    """The mask's corners [V, 2], in the square of TEMPLATE."""
    angles = np.arange(_CORNERS) * 2 * np.pi / _CORNERS
    across, down = np.cos(angles), np.sin(angles)
    turns = np.arange(1, _WAVES + 1)[:, None] * angles  # [W, V]
    radius = drawn.size * (1 + waves[:, 0] @ np.cos(turns) + waves[:, 1] @ np.sin(turns))
    sides = np.array([_WIDE, (_ABOVE + _BELOW) / 2])
    corners = np.column_stack([across * _WIDE, down * np.where(down > 0, _BELOW, _ABOVE * drawn.brow)])
    left = max(1 - drawn.size, 0.0)
    return _MIDDLE + radius[:, None] * corners + (left * np.array(drawn.shift) + offset) * sides


def _mask(corners: Floats, feather: float, height: int, width: int) -> NDArray[np.float32]:
    """What lies inside corners [V, 2] of a picture, 0 to 1 as float32 [H, W], with a soft edge."""
    import cv2

    shrink = max(1.0, feather / _SOFT)
    size = (max(1, round(width / shrink)), max(1, round(height / shrink)))
    small = np.zeros(size[::-1], np.uint8)
    # OpenCV reads corners as whole numbers with four bits behind the point; its (0, 0) is a pixel's middle.
    places = np.rint((corners * size / [width, height] - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(small, [places], 255, cv2.LINE_AA, 4)
    small = cv2.GaussianBlur(small, (0, 0), max(feather / shrink, 0.5), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.float32) / np.float32(255)


def _faces(landmarks: Landmarks) -> Floats:
    """What brings TEMPLATE's square onto each frame's face, [T, 2, 3].

    The affine map that fits eyes and mouth best. In a face that is turned the nose lies beside where it takes it to,
    and what is seen of the face lies on the other side, and is narrower.
    """
    points = landmarks.astype(np.float64)
    fitted: Floats = np.einsum("cp,tpd->tdc", _template_inverse(), points[:, _EYES_AND_MOUTH])
    back = np.linalg.pinv(fitted[:, :, :2])  # which a face without width has too
    nose = ((points[:, _NOSE] - fitted[:, :, 2])[:, None] @ back.swapaxes(1, 2))[:, 0, 0]
    turn = np.clip(nose - TEMPLATE[_NOSE, 0], -0.3, 0.3)
    # Narrower about the middle, then moved: x to narrow * (x - middle) + middle - turn.
    narrow = 1 - 0.5 * np.abs(turn)
    moved = (1 - narrow) * _MIDDLE[0] - 0.6 * turn
    fitted[:, :, 2] += fitted[:, :, 0] * moved[:, None]
    fitted[:, :, 0] *= narrow[:, None]
    return fitted


@lru_cache(maxsize=1)
def _template_inverse() -> Floats:
    places = TEMPLATE[_EYES_AND_MOUTH]
    return np.linalg.pinv(np.column_stack([places, np.ones(len(places))]))  # [3, 4]


def _oval(frames: int, height: int, width: int) -> Floats:
    """A face in the middle of the picture, most of it filled, [T, 2, 3]."""
    sides = np.diag([width, height]) * 0.9
    middle = np.array([width, height]) / 2
    face = np.column_stack([sides, middle - sides @ (_MIDDLE + np.array([0, (_BELOW - _ABOVE) / 2]))])
    return np.repeat(face[None], frames, 0)


def _width(face: Floats) -> float:
    """A face's width in pixels."""
    return float(2 * _WIDE * np.hypot(*face[:, 0]))
