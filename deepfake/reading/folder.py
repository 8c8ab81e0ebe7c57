"""An exported folder: which files it has, what they say of themselves, whether they are as they were written.

``config.json`` says all that an answer is made of. ``digests.json`` holds the SHA-256 of every other file but the
model card, which people may edit: a folder that was altered is refused rather than believed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from deepfake.errors import UserError

#: Raised with every change that an older reader would misread.
FORMAT = 1
KIND = "deepfake-detector"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
ONNX = "model.onnx"
#: The same with weights of 8 bits, where it was asked for.
QUANTIZED = "model.int8.onnx"
CARD = "README.md"
DIGESTS = "digests.json"
#: What its run was trained on, where that was kept; see :mod:`deepfake.training.domain`.
DOMAIN = "domain.json"
#: The weights of the face detector, in a folder of their own.
FACES = "faces"
_AGAIN = "export the run again"


def is_exported(folder: Path) -> bool:
    """Whether a folder is one that ``deepfake export`` wrote, or what is left of one."""
    return any((folder / name).is_file() for name in (DIGESTS, ONNX))


def digest(file: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        UserError: It cannot be read.
    """
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"{file} cannot be read: {error.strerror or error}", "let the user that reads the folder read its files"
        ) from error


def seal(folder: Path) -> None:
    """Write down the digest of every file in a folder but the model card's."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DIGESTS)
    found = {path.relative_to(folder).as_posix(): digest(path) for path in files if path != folder / CARD}
    (folder / DIGESTS).write_text(json.dumps({"format": FORMAT, "sha256": found}, indent=2), encoding="utf-8")


def read_folder(folder: Path) -> dict[str, Any]:
    """What ``config.json`` says, once it is sure that all is as it was written.

    Raises:
        UserError: No such folder, one that ``deepfake export`` did not write or a newer version wrote, a file that is
            missing or was altered.
    """
    described = _described(folder)
    _check_digests(folder)
    return described


def _described(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder", "name one that deepfake export wrote")
    described = read_json(folder, CONFIG)
    if described.get("kind") != KIND:
        raise UserError(f"{folder / CONFIG} describes no deepfake detector", "name a folder that deepfake export wrote")
    version = described.get("format")
    if not isinstance(version, int) or version > FORMAT:
        raise UserError(
            f"{folder} was exported in format {version}, this version reads up to {FORMAT}", "update the program"
        )
    return described


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """An object that a file of the folder holds.

    Raises:
        UserError: It is not there, or cannot be read.
    """
    file = folder / name
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no {name}", "name a folder that deepfake export wrote, whole") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}", _AGAIN) from error
    if not isinstance(read, dict):
        raise UserError(f"{file} holds no object", _AGAIN)
    return read


def _check_digests(folder: Path) -> None:
    noted = read_json(folder, DIGESTS).get("sha256")
    if not isinstance(noted, dict) or CONFIG not in noted or ONNX not in noted:
        raise UserError(f"{folder / DIGESTS} names no digests of {CONFIG} and {ONNX}", _AGAIN)
    for name, expected in noted.items():
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
            raise UserError(f"{folder} lacks {name}, which was exported with it", f"copy all of it, or {_AGAIN}")
        if digest(file) != expected:
            raise UserError(f"{file} was altered after it was exported", f"restore it, or {_AGAIN}")
    for name in (WEIGHTS, QUANTIZED, DOMAIN):
        if name not in noted and (folder / name).exists():
            raise UserError(f"{folder / name} was added after the folder was exported", f"remove it, or {_AGAIN}")
