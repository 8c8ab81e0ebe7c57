"""``deepfake predict`` on 300 frames of 720p beside a detector and a model on every frame; and what a long file takes.

    python -m benchmarks.explain [--data FOLDER] [speed memory]

efficientnet_b0 and a GRU that reads clips of 16 frames, one or four, with random weights: what scores are does not
matter here. The face is that of a real video of --data (else ../shared/data). Reading every frame is timed on a part of
them, since each costs the same. CPU seconds of all processes. Long files repeat those frames for 30 minutes and for
three hours.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch

from benchmarks.measure import beside, machine, report, row
from deepfake.config import load_config
from deepfake.data.crop_geometry import cut_square, square_boxes
from deepfake.data.faces.base import detect_resized
from deepfake.data.faces.mtcnn import Mtcnn
from deepfake.hydra_app import compose_config
from deepfake.models.detector import create_detector
from deepfake.reading.file_answers import Input
from deepfake.runs.answers import predict_inputs
from deepfake.runs.load import Trained
from deepfake.runs.saved_config import read_changes
from deepfake.tracking.run_record import RunRecord
from deepfake.tracking.store import locate
from deepfake.training.decision import Decision
from deepfake.training.runtime import create_fabric

ROOT = Path(__file__).resolve().parent.parent
FRAMES, PART, SIZE = 300, 12, (1280, 720)
WORDS = (
    *("model=cnn_gru", "backbone=efficientnet_b0", "backbone.pretrained=false", "dataset=videos", "dataset.root=."),
    *("dataset.faces=mtcnn", "dataset.size=224", "dataset.frames=16", "trainer.accelerator=cpu"),
)


def source(data: Path) -> Path | None:
    """A video of 720p with a face."""
    found = sorted(data.glob("FaceForensics++/original_sequences/youtube/c23/videos/634.mp4"))
    return found[0] if found else None


def cut(video: Path, target: Path) -> Path:
    """Its first frames, as a file of their own."""
    with av.open(str(video)) as given, av.open(str(target), "w") as made:
        stream: Any = made.add_stream("libx264", rate=25, options={"crf": "23", "preset": "veryfast"})
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(given.decode(video=0)):
            if number == FRAMES:
                break
            plain = frame.reformat(*SIZE, format="yuv420p")
            plain.pts, plain.time_base, plain.pict_type = number, Fraction(1, 25), 0
            made.mux(stream.encode(plain))
        made.mux(stream.encode())
    return target


def repeated(video: Path, target: Path, minutes: int) -> Path:
    """The same frames again and again, without encoding them anew."""
    times = -(-minutes * 60 * 25 // FRAMES)
    with av.open(str(target), "w") as made:
        with av.open(str(video)) as given:
            stream = made.add_stream_from_template(given.streams.video[0])
        for turn in range(times):
            with av.open(str(video)) as given:
                base = given.streams.video[0].time_base
                shift = round(turn * FRAMES / 25 / base)
                for packet in given.demux(video=0):
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = stream
                    made.mux(packet)
    return target


def trained(place: Path, clips: int = 4) -> Trained:
    """A detector as a run has it."""
    config = load_config(compose_config([*WORDS, f"dataset.clips={clips}", f"paths.outputs={place}"]))
    changes = read_changes([f"paths.outputs={place}"])
    detector = create_detector(config.backbone, config.head, 224).eval()
    decision = Decision(0.5, None, "fixed", None, "mean")
    record = RunRecord("made", None, "FINISHED", None, (place,))
    store = locate(config.tracking, place)
    return Trained(record, config, changes, store, detector, create_fabric(config.trainer), decision)


def everything(video: Path, found: Callable[[np.ndarray], list[Any]], detector: Any, most: int) -> int:
    """A detector of faces and the model on each frame; stops after so many and returns their number."""
    capture, count = cv2.VideoCapture(str(video)), 0
    while count < most:
        more, frame = capture.read()
        if not more:
            break
        image = np.ascontiguousarray(frame[:, :, ::-1])
        for face in found(image)[:1]:
            crop = cut_square(image, square_boxes(face.box[None], 0.3)[0], 224)
            clip = torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1)[None, None]
            with torch.inference_mode():
                detector(clip, torch.ones(1, 1, dtype=torch.bool))
        count += 1
    return count


def cpu(do: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of this process and its children, and seconds, that something takes."""

    def spent() -> float:
        of = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(one.ru_utime + one.ru_stime for one in of)

    before, began = spent(), time.perf_counter()
    do()
    return spent() - before, time.perf_counter() - began


def speed(video: Path, place: Path) -> list[dict[str, Any]]:
    """Rows of what one file takes."""
    seen = Input(video, "video")
    spent = {}
    for clips in (1, 4):
        run = trained(place, clips)
        (answer,) = predict_inputs(run, [seen])  # imports, and starts what is started once
        assert answer.score is not None, answer
        spent[clips], _ = cpu(lambda run=run: list(predict_inputs(run, [seen])))
    own, usual = Mtcnn(), Mtcnn(min_face=20, factor=0.709, thresholds=(0.6, 0.7, 0.7))
    ways = {
        "our face detector at 640 pixels and the model on every frame": lambda image: detect_resized(image, own, 640),
        "MTCNN's own settings at full size and the model on every frame": usual.detect,
    }
    rows = []
    for what, way in ways.items():
        seconds, _ = cpu(lambda way=way: everything(video, way, run.detector, PART))
        whole = seconds * FRAMES / PART
        for clips, ours in spent.items():
            said = f"predict on {clips} x 16 frames against {what}"
            rows.append(row(said, whole / ours, ">= 5", predict=ours, every_frame=whole))
    return rows


def own_peak() -> int:
    """The largest memory of this process since it was started, in KiB.

    Not what getrusage says of it: on Linux that begins with what its parent held.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


def peak(video: Path, place: Path) -> tuple[int, float]:
    """The largest memory of any process that a prediction takes, in bytes, and the seconds; in processes of its own."""
    code = (
        "import resource, sys; from pathlib import Path; from benchmarks.explain import own_peak, trained; "
        "from deepfake.runs.answers import predict_inputs; from deepfake.reading.file_answers import Input; "
        "run = trained(Path(sys.argv[2])); (one,) = predict_inputs(run, [Input(Path(sys.argv[1]), 'video')]); "
        "assert one.score is not None, one; "
        "print(max(own_peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, str(video), str(place)], cwd=ROOT, capture_output=True, check=True
    )
    return int(done.stdout.split()[-1]) * 1024, time.perf_counter() - began


def memory(video: Path, place: Path) -> list[dict[str, Any]]:
    """Rows of what long files take beside the short one."""
    short, _ = peak(video, place)
    rows = []
    for minutes in (30, 180):
        long = repeated(video, place / f"{minutes}.mp4", minutes)
        held, seconds = peak(long, place)
        said = f"memory of predict on {minutes} minutes against that on {FRAMES} frames"
        rows.append(row(said, held / short, "<= 1.5", gigabytes=held / 1e9, seconds=seconds))
        long.unlink()
    return rows


def main() -> None:
    """Measure what was named, or both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("parts", nargs="*", metavar="PART")
    arguments = parser.parse_args()
    found = source(arguments.data)
    if found is None:
        print(f"there is no video of 720p with a face in {arguments.data}")
        return
    # Threads that wait for each other spend CPU seconds, too.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        video = cut(found, place / "short.mp4")
        parts: dict[str, Callable[[Path, Path], list[dict[str, Any]]]] = {"speed": speed, "memory": memory}
        rows = [line for name in arguments.parts or parts for line in parts[name](video, place)]
        method = (
            "CPU seconds of all processes with a thread each, efficientnet_b0 + GRU, clips of 16 frames of 224 pixels"
        )
        report("explain", method, beside("explain", rows), machine("torch", "av", "opencv-python-headless"))


if __name__ == "__main__":
    main()
