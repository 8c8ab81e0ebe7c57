"""The generated demo: official tree, same bytes for the same seed, fakes that are what they say."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from deepfake.data.demo import make_demo
from deepfake.data.manifest import FAKE, REAL
from deepfake.data.options import DatasetOptions, DemoOptions
from deepfake.data.read import read_dataset

OPTIONS = DemoOptions(people=8, seconds=0.5)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(OPTIONS, tmp_path_factory.mktemp("demos"))


def frames(path: Path) -> NDArray[np.float64]:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)]).astype(np.float64)


def redness(demo: Path, folder: str) -> list[NDArray[np.float64]]:
    """Of the lower face, in each frame of each video: red over green."""
    videos = sorted((demo / folder / "c23" / "videos").glob("*.mp4"))
    return [(c[..., 0] / (c[..., 1] + 1)).mean((1, 2)) for c in (frames(v)[:, 52:70, 40:56] for v in videos)]


def test_it_reads_as_an_official_tree(demo: Path, tmp_path: Path) -> None:
    manifest = read_dataset(DatasetOptions(layout="demo", root=str(demo)), tmp_path)
    assert manifest.table["label"].value_counts().to_dict() == {FAKE: 16, REAL: 8}
    assert set(manifest.table["split"]) == {"train", "val", "test"}
    assert manifest.official
    assert not any("not there" in note for note in manifest.notes)


def test_it_is_made_once_and_found_again(demo: Path) -> None:
    before = (demo / "splits" / "train.json").stat().st_mtime_ns
    assert make_demo(OPTIONS, demo.parent) == demo
    assert (demo / "splits" / "train.json").stat().st_mtime_ns == before


def test_the_same_seed_gives_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    again = make_demo(OPTIONS, tmp_path)
    for path in demo.rglob("*.mp4"):
        assert (again / path.relative_to(demo)).read_bytes() == path.read_bytes()


def test_another_seed_gives_another_folder(demo: Path, tmp_path: Path) -> None:
    assert make_demo(DemoOptions(people=8, seconds=0.5, seed=1), tmp_path).name != demo.name


def test_nothing_half_made_is_left(demo: Path) -> None:
    assert [p.name for p in demo.parent.iterdir() if p.is_dir()] == [demo.name]


def test_videos_have_the_size_and_length_asked_for(demo: Path) -> None:
    assert frames(demo / "original_sequences/youtube/c23/videos/000.mp4").shape == (12, 96, 96, 3)


def test_flicker_changes_over_time_and_real_videos_do_not(demo: Path) -> None:
    fake = [own.std() for own in redness(demo, "manipulated_sequences/SyntheticFlicker")]
    real = [own.std() for own in redness(demo, "original_sequences/youtube")]
    assert min(fake) > 3 * max(real)


def test_a_blend_differs_from_its_original_in_every_frame(demo: Path) -> None:
    real = frames(demo / "original_sequences/youtube/c23/videos/000.mp4")
    fake = frames(demo / "manipulated_sequences/SyntheticBlend/c23/videos/000_001.mp4")
    assert np.abs(real - fake)[:, 40:60, 40:56].mean((1, 2, 3)).min() > 8
