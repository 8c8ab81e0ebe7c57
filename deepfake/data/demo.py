"""The generated demo: drawn people and two kinds of synthetic fakes, as mp4 files in FaceForensics++'s tree.

SyntheticBlend shows in any single frame. SyntheticFlicker shows only over time: of each pair of people one has a
reddened patch on the lower face, in every frame; in these fakes it comes and goes, so that half of all frames show it.
Every frame is encoded by itself, so that what changed since the last one leaves no trace in it: a single frame of such
a fake is distributed as a real one is. Nothing here says how well a detector does on people.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from deepfake.data.drawing import Moment, Person, Picture, bell, draw_face, draw_moments, draw_person, face_mask
from deepfake.data.encoding import write_video
from deepfake.data.layouts.demo import BLEND, FLICKER
from deepfake.data.media import Pixels
from deepfake.data.options import DemoOptions
from deepfake.errors import naming
from deepfake.whole import appearing

#: Part of the folder's key: raised whenever the same options draw something else.
VERSION = 3
TEST_SHARE, VAL_SHARE = 0.25, 0.2

_PATCH = (0.19, 0.18)  # half width and height, shares of the side
_BLUSH = np.array([1.0, 0.62, 0.62], np.float32)  # the patch's colour over the skin's, RGB
_MISMATCH = np.array([0.78, 1.0, 1.15], np.float32)  # the blended face's colour over its own, RGB: a bad colour match
_SHIFT = 0.03  # how far it is moved, a share of the side
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
