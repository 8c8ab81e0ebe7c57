"""Overlays of exported folders: those of their runs where torch is there, boxes and scores alone where it is not."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks.hostile import scenes, video
from deepfake.exporting import maps
from deepfake.reading import Detector
from deepfake.reading.along import Along, Moment, paint_along
from deepfake.reading.file_answers import Input
from deepfake.reading.folder import CONFIG, DIGESTS, WEIGHTS, digest, seal
from deepfake.runs import explanation
from deepfake.runs.console import Console
from deepfake.runs.export import export_run
from deepfake.runs.load import Trained
from deepfake.serving import exported_painting
from deepfake.serving.exported import Exported
from deepfake.serving.limits import Limits
from deepfake.serving.model import File, Overlay, OverlayError
from deepfake.serving.overlays import Painted
from tests import PROJECT
from tests.runs.test_explanation import trained, trained_without_hidden

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 36 frames."""
    frames = [np.roll(scenes()["clouds"], 3 * step, 1) for step in range(36)]
    return video(tmp_path_factory.mktemp("clip") / "clip.mp4", frames)


def of(words: tuple[str, ...], place: Path) -> Trained:
    """A run with random weights."""
    if words[:1] == ("model=cnn_vit",):
        return trained_without_hidden(place, *words)
    return trained(place, *words)


def exported(made: Trained, place: Path) -> Path:
    """Its folder."""
    return export_run(made, place / "exported", Console(quiet=True)).folder


def painted(folder: Path, file: Path, target: Path, kind: str = "video") -> Painted:
    """What the process that paints makes of a file, in this one."""
    target.mkdir()
    first = {"folder": str(folder), "digest": digest(folder / DIGESTS)}
    return exported_painting.open_painter(first)(Input(file, kind), target)


def frames_of(overlay: Path) -> list[np.ndarray]:
    opened, found = cv2.VideoCapture(str(overlay)), []
    while (read := opened.read())[0]:
        found.append(read[1])
    return found


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("model=cnn_vit", "head.width=16", "head.heads=2"),
        ("evaluation.views=[whole,mirror,corners]",),
        ("dataset.view=patches", "dataset.faces=center"),
        ("backbone.size=48", "dataset.slack=3"),
        ("backbone.name=vit_tiny_patch16_224", "backbone.pretrained=false", "backbone.tune=lora"),
    ],
    ids=lambda words: " ".join(words) or "plain",
)
def test_an_overlay_is_that_of_the_run(
    words: tuple[str, ...], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Along] = []

    def paint(along: Along, *rest: Any) -> str:
        seen.append(along)
        return paint_along(along, *rest)

    for module in (explanation, exported_painting):
        monkeypatch.setattr(module, "paint_along", paint)
    made = of(words, tmp_path)
    expected = explanation.explain(made, Input(clip, "video"), tmp_path / "run", page=False)
    found = painted(exported(made, tmp_path), clip, tmp_path / "folder")
    assert (found.map, found.why) == (expected.map_meaningful, expected.why)
    assert found.overlay is not None
    assert len(frames_of(found.overlay)) == 36
    run, folder = seen
    assert [plain(one) for one in folder.timeline] == [plain(one) for one in run.timeline]
    for field in ("score", "clip_score"):
        scores = [[getattr(one, field) for one in along.timeline] for along in (folder, run)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    for ours, theirs in zip(folder.marks, run.marks, strict=True):
        assert (ours.map is None) == (theirs.map is None) == (not found.map)
        assert ours.map is None or theirs.map is None or np.allclose(ours.map, theirs.map, atol=1e-3)


def plain(moment: Moment) -> tuple[object, ...]:
    """Where it is."""
    return moment.frame, moment.seconds, moment.face, moment.clip, moment.box


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that nothing may change."""
    place = tmp_path_factory.mktemp("plain")
    return exported(trained(place), place)


def test_a_picture_gets_a_picture(folder: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "still.png"), scenes()["clouds"])
    found = painted(folder, tmp_path / "still.png", tmp_path / "made", "image")
    assert found.overlay == tmp_path / "made" / "overlay.png"
    assert len(found.timeline) == 1


def test_what_has_no_answer_has_no_overlay(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    found = painted(folder, tmp_path / "text.mp4", tmp_path / "made")
    assert found.overlay is None
    assert found.why


def rewritten(folder: Path, place: Path, change: Any) -> Path:
    """A copy whose ``config.json`` was changed, sealed anew."""
    copied = Path(shutil.copytree(folder, place / "copied"))
    described = json.loads((copied / CONFIG).read_text())
    change(described)
    (copied / CONFIG).write_text(json.dumps(described))
    seal(copied)
    return copied


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda described: described["architecture"]["head"].update(kind="Oracle"), "no head 'Oracle'"),
        (lambda described: described["architecture"]["head"].update(hidden=9), "makes no detector"),
        (lambda described: described["architecture"]["backbone"].update(name="nosuch"), "timm has no model"),
        (lambda described: described["architecture"]["backbone"].update(depth=3), "makes no detector"),
        (lambda described: described.pop("architecture"), "makes no detector"),
    ],
)
def test_weights_that_make_no_detector_leave_boxes_and_scores(
    folder: Path, clip: Path, tmp_path: Path, change: Any, why: str
) -> None:
    found = painted(rewritten(folder, tmp_path, change), clip, tmp_path / "made")
    assert why in found.why
    assert not found.map
    assert found.overlay is not None


def test_weights_that_say_otherwise_than_the_graph_paint_nothing(folder: Path, clip: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    weights = load_file(copied / WEIGHTS)
    save_file({name: value + 1 if name == "head.classifier.bias" else value for name, value in weights.items()},
              copied / WEIGHTS)  # fmt: skip
    seal(copied)
    found = painted(copied, clip, tmp_path / "made")
    assert not found.map
    assert "another score" in found.why


def test_pretrained_weights_are_not_looked_for(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(described: dict[str, Any]) -> None:
        described["architecture"]["backbone"].update(pretrained=True, weights="/no/such/file")

    copied = rewritten(folder, tmp_path, fetch)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert maps.load_detector(copied, json.loads((copied / CONFIG).read_text()))


#: Starts the process that paints as the service does, but finds no torch.
WITHOUT = (
    "import sys; sys.modules[{missing!r}] = None; from deepfake.serving.exported_painting import open_painter; "
    "from deepfake.serving.overlays import work; sys.exit(work(open_painter))"
)


@pytest.fixture(scope="module")
def with_maps(folder: Path, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Painted:
    """What the folder paints here."""
    return painted(folder, clip, tmp_path_factory.mktemp("with") / "maps")


@pytest.mark.parametrize("missing", ["torch", "captum"])
def test_without_torch_boxes_and_scores_are_painted(
    folder: Path, with_maps: Painted, clip: Path, tmp_path: Path, missing: str
) -> None:
    (tmp_path / "without").mkdir()
    first = json.dumps({"folder": str(folder), "digest": digest(folder / DIGESTS)})
    asked = json.dumps({"file": str(clip), "kind": "video", "folder": str(tmp_path / "without")})
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=missing)],
        cwd=PROJECT, input=f"{first}\n{asked}\n", capture_output=True, text=True, check=True,
    )  # fmt: skip
    ready, line = done.stdout.splitlines()
    answer = json.loads(line)
    assert ready == "{}"
    assert answer["note"] == f"No map is painted: one takes PyTorch and captum, and {missing} is not installed here"
    assert len(frames_of(Path(answer["overlay"]))) == 36
    assert [one["score"] for one in answer["timeline"]] == pytest.approx([one.score for one in with_maps.timeline])


def test_a_service_paints_answers_and_goes_on_without_its_folder(folder: Path, clip: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))

    async def served() -> tuple[dict[str, Any], Overlay, list[str], dict[str, Any]]:
        service = Exported(Detector.load(copied), tmp_path, Limits(workers=1))
        numbers = iter(range(100))

        def file() -> File:
            own = tmp_path / f"work-{next(numbers)}"
            own.mkdir()
            return File(clip, "clip.mp4", "video", own)

        await service.start()
        try:
            (answer,) = service.answer([await service.prepare(file())])
            leaving = asyncio.create_task(service.overlay(file()))
            while not service._painting._children._all:
                await asyncio.sleep(0.01)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            made = await service.overlay(file())
            # Whoever starts it anew finds another folder, then none.
            refused = []
            for change in (lambda: (copied / "model.onnx").write_bytes(b"altered"), lambda: shutil.rmtree(copied)):
                change()
                for child in list(service._painting._children._all):
                    child.kill()
                    await child.end()
                with pytest.raises(OverlayError) as told:
                    await service.overlay(file())
                refused.append(str(told.value))
            (again,) = service.answer([await service.prepare(file())])
            return answer, made, refused, again
        finally:
            await service.close()

    answer, made, refused, again = asyncio.run(served())
    assert len(answer["timeline"]) == answer["spread"]["clips"]
    assert made.path.suffix == ".mp4"
    assert len({one["seconds"] for one in made.timeline}) >= 8
    assert refused == ["the folder that it is made with is not there any more, or was altered"] * 2
    assert answer == again


def test_another_folder_in_its_place_is_refused(folder: Path) -> None:
    first = json.dumps({"folder": str(folder), "digest": "0" * 64})
    done = subprocess.run(
        [sys.executable, "-m", "deepfake.serving.exported_painting"],
        cwd=PROJECT, input=f"{first}\n", capture_output=True, text=True, check=False, env={**os.environ},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert "another detector" in done.stderr
    assert "Traceback" not in done.stderr
