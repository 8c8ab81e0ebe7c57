"""DFDC's preview: one listing says class and split, names say who is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.data.dataset import read_dataset
from deepfake.data.layouts.dfdcp import people
from deepfake.data.manifest import FAKE, REAL
from deepfake.data.options import DatasetOptions
from deepfake.errors import DataError
from tests.data.layouts.trees import by_stem, counts, plant, read, write_json

VIDEOS = {
    "method_A/1/1_A/1_2_A_000.mp4": ("fake", "train"),
    "method_B/3/3_C/3_4_C_001.mp4": ("fake", "test"),
    "original_videos/2/2_A_005.mp4": ("real", "train"),
    "original_videos/4/4_A_006.mp4": ("real", "test"),
}


@pytest.fixture(params=["", "videos/"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    listing = {name: {"label": label, "set": split} for name, (label, split) in VIDEOS.items()}
    write_json(tmp_path / "DFDCP" / "dataset.json", listing)
    folders = (name.split("/", 1) for name in VIDEOS)
    return plant(tmp_path / "DFDCP", [f"{top}/{request.param}{rest}" for top, rest in folders])


def test_the_listing_says_class_and_split(tree: Path) -> None:
    manifest = read("dfdcp", tree)
    assert counts(manifest) == {REAL: 2, FAKE: 2}
    assert by_stem(manifest, "split") == {
        "1_2_A_000": "train",
        "3_4_C_001": "test",
        "2_A_005": "train",
        "4_A_006": "test",
    }
    assert set(manifest.table["method"]) == {"real", "method_A", "method_B"}


def test_a_fake_and_the_person_it_is_put_on_are_one_group(tree: Path) -> None:
    groups = by_stem(read("dfdcp", tree), "groups")
    assert groups["1_2_A_000"] == ("dfdcp/1", "dfdcp/2")
    assert groups["2_A_005"] == ("dfdcp/2",)
    assert people("odd") == ("dfdcp/video/odd",)


def test_what_is_absent_and_what_is_not_listed_is_told(tree: Path) -> None:
    next(tree.rglob("4_A_006.mp4")).unlink()
    plant(tree, ["method_A/9_9_A_000.mp4"])
    notes = read("dfdcp", tree).notes
    assert "dataset.json names 1 of 4 files that are not there: original_videos/4_A_006.mp4" in notes
    assert "1 files that dataset.json does not name are left out: method_A/9_9_A_000.mp4" in notes


@pytest.mark.parametrize("listing", [[], {"method_A/x.mp4": {"label": 1, "set": "train"}}, {"method_A/x.mp4": "fake"}])
def test_another_listing_is_refused_with_the_form_of_it(tree: Path, listing: object) -> None:
    write_json(tree / "dataset.json", listing)
    with pytest.raises(DataError) as caught:
        read("dfdcp", tree)
    assert caught.value.hint is not None
    assert '"set": "train"' in caught.value.hint


def test_it_is_read_as_a_data_set(tree: Path, tmp_path: Path) -> None:
    options = DatasetOptions(name="dfdcp", layout="dfdcp", root=str(tree))
    assert len(read_dataset(options, tmp_path / "cache", trains=False).split("test")) == 2
