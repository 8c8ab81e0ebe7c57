"""Images of any kind, upright, or a reason."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from deepfake.data import media as images
from deepfake.data.media import MediaError, enlarge, header_size, jpeg_quality, read_image


def _picture() -> np.ndarray:
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([4 * x, 255 - 5 * y, 2 * (x + y)], 2).clip(0, 255).astype(np.uint8)


def _write(path: Path, *flags: int) -> Path:
    encoded = cv2.imencode(path.suffix, _picture()[:, :, ::-1], flags)[1]
    path.write_bytes(encoded.tobytes())
    return path


def _exif(orientation: int) -> bytes:
    body = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + bytes([0, orientation]) + b"\0\0\0\0\0\0"
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tiff"])
def test_every_format_gives_rgb(suffix: str, tmp_path: Path) -> None:
    frames = read_image(_write(tmp_path / f"a{suffix}"))
    assert np.abs(frames.images[0].astype(int) - _picture()).mean() < 8


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 3), (8, 1)])
def test_the_exif_rotation_is_applied(orientation: int, turns: int, tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jpg")
    upright = read_image(path).images[0]
    data = path.read_bytes()
    path.write_bytes(data[:2] + _exif(orientation) + data[2:])
    assert np.array_equal(read_image(path).images[0], np.rot90(upright, turns))


@pytest.mark.parametrize("kind", ["grey", "alpha", "16 bit"])
def test_other_pixels_become_8_bit_rgb(kind: str, tmp_path: Path) -> None:
    picture = {
        "grey": _picture()[:, :, 0],
        "alpha": np.dstack([_picture(), _picture()[:, :, :1]]),
        "16 bit": _picture().astype(np.uint16) * 257,
    }[kind]
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    image = read_image(tmp_path / "a.png").images[0]
    assert (image.shape, image.dtype) == ((48, 64, 3), np.uint8)


def test_a_link_that_leads_to_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(MediaError, match="a symbolic link that leads to nothing"):
        read_image(tmp_path / "a.jpg")


def test_any_file_name_works(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a \xff \xe9.png"))
    _write(tmp_path / "a.png").rename(path)
    assert len(read_image(path).images) == 1


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"<html>not found</html>"), "not_an_image"),
        (lambda path: path.write_bytes(cv2.imencode(".jp2", _picture())[1].tobytes()), "not_an_image"),
        (lambda path: path.write_bytes(b"RIFF\x00\x01\x00\x00AVI LIST" + bytes(200)), "not_an_image"),
        (lambda path: path.write_bytes(path.read_bytes()[:400]), "undecodable"),
        (lambda path: path.unlink(), "missing"),
    ],
    ids=["zero bytes", "web page", "another format", "video", "cut short", "missing"],
)
def test_a_file_that_is_no_image_says_why(spoil: Callable[[Path], object], reason: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jpg")
    spoil(path)
    with pytest.raises(MediaError) as caught:
        read_image(path)
    assert caught.value.reason == reason


@pytest.mark.parametrize("quality", [1, 10, 50, 75, 90, 95])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(quality: int, tmp_path: Path) -> None:
    path = _write(tmp_path / "a.jpg", cv2.IMWRITE_JPEG_QUALITY, quality)
    assert abs(jpeg_quality(path.read_bytes()) - quality) <= 1


#: Prints the digest of a picture that was made larger.
ENLARGED = """
import hashlib
import numpy as np
from deepfake.data.media import enlarge
picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
print(hashlib.sha256(enlarge(picture, (224, 224)).tobytes()).hexdigest())
"""


def test_enlarging_is_the_same_whatever_the_processor_can_do() -> None:
    lesser = {"OPENCV_CPU_DISABLE": "AVX,AVX2,FMA3,AVX512-SKX"}
    printed = [
        subprocess.run(
            [sys.executable, "-c", ENLARGED], env={**os.environ, **more}, capture_output=True, text=True, check=True
        ).stdout
        for more in ({}, {"OPENCV_IPP": "sse42"}, {"OPENCV_IPP": "disabled"}, lesser)
    ]
    assert len(set(printed)) == 1


def test_enlarging_leaves_intels_library_as_it_was() -> None:
    before = cv2.ipp.useIPP()
    enlarge(np.zeros((8, 8, 3), np.uint8), (16, 16))
    assert cv2.ipp.useIPP() == before


@pytest.mark.parametrize(
    ("suffix", "codec"), [("png",) * 2, ("jpg", "jpeg"), ("webp",) * 2, ("bmp",) * 2, ("tiff",) * 2]
)
def test_the_header_tells_the_size(suffix: str, codec: str) -> None:
    data = cv2.imencode(f".{suffix}", np.zeros((37, 501, 3), np.uint8))[1].tobytes()
    assert header_size(data, codec) == (501, 37)


def test_the_header_of_every_kind_of_webp_and_of_a_filled_jpeg_tells_the_size() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (37, 501, 4), np.uint8)
    lossless = cv2.imencode(".webp", picture[..., :3], [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    lossy_alpha = cv2.imencode(".webp", picture, [cv2.IMWRITE_WEBP_QUALITY, 50])[1].tobytes()
    assert (lossless[12:16], lossy_alpha[12:16]) == (b"VP8L", b"VP8X")
    assert header_size(lossless, "webp") == header_size(lossy_alpha, "webp") == (501, 37)
    jpeg = cv2.imencode(".jpg", picture[..., :3])[1].tobytes()
    assert header_size(jpeg.replace(b"\xff\xc0", b"\xff" * 9 + b"\xc0", 1), "jpeg") == (501, 37)


@pytest.mark.parametrize("codec", ["png", "jpeg", "webp", "bmp", "tiff", "other"])
@pytest.mark.parametrize("length", [0, 2, 8, 15, 29])
def test_a_header_that_is_cut_off_tells_something(codec: str, length: int) -> None:
    signature = {"png": b"\x89PNG", "jpeg": b"\xff\xd8\xff\xc0", "tiff": b"II*\0\x08\0\0\0\xff"}.get(codec, b"")
    assert len(header_size((signature + b"\xff" * 29)[:length], codec)) == 2


def _bomb(side: int) -> bytes:
    """A grey PNG of many pixels and few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(_bomb(30000))
    monkeypatch.setattr(cv2, "imdecode", None)
    with pytest.raises(MediaError, match="too_large: 30000x30000 pixels"):
        read_image(tmp_path / "a.png")


def test_a_file_too_large_to_read_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_MOST_BYTES", 10)
    with pytest.raises(MediaError, match="too_large"):
        read_image(_write(tmp_path / "a.png"))


def test_red_and_blue_are_told_apart_in_every_strip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_STRIP", 7)
    assert np.array_equal(read_image(_write(tmp_path / "a.png")).images[0], _picture())
