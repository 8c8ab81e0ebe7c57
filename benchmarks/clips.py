"""Loading 16-frame clips of 224 pixels: ours from the crop store, and the field's from a folder of PNG files.

    python -m benchmarks.clips

Needs no data and no network; takes under two minutes. Everything lies in the page cache, for all ways alike. One
process and one thread throughout, so ratios are of work done, not of parallelism.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import simplejpeg
import torch

from benchmarks.measure import in_turns, machine, report, row
from deepfake.data.augment import Draw, apply_draws, draw
from deepfake.data.clips import ClipSet
from deepfake.data.crop_records import StoreWriter, read_records
from deepfake.data.crop_store import CropStore
from deepfake.data.cropping import FRAME, Crops
from deepfake.data.media import MediaInfo
from deepfake.data.options import AugmentOptions

CLIPS, FRAMES, SIZE, ROUNDS = 48, 16, 224, 7
BATCH = 8
FORENSIC = AugmentOptions(
    flip=0.5, brightness=0.2, contrast=0.2, saturation=0.2, jpeg=0.5, jpeg_quality=[40, 95], blur=0.3, noise=0.3
)
#: Each change certain, for the dearest clip there is.
ALL_OF_THEM = AugmentOptions(flip=1.0, brightness=0.2, contrast=0.2, saturation=0.2, jpeg=1.0, blur=1.0, noise=1.0)


def pictures(seed: int) -> np.ndarray:
    """A clip uint8 [T, S, S, 3] as compressible as a face crop: soft shapes that move, and a little grain."""
    rng = np.random.default_rng(seed)
    soft = cv2.resize(
        rng.integers(0, 256, (12, 12, 3), np.uint8), (SIZE + 32, SIZE + 32), interpolation=cv2.INTER_CUBIC
    )
    grain = rng.normal(0, 2.5, (FRAMES, SIZE, SIZE, 3))
    moved = np.stack([soft[t : t + SIZE, t : t + SIZE] for t in range(FRAMES)])
    return (moved + grain).clip(0, 255).astype(np.uint8)


def fill(folder: Path) -> tuple[ClipSet, ClipSet, ClipSet, Path, Path]:
    """The same clips as a store of ours, and as folders of PNG and JPEG files."""
    store_folder, png, jpeg = folder / "store", folder / "png", folder / "jpeg"
    for made in (store_folder, png, jpeg):
        made.mkdir()
    writer = StoreWriter(store_folder)
    info = MediaInfo(SIZE, SIZE, FRAMES, 25.0, 0.64, "h264", 0, "yuv420p", 0)
    for i in range(CLIPS):
        clip = pictures(i)
        crops = Crops(
            clip[None], np.array([FRAMES]), np.zeros((1, FRAMES), FRAME), info, (), np.zeros((16, 16), np.uint8)
        )
        writer.append({"sample_id": f"s{i}", "status": "ok", "clips": 1}, crops)
        for t, frame in enumerate(clip):
            cv2.imwrite(str(png / f"{i:03d}_{t:03d}.png"), frame[:, :, ::-1])
            data = simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=95)
            (jpeg / f"{i:03d}_{t:03d}.jpg").write_bytes(data)
    writer.close()
    store = CropStore(store_folder, read_records(store_folder))
    table = pd.DataFrame({"sample_id": [f"s{i}" for i in range(CLIPS)], "label": [i % 2 for i in range(CLIPS)]})
    sets = [ClipSet(store, table, augment=augment) for augment in (None, FORENSIC, ALL_OF_THEM)]
    return sets[0], sets[1], sets[2], png, jpeg


def from_files(folder: Path, suffix: str) -> None:
    """The field's way: decode every frame, reverse its channels, stack."""
    for start in range(0, CLIPS, BATCH):
        batch = [
            np.stack([cv2.imread(str(folder / f"{i:03d}_{t:03d}.{suffix}"))[:, :, ::-1] for t in range(FRAMES)])
            for i in range(start, start + BATCH)
        ]
        torch.from_numpy(np.stack(batch))


def from_files_changed(folder: Path) -> None:
    """The field's way with the same changes, by hand with cv2 and numpy, frame by frame, one draw for a clip."""
    for start in range(0, CLIPS, BATCH):
        batch = []
        for i in range(start, start + BATCH):
            drawn = draw(FORENSIC, 0, 0, i)
            frames = [cv2.imread(str(folder / f"{i:03d}_{t:03d}.png"))[:, :, ::-1] for t in range(FRAMES)]
            batch.append(np.stack([_changed(frame, drawn) for frame in frames]))
        torch.from_numpy(np.stack(batch))


def _changed(frame: np.ndarray, drawn: Draw) -> np.ndarray:
    flip, brightness, contrast, saturation = drawn.device.tolist()
    if flip:
        frame = np.ascontiguousarray(frame[:, ::-1])
    if drawn.sigma is not None:
        frame = cv2.GaussianBlur(frame, (0, 0), drawn.sigma)
    if drawn.noise is not None:
        frame = (frame + np.random.normal(0, drawn.noise, frame.shape)).clip(0, 255).astype(np.uint8)
    if drawn.quality is not None:
        frame = cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, drawn.quality])[1], 1)
    frame = cv2.convertScaleAbs(frame, None, brightness * contrast, float(frame.mean()) * (1 - contrast))
    hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)
    hsv[:, :, 1] = cv2.convertScaleAbs(hsv[:, :, 1], None, saturation)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def albumentations_way(folder: Path) -> Callable[[], object] | None:
    """The library most of the field uses, replaying one draw on every frame of a clip; None if it is not installed."""
    if importlib.util.find_spec("albumentations") is None:
        return None
    import albumentations

    changes = albumentations.ReplayCompose(
        [
            albumentations.HorizontalFlip(p=FORENSIC.flip),
            albumentations.GaussianBlur(blur_limit=0, sigma_limit=(0.1, FORENSIC.blur_sigma), p=FORENSIC.blur),
            albumentations.GaussNoise(std_range=(0.0, FORENSIC.noise_std / 255), p=FORENSIC.noise),
            albumentations.ImageCompression(quality_range=tuple(FORENSIC.jpeg_quality), p=FORENSIC.jpeg),
            albumentations.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0, p=1.0),
        ]
    )

    def run() -> None:
        for start in range(0, CLIPS, BATCH):
            batch = []
            for i in range(start, start + BATCH):
                frames = [cv2.imread(str(folder / f"{i:03d}_{t:03d}.png"))[:, :, ::-1] for t in range(FRAMES)]
                first = changes(image=np.ascontiguousarray(frames[0]))
                rest = [changes.replay(first["replay"], image=np.ascontiguousarray(f))["image"] for f in frames[1:]]
                batch.append(np.stack([first["image"], *rest]))
            torch.from_numpy(np.stack(batch))

    return run


def from_store(clips: ClipSet) -> None:
    """Our way, without what the device does."""
    for start in range(0, CLIPS, BATCH):
        clips.fetch(range(start, start + BATCH), epoch=0)


def on_device(clips: ClipSet) -> None:
    """Our way with the device's part (flip, colour) also done here, though a GPU would do it."""
    for start in range(0, CLIPS, BATCH):
        batch = clips.fetch(range(start, start + BATCH), epoch=0)
        if batch.draws is not None:
            apply_draws(batch.clips.float().div_(255), batch.draws)


def main() -> None:
    """Measure, print and keep."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        plain, forensic, dearest, png, jpeg = fill(Path(folder))
        ways: dict[str, Callable[[], object]] = {
            "png": lambda: from_files(png, "png"),
            "jpeg": lambda: from_files(jpeg, "jpg"),
            "png changed": lambda: from_files_changed(png),
            "ours": lambda: from_store(plain),
            "ours changed": lambda: from_store(forensic),
            "ours changed, colour here": lambda: on_device(forensic),
            "ours, every change": lambda: from_store(dearest),
        }
        library = albumentations_way(png)
        if library is not None:
            ways["png albumentations"] = library
        for run in ways.values():
            run()
        each = {name: 1000 * value / CLIPS for name, value in in_turns(ways, ROUNDS).items()}

    def compare(what: str, other: str, ours: str, reach: str = "") -> dict[str, object]:
        return row(what, each[other] / each[ours], reach, other_ms=each[other], ours_ms=each[ours])

    rows = [
        compare("PNG folder / ours, no changes", "png", "ours", ">= 20"),
        compare("JPEG folder / ours, no changes", "jpeg", "ours"),
        compare("PNG folder with the changes by hand / ours with them", "png changed", "ours changed", ">= 5"),
        compare("PNG folder without changes / ours with them", "png", "ours changed", ">= 5"),
        compare("PNG folder with the changes / ours, flip and colour on this CPU too", "png changed",
                "ours changed, colour here"),
        compare("PNG folder without changes / ours, every change for every clip", "png", "ours, every change"),
    ]  # fmt: skip
    packages = ["numpy", "torch", "opencv-python-headless", "simplejpeg"]
    if library is not None:
        rows.insert(3, compare("PNG folder with albumentations' replay / ours", "png albumentations", "ours changed"))
        packages.append("albumentations")
    method = (
        f"{CLIPS} clips of {FRAMES} x {SIZE} x {SIZE}, batches of {BATCH}; changes are flip, JPEG, blur, noise and "
        f"colour, one draw a clip; CPU time a clip, median of {ROUNDS} turns"
    )
    report("clips", method, rows, machine(*packages))


if __name__ == "__main__":
    main()
