"""What an audit finds in sets made to be wrong in one way, and that it finds nothing in one that is right."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from deepfake.data.audit import Audit, audit_dataset, near_duplicates
from deepfake.data.dataset import read_dataset
from deepfake.data.manifest import Manifest, make_rows
from deepfake.data.options import DatasetOptions
from deepfake.data.prepare import prepare_crops

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


@pytest.mark.slow
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
