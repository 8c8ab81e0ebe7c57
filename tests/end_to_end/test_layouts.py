"""Every data set's tree, as it unzips and with real media in it, trains an epoch end to end."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from deepfake.data.media import IMAGE_SUFFIXES
from tests.data.layouts.test_celebdf import plant_celebdf
from tests.data.layouts.trees import plant, write_json
from tests.data.making import numbered, write_video
from tests.end_to_end.conftest import SMALL, Command

SPLITS = ("train", "valid", "test")
PAIRS = [f"{a:03d}_{a ^ 1:03d}" for a in range(12)]


def _faceforensics(root: Path) -> None:
    plant(root, [f"original_sequences/youtube/c23/videos/{n:03d}.mp4" for n in range(12)])
    plant(root, [f"manipulated_sequences/Deepfakes/c23/videos/{pair}.mp4" for pair in PAIRS])
    for name, first, last in (("train", 0, 8), ("val", 8, 10), ("test", 10, 12)):
        write_json(root / "splits" / f"{name}.json", [[f"{a:03d}", f"{a + 1:03d}"] for a in range(first, last, 2)])


def _ff_c23(root: Path) -> None:
    plant(root / "FaceForensics++_C23", [f"original/{n:03d}.mp4" for n in range(12)])
    plant(root / "FaceForensics++_C23", [f"{m}/{pair}.mp4" for m in ("Deepfakes", "FaceSwap") for pair in PAIRS])


def _dfdc(root: Path) -> None:
    reals = {f"real{n}.mp4": {"label": "REAL", "split": "train"} for n in range(4)}
    fakes = {f"fake{n}.mp4": {"label": "FAKE", "split": "train", "original": f"real{n % 4}.mp4"} for n in range(12)}
    plant(root / "train_sample_videos", [*reals, *fakes])
    write_json(root / "train_sample_videos" / "metadata.json", reals | fakes)


def _celebdf(root: Path) -> None:
    plant_celebdf(root, "")


def _deepfake_faces(root: Path) -> None:
    rows = [(f"real{n}.mp4", 1920, 1080, "REAL", "") for n in range(4)]
    rows += [(f"fake{n}.mp4", 1920, 1080, "FAKE", f"real{n % 4}.mp4") for n in range(16)]
    plant(root, [f"faces_224/{name[:-4]}.jpg" for name, *_ in rows])
    columns = ["videoname", "original_width", "original_height", "label", "original"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "metadata.csv", index=False)


def _faces_140k(root: Path) -> None:
    for split in SPLITS:
        paths = [f"{split}/{c}/{c}{n}.jpg" for c in ("real", "fake") for n in range(8)]
        plant(root / "real_vs_fake" / "real-vs-fake", paths)
        rows = [(Path(path).stem, int("/real/" in path), Path(path).parts[1], path) for path in paths]
        pd.DataFrame(rows, columns=["id", "label", "label_str", "path"]).to_csv(root / f"{split}.csv")


def _deepfake_and_real(root: Path) -> None:
    splits = ("Train", "Validation", "Test")
    plant(
        root / "Dataset", [f"{s}/{c}/{c.lower()}_{n}.jpg" for s in splits for c in ("Real", "Fake") for n in range(8)]
    )


def _real_and_fake(root: Path) -> None:
    plant(root / "real_and_fake_face", [f"training_real/real_{n:05d}.jpg" for n in range(12)])
    plant(root / "real_and_fake_face", [f"training_fake/{k}_{n}_1110.jpg" for k in ("easy", "hard") for n in range(8)])


def _hardfake(root: Path) -> None:
    for word, last in (("real", 589), ("fake", 700)):
        plant(root, [f"train/{word}/{word}_{n}.jpg" for n in (*range(1, 20), last - 50)])
        plant(root, [f"valid/{word}/{word}_{n}.jpg" for n in range(last - 3, last + 1)])


def _class_folders(suffix: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        cells = [(split, c) for split in SPLITS for c in ("real", "fake")]
        plant(root, [f"{split}/{c}/{c} {split} {n}.{suffix}" for split, c in cells for n in range(8)])

    return make


TREES: dict[str, Callable[[Path], None]] = {
    "faceforensics": _faceforensics,
    "kaggle_ff_c23": _ff_c23,
    "dfdc": _dfdc,
    "celebdf": _celebdf,
    "kaggle_deepfake_faces": _deepfake_faces,
    "kaggle_140k_faces": _faces_140k,
    "kaggle_deepfake_and_real_images": _deepfake_and_real,
    "kaggle_real_and_fake_face": _real_and_fake,
    "kaggle_hardfake": _hardfake,
    "images": _class_folders("png"),
    "videos": _class_folders("avi"),
}


def bring_to_life(root: Path, folder: Path) -> None:
    """Put a picture or a video in the place of every planted file.

    Args:
        root: The tree.
        folder: Where one video of each suffix is kept.
    """
    rng = np.random.default_rng(0)
    for number, path in enumerate(sorted(p for p in root.rglob("*") if p.is_file() and p.read_bytes() == b"pixels")):
        if path.suffix in IMAGE_SUFFIXES:
            noise = rng.integers(0, 40, (64, 64, 3), dtype=np.uint8)
            cv2.imwrite(str(path), numbered(number, 64, 64) // 2 + noise)
        else:
            made = folder / f"{number % 6}{path.suffix}"
            if not made.exists():
                write_video(made, 8 + number % 6, size=(64, 64))
            shutil.copy(made, path)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place, media = tmp_path_factory.mktemp("sets"), tmp_path_factory.mktemp("media")
    for name, make in TREES.items():
        make(place / name)
    bring_to_life(place, media)
    return place


def test_every_tree_trains_an_epoch(trees: Path, command: Command) -> None:
    small = [text for text in SMALL if not text.startswith(("demo.", "head."))]
    done = command(
        "train.py", "-m", *small, "model=cnn", "backbone=tiny", "tracking.log_model=false", "dataset.faces=center",
        f"dataset={','.join(TREES)}", f"dataset.root={trees}/${{dataset.name}}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(TREES)} runs compared" in done.stdout
