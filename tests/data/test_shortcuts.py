"""How often noise is taken for a shortcut, and whether planted ones are found."""

from __future__ import annotations

import base64
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from deepfake.data import shortcuts
from deepfake.data.audit import COLOUR_LIMIT, FRAMING_LIMIT, METADATA_LIMIT
from deepfake.data.shortcuts import colour_shortcut, framing_shortcut, metadata_shortcut


def noise(count: int, fakes: int, seed: int, alike: int = 1) -> pd.DataFrame:
    """Decoded samples whose files and pictures have nothing to do with their class.

    Args:
        count: Samples, in footages of ``alike`` files of one class each.
        fakes: How many of the footages are fake.
        seed: Another seed draws other samples.
    """
    rng = np.random.default_rng([seed, count])
    footages = count // alike
    label = np.zeros(footages, int)
    label[rng.permutation(footages)[:fakes]] = 1
    whose = np.repeat(np.arange(footages), alike)
    pictures = rng.integers(0, 256, (footages, 256), dtype=np.uint8)
    return pd.DataFrame(
        {
            "label": label[whose], "groups": [(f"g{i}",) for i in whose],
            "width": rng.choice([1280, 1920], footages)[whose], "height": rng.choice([720, 1080], footages)[whose],
            "video_frames": rng.integers(250, 350, footages)[whose], "duration": rng.normal(10, 1, footages)[whose],
            "fps": rng.choice([25.0, 30.0], footages)[whose], "bitrate": rng.lognormal(14, 0.5, footages)[whose],
            "bytes": rng.lognormal(14, 0.5, len(whose)), "codec": rng.choice(["h264", "hevc"], footages)[whose],
            "pixel_format": "yuv420p", "quality": 0,
            "thumbnail": [base64.b64encode(pictures[i].tobytes()).decode() for i in whose],
        }
    )  # fmt: skip


@pytest.mark.parametrize(("count", "fakes", "alike"), [(24, 12, 1), (67, 50, 1), (120, 20, 3)], ids=str)
def test_noise_is_taken_for_a_shortcut_in_one_set_of_twenty_at_most(count: int, fakes: int, alike: int) -> None:
    alarms = 0
    for seed in range(30):
        table = noise(count, fakes, seed, alike)
        alarms += metadata_shortcut(table).tells(METADATA_LIMIT) or framing_shortcut(table).tells(FRAMING_LIMIT)
    assert alarms <= 3  # of 30 at 3 % at most: more in one case of a hundred


def test_noise_has_a_roc_auc_about_one_half() -> None:
    found = [metadata_shortcut(noise(24, 12, seed)).roc_auc for seed in range(40)]
    assert np.mean([auc for auc in found if auc is not None]) == pytest.approx(0.5, abs=0.06)


PLANTS: dict[str, Callable[[pd.DataFrame, np.ndarray], object]] = {
    "width": lambda table, fake: np.where(fake, 640, table["width"]),
    "height": lambda table, fake: np.where(fake, 480, table["height"]),
    "video_frames": lambda table, fake: table["video_frames"] + 90 * fake,
    "duration": lambda table, fake: table["duration"] + 3 * fake,
    "fps": lambda table, fake: 25.0 + 5 * fake,
    "bitrate": lambda table, fake: table["bitrate"] * np.where(fake, 3, 1),
    "bytes": lambda table, fake: table["bytes"] / np.where(fake, 3, 1),
    "codec": lambda table, fake: np.where(fake, "vp9", table["codec"]),
    "pixel_format": lambda table, fake: np.where(fake, "yuv444p", table["pixel_format"]),
    "quality": lambda table, fake: np.where(fake, 75, 90),
}


@pytest.mark.parametrize("column", PLANTS)
def test_a_planted_shortcut_is_found_and_named_in_forty_samples(column: str) -> None:
    table = noise(40, 20, 1)
    found = metadata_shortcut(table.assign(**{column: PLANTS[column](table, table["label"].to_numpy() == 1)}))
    assert found.tells(METADATA_LIMIT)
    assert found.guilty[0] == column


def test_two_columns_that_tell_the_class_only_together_are_found() -> None:
    table = noise(40, 20, 2)
    crossed = (table["width"] > 1500) ^ (table["label"] == 1)
    found = metadata_shortcut(table.assign(codec=np.where(crossed, "h264", "hevc")))
    assert found.tells(METADATA_LIMIT)
    assert set(found.guilty) == {"width", "codec"}


def test_a_column_that_differs_only_in_its_spread_is_found() -> None:
    table = noise(120, 60, 3)
    middle = np.where(table["label"] == 1, 10 + 0.1 * (table["duration"] - 10), table["duration"])
    assert metadata_shortcut(table.assign(duration=middle)).tells(METADATA_LIMIT)


def test_framing_is_found_beside_the_originals_own_picture() -> None:
    """Each fake looks like its original but for a brighter middle: the original must not tell its fake."""
    rng = np.random.default_rng(4)
    reals = np.kron(rng.integers(20, 150, (30, 4, 4)), np.ones((4, 4)))
    fakes = reals.copy()
    fakes[:, 5:11, 5:11] += 25
    pictures = np.concatenate([reals, fakes]).astype(np.uint8)
    table = pd.DataFrame(
        {
            "label": np.repeat([0, 1], 30), "groups": [(f"g{i % 30}",) for i in range(60)],
            "thumbnail": [base64.b64encode(p.tobytes()).decode() for p in pictures],
        }
    )  # fmt: skip
    assert framing_shortcut(table).tells(FRAMING_LIMIT)


def test_leaving_a_footage_out_is_fitting_without_it() -> None:
    rng = np.random.default_rng(5)
    pixels, labels = rng.normal(size=(12, 7)), rng.permuted(np.tile([0.0, 1.0], (3, 6)), axis=1)
    partner = np.array([1, 0, *range(2, 12)])
    scores = np.empty_like(labels)
    for i in range(12):
        kept = [j for j in range(12) if j not in (i, partner[i])]
        for row, own in enumerate(labels):
            model = Ridge(alpha=shortcuts._RIDGE).fit(pixels[kept], own[kept])
            scores[row, i] = model.predict(pixels[i : i + 1])[0]
    wanted = [roc_auc_score(own, row) for own, row in zip(labels, scores, strict=True)]
    centred = pixels - pixels.mean(0)
    assert shortcuts._ridge(centred, labels, partner) == pytest.approx(wanted)


def test_colours_that_differ_by_class_are_found_and_noise_is_not() -> None:
    rng = np.random.default_rng(6)
    table = noise(40, 20, 1)
    plain = rng.normal(0.5, 0.1, (40, 54)).astype(np.float32)
    tinted = plain.copy()
    tinted[table["label"].to_numpy() == 1, :6] += 0.3
    assert colour_shortcut(table.assign(colours=list(tinted))).tells(COLOUR_LIMIT)
    assert not colour_shortcut(table.assign(colours=list(plain))).tells(COLOUR_LIMIT)


def test_colours_that_were_never_looked_at_give_a_reason() -> None:
    assert "fewer than" in colour_shortcut(noise(40, 20, 1)).reason
