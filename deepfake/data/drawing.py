"""Drawn faces that move: a person and a moment to a picture. Knows nothing of files, labels or models.

Sizes are shares of the picture's side, so that any size shows the same scene.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]


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


def draw_person(rng: np.random.Generator, size: int) -> Person:
    """Someone new, in a room of their own."""
    tone = rng.uniform(0.55, 1.0)
    skin = np.array([235, 190, 160]) * tone + rng.uniform(-12, 12, 3)
    hair = rng.choice(np.array([[35, 25, 20], [90, 60, 35], [150, 110, 60], [120, 120, 125], [120, 50, 30]]))
    return Person(
        skin=_colour(skin),
        hair=_colour(hair + rng.uniform(-15, 15, 3)),
        iris=_colour(rng.choice(np.array([[60, 40, 25], [70, 100, 130], [80, 110, 70]]))),
        lips=_colour(skin * [0.85, 0.6, 0.62]),
        width=rng.uniform(0.29, 0.33),
        height=rng.uniform(0.38, 0.43),
        eye_gap=rng.uniform(0.12, 0.145),
        eye_size=rng.uniform(0.045, 0.06),
        brow=rng.uniform(0.08, 0.11),
        mouth_width=rng.uniform(0.09, 0.13),
        fringe=rng.uniform(0.12, 0.2),
        light=(float(rng.uniform(-0.15, 0.15)), float(rng.uniform(-0.1, 0.1))),
        room=_draw_room(rng, size),
    )


def draw_moments(rng: np.random.Generator, frames: int, fps: float) -> list[Moment]:
    """A head that sways, nods, blinks and talks, smoothly and differently each time."""
    t = np.arange(frames) / fps
    sway, nod, tilt, talk = (_wave(rng, t) for _ in range(4))
    blink = np.ones(frames)
    start = int(rng.integers(0, max(1, frames - 3)))
    blink[start : start + 3] = 0.15
    x, y = 0.5 + rng.uniform(-0.03, 0.03), 0.52 + rng.uniform(-0.03, 0.03)
    return [
        Moment(x + 0.03 * sway[i], y + 0.02 * nod[i], 4 * tilt[i], float(blink[i]), float(0.5 + 0.5 * talk[i]))
        for i in range(frames)
    ]


def draw_face(person: Person, at: Moment, size: int) -> Picture:
    """The picture of one moment, without noise.

    Returns:
        float32 [size, size, 3], RGB in 0..255.
    """
    image = np.ascontiguousarray(person.room.copy())
    pen = _Pen(image, at, size)
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
        y: The ellipse's centre below the face's, as a share of the side.
        width: Its half width; ``height`` likewise.
        height: Its half height.
        softness: The share of the radius over which it fades.

    Returns:
        float32 [size, size, 1].
    """
    along = np.arange(size, dtype=np.float32) / size
    columns, rows = ((along - at.x) / width) ** 2, ((along - at.y - y) / height) ** 2
    radius = np.sqrt(columns[None, :] + rows[:, None])
    return np.clip((1 + softness - radius) / (2 * softness), 0, 1)[..., None].astype(np.float32)


class _Pen:
    """Draws filled ellipses in the head's own coordinates."""

    _SHIFT = 4  # cv2 draws at sixteenths of a pixel, so that slow motion is smooth.

    def __init__(self, image: Picture, at: Moment, size: int) -> None:
        self.image, self.at, self.scale = image, at, size * 2**self._SHIFT
        self.cos, self.sin = np.cos(np.radians(at.angle)), np.sin(np.radians(at.angle))

    def ellipse(self, x: float, y: float, width: float, height: float, colour: tuple[float, float, float]) -> None:
        centre = (
            round((self.at.x + x * self.cos - y * self.sin) * self.scale),
            round((self.at.y + x * self.sin + y * self.cos) * self.scale),
        )
        axes = (max(1, round(width * self.scale)), max(1, round(height * self.scale)))
        cv2.ellipse(self.image, centre, axes, self.at.angle, 0, 360, colour, -1, cv2.LINE_8, self._SHIFT)


def _wave(rng: np.random.Generator, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two slow sines, within -1..1."""
    low, high = rng.uniform(0.3, 0.8), rng.uniform(0.9, 1.8)
    a, b = rng.uniform(0, 2 * np.pi, 2)
    return 0.65 * np.sin(2 * np.pi * low * t + a) + 0.35 * np.sin(2 * np.pi * high * t + b)


def _draw_room(rng: np.random.Generator, size: int) -> Picture:
    coarse = rng.uniform(60, 180) + rng.uniform(-20, 20, 3) + rng.normal(0, 10, (6, 6, 3))
    room = cv2.resize(coarse.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    fine = rng.normal(0, 4, (size // 3, size // 3, 1)).astype(np.float32)
    room += cv2.resize(fine, (size, size), interpolation=cv2.INTER_LINEAR)[..., None]
    return np.clip(room, 0, 255).astype(np.float32)


def _lighting(person: Person, size: int) -> Picture:
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    return (1 + person.light[0] * ramp[None, :] + person.light[1] * ramp[:, None])[..., None].astype(np.float32)


def _colour(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (float(v) for v in np.clip(values, 0, 255))
    return red, green, blue


def _shade(colour: tuple[float, float, float], factor: float) -> tuple[float, float, float]:
    return colour[0] * factor, colour[1] * factor, colour[2] * factor
