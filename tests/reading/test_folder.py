"""Folders that are not as they were exported are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deepfake.errors import UserError
from deepfake.reading.folder import (
    CARD,
    CONFIG,
    DIGESTS,
    DOMAIN,
    FORMAT,
    KIND,
    ONNX,
    QUANTIZED,
    WEIGHTS,
    read_folder,
    seal,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "exported"
    (made / "faces").mkdir(parents=True)
    (made / CONFIG).write_text(json.dumps({"kind": KIND, "format": FORMAT, "name": "ours"}))
    (made / ONNX).write_bytes(b"graph")
    (made / "faces" / "net.onnx").write_bytes(b"net")
    (made / CARD).write_text("# card")
    seal(made)
    return made


def test_a_sealed_folder_is_read_and_its_card_may_be_edited(folder: Path) -> None:
    (folder / CARD).write_text("# another card")
    (folder / ".gitattributes").write_text("added by whoever keeps it")
    assert read_folder(folder)["name"] == "ours"


def rewrite(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rewrite(ONNX, "grapH"), "model.onnx was altered"),
        (rewrite("faces/net.onnx", "neT"), "faces/net.onnx was altered"),
        (rewrite(CONFIG, json.dumps({"kind": KIND, "format": FORMAT, "name": "theirs"})), "config.json was altered"),
        (rewrite(CONFIG, json.dumps({"kind": KIND, "format": FORMAT + 1})), "format 2, this version reads up to 1"),
        (rewrite(CONFIG, json.dumps({"kind": KIND})), "format None"),
        (rewrite(CONFIG, json.dumps({"model_type": "bert"})), "describes no deepfake detector"),
        (rewrite(CONFIG, "{"), "config.json cannot be read"),
        (rewrite(CONFIG, "[1]"), "holds no object"),
        (rewrite(DIGESTS, "{}"), "names no digests"),
        *((rewrite(name, "theirs"), f"{name} was added") for name in (QUANTIZED, DOMAIN, WEIGHTS)),
        (lambda folder: (folder / ONNX).unlink(), "lacks model.onnx"),
        (lambda folder: (folder / "faces" / "net.onnx").unlink(), "lacks faces/net.onnx"),
        (lambda folder: (folder / CONFIG).unlink(), "holds no config.json"),
        (lambda folder: (folder / DIGESTS).unlink(), "holds no digests.json"),
    ],
)
def test_what_was_changed_is_named(folder: Path, change: Callable[[Path], object], said: str) -> None:
    change(folder)
    with pytest.raises(UserError, match=said):
        read_folder(folder)


def test_digests_lead_nowhere_else(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not to be looked at")
    noted = json.loads((folder / DIGESTS).read_text())
    noted["sha256"]["../secret"] = "0" * 64
    (folder / DIGESTS).write_text(json.dumps(noted))
    with pytest.raises(UserError, match=r"lacks \.\./secret"):
        read_folder(folder)


def test_a_place_without_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        read_folder(tmp_path / "nothing")


def test_a_file_that_may_not_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def refusing(path: Path, *words: str, **named: str) -> object:
        if path.name == ONNX:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *words, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refusing)
    with pytest.raises(UserError, match=r"model\.onnx cannot be read: Permission denied"):
        read_folder(folder)
