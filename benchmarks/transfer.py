"""Whether a check that is built from a data set itself foretells how detectors do on other data; validation does not.

    python -m benchmarks.transfer build PHOTOS FACES FOLDER
    python -m benchmarks.transfer rank FOLDER --runs 32
    python -m benchmarks.transfer score FOLDER RUN [RUN ...]

PHOTOS is a folder ``train/{real,fake}`` of portraits whose framing differs by class, such as Kaggle's hardfake;
FACES/real holds faces from elsewhere, such as crops of DFDC. ``build`` keeps a part of PHOTOS aside and makes of it, in
FOLDER, sets on which framing, colour and file format tell nothing: every face is laid on the same five points, grey,
and compressed alike.

``set``     what is left to train on
``equal``   half of what was kept aside: what a user can build, the check
``unseen``  the other half, smaller and coarser
``other``   its fakes against the reals of FACES

``rank`` trains short runs of all sorts and says how validation and the check rank them against ``unseen`` and
``other``. Needs pretrained weights of ``tf_efficientnet_lite0``; a run takes half a minute on two cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

import deepfake
from benchmarks.measure import RESULTS, machine
from deepfake.data.crop_geometry import similarity
from deepfake.data.faces import create_detector
from deepfake.data.faces.base import FaceDetector
from deepfake.data.media import Pixels, read_image
from deepfake.errors import UserError

CLASSES = ("real", "fake")
#: Of each class, kept aside.
ASIDE = 200
#: Side in pixels and JPEG quality of a check and of a coarser one; cut so close that no face leaves its picture.
CHECK, COARSE = (128, 90), (80, 75)
MARGIN = -0.42
#: What short runs differ in.
SIZES, EPOCHS, AUGMENTS = (64, 96), (2, 4), ("none", "basic", "forensic", "strong")
TARGETS = ("unseen", "other")
RESAMPLES = 2000


def build(photos: Path, faces: Path, folder: Path) -> None:
    """Write the sets; see the module."""
    detector = create_detector("mtcnn", None)
    assert detector is not None
    generator = np.random.default_rng(0)
    for label in CLASSES:
        files = sorted(path for part in ("train", "valid") for path in (photos / part / label).iterdir())
        order = generator.permutation(len(files))
        aside, left = [files[i] for i in order[:ASIDE]], [files[i] for i in order[ASIDE:]]
        for file in left:
            target = folder / "set" / label / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        _write(aside[: ASIDE // 2], folder / "equal" / label, detector, CHECK)
        _write(aside[ASIDE // 2 :], folder / "unseen" / label, detector, COARSE)
        _write(
            aside[ASIDE // 2 :] if label == "fake" else sorted((faces / label).iterdir()),
            folder / "other" / label,
            detector,
            CHECK,
        )


def _write(files: list[Path], folder: Path, detector: FaceDetector, form: tuple[int, int]) -> None:
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    side, quality = form
    for file in files:
        image = read_image(file).images[0]
        found = detector.detect(image)
        if not found:
            continue
        points = found[0].landmarks
        grey = cv2.cvtColor(_laid(image, points, side), cv2.COLOR_RGB2GRAY)
        cv2.imwrite(str(folder / f"{file.stem}.jpg"), grey, [cv2.IMWRITE_JPEG_QUALITY, quality])


def _laid(image: Pixels, points: np.ndarray, side: int) -> Pixels:
    """The face with its points in the same places; what is shrunk is blurred first, so that nothing aliases."""
    import cv2

    matrix = similarity(points, MARGIN, side)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 1:
        image = cv2.GaussianBlur(image, (0, 0), 0.4 / scale)
    return np.asarray(
        cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT), np.uint8
    )


def short_runs(count: int) -> Iterator[dict[str, object]]:
    """The overrides of so many runs, drawn from all sorts."""
    generator = np.random.default_rng(1)
    for seed in range(count):
        augment = str(generator.choice(AUGMENTS))
        keys: dict[str, object] = {
            "augment": augment,
            "seed": seed,
            "dataset.size": int(generator.choice(SIZES)),
            "trainer.epochs": int(generator.choice(EPOCHS)),
            "backbone.lr": float(10 ** generator.uniform(-4.5, -3)),
            "optimizer.weight_decay": float(10 ** generator.uniform(-3, -0.5)),
            "trainer.label_smoothing": float(generator.choice([0.0, 0.1])),
            "backbone.freeze": bool(generator.random() < 0.15),
        }
        low = float(generator.choice([0.25, 0.35, 0.6]))
        if augment == "strong":
            keys["augment.crop_scale"] = [low, 0.95]
        yield keys


def rank(folder: Path, count: int, outputs: Path) -> pd.DataFrame:
    """Train and score the runs: one row each, with ``val``, ``check`` and each of :data:`TARGETS`."""
    kept = outputs / "runs.jsonl"
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    for number, keys in enumerate(short_runs(count)):
        if number < len(done):
            continue
        check = f"selection.holdout_sets=[{{layout: images, root: {folder / 'equal'}, name: equal}}]"
        run = deepfake.train(
            "model=cnn",
            "backbone=efficientnet_lite0",
            "dataset=images",
            "selection=holdout_sets",
            check,
            **{"dataset.root": str(folder / "set"), "paths.outputs": str(outputs), **keys},
        )
        best = run.history.loc[run.history["select/roc_auc"].idxmax()]
        row = {**keys, "val": best["val/roc_auc"], "check": best["select/roc_auc"], **score(folder, run)}
        done.append(row)
        with kept.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print({name: round(value, 3) for name, value in row.items() if isinstance(value, float)}, flush=True)
    return pd.DataFrame(done[:count])


def score(folder: Path, run: deepfake.Run | str) -> dict[str, float]:
    """A run's ROC-AUC on each target."""
    found = run if isinstance(run, deepfake.Run) else deepfake.load(run).run
    return {
        name: found.evaluate(**{"dataset": "images", "dataset.root": str(folder / name)}).metrics["roc_auc"]
        for name in TARGETS
    }


def compare(table: pd.DataFrame) -> list[dict[str, float | str]]:
    """For each target how both objectives rank it."""
    return [{"target": target, **intervals(table[["val", "check", target]].to_numpy(float))} for target in TARGETS]


def intervals(columns: np.ndarray) -> dict[str, float]:
    """How validation and a check rank what is not seen, and the interval of their difference over drawn runs.

    Args:
        columns: [runs, 3]: validation, the check, and what is not seen.
    """
    draws = np.random.default_rng(0).integers(len(columns), size=(RESAMPLES, len(columns)))

    def ranks(c: np.ndarray) -> tuple[float, float]:
        return _spearman(c[:, 0], c[:, 2]), _spearman(c[:, 1], c[:, 2])

    by_val, by_check = ranks(columns)
    gains = [np.subtract(*ranks(columns[i])[::-1]) for i in draws]
    low, high = np.nanquantile(gains, [0.025, 0.975])
    return {"val": by_val, "check": by_check, "gain": by_check - by_val, "low": float(low), "high": float(high)}


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else float("nan")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    building = verbs.add_parser("build")
    for name in ("photos", "faces", "folder"):
        building.add_argument(name, type=Path)
    ranking, scoring = verbs.add_parser("rank"), verbs.add_parser("score")
    for one in (ranking, scoring):
        one.add_argument("folder", type=Path)
    ranking.add_argument("--runs", type=int, default=32)
    ranking.add_argument("--outputs", type=Path, default=Path(tempfile.gettempdir()) / "transfer")
    scoring.add_argument("runs", nargs="+")
    asked = parser.parse_args()
    try:
        if asked.verb == "build":
            build(asked.photos, asked.faces, asked.folder)
        elif asked.verb == "score":
            for run in asked.runs:
                print(run, score(asked.folder, run))
        else:
            _report(rank(asked.folder.resolve(), asked.runs, asked.outputs.resolve()))
    except UserError as error:
        raise SystemExit(str(error)) from error


def _report(table: pd.DataFrame) -> None:
    rows = compare(table)
    shown = Table("target", "Spearman of val", "of the check", "gain", "95 %", title=f"{len(table)} runs")
    for row in rows:
        numbers = [f"{row[name]:.2f}" for name in ("val", "check", "gain")]
        shown.add_row(str(row["target"]), *numbers, f"{row['low']:.2f} to {row['high']:.2f}")
    Console().print(shown)
    RESULTS.mkdir(exist_ok=True)
    found = {"machine": machine("torch", "timm"), "rows": rows, "runs": table.to_dict("records")}
    (RESULTS / "transfer.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
