"""What an audit finds in sets made to be wrong in one way, and that it finds nothing in one that is right."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from deepfake.data import shortcuts
from deepfake.data.audit import FRAMING_LIMIT, METADATA_LIMIT, Audit, audit_dataset, near_duplicates
from deepfake.data.dataset import read_dataset
from deepfake.data.manifest import Manifest, make_rows
from deepfake.data.options import DatasetOptions
from deepfake.data.prepare import prepare_crops
from deepfake.data.shortcuts import framing_shortcut, metadata_shortcut

N = 120


def manifest_of(groups: list[tuple[str, ...]] | None = None, splits: list[str] | None = None) -> Manifest:
    rows = [
        {
            "sample_id": f"s/{i:03d}", "path": f"{i}.mp4", "kind": "video", "label": i % 2, "dataset": "s",
            "method": "fake" if i % 2 else "real", "groups": groups[i] if groups else (f"g{i // 2}",),
            "split": splits[i] if splits else ("train", "train", "val", "test")[i // 2 % 4],
        }
        for i in range(N)
    ]  # fmt: skip
    return Manifest(make_rows(rows), {"s": Path("/nowhere")})


def samples_of(**columns: object) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (N, 256), dtype=np.uint8)
    plain: dict[str, object] = {
        "status": "ok", "frames": 8, "filled": 0, "width": 640, "height": rng.choice([360, 480], N), "fps": 25.0,
        "video_frames": 250, "duration": 10.0, "bitrate": rng.integers(10**6, 10**7, N), "codec": "h264",
        "pixel_format": "yuv420p", "quality": 0, "sha256": "",
        "dhashes": [[int(h)] for h in rng.integers(0, 2**63, N, dtype=np.uint64)],
        "thumbnail": [base64.b64encode(p.tobytes()).decode() for p in pictures],
    }  # fmt: skip
    index = pd.Index([f"s/{i:03d}" for i in range(N)], name="sample_id", dtype=object)
    return pd.DataFrame({**plain, **columns}, index=index)


def warned(found: Audit, words: str) -> bool:
    return any(words in warning for warning in found.warnings)


def test_a_sound_set_raises_no_alarm_about_shortcuts() -> None:
    found = audit_dataset(manifest_of(), samples_of())
    assert not warned(found, "alone tells")
    assert not warned(found, "framed")
    assert not warned(found, "near-duplicate")


def test_counts_are_by_split_and_class() -> None:
    assert audit_dataset(manifest_of()).facts["samples"]["train"] == {"real": 30, "fake": 30}


def test_metadata_that_tells_the_class_names_the_guilty_column() -> None:
    found = audit_dataset(manifest_of(), samples_of(width=[1920 if i % 2 else 640 for i in range(N)]))
    assert found.facts["metadata_shortcut"]["guilty"] == ["width"]
    assert warned(found, "width above all")


def test_a_codec_can_be_guilty() -> None:
    found = audit_dataset(manifest_of(), samples_of(codec=["hevc" if i % 2 else "h264" for i in range(N)]))
    assert found.facts["metadata_shortcut"]["guilty"] == ["codec"]


def test_framing_that_tells_the_class_is_warned_of() -> None:
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 120, (N, 16, 16), dtype=np.uint8)
    pictures[1::2, 4:12, 4:12] += 100
    found = audit_dataset(
        manifest_of(), samples_of(thumbnail=[base64.b64encode(p.tobytes()).decode() for p in pictures])
    )
    assert warned(found, "how pictures are framed tells the class")


def test_a_group_in_two_splits_is_named() -> None:
    splits = ["train"] * (N - 2) + ["test", "test"]
    groups = [(f"g{i // 2}",) for i in range(N - 2)] + [("g0",), ("own",)]
    found = audit_dataset(manifest_of(groups, splits))
    assert found.facts["crossing_groups"] == [{"group": "g0", "splits": "train, test", "samples": 3}]
    assert warned(found, "g0")


def test_a_copy_in_another_split_is_found() -> None:
    samples = samples_of()
    copy, source = 4, 0  # val and train
    hashes = list(samples["dhashes"])
    hashes[copy] = [hashes[source][0] ^ 0b101]
    thumbnails = list(samples["thumbnail"])
    thumbnails[copy] = thumbnails[source]
    found = audit_dataset(manifest_of(), samples.assign(dhashes=hashes, thumbnail=thumbnails))
    assert found.facts["near_duplicates"]["examples"] == [{"sample_id": "s/000", "other": "s/004", "bits": 2}]
    assert warned(found, "s/000 and s/004")


def test_equal_hashes_of_different_pictures_are_no_copies() -> None:
    hashes = [[(2**40 + 12345)] for _ in range(N)]
    assert audit_dataset(manifest_of(), samples_of(dhashes=hashes)).facts["near_duplicates"]["pairs"] == 0


@pytest.mark.parametrize("flips", [(), (0,), (63,), (0, 20, 40, 60), (5, 16, 27, 38, 50)])
def test_up_to_five_bits_may_differ(flips: tuple[int, ...]) -> None:
    base = 0x0123456789ABCDEF
    other = base
    for bit in flips:
        other ^= 1 << bit
    table = pd.DataFrame(
        {
            "sample_id": ["a", "b"], "split": ["train", "test"], "label": [0, 0], "groups": [("a",), ("b",)],
            "dhashes": [[base], [other]], "thumbnail": "", "sha256": "",
        }
    )  # fmt: skip
    assert near_duplicates(table)["bits"].tolist() == [len(flips)]


def test_faces_missed_more_often_in_one_class_are_warned_of() -> None:
    status = ["no_face" if i % 2 and i < 60 else "ok" for i in range(N)]
    found = audit_dataset(manifest_of(), samples_of(status=status, frames=[0 if s == "no_face" else 8 for s in status]))
    assert warned(found, "no face is found in 50.0% of the fakes but 0.0% of the reals")


def test_the_findings_are_json(tmp_path: Path) -> None:
    found = audit_dataset(manifest_of(), samples_of())
    assert json.loads(json.dumps(found.as_dict()))["groups"]["groups"] == N // 2
    assert "coverage" in found.text()


@pytest.fixture
def audited(shared_data: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Audit:
    options = DatasetOptions(
        layout="images", root=str(shared_data / request.param), faces="none", size=32, clips=1, frames=1, limit=400
    )
    manifest = read_dataset(options, tmp_path)
    return audit_dataset(manifest, prepare_crops(manifest, options, False, tmp_path, workers=0).samples)


@pytest.mark.parametrize("audited", ["hardfake"], indirect=True)
def test_the_framing_of_hardfake_gives_it_away(audited: Audit) -> None:
    assert audited.facts["framing_shortcut"]["roc_auc"] > 0.95
    assert warned(audited, "how pictures are framed tells the class")


@pytest.mark.parametrize("audited", ["dfdc_crops"], indirect=True)
def test_dfdc_crops_share_originals_and_are_few(audited: Audit) -> None:
    assert warned(audited, "67 samples come from 60 groups")
    assert warned(audited, "uncertain by about")


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


def test_a_few_missed_faces_in_a_small_set_are_no_alarm() -> None:
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        missed = rng.random(N) < 0.05
        filled = np.where(rng.random(N) < 0.2, rng.integers(0, 8, N), 0)
        samples = samples_of(
            status=np.where(missed, "no_face", "ok"), frames=np.where(missed, 0, 8), filled=np.where(missed, 0, filled)
        )
        found = audit_dataset(manifest_of([(f"g{i}",) for i in range(N)]), samples)
        alarms += any("of the reals" in warning or "filled in" in warning for warning in found.warnings)
    assert alarms <= 2


def test_pictures_that_are_only_alike_are_no_copies() -> None:
    """Two drawn faces of one kind: few bits differ in one frame of three, and thumbnails correlate by 0.9."""
    rng = np.random.default_rng(6)
    one = rng.normal(128, 22, 256)
    other = 128 + 0.9 * (one - 128) + np.sqrt(1 - 0.9**2) * rng.normal(0, 22, 256)
    pictures = [base64.b64encode(p.clip(0, 255).astype(np.uint8).tobytes()).decode() for p in (one, other)]
    base = 0x0123456789ABCDEF
    table = pd.DataFrame(
        {
            "sample_id": ["a", "b"], "split": ["train", "test"], "label": [0, 0], "groups": [("a",), ("b",)],
            "dhashes": [[base], [base ^ 0b11111]], "thumbnail": pictures, "sha256": "",
        }
    )  # fmt: skip
    assert near_duplicates(table).empty
