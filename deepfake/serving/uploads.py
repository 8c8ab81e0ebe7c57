"""A request's body into files on the disk, as it comes, within limits. Knows no model."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from deepfake.errors import harmless
from deepfake.serving.faults import Fault
from deepfake.serving.limits import MEGABYTE, Limits

# It tells of every broken form, and anybody can send those.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

#: What a file is called that came without a name, and how much of a name is kept.
_NAMELESS, _NAME = "upload", 200
_HEADER = 16 << 10  # bytes of one header of a part: a name of 5,000 characters is shortened rather than refused
_WRITTEN = 1 * MEGABYTE  # bytes that are written at once
#: What is read of a body that is refused, so that whoever sends it comes to read why, and for how long.
_DISCARDED, _DISCARDING = 32 * MEGABYTE, 5.0
_KINDS = {"video", "image"}
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"II*\x00", b"MM\x00*")


@dataclass
class Upload:
    """One file as it was sent.

    Attributes:
        path: Where it lies.
        name: What it is called, harmless to show.
        said: The type that its part names, ``video/mp4`` say; empty where it names none.
        size: Bytes.
    """

    path: Path
    name: str
    said: str = ""
    size: int = 0


@dataclass
class Asked:
    """What a request asks for.

    Attributes:
        uploads: Files that came with it.
        path: Of a file under the root, or nothing.
        url: Of a file elsewhere, or nothing.
        overlay: Whether an overlay is wanted.
    """

    uploads: list[Upload] = field(default_factory=list)
    path: str = ""
    url: str = ""
    overlay: bool = False


async def read_request(request: Request, folder: Path, limits: Limits, another: Callable[[], None]) -> Asked:
    """What a request asks for; its files are in the folder by then.

    Args:
        request: Its body is not read yet.
        folder: Empty.
        limits: See there.
        another: Called before the second file and each one after it; it may raise.

    Raises:
        Fault: 400, 408, 413 or 415.
        starlette.requests.ClientDisconnect: The client is gone.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind == b"multipart/form-data":
        boundary = options.get(b"boundary", b"")
        if not 0 < len(boundary) <= 256:
            raise Fault(
                400, "bad_form", "the form names no boundary between its parts", "let your client make the form"
            )
        refuse_length(request, limits.upload + limits.text)
        form = _Form(folder, limits, another)
        return await form.read(_body(request, limits), boundary)
    if kind == b"application/json":
        refuse_length(request, limits.text)
        return _read_json(await _whole(request, limits))
    said = harmless(kind.decode("latin-1"))[:100]
    raise Fault(
        415,
        "unsupported_body",
        f"a body of the type {said!r} is not read" if said else "the request says no type of its body",
        "send the file as the field 'file' of a form (multipart/form-data), or JSON",
    )


def refuse_length(request: Request, most: int) -> None:
    """Refuse a body by the length that it is said to have.

    Raises:
        Fault: 413, or 400 where that is no length.
    """
    told = request.headers.get("content-length")
    if told is None:
        return
    if not re.fullmatch(r"[0-9]{1,20}", told):
        raise Fault(400, "bad_length", "Content-Length is no number", "let your client set it")
    if int(told) > most:
        raise _too_large(most)


async def discard(request: Request) -> None:
    """Read a refused body, or the beginning of it, so that its sender does not find the connection broken.

    One that waits for ``100 Continue`` has sent nothing yet, and is not asked to.
    """
    if request.headers.get("expect", "").lower() == "100-continue":
        return
    read = 0
    try:
        async with asyncio.timeout(_DISCARDING):
            while read < _DISCARDED:
                message = await request.receive()
                read += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


async def _body(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """The body in pieces.

    Raises:
        Fault: 408: it comes too slowly.
    """
    began, received = time.monotonic(), 0
    pieces = request.stream()
    while True:
        left = began + limits.upload_seconds(received) - time.monotonic()
        try:
            async with asyncio.timeout(max(left, 0.001)):
                piece = await anext(pieces, None)
        except TimeoutError:
            raise Fault(
                408,
                "too_slow",
                f"{received} bytes came in {time.monotonic() - began:.0f} s, slower than "
                f"{limits.slowest / 1e3:.0f} kB a second",
                "send it over a faster connection, or a smaller file",
                {"Connection": "close"},
            ) from None
        if piece is None:
            return
        received += len(piece)
        yield piece


async def _whole(request: Request, limits: Limits) -> bytes:
    found = bytearray()
    async for piece in _body(request, limits):
        found += piece
        if len(found) > limits.text:
            raise _too_large(limits.text)
    return bytes(found)


def _read_json(body: bytes) -> Asked:
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise Fault(400, "bad_json", "the body is no JSON", 'send {"path": "…"} or {"url": "…"}') from None
    if not isinstance(asked, dict):
        raise _bad_field("the body", "an object", asked)
    unknown = sorted(set(asked) - {"path", "url", "overlay"})
    if unknown:
        raise Fault(
            400,
            "unknown_field",
            f"{harmless(str(unknown[0]))[:100]!r} is no field of a request",
            "fields are path or url, and overlay",
        )
    path, url, overlay = asked.get("path"), asked.get("url"), asked.get("overlay", False)
    if not isinstance(overlay, bool):
        raise _bad_field("overlay", "true or false", overlay)
    if (path is None) == (url is None):
        raise Fault(400, "nothing_named", "one of path and url names the file, and only one", 'send {"path": "…"}')
    for name, value in (("path", path), ("url", url)):
        if value is not None and not (isinstance(value, str) and value):
            raise _bad_field(name, "a text", value)
    return Asked(path=path or "", url=url or "", overlay=overlay)


def _bad_field(name: str, wanted: str, found: object) -> Fault:
    kinds: Mapping[type, str] = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    told = "nothing" if found in (None, "") else kinds.get(type(found), "a number")
    return Fault(400, "bad_field", f"{name} is {told} rather than {wanted}", "see /docs for what a request holds")


def read_flag(text: str) -> bool:
    """``true`` or ``false`` of a form or a query.

    Raises:
        Fault: 400: it is neither.
    """
    known = {"true": True, "1": True, "on": True, "false": False, "0": False, "": False}
    if text.lower() not in known:
        raise Fault(400, "bad_field", f"overlay is {harmless(text)[:50]!r}", "overlay is true or false")
    return known[text.lower()]


def _too_large(most: int) -> Fault:
    size = f"{most / MEGABYTE:.0f} MB" if most >= MEGABYTE else f"{most >> 10} kB"
    return Fault(413, "upload_too_large", f"the request is larger than {size}", f"send at most {size}")


def _broken(detail: str = "") -> Fault:
    return Fault(
        400, "bad_form", f"the form is broken or ends early{detail}", "send it again; let your client make the form"
    )


class _Form:
    """The parts of a form: files go to the disk, a megabyte at a time, from a thread."""

    def __init__(self, folder: Path, limits: Limits, another: Callable[[], None]) -> None:
        self._folder = folder
        self._limits = limits
        self._another = another
        self._asked = Asked()
        self._events: list[tuple[str, bytes]] = []
        self._headers: dict[bytes, bytes] = {}
        self._name: bytes = b""
        self._value = bytearray()
        self._field = ""
        self._upload: Upload | None = None
        self._waiting = bytearray()
        self._received = self._text = 0
        self._ended = False

    async def read(self, pieces: AsyncIterator[bytes], boundary: bytes) -> Asked:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": lambda: self._events.append(("part", b"")),
                "on_header_field": lambda data, start, end: self._events.append(("name", data[start:end])),
                "on_header_value": lambda data, start, end: self._events.append(("value", data[start:end])),
                "on_header_end": lambda: self._events.append(("header", b"")),
                "on_headers_finished": lambda: self._events.append(("headers", b"")),
                "on_part_data": lambda data, start, end: self._events.append(("data", data[start:end])),
                "on_part_end": lambda: self._events.append(("end", b"")),
                "on_end": lambda: self._events.append(("over", b"")),
            },
            max_header_size=_HEADER,
        )
        async for piece in pieces:
            try:
                parser.write(piece)
            except FormParserError:
                raise _broken() from None
            events, self._events = self._events, []
            for what, data in events:
                await self._see(what, data)
        if not self._ended:
            raise _broken()
        return self._asked

    async def _see(self, what: str, data: bytes) -> None:
        if what == "data":
            await self._take(data)
        elif what == "end":
            await self._close()
        elif what == "headers":
            self._open()
        elif what == "part":
            self._headers, self._name, self._value = {}, b"", bytearray()
        elif what == "name":
            self._count(len(data))
            self._name += data
        elif what == "value":
            self._count(len(data))
            self._value += data
        elif what == "header":
            self._headers[self._name.lower()] = bytes(self._value)
            self._name, self._value = b"", bytearray()
        else:
            self._ended = True

    def _count(self, size: int) -> None:
        """Count what is no file."""
        self._text += size
        if self._text > self._limits.text:
            raise _too_large(self._limits.text)

    def _open(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"").decode("utf-8", "surrogateescape")
        # parse_options_header speaks latin-1; browsers and curl write names in UTF-8.
        told = disposition.encode("utf-8", "surrogateescape").decode("latin-1")
        _, options = parse_options_header(told)
        self._field = options.get(b"name", b"").decode("utf-8", "replace")
        self._value = bytearray()
        if b"filename" not in options:
            return
        if self._field != "file":
            raise Fault(
                400,
                "unknown_field",
                f"a file came as the field {harmless(self._field)[:100]!r}",
                "send files as the field 'file'",
            )
        count = len(self._asked.uploads)
        if count >= self._limits.files:
            raise Fault(
                413,
                "too_many_files",
                f"at most {self._limits.files} {'file' if self._limits.files == 1 else 'files'} at once",
                "send them in several goes",
            )
        if count:
            self._another()
        name = safe_name(options[b"filename"].decode("utf-8", "replace"))
        said = self._headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
        self._upload = Upload(self._folder / f"{count}", name, said)
        self._upload.path.touch()
        self._asked.uploads.append(self._upload)

    async def _take(self, data: bytes) -> None:
        if self._upload is None:
            self._count(len(data))
            self._value += data
            return
        self._received += len(data)
        if self._received > self._limits.upload:
            raise _too_large(self._limits.upload)
        self._waiting += data
        if len(self._waiting) >= _WRITTEN:
            await self._write(self._upload)

    async def _write(self, upload: Upload) -> None:
        data, self._waiting = bytes(self._waiting), bytearray()
        upload.size += len(data)
        await asyncio.to_thread(_append, upload.path, data)

    async def _close(self) -> None:
        if self._upload is not None:
            await self._write(self._upload)
            self._upload = None
            return
        if self._field == "file":
            raise Fault(
                400,
                "no_file",
                "the field 'file' holds a text rather than a file",
                "send the file itself; with curl that is -F file=@clip.mp4",
            )
        if self._field != "overlay":
            raise Fault(
                400,
                "unknown_field",
                f"{harmless(self._field)[:100]!r} is no field of a request",
                "fields are file and overlay",
            )
        self._asked.overlay = read_flag(self._value.decode("utf-8", "replace"))


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def safe_name(told: str) -> str:
    """What a client calls a file, without folders and without what does something to a terminal or a page.

    Example:
        >>> safe_name("../../etc/pass\\x1bwd.mp4"), safe_name(""), len(safe_name("x" * 5000 + ".mp4"))
        ('pass%1Bwd.mp4', 'upload', 200)
    """
    last = re.split(r"[/\\]", told)[-1].strip()
    shown = harmless(last).replace("\n", " ").replace("\t", " ")
    if len(shown) > _NAME:
        stem, dot, suffix = shown.rpartition(".")
        ending = f"{dot}{suffix}" if stem and len(suffix) < 10 else ""
        shown = shown[: _NAME - len(ending)] + ending
    return shown if shown.strip(". ") else _NAMELESS


def kind_of(upload: Upload, suffixes: Mapping[str, str]) -> str:
    """``video`` or ``image``: by the name, by the type that was said, and of a file without either by its first bytes.

    Returns:
        Nothing where its name says that it is something else.
    """
    suffix = Path(upload.name).suffix.lower()
    if suffix:
        return suffixes.get(suffix, "")
    said = upload.said.partition("/")[0]
    if said in _KINDS:
        return said
    with upload.path.open("rb") as file:
        head = file.read(12)
    webp = head.startswith(b"RIFF") and head[8:] == b"WEBP"
    return "image" if webp or head.startswith(_SIGNATURES) else "video"


def describe_file(upload: Upload, kind: str, reason: str, detail: str) -> dict[str, Any]:
    """The result of a file that no detector looked at."""
    return {
        "path": upload.name,
        "kind": kind or None,
        "class": None,
        "probability": None,
        "confidence": None,
        "score": None,
        "reason": {"code": reason, "detail": detail},
    }
