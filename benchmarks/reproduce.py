"""Whether runs come out the same elsewhere, and whether what was changed is named when they do not.

python -m benchmarks.reproduce            # all of it: about an hour on two cores
python -m benchmarks.reproduce capsules   # five capsules, each in a fresh outputs folder
python -m benchmarks.reproduce causes     # twenty injected changes: is the right cause the first?
python -m benchmarks.reproduce clean      # ten reruns of what did not change: is anything blamed?

``--environment`` runs the capsules in an environment made anew from what each notes, with an index to install from.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import RESULTS
from deepfake.installation import CHECKOUT, child_environment

SMALL = (
    "demo.people=12", "demo.seconds=0.5", "demo.size=48", "dataset.size=32", "dataset.frames=4", "dataset.clips=1",
    "trainer.epochs=2", "trainer.batch_size=8", "head.hidden=16", "tracking.log_model=false",
    "tracking.system_metrics=false", "backbone=tiny",
)  # fmt: skip


@dataclass
class Place:
    """A folder for all of it, and the commands that are run there.

    Attributes:
        folder: Everything lies below it.
    """

    folder: Path

    def run(self, *words: str, outputs: str = "outputs", code: Path | None = None, **more: str) -> tuple[int, str]:
        """``deepfake <words>`` in a process of its own; how it ended, and what it said."""
        variables = child_environment(os.environ) | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | more
        variables["DEEPFAKE_OUTPUTS"] = str(self.folder / outputs)
        variables.pop("MLFLOW_TRACKING_URI", None)
        if code is not None:
            variables["PYTHONPATH"] = str(code)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "deepfake.cli", *words],
            cwd=self.folder, env=variables, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def train(self, name: str, *words: str, study: bool = False) -> str:
        """Train a small run of that name; returns how it is called on the command line."""
        if study:
            words = ("-m", *words, f"sweep.name={name}")
        status, said = self.run("train", *words, *SMALL, *([] if study else [f"name={name}"]))
        if status:
            raise RuntimeError(said)
        return f"best:{name}" if study else re.findall(r"^run: (.+)$", said, re.MULTILINE)[-1]

    def rerun(self, run: str, *words: str, **more: Any) -> dict[str, Any]:
        """Reproduce a run in a fresh outputs folder; what the report says of it."""
        fresh = f"fresh-{len([*self.folder.glob('fresh-*')])}"
        status, said = self.run("reproduce", run, *words, outputs=fresh, **more)
        found = sorted((self.folder / fresh / "runs").glob("*/reproduction.json"))
        if not found:
            return {"verdict": f"status {status}", "causes": [], "said": said[-600:]}
        report: dict[str, Any] = json.loads(found[-1].read_text())
        return report


def plant(root: Path) -> Path:
    """Pictures in class folders, of coarse noise; fakes are darker in one corner."""
    import cv2

    for part, (split, count) in enumerate((("train", 8), ("valid", 4), ("test", 4))):
        for label, word in enumerate(("real", "fake")):
            folder = root / split / word
            folder.mkdir(parents=True)
            for n in range(count):
                # No two alike: a picture that is gone would be found again under the other's name.
                rng = np.random.default_rng([part, label, n])
                image = cv2.resize(rng.integers(60, 200, (8, 8, 3), np.uint8), (64, 64))
                image[:24, :24] //= 1 + label
                cv2.imwrite(str(folder / f"{word}{n}.png"), image)
    return root


def capsules(place: Place, flags: Sequence[str]) -> list[dict[str, Any]]:
    """Five runs by way of a capsule."""
    images = plant(place.folder / "images")
    place.train("demo")
    videos = place.folder / "outputs" / "cache" / "demo"
    own = place.folder / "videos"
    for n, file in enumerate(sorted(videos.rglob("*.mp4"))):
        target = own / ("real" if "original" in str(file) else "fake") / f"clip{n}.mp4"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)
    runs = {
        "demo": (str(next((place.folder / "outputs" / "runs").glob("*_demo_*"))), []),
        "images": (place.train("images", "dataset=images", f"dataset.root={images}"), [f"dataset.root={images}"]),
        "video": (
            place.train("video", "dataset=videos", f"dataset.root={own}", "dataset.faces=center"),
            [f"dataset.root={own}"],
        ),
        "cached features": (
            place.train("cached", "backbone.freeze=true", "augment=none", "features=cached"), [],
        ),
        "best of a study": (
            place.train("study", "sweep.n_trials=2", "optimizer.lr=tag(log, interval(1e-3, 1e-2))", study=True), [],
        ),
    }  # fmt: skip
    rows = []
    for name, (run, words) in runs.items():
        capsule = place.folder / f"{name}.zip"
        data = ["--data"] if name == "cached features" else []
        status, said = place.run("capsule", run, "--output", str(capsule), *data)
        report = place.rerun(str(capsule), *words, *flags) if not status else {"verdict": said, "causes": []}
        rows.append({"what": name, "verdict": report["verdict"], "bytes": capsule.stat().st_size if not status else 0})
        print(f"capsule {name}: {report['verdict']}", flush=True)
    return rows


#: What was changed, how (given the place, the run's folder and its images), and the kind and words of the right cause.
Change = tuple[Callable[[Place, Path, Path], dict[str, Any]], str, str]


def changes() -> dict[str, Change]:
    """Twenty changes to a run on pictures, each made for real: what is read, run or typed is another thing."""

    def typed(key: str, value: object) -> Callable[[Place, Path, Path], dict[str, Any]]:
        return lambda place, run, images: place.rerun(str(run), "--set", f"{key}={value}", f"dataset.root={images}")

    def data(change: Callable[[Path], object]) -> Callable[[Place, Path, Path], dict[str, Any]]:
        def done(place: Place, run: Path, images: Path) -> dict[str, Any]:
            copy = Path(shutil.copytree(images, place.folder / f"data-{len([*place.folder.glob('data-*')])}"))
            change(copy)
            return place.rerun(str(run), f"dataset.root={copy}")

        return done

    def code(file: str, more: str) -> Callable[[Place, Path, Path], dict[str, Any]]:
        def done(place: Place, run: Path, images: Path) -> dict[str, Any]:
            return place.rerun(str(run), f"dataset.root={images}", code=changed_code(place, file, more))

        return done

    def saved(key: str, old: str, new: str) -> Callable[[Place, Path, Path], dict[str, Any]]:
        """The saved config, edited after the run."""

        def done(place: Place, run: Path, images: Path) -> dict[str, Any]:
            copy = Path(shutil.copytree(run, place.folder / f"edited-{len([*place.folder.glob('edited-*')])}"))
            for name in ("config.yaml", "resolved.yaml"):
                text = (copy / name).read_text()
                (copy / name).write_text(re.sub(rf"(?m)^(\s*){key}: {re.escape(old)}$", rf"\g<1>{key}: {new}", text))
            return place.rerun(str(copy), f"dataset.root={images}")

        return done

    def package(name: str, version: str) -> Callable[[Place, Path, Path], dict[str, Any]]:
        """Another version of a package that computes otherwise: its name, and what it gives, are changed together."""

        def done(place: Place, run: Path, images: Path) -> dict[str, Any]:
            return place.rerun(str(run), f"dataset.root={images}", code=shadow(place, name, version))

        return done

    model, loop = "deepfake/models/heads/recurrent.py", "deepfake/training/train_step.py"
    return {
        "seed": (typed("seed", 1), "seed", "seed 0 -> 1"),
        "rate": (typed("optimizer.lr", 0.01), "config", "optimizer.lr"),
        "epochs": (typed("trainer.epochs", 3), "config", "trainer.epochs 2 -> 3"),
        "batch size": (typed("trainer.batch_size", 4), "config", "trainer.batch_size 8 -> 4"),
        "width": (typed("head.hidden", 8), "config", "head.hidden 16 -> 8"),
        "dropout": (typed("head.dropout", 0.5), "config", "head.dropout"),
        "augmentation": (typed("augment.flip", 1.0), "config", "augment.flip"),
        "smoothing": (typed("trainer.label_smoothing", 0.2), "config", "trainer.label_smoothing"),
        "seed in the file": (saved("seed", "0", "5"), "seed", "seed 0 -> 5"),
        "picture changed": (data(lambda root: darken(root / "train/real/real1.png")), "data", "1 files changed"),
        "pictures changed": (
            data(lambda root: [darken(root / f"test/fake/fake{n}.png") for n in range(3)]), "data", "3 files changed",
        ),
        "picture missing": (data(lambda root: (root / "train/fake/fake3.png").unlink()), "data", "1 files missing"),
        "pictures missing": (
            data(lambda root: [(root / f"valid/real/real{n}.png").unlink() for n in range(2)]),
            "data", "2 files missing",
        ),
        "picture added": (
            data(lambda root: darken(Path(shutil.copy(root / "train/real/real1.png", root / "train/real/more.png")))),
            "data", "1 files added",
        ),
        "picture of another split": (
            data(lambda root: darken(Path(shutil.copy(root / "test/real/real1.png", root / "valid/real/more.png")))),
            "data", "1 files added",
        ),
        "head edited": (code(model, OTHERWISE), "code", model),
        "loop edited": (code(loop, STEEPER), "code", loop),
        "timm": (package("timm", "0.9.0"), "package", "timm"),
        "torch": (package("torch", "2.9.1"), "package", "torch"),
        "OpenCV": (package("opencv-python-headless", "4.10.0"), "package", "opencv-python-headless"),
    }  # fmt: skip


def darken(file: Path) -> None:
    """Another picture of the same size."""
    import cv2

    cv2.imwrite(str(file), cv2.imread(str(file)) // 2)


def changed_code(place: Place, file: str, more: str) -> Path:
    """A copy of this project with something at the end of one module."""
    assert CHECKOUT is not None
    copy = place.folder / f"code-{len([*place.folder.glob('code-*')])}"
    for name in ("deepfake", "hydra_plugins", "conf", "sweeps"):
        shutil.copytree(CHECKOUT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    with open(copy / file, "a") as module:
        module.write(more)
    return copy


#: What the injected module and the injected package do: weights are drawn from another stream.
OTHERWISE = """

import torch as _torch
_seed = _torch.manual_seed
def _other(seed):
    return _seed(seed + 1)
_torch.manual_seed = _other
"""
STEEPER = """

_loss = F.binary_cross_entropy_with_logits
F.binary_cross_entropy_with_logits = lambda *given, **named: 1.5 * _loss(*given, **named)
"""


def shadow(place: Place, name: str, version: str) -> Path:
    """A folder whose packages go before those installed: one says another version, and draws otherwise."""
    folder = place.folder / f"shadow-{len([*place.folder.glob('shadow-*')])}"
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "sitecustomize.py").write_text(
        "import sys\nclass _Late:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'deepfake.training.runtime':\n"
        "            sys.meta_path.remove(self)\n"
        + "".join(f"            {line}\n" for line in OTHERWISE.strip().splitlines())
        + "        return None\nsys.meta_path.insert(0, _Late())\n"
    )
    return folder


def causes(place: Place) -> list[dict[str, Any]]:
    """What is named first after each of the changes."""
    images = plant(place.folder / "pictures")
    run = Path(place.train("pictures", "dataset=images", f"dataset.root={images}"))
    rows = []
    for name, (inject, kind, words) in changes().items():
        report = inject(place, run, images)
        first = report["causes"][0] if report["causes"] else {"kind": "none", "what": report.get("said", "")}
        right = first["kind"] == kind and words in first["what"]
        rows.append({"what": name, "verdict": report["verdict"], "right": right, "first": first})
        print(f"{name}: {report['verdict']}, {'right' if right else 'WRONG'}: {first}", flush=True)
    return rows


def clean(place: Place, count: int = 10) -> list[dict[str, Any]]:
    """Reruns where nothing changed."""
    run = place.train("clean")
    rows = []
    for number in range(count):
        report = place.rerun(run)
        rows.append({"what": number, "verdict": report["verdict"], "blamed": report["causes"]})
        print(f"clean {number}: {report['verdict']}, blamed {len(report['causes'])}", flush=True)
    return rows


def main() -> None:
    """Run what is asked for; the counts go to ``results/reproduce.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=("capsules", "causes", "clean", []), help="all where none is named")
    parser.add_argument("--environment", action="store_true", help="run the capsules in environments made anew")
    arguments = parser.parse_args()
    what = arguments.what or ["capsules", "causes", "clean"]
    results = RESULTS / "reproduce.json"
    found: dict[str, Any] = json.loads(results.read_text()) if results.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        if "capsules" in what:
            found["capsules"] = capsules(place, ["--environment"] if arguments.environment else [])
        if "causes" in what:
            found["causes"] = causes(place)
        if "clean" in what:
            found["clean"] = clean(place)
    results.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(counts(found), indent=1))


def counts(found: dict[str, Any]) -> dict[str, str]:
    """So many of so many, by what was counted."""

    def of(rows: Sequence[dict[str, Any]], good: Callable[[dict[str, Any]], bool]) -> str:
        return f"{sum(map(good, rows))} of {len(rows)}"

    told = {}
    if "capsules" in found:
        told["capsules that came out identical"] = of(found["capsules"], lambda row: row["verdict"] == "identical")
    if "causes" in found:
        told["changes whose cause was named first"] = of(found["causes"], lambda row: row["right"])
    if "clean" in found:
        told["clean reruns with nothing blamed"] = of(
            found["clean"], lambda row: row["verdict"] == "identical" and not row["blamed"]
        )
    return told


if __name__ == "__main__":
    main()
