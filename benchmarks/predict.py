"""The reader of exported folders beside ``deepfake predict``: its environment, seconds and scores; ONNX beside eager.

    python -m benchmarks.predict [--data FOLDER] [--environment FOLDER]

efficientnet_b0 and a GRU on one clip of 16 frames with random weights, exported once. The reader is built from
``reader/`` and installed, with nothing else, into a fresh environment (from the package index; or into that of
--environment, where it is already). Its seconds are of a 300-frame video of 720p, the first frames of a real one of
--data (else ../shared/data), the first time in a new process and the second time in it. Scores are of 50 videos and
pictures of --data. ONNX Runtime and eager PyTorch read one clip in turns, a thread each, CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.explain import FRAMES, ROOT, cut, source, trained
from benchmarks.measure import in_turns, machine, report, row
from deepfake.data.media import kind_of
from deepfake.reading.detector import open_session
from deepfake.reading.file_answers import Input, as_result
from deepfake.reading.folder import ONNX
from deepfake.runs.answers import predict_inputs
from deepfake.runs.console import Console
from deepfake.runs.export import export_run
from deepfake.runs.load import Trained

FILES, ROUNDS = 50, 7
#: What installs and is no part of what is installed.
PIP = frozenset({"pip", "setuptools"})
#: What the reader's environment runs: seconds of wall clock and CPU of a first and a second answer, and all answers.
_READ = """
import json, resource, sys, time

def spent():
    of = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return time.perf_counter(), sum(one.ru_utime + one.ru_stime for one in of)

from deepfake_reader import Detector

detector = Detector.load(sys.argv[1], threads=int(sys.argv[2]))
video, files = sys.argv[3], json.load(sys.stdin)
marks = [spent()]
for _ in range(2):
    assert detector.predict(video)["score"] is not None
    marks.append(spent())
print(json.dumps({"marks": marks, "began": spent()[1], "results": detector.predict_all(files)}))
"""


def environment(place: Path) -> Path:
    """A fresh environment with the reader and what it needs, and pip; its folder."""
    made = place / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(made)], check=True)
    pip = [str(made / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", str(ROOT / "reader")], check=True)
    return made


def bytes_of(folder: Path) -> int:
    """Of all files in an environment, links and pip aside."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return sum(file.lstat().st_size for file in files if not PIP & {*file.relative_to(folder).parts})


def some_files(data: Path) -> list[Path]:
    """Videos first, then pictures, evenly spread."""
    every = sorted(file for file in data.rglob("*") if kind_of(file.name))
    videos = [file for file in every if kind_of(file.name) == "video"][:FILES]
    pictures = [file for file in every if kind_of(file.name) == "image"]
    chosen = np.linspace(0, len(pictures) - 1, FILES - len(videos)).round().astype(int) if pictures else []
    return [*videos, *(pictures[i] for i in dict.fromkeys(chosen))]


def read(python: Path, folder: Path, video: Path, files: list[Path]) -> tuple[dict[str, Any], float, float]:
    """What the reader says in its environment; wall-clock and CPU seconds of the process up to its first answer."""
    began = time.perf_counter()
    done = subprocess.run(
        [str(python), "-c", _READ, str(folder), "1", str(video)],
        input=json.dumps([str(file) for file in files]),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout)
    first = said["marks"][1]
    # perf_counter is one clock for all processes of a machine.
    return said, first[0] - began, first[1]


def scores(run: Trained, said: list[dict[str, Any]], files: list[Path]) -> dict[str, Any]:
    """The reader's answers beside those of ``deepfake predict``."""
    expected = [
        as_result(answer) for answer in predict_inputs(run, [Input(file, kind_of(file.name)) for file in files])
    ]
    pairs = list(zip(said, expected, strict=True))
    apart = [abs(one["score"] - other["score"]) for one, other in pairs if other["score"] is not None]
    same = ("class", "faces", "reason", "kind")
    return row(
        "the reader's scores, how far from those of deepfake predict at most",
        max(apart),
        "<= 1e-4",
        files=float(len(pairs)),
        with_a_score=float(len(apart)),
        other_class_faces_or_reason=float(sum(any(one[k] != other[k] for k in same) for one, other in pairs)),
    )


def eager(run: Trained, folder: Path) -> list[dict[str, Any]]:
    """One clip by ONNX Runtime and by PyTorch, a thread each."""
    random = np.random.default_rng(0)
    clips = random.integers(0, 256, (1, 16, 3, 224, 224)).astype(np.uint8)
    mask = np.ones((1, 16), bool)
    session, pixels, real = open_session(folder / ONNX, 1), torch.from_numpy(clips), torch.from_numpy(mask)
    # As predict has them: a view of [B, T, H, W, C] memory.
    last = torch.from_numpy(np.ascontiguousarray(clips.transpose(0, 1, 3, 4, 2))).permute(0, 1, 4, 2, 3)

    def pytorch(given: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return run.detector(given, real).logits.numpy()

    def onnx() -> np.ndarray:
        return session.run(["logits"], {"clips": clips, "mask": mask})[0]

    apart = float(np.abs(pytorch(pixels) - onnx()).max())
    ways = {"onnx": onnx, "planar": lambda: pytorch(pixels), "last": lambda: pytorch(last)}
    spent = in_turns(ways, ROUNDS)
    said = "eager PyTorch / ONNX Runtime, one clip of 16 frames, efficientnet_b0 + GRU"
    return [
        row(said, spent["last"] / spent["onnx"], ">= 1.2", pytorch=spent["last"], onnx=spent["onnx"]),
        row(f"{said}, planar clips", spent["planar"] / spent["onnx"], ">= 1.2", pytorch=spent["planar"]),
        row("the graph's logits, how far from PyTorch's", apart, "<= 1e-4"),
    ]


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--environment", type=Path, help="a virtual environment that has the reader")
    arguments = parser.parse_args()
    given = source(arguments.data)
    if given is None:
        raise SystemExit(f"{arguments.data} has no video of 720p to read")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        video, files = cut(given, place / "video.mp4"), some_files(arguments.data)
        run = trained(place / "run", 1)
        folder = export_run(run, place / "exported", Console(aside=True)).folder
        own = arguments.environment or environment(place)
        said, cold, cold_cpu = read(own / "bin" / "python", folder, video, files)
        (first, second) = said["marks"][1:]
        rows = [
            row("the reader's environment, in MB", bytes_of(own) / 1e6, "<= 400"),
            row(
                f"seconds to a first answer, {FRAMES} frames of 720p, from the process's start",
                cold,
                "<= 10",
                cpu=cold_cpu,
            ),
            row(
                "seconds to a second answer of the same process", second[0] - first[0], "<= 3", cpu=second[1] - first[1]
            ),
            scores(run, said["results"], files),
            *eager(run, folder),
        ]
        shutil.rmtree(folder)
    where = machine("torch", "onnxruntime", "av", "opencv-python-headless")
    report("predict", "efficientnet_b0 + GRU, one clip of 16 frames of 224 pixels, a thread each", rows, where)


if __name__ == "__main__":
    main()
