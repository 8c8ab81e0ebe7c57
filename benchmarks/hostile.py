"""Files that are no videos and pictures of faces, given to ``deepfake predict``: what is said of them, at what cost.

    python -m benchmarks.hostile [--data FOLDER] [--kept FOLDER]

Makes some 220 files (truncated, altered, renamed, empty, bombs, claims of size, links, devices, frames without a face),
trains a run for a moment, and predicts all of them with faces looked for. No file without a face may get a score. With
real pictures (--data, else ../shared/data) ten faces in one picture and a turned video of one must get theirs. It asks
no network.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
import wave
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from benchmarks.measure import machine, report, row
from deepfake.installation import module_command

ROOT = Path(__file__).resolve().parent.parent
VIDEOS, PICTURES = (".mp4", ".avi", ".mkv", ".mov", ".webm"), (".jpg", ".png", ".webp", ".bmp", ".tiff")


def video(path: Path, images: list[np.ndarray], codec: str = "libx264", rate: int = 25, **options: str) -> Path:
    """Frames as a file."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p" if codec != "mjpeg" else "yuvj420p"
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def scenes(size: int = 160) -> dict[str, np.ndarray]:
    """Pictures in which there is nobody."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    grey = {
        "black": np.zeros((size, size)),
        "white": np.full((size, size), 255.0),
        "slope": x * 255.0 / size,
        "checks": ((x // 16 + y // 16) % 2) * 255.0,
        "stripes": (x // 8 % 2) * 255.0,
        "rings": 127.5 + 127.5 * np.sin(np.hypot(x - size / 2, y - size / 2) / 4),
    }
    found = {name: np.repeat(one[..., None], 3, 2).astype(np.uint8) for name, one in grey.items()}
    found["noise"] = rng.integers(0, 256, (size, size, 3), np.uint8)
    found["clouds"] = cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (size, size), interpolation=cv2.INTER_CUBIC)
    text = np.full((size, size, 3), 255, np.uint8)
    for line in range(1, 8):
        cv2.putText(text, "no face here", (4, 20 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1)
    found["text"] = text
    return found


def png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG whose header says what it is told and whose data are ``rows``, compressed."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def jpeg_of(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".jpg", image)[1].tobytes())


def renamed(folder: Path) -> Iterator[Path]:
    """What is something else under the name of a video or a picture."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(1 << 20))
    rng = np.random.default_rng(1)
    contents = {
        "text": b"this is no video\n" * 40,
        "empty": b"",
        "random": rng.bytes(40_000),
        "zeros": bytes(200_000),
        "zip": held.getvalue(),
        "html": b"<html><img src='http://127.0.0.1/x.png'></html>",
        "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "concat": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        "pdf": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n",
    }
    for name, content in contents.items():
        for suffix in (*VIDEOS, *PICTURES):
            yield write(folder / f"{name}{suffix}", content)
    for suffix in (".mp4", ".mov", ".png"):
        yield write(
            folder / f"svg{suffix}", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>"
        )


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def damaged(folder: Path) -> Iterator[Path]:
    """Faceless videos and pictures, cut short and altered."""
    clouds = scenes()["clouds"]
    moving = [np.roll(clouds, 3 * step, 1) for step in range(40)]
    whole = video(folder / "whole.mp4", moving).read_bytes()
    fast = video(folder / "fast.mp4", moving, movflags="+faststart").read_bytes()
    yield folder / "whole.mp4"
    yield folder / "fast.mp4"
    for part in (0.001, 0.01, 0.05, 0.2, 0.5, 0.9, 0.99):
        yield write(folder / f"cut-{part}.mp4", whole[: int(len(whole) * part)])
        yield write(folder / f"cut-fast-{part}.mp4", fast[: int(len(fast) * part)])
    rng = np.random.default_rng(2)
    pictures = {".jpg": jpeg_of(clouds), ".png": bytes(cv2.imencode(".png", clouds)[1].tobytes())}
    for number in range(16):
        altered = bytearray(whole)
        for place in rng.integers(0, len(altered), 30):
            altered[place] = int(rng.integers(0, 256))
        yield write(folder / f"altered-{number}.mp4", bytes(altered))
    for suffix, content in pictures.items():
        for part in (0.01, 0.1, 0.5, 0.9):
            yield write(folder / f"cut-{part}{suffix}", content[: int(len(content) * part)])
        for number in range(6):
            altered = bytearray(content)
            for place in rng.integers(8, len(altered), 10):
                altered[place] = int(rng.integers(0, 256))
            yield write(folder / f"altered-{number}{suffix}", bytes(altered))


def bombs(folder: Path) -> Iterator[Path]:
    """Claims of size, true and false ones, and what grows when it is unpacked."""
    yield write(folder / "claims-most.png", png(2**31 - 1, 2**31 - 1, b"\0" * 100))
    yield write(folder / "claims-30000.png", png(30_000, 30_000, b"\0" * 100))
    row_ = b"\0" + b"\xff" * 2500
    yield write(folder / "bomb-20000.png", png(20_000, 20_000, row_ * 20_000, depth=1))
    yield write(folder / "grey-6000.png", png(6000, 6000, (b"\0" + b"\x80" * 6000) * 6000))
    small = bytearray(jpeg_of(scenes()["slope"]))
    place = small.index(b"\xff\xc0")
    small[place + 5 : place + 9] = struct.pack(">HH", 65_500, 65_500)
    yield write(folder / "claims-65500.jpg", bytes(small))
    bitmap = bytearray(cv2.imencode(".bmp", scenes()["slope"])[1].tobytes())
    for name, side in (("claims-60000", 60_000), ("claims-less", -60_000)):
        bitmap[18:26] = struct.pack("<ii", side, side)
        yield write(folder / f"{name}.bmp", bytes(bitmap))
    tiff = bytes(cv2.imencode(".tiff", scenes()["slope"])[1].tobytes())
    yield write(folder / "cut.tiff", tiff[: len(tiff) // 3])
    wide = np.zeros((16, 16_000, 3), np.uint8)
    yield write(folder / "wide.png", cv2.imencode(".png", wide)[1].tobytes())
    yield write(folder / "one.png", cv2.imencode(".png", wide[:1, :1])[1].tobytes())
    yield write(folder / "thin.png", cv2.imencode(".png", wide[:1])[1].tobytes())
    large = np.zeros((4320, 7680, 3), np.uint8)
    yield video(folder / "8k.mp4", [large] * 2, preset="ultrafast")
    yield video(folder / "8k-long.mp4", [large] * 24, preset="ultrafast")
    made = bytearray((folder / "whole.avi").read_bytes()) if (folder / "whole.avi").exists() else None
    if made is None:
        video(folder / "claims.avi", [scenes()["slope"]] * 5, "mpeg4")
        made = bytearray((folder / "claims.avi").read_bytes())
    place = made.index(b"strf") + 12
    made[place : place + 8] = struct.pack("<ii", 60_000, 60_000)
    yield write(folder / "claims.avi", bytes(made))
    with (folder / "sparse.mp4").open("wb") as file:
        file.truncate(3 << 30)
    yield folder / "sparse.mp4"


def nobody(folder: Path) -> Iterator[Path]:
    """Whole files without a face, of many kinds."""
    for name, image in scenes().items():
        yield video(folder / f"{name}.mp4", [image] * 12)
        yield write(folder / f"{name}.png", cv2.imencode(".png", image)[1].tobytes())
    moving = [np.roll(scenes()["clouds"], 5 * step, 0) for step in range(20)]
    for codec, suffix in (("mpeg4", ".avi"), ("mjpeg", ".mkv"), ("libx265", ".mp4"), ("libvpx-vp9", ".webm")):
        yield video(folder / f"{codec}{suffix}", moving, codec)
    yield video(folder / "one-frame.mp4", moving[:1])
    yield video(folder / "two-frames.mp4", moving[:2])
    with av.open(str(folder / "no-frames.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode())
    yield folder / "no-frames.mp4"
    turned(folder / "whole.mp4", folder / "turned-nobody.mp4")
    yield folder / "turned-nobody.mp4"
    for name in ("sound.mp4", "sound.mov", "sound.mkv"):
        yield sound(folder / name)
    deep = np.random.default_rng(3).integers(0, 65_536, (100, 100, 3)).astype(np.uint16)
    yield write(folder / "deep.png", cv2.imencode(".png", deep)[1].tobytes())
    yield write(folder / "alpha.png", cv2.imencode(".png", np.full((80, 80, 4), 90, np.uint8))[1].tobytes())


def sound(path: Path) -> Path:
    """A file with sound alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44_100), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44_100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def places(folder: Path) -> Iterator[Path]:
    """Names that lead to no file, or to one that nobody should open."""
    yield folder / "not-there.mp4"
    (folder / "empty-folder.mp4").mkdir()
    yield folder / "empty-folder.mp4"
    os.mkfifo(folder / "pipe.mp4")
    yield folder / "pipe.mp4"
    for name, target in (
        ("nowhere.mp4", "gone.mp4"),
        ("circle.mp4", "circle.mp4"),
        ("zero.mp4", "/dev/zero"),
        ("random.png", "/dev/urandom"),
        ("tty.mp4", "/dev/null"),
        ("secret.mp4", "/etc/shadow"),
    ):
        link = folder / f"link-{name}"
        link.symlink_to(target)
        yield link
    closed = write(folder / "closed.mp4", b"x" * 100)
    closed.chmod(0)
    yield closed
    for name in ("line\nbreak.mp4", "[red]bold[.mp4", "$(touch x).mp4", "-json.mp4", "x" * 200 + ".mp4", "ünï.mp4"):
        yield write(folder / name, b"nothing" * 10)
    yield write(Path(os.fsdecode(os.fsencode(str(folder)) + b"/\xff\xfe.mp4")), b"nothing")
    with wave.open(str(folder / "wave.mp4"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
        file.writeframes(bytes(16_000))
    yield folder / "wave.mp4"


def turned(source: Path, target: Path) -> Path:
    """The same video with a header that asks for a quarter turn, as phones write it."""
    data = bytearray(source.read_bytes())
    place = data.index(b"tkhd")
    version = data[place + 4]
    at = place + 4 + (52 if version else 40)
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    return write(target, bytes(data))


def with_faces(folder: Path, data: Path) -> Iterator[Path]:
    """Ten faces in one picture, the same as a video, and a phone's turned video of one face; nothing without data."""
    found = sorted((data / "hardfake" / "valid" / "real").glob("*.jpg"))[:10]
    if len(found) < 10:
        return
    faces = [cv2.resize(cv2.imread(str(file)), (200, 200), interpolation=cv2.INTER_AREA) for file in found]
    rows = [np.concatenate(faces[start : start + 5], 1) for start in (0, 5)]
    ten = np.ascontiguousarray(np.concatenate(rows)[:, :, ::-1])
    yield write(folder / "ten.png", cv2.imencode(".png", ten[:, :, ::-1])[1].tobytes())
    yield video(folder / "ten.mp4", [ten] * 12)
    # Stored lying, as a phone does: what is shown is upright.
    upright = np.ascontiguousarray(faces[0][:, :, ::-1])
    lying = video(folder / "lying.mp4", [np.ascontiguousarray(np.rot90(upright))] * 12)
    yield turned(lying, folder / "phone.mp4")


def train(outputs: Path) -> None:
    """A run of a moment; what its scores are does not matter here."""
    words = ["model=cnn_gru", "trainer.epochs=1", "demo.people=16", "name=moment", f"paths.outputs={outputs}"]
    subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def predict(outputs: Path, files: list[Path]) -> tuple[list[dict[str, object]], float, int]:
    """What is said of each, the seconds, and the largest memory of any process that took part, in bytes."""
    words = [*(str(file) for file in files), "dataset.faces=mtcnn", f"paths.outputs={outputs}", "--json"]
    began = time.perf_counter()
    command = [*module_command("deepfake.cli"), "predict", "moment", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(done.stderr.decode())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return json.loads(done.stdout)["results"], time.perf_counter() - began, peak


def main() -> int:
    """Make, predict, count; 1 where something without a face got a score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--kept", type=Path, help="where to make the files, and leave them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.kept or Path(scratch) / "files"
        folder.mkdir(parents=True, exist_ok=True)
        makers: list[Callable[[Path], Iterator[Path]]] = [renamed, damaged, bombs, nobody, places]
        hostile = [file for make in makers for file in make(folder)]
        faces = list(with_faces(folder, arguments.data))
        train(Path(scratch) / "outputs")
        results, seconds, peak = predict(Path(scratch) / "outputs", [*hostile, *faces])
    said, answered = results[: len(hostile)], results[len(hostile) :]
    wrong = [one["path"] for one in said if one["score"] is not None]
    reasons = Counter(str(one["reason"]["code"]) if one["reason"] else "none" for one in said)  # type: ignore[index]
    told = sum(1 for one in said if one["reason"] and one["reason"]["detail"])  # type: ignore[index]
    rows = [
        row(
            "files without a face that got a score",
            len(wrong),
            "0",
            files=float(len(hostile)),
            named=" ".join(map(str, wrong)),
        ),
        row(
            "of these, with a reason in words",
            told / len(hostile),
            ">= 0.95",
            **{k: float(v) for k, v in reasons.items()},
        ),
        row("files with faces that got a score", sum(one["score"] is not None for one in answered), f"{len(faces)}"),
        row("largest process, GB", peak / 1e9, "< 2", seconds=seconds),
    ]
    report(
        "hostile",
        "deepfake predict with faces=mtcnn, all files in one call",
        rows,
        machine("av", "opencv-python-headless"),
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
