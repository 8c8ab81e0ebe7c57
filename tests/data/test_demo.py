"""The generated demo: official tree, same bytes for the same seed, fakes that are what they say."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
from numpy.typing import NDArray

from deepfake.data.dataset import read_dataset
from deepfake.data.demo import make_demo
from deepfake.data.encoding import to_yuv420p
from deepfake.data.manifest import FAKE, REAL
from deepfake.data.media import Pixels
from deepfake.data.options import DatasetOptions, DemoOptions

OPTIONS = DemoOptions(people=8, seconds=0.5)
#: Of all frames of eight people for a quarter of a second, as they go to the encoder.
DRAWN = "7c7e650844092f751dcf3824e2fcb7c4b6376c4dfcbdc5ba31f452aaa5edb310"


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


def test_the_drawn_pixels_are_those_of_every_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn = hashlib.sha256()

    def take(path: Path, film: Iterator[Pixels], fps: int) -> None:
        for image in film:
            drawn.update(to_yuv420p(image))

    monkeypatch.setattr("deepfake.data.demo.write_video", take)
    make_demo(DemoOptions(people=8, seconds=0.25), tmp_path)
    assert drawn.hexdigest() == DRAWN


#: What makes NumPy, OpenCV, FFmpeg's and the C library do without what not every processor has.
LESSER = {
    "OPENCV_CPU_DISABLE": "AVX,AVX2,FMA3,AVX512-SKX",
    "OPENCV_IPP": "disabled",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-AVX2_Usable,-FMA,-FMA_Usable",
}

#: Prints one digest of all that a demo holds.
DIGEST = """
import hashlib, sys
from pathlib import Path
from deepfake.data.demo import make_demo
from tests.data.test_demo import OPTIONS
root = make_demo(OPTIONS, Path(sys.argv[1]))
print(hashlib.sha256(b"".join(path.read_bytes() for path in sorted(root.rglob("*.mp4")))).hexdigest())
"""


def test_a_lesser_processor_gives_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    usable = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    environment = {**os.environ, **LESSER, "NPY_DISABLE_CPU_FEATURES": " ".join(usable)}
    command = [sys.executable, "-c", DIGEST, str(tmp_path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    whole = b"".join(path.read_bytes() for path in sorted(demo.rglob("*.mp4")))
    assert done.stdout.strip() == hashlib.sha256(whole).hexdigest()


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


def test_half_of_the_real_videos_and_half_of_each_flicker_show_the_patch(demo: Path) -> None:
    real = np.stack(redness(demo, "original_sequences/youtube"))
    fake = np.stack(redness(demo, "manipulated_sequences/SyntheticFlicker"))
    # Of the two people of a pair the one with the patch is redder throughout.
    pairs = real.mean(1).reshape(-1, 2)
    assert (np.abs(pairs[:, 0] - pairs[:, 1]) > 0.15).all()
    shown = fake > (fake.max(1, keepdims=True) + fake.min(1, keepdims=True)) / 2
    assert (shown.reshape(len(shown), -1, 2).sum(2) == 1).all()


def test_a_flicker_is_its_original_bit_by_bit_wherever_its_patch_is_as_there(demo: Path) -> None:
    for number in range(OPTIONS.people):
        real = frames(demo / f"original_sequences/youtube/c23/videos/{number:03d}.mp4")
        fake = frames(demo / f"manipulated_sequences/SyntheticFlicker/c23/videos/{number:03d}_{number ^ 1:03d}.mp4")
        same = (real == fake).all((1, 2, 3))
        assert same.sum() == len(same) / 2


def test_a_blend_differs_from_its_original_in_every_frame(demo: Path) -> None:
    real = frames(demo / "original_sequences/youtube/c23/videos/000.mp4")
    fake = frames(demo / "manipulated_sequences/SyntheticBlend/c23/videos/000_001.mp4")
    assert np.abs(real - fake)[:, 40:60, 40:56].mean((1, 2, 3)).min() > 8
