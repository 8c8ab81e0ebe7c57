"""Runs handed over in a capsule come out the same in an outputs folder that has seen none of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from deepfake.installation import child_environment
from tests.data.making import numbered, write_video
from tests.end_to_end.conftest import SMALL, TWO_EPOCHS, Command

KEPT = ["tracking.log_model=false", "tracking.system_metrics=false"]
#: Of another data set than the demo.
OWN = ["backbone=tiny", *SMALL[3:], *KEPT]
SAME = "verdict: identical"


def _capsule(command: Command, run: str, target: Path, *flags: str) -> Path:
    done = command("-m", "deepfake.cli", "capsule", run, "--output", str(target), *flags)
    assert done.returncode == 0, done.stderr
    return target


def _elsewhere(command: Command, fresh: Path, *words: str) -> str:
    """What reproducing said in an outputs folder of its own."""
    done = command("-m", "deepfake.cli", "reproduce", *words, DEEPFAKE_OUTPUTS=str(fresh))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _trained(command: Command, *words: str) -> str:
    done = command("train.py", *words)
    assert done.returncode == 0, done.stderr
    found = re.search(r"^run: (.+)$", done.stdout, re.MULTILINE)
    assert found
    return found[1]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An outputs folder in which nothing was trained; one for all, as a tracking store takes seconds to make."""
    return tmp_path_factory.mktemp("fresh")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures whose names tell nothing of who is on them."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", 8), ("valid", 4), ("test", 4)):
        for label, word in enumerate(("real", "fake")):
            folder = root / split / word
            folder.mkdir(parents=True)
            for n in range(count):
                number = len(split) * 100 + label * 50 + n
                cv2.imwrite(str(folder / f"{word}{n}.png"), numbered(number)[..., ::-1] // (1 + label))
    return root


def test_the_demo_in_a_process_that_works_in_another_folder(finished: Path, command: Command, tmp_path: Path) -> None:
    capsule = _capsule(command, "once", tmp_path / "once.zip")
    assert capsule.stat().st_size < 5e6
    done = subprocess.run(
        [sys.executable, "-P", "-m", "deepfake.cli", "reproduce", "once.zip", f"paths.outputs={tmp_path / 'fresh'}"],
        cwd=tmp_path,
        env={**child_environment(os.environ), "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert SAME in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "once.zip"]


def test_with_weights_it_is_larger_and_is_written_over_only_by_force(
    finished: Path, command: Command, tmp_path: Path
) -> None:
    capsule = _capsule(command, "once", tmp_path / "once.zip", "--weights")
    content = capsule.read_bytes()
    assert len(content) < 30e6
    done = command("-m", "deepfake.cli", "capsule", "once", "--output", str(capsule))
    assert done.returncode == 2
    assert "is there already" in done.stderr
    assert capsule.read_bytes() == content
    assert len(_capsule(command, "once", capsule, "--force").read_bytes()) < len(content)


def test_images_that_were_moved_and_renamed_are_known_by_their_content(
    command: Command, images: Path, fresh: Path, tmp_path: Path
) -> None:
    run = _trained(command, "dataset=images", f"dataset.root={images}", *OWN, "name=images")
    capsule = _capsule(command, run, tmp_path / "images.zip")
    moved = tmp_path / "moved"
    moved.mkdir()
    for number, file in enumerate(sorted(images.rglob("*.png"))):
        shutil.copy2(file, moved / f"{number:03d}.png")
    printed = _elsewhere(command, fresh, str(capsule), f"dataset.root={moved}")
    assert "32 files lie under other names, known by their SHA-256" in printed
    assert SAME in printed
    # For a plain run too.
    check = _elsewhere(command, fresh, run, "--check", f"dataset.root={moved}")
    assert "data: the same (32 of 32 samples by SHA-256)" in check
    # One is gone: it is named, with where it was looked for.
    gone = sorted(moved.iterdir())[0]
    gone.unlink()
    done = command(
        "-m", "deepfake.cli", "reproduce", str(capsule), f"dataset.root={moved}", DEEPFAKE_OUTPUTS=f"{tmp_path}/other"
    )
    assert done.returncode == 2
    assert f"1 of the 32 files that the run read are not below {moved}, under any name" in done.stderr
    assert not (tmp_path / "other" / "runs").exists()


def test_videos_of_which_one_was_renamed(command: Command, fresh: Path, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    for split, count in (("train", 4), ("valid", 2), ("test", 2)):
        for label, word in enumerate(("real", "fake")):
            folder = root / split / word
            folder.mkdir(parents=True)
            for n in range(count):
                steps = [2 + label + n % 2] * 12
                write_video(folder / f"{word}{n}.mp4", 12, steps=steps, options={"crf": str(18 + 4 * n + label)})
    run = _trained(command, "dataset=videos", f"dataset.root={root}", "dataset.faces=center", *OWN, "name=videos")
    capsule = _capsule(command, run, tmp_path / "videos.zip")
    (root / "train" / "real" / "real0.mp4").rename(root / "train" / "fake" / "other.mp4")
    printed = _elsewhere(command, fresh, str(capsule), f"dataset.root={root}")
    assert "train/real/real0.mp4 is train/fake/other.mp4" in printed
    assert SAME in printed


def test_stored_features_come_along_and_are_read(command: Command, fresh: Path, tmp_path: Path) -> None:
    run = _trained(
        command, *TWO_EPOCHS, "backbone.freeze=true", "augment=none", "features=cached", "name=cached", "seed=3"
    )
    capsule = _capsule(command, run, tmp_path / "cached.zip", "--data")
    printed = _elsewhere(command, fresh, str(capsule))
    assert "features: read from" in printed
    assert "the crops are the capsule's" in printed
    assert SAME in printed
    assert "preparing" not in printed
    assert "computed" not in printed


def test_the_best_of_a_study(command: Command, fresh: Path, tmp_path: Path) -> None:
    done = command(
        "train.py", "-m", *TWO_EPOCHS, "sweep.name=handed", "sweep.n_trials=2",
        "optimizer.lr=tag(log, interval(1e-3, 1e-2))",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    capsule = _capsule(command, "best:handed", tmp_path / "best.zip")
    assert SAME in _elsewhere(command, fresh, str(capsule))


def test_a_run_brings_the_one_that_it_began_from(finished: Path, command: Command, fresh: Path, tmp_path: Path) -> None:
    run = _trained(command, *SMALL, *KEPT, "trainer.init_from=once", "name=child")
    capsule = _capsule(command, run, tmp_path / "child.zip")
    printed = _elsewhere(command, fresh, str(capsule))
    assert SAME in printed
    # Where its weights are gone, the capsule says that they are missing.
    lost = Path(shutil.copytree(run, tmp_path / "lost"))
    for name in ("config.yaml", "resolved.yaml"):
        text = (lost / name).read_text()
        (lost / name).write_text(text.replace("init_from: once", "init_from: never"))
    done = command("-m", "deepfake.cli", "capsule", str(lost), "--output", str(tmp_path / "lost.zip"))
    assert done.returncode == 0, done.stderr
    assert "not in the capsule: never, which run" in done.stderr


def test_a_capsule_that_was_altered_leaves_nothing(finished: Path, command: Command, tmp_path: Path) -> None:
    capsule = _capsule(command, "once", tmp_path / "once.zip")
    content = bytearray(capsule.read_bytes())
    content[len(content) // 2] ^= 0xFF
    capsule.write_bytes(bytes(content))
    done = command("-m", "deepfake.cli", "reproduce", str(capsule), DEEPFAKE_OUTPUTS=str(tmp_path / "fresh"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert not (tmp_path / "fresh" / "cache").exists()


def test_a_report_names_the_cause(finished: Path, command: Command, tmp_path: Path) -> None:
    done = command(
        "-m", "deepfake.cli", "reproduce", str(finished), "--set", "seed=1", "name=other seed",
        DEEPFAKE_OUTPUTS=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 1
    assert "most likely: seed: seed 0 -> 1" in done.stdout
    (again,) = (tmp_path / "runs").iterdir()
    assert json.loads((again / "reproduction.json").read_text())["causes"][0]["kind"] == "seed"
