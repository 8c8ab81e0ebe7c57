"""The generated demo: drawn people and two kinds of synthetic fakes, as mp4 files in FaceForensics++'s tree.

SyntheticBlend shows in any single frame. SyntheticFlicker shows only over time: of each pair of people one has a
reddened patch on the lower face, in every frame; in these fakes it comes and goes, so that half of all frames show it.
Every frame is encoded by itself, so that what changed since the last one leaves no trace in it: a single frame of such
a fake is distributed as a real one is. Nothing here says how well a detector does on people.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from deepfake.data.encoding import write_video
from deepfake.data.layouts.faceforensics import BLEND, FLICKER
from deepfake.data.media import Pixels
from deepfake.data.options import DemoOptions
from deepfake.errors import naming
from deepfake.files import appearing

Picture = NDArray[np.float32]

_BELL = 1000  # four numbers of -1000..1000 are summed
_GRID = 2**16  # sines and cosines are rounded to a fraction of one of this


@dataclass(frozen=True)
class Person:
    """How one person and their room look. Colours are RGB in 0..255, lengths shares of the picture's side."""

    skin: tuple[float, float, float]
    hair: tuple[float, float, float]
    iris: tuple[float, float, float]
    lips: tuple[float, float, float]
    width: float
    height: float
    eye_gap: float
    eye_size: float
    brow: float
    mouth_width: float
    fringe: float
    light: tuple[float, float]
    room: Picture  # [S, S, 3]


@dataclass(frozen=True)
class Moment:
    """Where the head is and what it does: centre as shares of the side, degrees, opening of eyes and mouth 0..1."""

    x: float
    y: float
    angle: float
    eyes: float
    mouth: float


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number of [low, high), the same on every processor."""
    return low + (high - low) * rng.random()


def bell(rng: np.random.Generator, deviation: float, shape: tuple[int, ...]) -> Picture:
    """Noise of nearly normal distribution, float32 of ``shape``: sums of whole numbers, the same on every processor."""
    whole = sum(rng.integers(-_BELL, _BELL + 1, shape, dtype=np.int32) for _ in range(4))
    return np.asarray(whole, np.float32) * np.float32(deviation / math.sqrt(4 * _BELL * (_BELL + 1) / 3))


def draw_person(rng: np.random.Generator, size: int) -> Person:
    """Someone new, in a room of their own."""
    tone = uniform(rng, 0.55, 1.0)
    skin = np.array([235, 190, 160]) * tone + _tint(rng, 12)
    hair = rng.choice(np.array([[35, 25, 20], [90, 60, 35], [150, 110, 60], [120, 120, 125], [120, 50, 30]]))
    return Person(
        skin=_colour(skin),
        hair=_colour(hair + _tint(rng, 15)),
        iris=_colour(rng.choice(np.array([[60, 40, 25], [70, 100, 130], [80, 110, 70]]))),
        lips=_colour(skin * [0.85, 0.6, 0.62]),
        width=uniform(rng, 0.29, 0.33),
        height=uniform(rng, 0.38, 0.43),
        eye_gap=uniform(rng, 0.12, 0.145),
        eye_size=uniform(rng, 0.045, 0.06),
        brow=uniform(rng, 0.08, 0.11),
        mouth_width=uniform(rng, 0.09, 0.13),
        fringe=uniform(rng, 0.12, 0.2),
        light=(uniform(rng, -0.15, 0.15), uniform(rng, -0.1, 0.1)),
        room=_draw_room(rng, size),
    )


def draw_moments(rng: np.random.Generator, frames: int, fps: float) -> list[Moment]:
    """A head that sways, nods, blinks and talks, smoothly and differently each time."""
    sway, nod, tilt, talk = (_wave(rng, frames, fps) for _ in range(4))
    start = int(rng.integers(0, max(1, frames - 3)))
    x, y = 0.5 + uniform(rng, -0.03, 0.03), 0.52 + uniform(rng, -0.03, 0.03)
    return [
        Moment(
            x + 0.03 * sway[i],
            y + 0.02 * nod[i],
            4 * tilt[i],
            0.15 if start <= i < start + 3 else 1.0,
            0.5 + 0.5 * talk[i],
        )
        for i in range(frames)
    ]


def draw_face(person: Person, at: Moment, size: int) -> Picture:
    """The picture of one moment, without noise.

    Returns:
        float32 [size, size, 3], RGB in 0..255.
    """
    image = person.room.copy()
    pen = _Pen(image, at)
    w, h = person.width, person.height
    pen.ellipse(0, 0.55, 0.36, 0.25, _shade(person.hair, 0.6))  # shoulders
    pen.ellipse(0, -0.05, w + 0.045, h + 0.05, person.hair)
    pen.ellipse(0, 0.22, 0.11, 0.2, _shade(person.skin, 0.8))  # neck
    pen.ellipse(0, 0, w, h, person.skin)
    pen.ellipse(0, -h * 0.92, w * 0.95, person.fringe, person.hair)
    for side in (-1, 1):
        x = side * person.eye_gap
        pen.ellipse(x, -0.06, person.eye_size * 1.3, person.eye_size * 0.8 * at.eyes, (238, 238, 235))
        pen.ellipse(x, -0.06, person.eye_size * 0.6, person.eye_size * 0.65 * at.eyes, person.iris)
        pen.ellipse(x, -0.06 - person.brow, person.eye_size * 1.5, 0.012, person.hair)
    pen.ellipse(0, 0.045, 0.025, 0.055, _shade(person.skin, 0.86))  # nose
    pen.ellipse(0, 0.2, person.mouth_width, 0.018 + 0.02 * at.mouth, person.lips)
    pen.ellipse(0, 0.2, person.mouth_width * 0.7, 0.018 * at.mouth, _shade(person.lips, 0.4))
    return image * _lighting(person, size)


def face_mask(at: Moment, size: int, y: float, width: float, height: float, softness: float = 0.25) -> Picture:
    """A soft-edged ellipse fixed to the head: 1 inside, 0 outside.

    Args:
        at: Where the head is.
        size: The picture's side in pixels.
        y: The ellipse's centre below the face's, as a fraction of the side.
        width: Its half width; ``height`` likewise.
        height: Its half height.
        softness: The fraction of the radius over which it fades.

    Returns:
        float32 [size, size, 1].
    """
    along = np.arange(size, dtype=np.float32) / size
    columns, rows = np.square((along - at.x) / width), np.square((along - at.y - y) / height)
    radius = np.sqrt(columns[None, :] + rows[:, None])
    return np.clip((1 + softness - radius) / (2 * softness), 0, 1)[..., None].astype(np.float32)


class _Pen:
    """Draws filled ellipses in the head's own coordinates, with edges a pixel wide, so that slow motion is smooth."""

    def __init__(self, image: Picture, at: Moment) -> None:
        self.image, self.at = image, at
        self.side = image.shape[0]
        self.cos, self.sin = _sine(math.radians(at.angle + 90)), _sine(math.radians(at.angle))
        along = (np.arange(self.side, dtype=np.float32) + 0.5) / self.side
        columns, rows = (along - at.x)[None, :], (along - at.y)[:, None]
        self.across, self.down = columns * self.cos + rows * self.sin, rows * self.cos - columns * self.sin

    def ellipse(self, x: float, y: float, width: float, height: float, colour: tuple[float, float, float]) -> None:
        half = 0.5 / self.side
        width, height = max(width, half), max(height, half)
        near = (
            self._span(self.at.y + x * self.sin + y * self.cos, height + width * abs(self.sin)),
            self._span(self.at.x + x * self.cos - y * self.sin, width + height * abs(self.sin)),
        )
        columns, rows = (self.across[near] - x) / width, (self.down[near] - y) / height
        inside = (1 - np.sqrt(columns * columns + rows * rows)) * (min(width, height) * self.side) + 0.5
        part = self.image[near]
        part += (np.array(colour, np.float32) - part) * np.clip(inside, 0, 1)[..., None]

    def _span(self, centre: float, reach: float) -> slice:
        first, last = (centre - reach) * self.side - 1, (centre + reach) * self.side + 1
        return slice(max(0, math.floor(first)), max(0, math.ceil(last)))


def _wave(rng: np.random.Generator, frames: int, fps: float) -> list[float]:
    """Two slow sines, within -1..1."""
    low, high = uniform(rng, 0.3, 0.8), uniform(rng, 0.9, 1.8)
    a, b = uniform(rng, 0, math.tau), uniform(rng, 0, math.tau)
    return [
        0.65 * _sine(math.tau * low * i / fps + a) + 0.35 * _sine(math.tau * high * i / fps + b) for i in range(frames)
    ]


def _sine(angle: float) -> float:
    """Rounded: the last bits are not the same in every C library and on every processor."""
    return round(math.sin(angle) * _GRID) / _GRID


def _draw_room(rng: np.random.Generator, size: int) -> Picture:
    coarse = uniform(rng, 60, 180) + _tint(rng, 20).astype(np.float32) + bell(rng, 10, (6, 6, 3))
    fine = bell(rng, 4, (size // 3, size // 3, 1))
    return np.clip(_enlarge(coarse, size) + _enlarge(fine, size), 0, 255)


def _enlarge(image: Picture, size: int) -> Picture:
    """To [size, size, C], smoothly from one value to the next."""
    for axis in (0, 1):
        place = np.arange(size, dtype=np.float32) * np.float32((image.shape[axis] - 1) / (size - 1))
        before = np.minimum(place.astype(np.int64), image.shape[axis] - 2)
        weight = place - before.astype(np.float32)
        weight = (weight * weight * (3 - 2 * weight)).reshape([-1 if a == axis else 1 for a in range(3)])
        image = image.take(before, axis) * (1 - weight) + image.take(before + 1, axis) * weight
    return image


def _lighting(person: Person, size: int) -> Picture:
    ramp = (np.arange(size, dtype=np.float32) * 2 - (size - 1)) / (size - 1)
    lit = 1 + person.light[0] * ramp[None, :] + person.light[1] * ramp[:, None]
    return np.asarray(lit, np.float32)[..., None]


def _tint(rng: np.random.Generator, most: float) -> NDArray[np.float64]:
    return np.array([uniform(rng, -most, most) for _ in range(3)])


def _colour(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in np.clip(values, 0, 255))
    return red, green, blue


def _shade(colour: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


#: Part of the folder's key: raised whenever the same options draw something else.
VERSION = 3
TEST_SHARE, VAL_SHARE = 0.25, 0.2

_PATCH = (0.19, 0.18)  # half width and height, shares of the side
_BLUSH = np.array([1.0, 0.62, 0.62], np.float32)  # the patch's colour over the skin's, RGB
_MISMATCH = np.array([0.78, 1.0, 1.15], np.float32)  # the blended face's colour over its own, RGB: a bad colour match
_SHIFT = 0.03  # how far it is moved, a fraction of the side
_NOISE = 3.0
_COARSE = 4  # how many pixels of a side the blended face's are, and
_STEP = 16  # how far apart its values lie


@dataclass(frozen=True)
class _Take:
    """One piece of footage: who, how they move, and the patch it has when nothing is manipulated."""

    person: Person
    moments: list[Moment]
    patch: bool
    seed: int


def make_demo(options: DemoOptions, folder: Path) -> Path:
    """The demo's root, generated on first use.

    Written to a temporary folder and renamed under a lock: it is there whole or not at all, and processes that
    start together generate it once. The same options give the same files.

    Args:
        options: How many people, how long, how large, and the seed.
        folder: Where demos are kept, one folder for each set of options.

    Returns:
        A folder with original_sequences, manipulated_sequences and splits.
    """
    digest = hashlib.sha256(json.dumps([VERSION, asdict(options)], sort_keys=True).encode()).hexdigest()
    root = folder / digest[:12]
    if root.is_dir():
        return root
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{root.name}.lock"):
        if not root.is_dir():
            with appearing(root) as part, naming(root):
                _write_demo(options, part)
    return root


def _write_demo(options: DemoOptions, root: Path) -> None:
    people = options.people - options.people % 2
    frames = max(2, round(options.seconds * options.fps))
    size = options.size - options.size % 2  # h264 halves the colours' resolution
    takes = [_make_take(options.seed, index, frames, size, options.fps) for index in range(people)]
    for target, take in enumerate(takes):
        source = target ^ 1
        film = [draw_face(take.person, at, size) for at in take.moments]
        steady = [take.patch] * frames
        originals, fakes = root / "original_sequences", root / "manipulated_sequences"
        for folder, stem, pictures, patches in (
            (originals / "youtube", f"{target:03d}", film, steady),
            (fakes / BLEND, f"{target:03d}_{source:03d}", _blend(film, take, takes[source].person), steady),
            (fakes / FLICKER, f"{target:03d}_{source:03d}", film, _draw_patches(take)),
        ):
            path = folder / "c23" / "videos" / f"{stem}.mp4"
            write_video(path, _finish(take, pictures, patches), options.fps)
    _write_splits(people, root / "splits", options.seed)


def _write_splits(people: int, folder: Path, seed: int) -> None:
    """Pairs of people to train, val and test, in the official files' form; a pair never parts."""
    order = np.random.default_rng([seed, 1]).permutation(people // 2)
    test, val = max(1, round(TEST_SHARE * len(order))), max(1, round(VAL_SHARE * len(order)))
    parts = {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}
    folder.mkdir(parents=True)
    for name, numbers in parts.items():
        pairs = [[f"{2 * n:03d}", f"{2 * n + 1:03d}"] for n in sorted(numbers.tolist())]
        (folder / f"{name}.json").write_text(json.dumps(pairs, indent=1) + "\n", encoding="utf-8")


def _make_take(seed: int, index: int, frames: int, size: int, fps: int) -> _Take:
    rng = np.random.default_rng([seed, 2, index])
    person = draw_person(rng, size)
    moments = draw_moments(rng, frames, fps)
    first = int(np.random.default_rng([seed, 4, index // 2]).integers(2))  # one of each pair has the patch
    return _Take(person, moments, index % 2 == first, int(rng.integers(2**31)))


def _draw_patches(take: _Take) -> list[bool]:
    """In which frames the patch is there: one of each two, at random."""
    first = np.random.default_rng([take.seed, 3]).integers(0, 2, -(-len(take.moments) // 2))
    return [bool(first[i // 2] == i % 2) for i in range(len(take.moments))]


def _blend(film: Sequence[Picture], take: _Take, source: Person) -> list[Picture]:
    """Another person's features inside the face: coarser, off in colour, blended in."""
    blended = []
    for image, at in zip(film, take.moments, strict=True):
        size = image.shape[0]
        other = _coarsen(draw_face(source, at, size)) * _MISMATCH
        mask = 0.9 * face_mask(at, size, y=0.04, width=0.17, height=0.2, softness=0.08)
        blended.append(image * (1 - mask) + other * mask)
    return blended


def _finish(take: _Take, film: Sequence[Picture], patches: Sequence[bool]) -> Iterator[Pixels]:
    """Patch and camera noise, alike for real and fake; the noise is a footage's own."""
    rng = np.random.default_rng(take.seed)
    size = film[0].shape[0]
    grain = bell(rng, _NOISE, (2 * size, 2 * size, 3))
    for image, at, shown in zip(film, take.moments, patches, strict=True):
        seen = _add_patch(image, at, size) if shown else image
        y, x = (int(place) for place in rng.integers(0, size, 2))
        yield np.clip(seen + grain[y : y + size, x : x + size], 0, 255).astype(np.uint8)


def _add_patch(image: Picture, at: Moment, size: int) -> Picture:
    """The lower face redder and shifted sideways, with soft edges."""
    mask = face_mask(at, size, y=0.1, width=_PATCH[0], height=_PATCH[1])
    moved = image[:, (np.arange(size) - max(1, round(_SHIFT * size))).clip(0)]
    return image + (moved * _BLUSH - image) * mask


def _coarsen(image: Picture) -> Picture:
    """Fewer pixels and fewer values, as after hard compression; sides are cut to whole coarse pixels and repeated."""
    size = image.shape[0]
    side = size // _COARSE
    whole = image[: side * _COARSE, : side * _COARSE].astype(np.int32)
    sums = whole.reshape(side, _COARSE, side, _COARSE, 3).sum((1, 3))
    coarse = sums // (_COARSE**2 * _STEP) * _STEP + _STEP // 2
    place = (np.arange(size) // _COARSE).clip(max=side - 1)
    return coarse[place][:, place].astype(np.float32)
